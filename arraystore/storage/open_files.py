"""Open files, kept in a bounded number for the next read; and disk space for new files."""

from __future__ import annotations

import errno
import mmap
import os
import resource
import stat
import sys
import threading
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from arraystore.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MAX_OPEN: Final = 1024
"""Most files that are kept open for the next read."""

MAPS_TAKE_DESCRIPTORS: Final = sys.version_info < (3, 13)
"""Whether a memory map has a descriptor of its own, besides that of the file."""

_DESCRIPTORS: Final = 2 if MAPS_TAKE_DESCRIPTORS else 1
"""Most descriptors that an open file takes, including its map."""

_READ_AHEAD_NBYTES: Final = 2**18
"""For some disks, the system does not accept longer readahead in one call."""

LARGE_NBYTES: Final = 2**26
"""Larger reads, which are rare, are limited to the size of the file first."""

_MAY_PROBE: Final = hasattr(os, "RWF_NOWAIT")


class _Descriptor:
    """Closes a descriptor when its `OpenFile` is freed.

    `OpenFile` cannot do it: Python calls `__del__` while weak references still return the object,
    so another thread could read from another file that was opened under the same number.
    """

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class OpenFile:
    """An open file, which is closed when nothing refers to it.

    Attributes
    ----------
    fd : int
        Descriptor.
    identity : tuple of int
        Device, inode, size and time of change, because another file may get its name.
    nbytes : int
        Size when it was opened.
    mtime : int
        Time of the last change of its bytes, in nanoseconds since 1970.
    """

    __slots__ = ("__weakref__", "_descriptor", "_map", "fd", "identity", "mtime", "nbytes")

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # no wait for a pipe
        self._descriptor = _Descriptor(self.fd)
        status = os.fstat(self.fd)
        self.identity = identity_of(status)
        self.nbytes = status.st_size
        self.mtime = status.st_mtime_ns
        self._map: mmap.mmap | None = None
        if not stat.S_ISREG(status.st_mode):
            raise StorageError(f"{path}: must be a file, but is a folder, pipe or device")

    @property
    def map(self) -> mmap.mmap:
        """A memory map of the file, which lasts as long as any view of it.

        The process ends at once (SIGBUS) if it touches bytes that were truncated, or that the disk
        cannot read.
        """
        if self._map is None:
            self._map = _mapped(self.fd)
        return self._map

    def is_cached(self, offset: int, *, unknown: bool = True) -> bool:
        """Whether a byte can be read without waiting for the disk; `unknown` if not supported."""
        if not _MAY_PROBE:
            return unknown
        try:
            os.preadv(self.fd, [bytearray(1)], offset, os.RWF_NOWAIT)
        except OSError as error:  # also of file systems without such reads
            return unknown and error.errno != errno.EAGAIN
        return True

    def read_ahead(self, offset: int, nbytes: int) -> None:
        """Start readahead of bytes."""
        if not hasattr(os, "posix_fadvise"):  # macOS
            return
        stop = min(offset + nbytes, self.nbytes)
        for at in range(offset, stop, _READ_AHEAD_NBYTES):
            some = min(_READ_AHEAD_NBYTES, stop - at)
            os.posix_fadvise(self.fd, at, some, os.POSIX_FADV_WILLNEED)


def _mapped(fd: int) -> mmap.mmap:
    if sys.version_info >= (3, 13):
        mapped = mmap.mmap(fd, 0, prot=mmap.PROT_READ, trackfd=False)
    else:
        mapped = mmap.mmap(fd, 0, prot=mmap.PROT_READ)  # has a descriptor of its own
    if hasattr(mmap, "MADV_RANDOM"):
        # Otherwise Linux reads as much as readahead allows, up to MBs, around each missing page.
        mapped.madvise(mmap.MADV_RANDOM)
    return mapped


class _OpenFiles:
    """The files that were used last; a reader that refers to one keeps it open."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: str) -> OpenFile:
        identity = identity_of(os.stat(path))  # noqa: PTH116 - called for every read
        with self._lock:
            file = self._files.get(path)
            if file is None or file.identity != identity:
                file = self._files[path] = OpenFile(path)
                n_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2 // _DESCRIPTORS
                limit = min(_MAX_OPEN, n_files)
                while len(self._files) > max(1, limit):
                    self._files.popitem(last=False)
            self._files.move_to_end(path)
            return file

    def clear(self) -> None:
        with self._lock:
            self._files.clear()

    def renew_lock(self) -> None:
        """Replace the lock, which another thread may have held during the fork."""
        self._lock = threading.Lock()


_open_files: Final = _OpenFiles()
os.register_at_fork(after_in_child=_open_files.renew_lock)


def identity_of(status: os.stat_result) -> tuple[int, int, int, int]:
    """Return a value that differs for any other file, and after a change of this one."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def nbytes_of(identity: tuple[int, ...]) -> int:
    """Return the size in bytes that is part of an identity."""
    return identity[2]


def open_file(path: str) -> OpenFile:
    """Open a file for reading, or return it if it is open."""
    return _open_files.get(path)


def close_idle_files() -> None:
    """Close all files that are not being read; they are opened again when needed."""
    _open_files.clear()


def read_at(file: OpenFile, offset: int, nbytes: int) -> bytes:
    """Return bytes of an open file; fewer than `nbytes` only if it ends before.

    Examples
    --------
    >>> len(read_at(open_file(__file__), 2**40, 1))
    0
    """
    if nbytes > LARGE_NBYTES:
        nbytes = max(0, min(nbytes, file.nbytes - offset))
    data = os.pread(file.fd, nbytes, offset)
    while 0 < len(data) < nbytes and (
        more := os.pread(file.fd, nbytes - len(data), offset + len(data))
    ):
        data += more
    return data


def read_into(fd: int, buffer: memoryview, offset: int) -> int:
    """Fill `buffer` from the file; return the number of bytes that were read."""
    done = 0
    while done < len(buffer):
        nbytes = os.preadv(fd, [buffer[done:]], offset + done)
        if nbytes == 0:
            break
        done += nbytes
    return done


def reserve(path: Path, nbytes: int) -> None:
    """Make a file `nbytes` long and allocate disk space for it.

    Raises
    ------
    StorageError
        If the disk has not enough space.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        with translate_full_disk(path.parent, nbytes - 512 * os.fstat(fd).st_blocks):
            if hasattr(os, "posix_fallocate") and nbytes:
                os.posix_fallocate(fd, 0, nbytes)
            else:  # macOS has no such call, and it refuses a length of 0
                os.ftruncate(fd, nbytes)
    finally:
        os.close(fd)


@contextmanager
def translate_full_disk(folder: Path, nbytes: int = 0) -> Iterator[None]:
    """Translate "no space left" of the operating system to a `StorageError` with the numbers.

    Parameters
    ----------
    folder : Path
        A folder on the disk.
    nbytes : int, optional
        Number of bytes to be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        disk = os.statvfs(folder)
        free = disk.f_bavail * disk.f_frsize
        needed = f"{nbytes:,} more bytes are needed, " if nbytes else ""
        raise StorageError(
            f"{folder}: {os.strerror(error.errno)}: {needed}{free:,} bytes are free; free some "
            "space, or choose another disk"
        ) from error
