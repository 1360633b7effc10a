"""Filling one block of a payload: source ranges in, their checksums out.

A task is ranges, places and addresses, so that it can be sent to another process
or machine that sees the same files.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from arraystore.errors import SourceError
from arraystore.storage import crc32c, full_disk_is_told, open_file, read_into

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Bytes = NDArray[np.uint8]

BUFFER_NBYTES: Final = 2**20
"""Bytes a task holds in memory at a time: what a core's cache holds is copied fastest."""


@dataclass(frozen=True, slots=True)
class FillTask:
    """What to copy into one block, and where to.

    Attributes
    ----------
    files : tuple of str
        Paths of the source files.
    file, offset, nbytes : ndarray of int64, shape (n,)
        Where the encoded image of each sample in the block lies: which of
        `files`, and the bytes ``[offset, offset + nbytes)`` of it.
    skip : int
        Bytes of the first sample that belong to the block before.
    places : tuple of (str, int, int)
        Path, first byte and number of bytes of each part of the block, in order.
    """

    files: tuple[str, ...]
    file: Ints
    offset: Ints
    nbytes: Ints
    skip: int
    places: tuple[tuple[str, int, int], ...]


def fill(task: FillTask) -> NDArray[np.uint32]:
    """Copy a block's bytes to their places.

    Parameters
    ----------
    task : FillTask

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
        If the disk is full.
    """
    _announce(task)
    checksums = []
    rows = zip(task.file.tolist(), task.offset.tolist(), task.nbytes.tolist(), strict=True)
    with _Writer(task.places) as writer:
        for i, (file, start, nbytes) in enumerate(rows):
            stop = start + nbytes
            if i == 0 and task.skip:
                # The block before sees to this image's checksum; here only its bytes are wanted.
                start += task.skip
                stop = min(stop, start + writer.left)
            else:
                checksums.append(0)
            for part in _copy(task.files[file], start, stop, writer):
                if checksums:
                    checksums[-1] = crc32c(part, checksums[-1])
        writer.start_writeback()
    return np.array(checksums, dtype=np.uint32)


def _announce(task: FillTask) -> None:
    """Tell the kernel what will be read, so that a cold disk has more than one read to do."""
    if not hasattr(os, "posix_fadvise"):
        return
    for file, offset, nbytes in zip(task.file, task.offset, task.nbytes, strict=True):
        os.posix_fadvise(open_file(task.files[file]).fd, offset, nbytes, os.POSIX_FADV_WILLNEED)


def _copy(path: str, start: int, stop: int, writer: _Writer) -> Iterator[Bytes]:
    """Copy bytes of a source file into the block; yield them piece by piece."""
    source = open_file(path)
    while start < stop:
        room = writer.room()[: stop - start]
        nbytes = read_into(source.fd, memoryview(room), start)
        if nbytes < len(room):
            raise SourceError(
                f"{path}: ended at byte {start + nbytes:,} while it was read up to {stop:,}; "
                "it has become shorter since the conversion began"
            )
        yield room
        writer.advance(nbytes)
        start += nbytes


class _Writer:
    """Gathers bytes in a buffer, and writes it to one place after another when it is full.

    Bytes that come when all places are full are dropped: they are the end of an
    image that goes on in the next block, read for its checksum alone.
    """

    def __init__(self, places: tuple[tuple[str, int, int], ...]) -> None:
        self.left = sum(nbytes for _, _, nbytes in places)
        self._places = list(reversed(places))
        self._buffer = np.empty(BUFFER_NBYTES, dtype=np.uint8)
        self._used = 0
        self._fds: dict[str, int] = {}

    def __enter__(self) -> Self:
        try:
            for path, _, _ in self._places:
                if path not in self._fds:
                    self._fds[path] = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for fd in self._fds.values():
            os.close(fd)

    def room(self) -> Bytes:
        """Return the part of the buffer to be filled next."""
        limit = min(BUFFER_NBYTES, self._used + self.left) if self.left else BUFFER_NBYTES
        return self._buffer[self._used : limit]

    def advance(self, nbytes: int) -> None:
        """Take the first bytes of `room` as filled."""
        if not self.left:
            return
        self._used += nbytes
        self.left -= nbytes
        if self._used == BUFFER_NBYTES or not self.left:
            self.flush()

    def start_writeback(self) -> None:
        """Let the disk begin with what was written, so that less is left when all is synced."""
        if hasattr(os, "posix_fadvise"):
            for fd in self._fds.values():
                # Linux begins to write the dirty pages; it drops only those that are clean.
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def flush(self) -> None:
        """Write what the buffer holds."""
        done = 0
        while done < self._used:
            path, offset, nbytes = self._places.pop()
            with full_disk_is_told(Path(path).parent, nbytes):
                part = self._buffer[done : min(done + nbytes, self._used)]
                written = os.pwrite(self._fds[path], part, offset)
            if written < nbytes:
                self._places.append((path, offset + written, nbytes - written))
            done += written
        self._used = 0
