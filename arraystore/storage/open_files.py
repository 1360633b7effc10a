"""Open files: kept for the next read, a bounded number, and room on the disk for new ones."""

from __future__ import annotations

import errno
import mmap
import os
import resource
import shutil
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
"""Most descriptors that an open file takes, its map included."""

_READ_AHEAD_NBYTES: Final = 2**18
"""The system does not take longer reads ahead at one time, from some disks."""

LARGE_NBYTES: Final = 2**26
"""More than nearly all reads take; larger ones are compared with the file's size first."""

_MAY_PROBE: Final = hasattr(os, "RWF_NOWAIT")


class _Descriptor:
    """What closes a descriptor when its file is gone.

    The file itself must not: Python calls `__del__` while weak references still return the
    object, so that another thread would take it up again and read from whatever is opened
    under the same number.
    """

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class OpenFile:
    """An open file that closes itself when nobody reads from it any more.

    Attributes
    ----------
    fd : int
        Its descriptor.
    identity : tuple of int
        Device, number, size and time of change, since another file may take its name.
    nbytes : int
        Its size when it was opened.
    """

    __slots__ = ("__weakref__", "_descriptor", "_map", "fd", "identity", "nbytes")

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # no wait for a pipe
        self._descriptor = _Descriptor(self.fd)
        status = os.fstat(self.fd)
        self.identity = identity_of(status)
        self.nbytes = status.st_size
        self._map: mmap.mmap | None = None
        if not stat.S_ISREG(status.st_mode):
            raise StorageError(f"{path}: must be a file, but is a folder, pipe or device")

    @property
    def map(self) -> mmap.mmap:
        """The file's bytes as memory, which lasts as long as anybody holds a view of it.

        The process ends at once (SIGBUS) if it touches bytes that are not there any more, or
        that the disk cannot read.
        """
        if self._map is None:
            self._map = _mapped(self.fd)
        return self._map

    def is_cached(self, offset: int, *, unknown: bool = True) -> bool:
        """Tell whether reading a byte would not wait for the disk; `unknown` if nobody knows."""
        if not _MAY_PROBE:
            return unknown
        try:
            os.preadv(self.fd, [bytearray(1)], offset, os.RWF_NOWAIT)
        except OSError as error:  # of file systems that know no such reads, too
            return unknown and error.errno != errno.EAGAIN
        return True

    def read_ahead(self, offset: int, nbytes: int) -> None:
        """Let the disk begin to read bytes that will soon be asked for."""
        if not hasattr(os, "posix_fadvise"):  # macOS
            return
        stop = min(offset + nbytes, self.nbytes)
        for at in range(offset, stop, _READ_AHEAD_NBYTES):
            some = min(_READ_AHEAD_NBYTES, stop - at)
            os.posix_fadvise(self.fd, at, some, os.POSIX_FADV_WILLNEED)


def _mapped(fd: int) -> mmap.mmap:
    if sys.version_info >= (3, 13):
        return mmap.mmap(fd, 0, prot=mmap.PROT_READ, trackfd=False)
    else:  # noqa: RET505 - mypy tells versions apart by such a branch alone
        return mmap.mmap(fd, 0, prot=mmap.PROT_READ)  # has a descriptor of its own


class _OpenFiles:
    """The files that were used last; a reader that holds one keeps it open."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: str) -> OpenFile:
        identity = identity_of(os.stat(path))  # noqa: PTH116 - once a read, so a str is kept a str
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
        """Replace the lock, which another thread may have held while this process was forked."""
        self._lock = threading.Lock()


_open_files: Final = _OpenFiles()
os.register_at_fork(after_in_child=_open_files.renew_lock)


def identity_of(status: os.stat_result) -> tuple[int, int, int, int]:
    """Return what tells a file, as it is now, from any other and from what it was."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def open_file(path: str) -> OpenFile:
    """Open a file for reading, or return it as it was opened before."""
    return _open_files.get(path)


def close_idle_files() -> None:
    """Close all files that nobody reads from just now; they are opened again when needed."""
    _open_files.clear()


def read_at(file: OpenFile, offset: int, nbytes: int) -> bytes:
    """Read bytes of an open file: fewer than asked for only if it ends before.

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
    """Fill `buffer` from the file; return the number of bytes there were."""
    done = 0
    while done < len(buffer):
        nbytes = os.preadv(fd, [buffer[done:]], offset + done)
        if nbytes == 0:
            break
        done += nbytes
    return done


def reserve(path: Path, nbytes: int) -> None:
    """Make a file `nbytes` long, with room on the disk for all of them.

    Raises
    ------
    StorageError
        If there is not enough room.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        with full_disk_is_told(path.parent, nbytes - 512 * os.fstat(fd).st_blocks):
            if hasattr(os, "posix_fallocate") and nbytes:
                os.posix_fallocate(fd, 0, nbytes)
            else:  # macOS has no such call, and a length of 0 is not allowed
                os.ftruncate(fd, nbytes)
    finally:
        os.close(fd)


@contextmanager
def full_disk_is_told(folder: Path, nbytes: int = 0) -> Iterator[None]:
    """Turn the operating system's "no space left" into a `StorageError` with the numbers.

    Parameters
    ----------
    folder : Path
        A folder on the disk in question.
    nbytes : int, optional
        How much was to be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        free = shutil.disk_usage(folder).free
        wanted = f"{nbytes:,} bytes" if nbytes else "any"
        raise StorageError(
            f"{folder}: no room for {wanted} more, {free:,} are free "
            f"({os.strerror(error.errno)}); free some, or choose another disk"
        ) from error
