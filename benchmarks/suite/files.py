"""Files on the disk and in the page cache."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_BUFFER: Final = bytearray(2**22)
_PROBED: Final = 2**20


def files_in(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and its subfolders."""
    for root, _, names in os.walk(folder):
        yield from (Path(root, name) for name in names)


def size_of(folder: Path) -> int:
    """Return the bytes that a folder occupies on the disk."""
    return sum(path.stat().st_blocks * 512 for path in files_in(folder))


def sync(folder: Path) -> None:
    """Wait until all files of a folder are on the disk."""
    for path in files_in(folder):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def read_all(folder: Path) -> None:
    """Bring all files of a folder into the page cache; fast if they are cached."""
    for path in files_in(folder):
        with path.open("rb", buffering=0) as file:
            if not _is_cached(file.fileno()):
                while file.readinto(_BUFFER):
                    pass


def _is_cached(fd: int) -> bool:
    """Return whether one byte of each MiB is cached; False if the system cannot report it."""
    byte, no_wait = bytearray(1), getattr(os, "RWF_NOWAIT", None)
    if no_wait is None:
        return False
    try:
        for offset in range(0, os.fstat(fd).st_size, _PROBED):
            os.preadv(fd, [byte], offset, no_wait)
    except OSError:
        return False
    return True


def drop_cache(folder: Path) -> None:
    """Remove all files of a folder from the page cache, except mapped and unsynced pages.

    See `sync`. Folders and inodes stay in the cache.
    """
    for path in files_in(folder):
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def memory_nbytes() -> int:
    """Return the size of the machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def nbytes_read() -> int:
    """Return the bytes that the kernel has read from disks for this process."""
    lines = Path("/proc/self/io").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("read_bytes:"))
    return int(line.split()[1])


def peak_nbytes() -> int:
    """Return the peak resident memory of this process, including pages of mapped files."""
    # getrusage returns the peak of the parent if that is higher.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
