"""Fill one block of a payload: copy its images and compute their checksums.

A `FillTask` names the images and the place of the block. It can be sent to any process or machine
that reaches both.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, Self

import numpy as np
from typing_extensions import override

from arraystore._checksum import crc32c
from arraystore.storage.open_files import translate_full_disk

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from arraystore._typing import Bytes
    from arraystore.writing.image_source import ImageSource

BUFFER_NBYTES: Final = 2**20
"""Bytes that a task holds in memory at a time: copying is fastest if a core's cache holds them."""

_WRITE_NBYTES: Final = 2**16
"""Bytes written at a time.

On the virtual machine where this was measured, writes of 1 MiB took up to three times the processor
time in the kernel: probably because its page cache then uses larger pieces.
"""


class Sink(Protocol):
    """Take the bytes of one block in order.

    Bytes beyond the end of the block are dropped. They are the rest of an image that continues in
    the next block, read only for its checksum.

    Attributes
    ----------
    left : int
        Bytes that the block still lacks.
    etag : str
        ETag of the object that holds the finished block. Empty on a disk.
    """

    left: int
    etag: str = ""

    def free(self) -> Bytes:
        """Return the part of a buffer to fill next."""
        ...

    def advance(self, nbytes: int) -> None:
        """Take the first bytes of `free` as filled."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None:
        """Finish the block, or give it up after an exception."""


class BlockPlace(Protocol):
    """The place of a block: ranges of files, or an object."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Paths of the files, or the key of the object, that hold the block."""
        ...

    def open(self) -> Sink:
        """Return a sink that writes the block to this place."""
        ...


@dataclass(frozen=True, slots=True)
class FillTask:
    """Images to copy into one block.

    Attributes
    ----------
    images : ImageSource
        The images with bytes in the block.
    skip : int
        Bytes of the first of them that belong to the block before.
    place : BlockPlace
    is_prefetched : bool, default False
        Whether the kernel was already asked to read the images ahead.
    """

    images: ImageSource
    skip: int
    place: BlockPlace
    is_prefetched: bool = False


class Filled(NamedTuple):
    """Result of filling a block.

    Attributes
    ----------
    checksums : ndarray of uint32
        CRC-32C of each image that begins in the block, computed over the whole image even if the
        last one continues in the next block.
    etag : str
        See `Sink`.
    """

    checksums: NDArray[np.uint32]
    etag: str


def fill(task: FillTask) -> Filled:
    """Copy the bytes of a block to its place.

    Raises
    ------
    SourceError
        If a source file has become shorter since it was planned.
    StorageError
        If the disk is full, or the bucket refuses the block.
    """
    if not task.is_prefetched:
        task.images.prefetch()
    with task.place.open() as sink:
        checksums = copy_images(task.images, task.skip, sink)
    return Filled(checksums, sink.etag)


def copy_images(images: ImageSource, skip: int, sink: Sink) -> NDArray[np.uint32]:
    """Copy images to a sink; return the checksums of those that begin in its block."""
    checksums = np.empty(len(images.nbytes), dtype=np.uint32)
    for i, stop in enumerate(images.nbytes.tolist()):
        start, value = 0, 0
        is_begun_before = i == 0 and skip > 0
        if is_begun_before:
            # The block before computes this image's checksum; this block needs only its bytes.
            start, stop = skip, min(stop, skip + sink.left)
        while start < stop:
            part = sink.free()[: stop - start]
            images.read(i, start, memoryview(part))
            if not is_begun_before:
                value = crc32c(part, value)
            sink.advance(len(part))
            start += len(part)
        if not is_begun_before:
            checksums[i] = value
    return checksums[skip > 0 :]


@dataclass(frozen=True, slots=True)
class FilePlace(BlockPlace):
    """Ranges of files on the local disk.

    Attributes
    ----------
    parts : tuple of (str, int, int)
        Path, offset and number of bytes of each part of the block, in order. If empty, nothing is
        written, and filling only computes checksums.
    sync : bool, default False
        Whether to start writing to the disk as soon as the block is complete.
    """

    parts: tuple[tuple[str, int, int], ...] = ()
    sync: bool = False

    @property
    @override
    def keys(self) -> tuple[str, ...]:
        return tuple(path for path, _, _ in self.parts)

    @override
    def open(self) -> Sink:
        return _FileSink(self.parts, sync=self.sync)


class _FileSink(Sink):
    """Collect bytes in a buffer, and write it to the parts of a block when it is full."""

    def __init__(self, parts: tuple[tuple[str, int, int], ...], *, sync: bool) -> None:
        self._sync = sync
        self.left = sum(nbytes for _, _, nbytes in parts)
        self._parts = list(reversed(parts))
        self._buffer = np.empty(BUFFER_NBYTES, dtype=np.uint8)
        self._used = 0
        self._fds: dict[str, int] = {}

    @override
    def __enter__(self) -> Self:
        try:
            for path, _, _ in self._parts:
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
    def free(self) -> Bytes:
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
        """Start writing to the disk now, so that the sync at the end has less to wait for."""
        if hasattr(os, "posix_fadvise"):
            for fd in self._fds.values():
                # Linux starts to write dirty pages; it drops only clean ones.
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def _close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)

    def _flush(self) -> None:
        """Write the bytes in the buffer."""
        done = 0
        path, _, nbytes = self._parts[-1]
        with translate_full_disk(Path(path).parent, nbytes):
            while done < self._used:
                path, offset, nbytes = self._parts.pop()
                step = min(nbytes, _WRITE_NBYTES - offset % _WRITE_NBYTES)
                data = self._buffer[done : min(done + step, self._used)]
                written = os.pwrite(self._fds[path], data, offset)
                if written < nbytes:
                    self._parts.append((path, offset + written, nbytes - written))
                done += written
        self._used = 0


class MemorySink(Sink):
    """Keep a block in memory, with further bytes behind it.

    Parameters
    ----------
    nbytes : int
        Length of the block.
    tail : bytes, default empty
        The bytes behind it.
    send : callable, optional
        Called with all of them when the block is complete; returns an etag.

    Attributes
    ----------
    buffer : ndarray of uint8, shape (nbytes + len(tail),)
    """

    def __init__(
        self, nbytes: int, tail: bytes = b"", *, send: Callable[[Bytes], str] | None = None
    ) -> None:
        self.buffer = np.empty(nbytes + len(tail), dtype=np.uint8)
        self.buffer[nbytes:] = np.frombuffer(tail, dtype=np.uint8)
        self.left = self._nbytes = nbytes
        self._send = send
        self._dropped: Bytes | None = None

    @override
    def __enter__(self) -> Self:
        return self

    @override
    def __exit__(self, *exception: object) -> None:
        if exception[0] is None and self._send is not None:
            self.etag = self._send(self.buffer)

    @override
    def free(self) -> Bytes:
        if self.left:
            return self.buffer[self._nbytes - self.left : self._nbytes]
        if self._dropped is None:
            self._dropped = np.empty(BUFFER_NBYTES, dtype=np.uint8)
        return self._dropped

    @override
    def advance(self, nbytes: int) -> None:
        if self.left:
            self.left -= nbytes
