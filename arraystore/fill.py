"""Filling one block of a payload: images in, their checksums out.

A task says where the images are and where the block is to be, so that it can be
sent to another process or machine that reaches both.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, Self

import numpy as np
from typing_extensions import override

from arraystore.errors import SourceError
from arraystore.storage import OpenFile, crc32c, full_disk_is_told, open_file, read_into

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Bytes = NDArray[np.uint8]

BUFFER_NBYTES: Final = 2**20
"""Bytes a task holds in memory at a time: what a core's cache holds is copied fastest."""

_WRITE_NBYTES: Final = 2**16
"""Bytes written at a time. For more Linux makes larger pieces of its page cache, of memory not used
lately. Where a host has to provide that, for a virtual machine, it is 3 times the work."""

_ANNOUNCED_NBYTES: Final = 2**19  # Linux reads no more at a time when it is told
_ANNOUNCED_GAP: Final = 2**16  # read too, rather than with a request of its own
_FEW_FILES: Final = 64


class ImageBytes(Protocol):
    """The encoded images of some samples, in the order in which they are to be stored."""

    @property
    def nbytes(self) -> Ints:
        """Size of each."""
        ...

    def rows(self, first: int, last: int) -> Self:
        """Return the images ``[first, last)``."""
        ...

    def where(self, i: int) -> str:
        """Say where image `i` comes from, for messages."""
        ...

    def announce(self) -> None:
        """Tell the kernel what will be read, so that a cold disk has more than one read to do."""

    def announce_all(self) -> bool:
        """Announce these images, which are all of a split, if the page cache can hold them.

        Images are stored in an order of their own. A disk reads the source faster in its own.

        Returns
        -------
        bool
            Whether they were, so that those of a block need not be.
        """
        return False

    def read(self, i: int, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes of image `i` from its byte `start` on.

        Raises
        ------
        OSError or ValueError
            If they are not there.
        """
        ...


@dataclass(frozen=True, slots=True)
class FileRanges:
    """Images that are ranges of files on the local disk.

    Attributes
    ----------
    files : tuple of str
        Paths of the files.
    file, offset, nbytes : ndarray of int64, shape (n,)
        Where each image lies: which of `files`, and the bytes
        ``[offset, offset + nbytes)`` of it.
    """

    files: tuple[str, ...]
    file: Ints
    offset: Ints
    nbytes: Ints
    _last: dict[int, OpenFile] = field(default_factory=dict, init=False, repr=False, compare=False)

    def rows(self, first: int, last: int) -> FileRanges:
        """See `ImageBytes`."""
        rows = slice(first, last)
        used, file = np.unique(self.file[rows], return_inverse=True)
        files = tuple(self.files[i] for i in used)
        return FileRanges(files, file, self.offset[rows], self.nbytes[rows])

    def where(self, i: int) -> str:
        """See `ImageBytes`."""
        return f"{self.files[self.file[i]]} (at byte {self.offset[i]:,})"

    def announce(self) -> None:
        """See `ImageBytes`."""
        if not hasattr(os, "posix_fadvise") or not len(self.nbytes):
            return
        order = np.lexsort((self.offset, self.file))
        file, start = self.file[order], self.offset[order]
        stop = start + self.nbytes[order]
        is_first = np.r_[True, (np.diff(file) != 0) | (start[1:] - stop[:-1] > _ANNOUNCED_GAP)]
        first = np.flatnonzero(is_first)
        runs = (file[first], start[first], np.maximum.reduceat(stop, first))
        for number, begin, end in zip(*(column.tolist() for column in runs), strict=True):
            fd = self._opened(number).fd
            for at in range(begin, end, _ANNOUNCED_NBYTES):
                nbytes = min(_ANNOUNCED_NBYTES, end - at)
                os.posix_fadvise(fd, at, nbytes, os.POSIX_FADV_WILLNEED)

    def announce_all(self) -> bool:
        """See `ImageBytes`."""
        fits = len(self.files) <= _FEW_FILES and int(self.nbytes.sum()) <= page_cache_nbytes() // 2
        if fits:
            self.announce()
        return fits

    def read(self, i: int, start: int, buffer: memoryview) -> None:
        """See `ImageBytes`; `SourceError` if the file has become shorter."""
        number, start = int(self.file[i]), int(self.offset[i]) + start
        nbytes = read_into(self._opened(number).fd, buffer, start)
        if nbytes < len(buffer):
            raise SourceError(
                f"{self.files[number]}: ended at byte {start + nbytes:,} while it was read up to "
                f"{start + len(buffer):,}; it has become shorter since the conversion began"
            )

    def _opened(self, number: int) -> OpenFile:
        """Open a file, or return it if it was the last that was opened here."""
        if number not in self._last:
            self._last.clear()
            self._last[number] = open_file(self.files[number])
        return self._last[number]


def page_cache_nbytes() -> int:
    """Return how much the page cache may come to hold; 0 where the system does not say."""
    limits = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                limits.append(int(value.split()[0]) * 1024)
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no Linux, no limit ("max"), or no group of its own
        pass
    return min(limits, default=0)


class Sink(Protocol):
    """Takes the bytes of one block, one after another.

    Bytes that come when the block is full are dropped: they are the end of an
    image that goes on in the next block, read for its checksum alone.

    Attributes
    ----------
    left : int
        Bytes that the block still lacks.
    """

    left: int

    def room(self) -> Bytes:
        """Return a part of a buffer to be filled next."""
        ...

    def advance(self, nbytes: int) -> None:
        """Take the first bytes of `room` as filled."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None:
        """Finish the block, or give it up if there is an exception."""


class Target(Protocol):
    """Where a block is to be."""

    def open(self) -> Sink:
        """Return what takes its bytes."""
        ...


@dataclass(frozen=True, slots=True)
class FillTask:
    """What to copy into one block, and where to.

    Attributes
    ----------
    images : ImageBytes
        The images with bytes in the block.
    skip : int
        Bytes of the first of them that belong to the block before.
    target : Target
        Where the block is to be.
    is_announced : bool, default False
        Whether the kernel has been told already what will be read.
    """

    images: ImageBytes
    skip: int
    target: Target
    is_announced: bool = False


def fill(task: FillTask) -> NDArray[np.uint32]:
    """Copy a block's bytes to their place.

    Returns
    -------
    ndarray of uint32
        CRC-32C of each image that begins in the block, whole also where the last
        one goes on in the next.

    Raises
    ------
    SourceError
        If a source file has become shorter since it was planned.
    StorageError
        If the disk is full, or a bucket does not take it.
    """
    if not task.is_announced:
        task.images.announce()
    with task.target.open() as sink:
        return copy_images(task.images, task.skip, sink)


def copy_images(images: ImageBytes, skip: int, sink: Sink) -> NDArray[np.uint32]:
    """Copy images to a sink; return the checksums of those that begin in its block."""
    checksums = []
    for i, stop in enumerate(images.nbytes.tolist()):
        start, value = 0, 0
        is_begun_before = i == 0 and skip > 0
        if is_begun_before:
            # The block before sees to this image's checksum; here only its bytes are wanted.
            start, stop = skip, min(stop, skip + sink.left)
        while start < stop:
            room = sink.room()[: stop - start]
            images.read(i, start, memoryview(room))
            if not is_begun_before:
                value = crc32c(room, value)
            sink.advance(len(room))
            start += len(room)
        if not is_begun_before:
            checksums.append(value)
    return np.array(checksums, dtype=np.uint32)


@dataclass(frozen=True, slots=True)
class FilePlaces(Target):
    """Places in files on the local disk.

    Attributes
    ----------
    places : tuple of (str, int, int)
        Path, first byte and number of bytes of each part of the block, in order.
        With none, nothing is written, and only checksums come of it.
    sync : bool, default False
        Whether the disk is to have them soon.
    """

    places: tuple[tuple[str, int, int], ...] = ()
    sync: bool = False

    @override
    def open(self) -> Sink:
        return _FileSink(self.places, sync=self.sync)


class _FileSink(Sink):
    """Gathers bytes in a buffer, and writes it to one place after another when it is full."""

    def __init__(self, places: tuple[tuple[str, int, int], ...], *, sync: bool) -> None:
        self._sync = sync
        self.left = sum(nbytes for _, _, nbytes in places)
        self._places = list(reversed(places))
        self._buffer = np.empty(BUFFER_NBYTES, dtype=np.uint8)
        self._used = 0
        self._fds: dict[str, int] = {}

    @override
    def __enter__(self) -> Self:
        try:
            for path, _, _ in self._places:
                if path not in self._fds:
                    self._fds[path] = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            self._close()
            raise
        return self

    @override
    def __exit__(self, *exception: object) -> None:
        try:
            if exception[0] is None and self._sync:
                self._start_writeback()
        finally:
            self._close()

    @override
    def room(self) -> Bytes:
        limit = min(BUFFER_NBYTES, self._used + self.left) if self.left else BUFFER_NBYTES
        return self._buffer[self._used : limit]

    @override
    def advance(self, nbytes: int) -> None:
        if not self.left:
            return
        self._used += nbytes
        self.left -= nbytes
        if self._used == BUFFER_NBYTES or not self.left:
            self._flush()

    def _start_writeback(self) -> None:
        """Let the disk begin with what was written, so that less is left when all is synced."""
        if hasattr(os, "posix_fadvise"):
            for fd in self._fds.values():
                # Linux begins to write the dirty pages; it drops only those that are clean.
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def _close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)

    def _flush(self) -> None:
        """Write what the buffer holds."""
        done = 0
        while done < self._used:
            path, offset, nbytes = self._places.pop()
            with full_disk_is_told(Path(path).parent, nbytes):
                step = min(nbytes, _WRITE_NBYTES - offset % _WRITE_NBYTES)
                part = self._buffer[done : min(done + step, self._used)]
                written = os.pwrite(self._fds[path], part, offset)
            if written < nbytes:
                self._places.append((path, offset + written, nbytes - written))
            done += written
        self._used = 0


class MemorySink(Sink):
    """Keeps a block in memory, with room behind it.

    Parameters
    ----------
    nbytes : int
        Length of the block.
    extra : int, default 0
        Bytes behind it, which begin as zeros.

    Attributes
    ----------
    buffer : ndarray of uint8, shape (nbytes + extra,)
    """

    def __init__(self, nbytes: int, extra: int = 0) -> None:
        self.buffer = np.empty(nbytes + extra, dtype=np.uint8)
        self.buffer[nbytes:] = 0
        self.left = self._nbytes = nbytes
        self._dropped: Bytes | None = None

    @override
    def __enter__(self) -> Self:
        return self

    @override
    def __exit__(self, *exception: object) -> None:
        pass

    @override
    def room(self) -> Bytes:
        if self.left:
            return self.buffer[self._nbytes - self.left : self._nbytes]
        if self._dropped is None:
            self._dropped = np.empty(BUFFER_NBYTES, dtype=np.uint8)
        return self._dropped

    @override
    def advance(self, nbytes: int) -> None:
        if self.left:
            self.left -= nbytes
