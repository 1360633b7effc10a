"""Filling one block of a payload: images in, their checksums out.

A task says where the images are and where the block is to be, so that it can be
sent to another process or machine that reaches both.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, Self

import numpy as np
from typing_extensions import override

from arraystore._checksum import crc32c
from arraystore.storage.open_files import full_disk_is_told

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from arraystore._typing import Bytes
    from arraystore.writing.image_source import ImageBytes

BUFFER_NBYTES: Final = 2**20
"""Bytes a task holds in memory at a time: what a core's cache holds is copied fastest."""

_WRITE_NBYTES: Final = 2**16
"""Bytes written at a time.

On the virtual machine where this was measured 1 MiB at a time took up to three times the processor
time in the kernel: probably because its page cache then comes in larger pieces.
"""


class Sink(Protocol):
    """Takes the bytes of one block, one after another.

    Bytes that come when the block is full are dropped: they are the end of an
    image that goes on in the next block, read for its checksum alone.

    Attributes
    ----------
    left : int
        Bytes that the block still lacks.
    receipt : str
        When the block is finished: what tells an object that holds it from any other
        of the same key. Empty on a disk.
    """

    left: int
    receipt: str = ""

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


class Filled(NamedTuple):
    """What came of filling a block.

    Attributes
    ----------
    checksums : ndarray of uint32
        CRC-32C of each image that begins in the block, whole also where the last
        one goes on in the next.
    receipt : str
        See `Sink`.
    """

    checksums: NDArray[np.uint32]
    receipt: str


def fill(task: FillTask) -> Filled:
    """Copy a block's bytes to their place.

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
        checksums = copy_images(task.images, task.skip, sink)
    return Filled(checksums, sink.receipt)


def copy_images(images: ImageBytes, skip: int, sink: Sink) -> NDArray[np.uint32]:
    """Copy images to a sink; return the checksums of those that begin in its block."""
    checksums = np.empty(len(images.nbytes), dtype=np.uint32)
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
            checksums[i] = value
    return checksums[skip > 0 :]


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
        path, _, nbytes = self._places[-1]
        with full_disk_is_told(Path(path).parent, nbytes):
            while done < self._used:
                path, offset, nbytes = self._places.pop()
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
