"""Folders as a disk and the page cache see them."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_BUFFER: Final = bytearray(2**22)
_PROBED: Final = 2**20


def files_in(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and of those below it."""
    for root, _, names in os.walk(folder):
        yield from (Path(root, name) for name in names)


def size_of(folder: Path) -> int:
    """Return the bytes that a folder takes on the disk."""
    return sum(path.stat().st_blocks * 512 for path in files_in(folder))


def sync(folder: Path) -> None:
    """Wait until all files of a folder are on the disk."""
    for path in files_in(folder):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def read_all(folder: Path) -> None:
    """Bring all files of a folder into the page cache; cheap where they are."""
    for path in files_in(folder):
        with path.open("rb", buffering=0) as file:
            if not _is_cached(file.fileno()):
                while file.readinto(_BUFFER):
                    pass


def _is_cached(fd: int) -> bool:
    """Whether a byte of each MiB can be had without waiting; False where none can tell."""
    byte, without_waiting = bytearray(1), getattr(os, "RWF_NOWAIT", None)
    if without_waiting is None:
        return False
    try:
        for offset in range(0, os.fstat(fd).st_size, _PROBED):
            os.preadv(fd, [byte], offset, without_waiting)
    except OSError:
        return False
    return True


def forget(folder: Path) -> None:
    """Take all files of a folder out of the page cache; what is mapped somewhere stays.

    Only what is on the disk can be forgotten, see `sync`. Folders and inodes stay.
    """
    for path in files_in(folder):
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def memory_nbytes() -> int:
    """Return the bytes of memory that the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def nbytes_read() -> int:
    """Return the bytes that this process has had the kernel read from disks so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("read_bytes:"))
    return int(line.split()[1])


def peak_nbytes() -> int:
    """Return the peak resident memory of this process; pages of mapped files count."""
    # getrusage would tell the peak of the parent if that was higher.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
