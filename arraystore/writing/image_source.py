"""The images that fill a payload: encoded bytes in the files of a source."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

import numpy as np

from arraystore.errors import SourceError
from arraystore.parallel.compressed import CompressedArray
from arraystore.storage.file_bytes import FileBytes
from arraystore.storage.file_states import NO_FILES, FileStates, gone, is_address
from arraystore.storage.open_files import OpenFile, open_file, read_into

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from arraystore._typing import Ints

_ADVICE_NBYTES: Final = 2**19
"""Bytes of one request to read ahead: Linux reads no more than this."""

_MAX_GAP_NBYTES: Final = 2**16
"""Largest gap between images that is read rather than skipped by a second request."""

_PREFETCH_ROWS: Final = 2**14
"""Images whose ranges are merged at a time, to bound the memory."""

_WINDOW_NBYTES: Final = 2**23
"""Bytes of images in buckets that a task requests at a time."""

_FEW_FILES: Final = 64
_PROBED: Final = 64
"""Images that are tested to decide whether all are in the page cache."""


class ImageSource(Protocol):
    """The encoded images of some samples, in the order of the payload."""

    @property
    def nbytes(self) -> Ints:
        """Size of each image in bytes."""
        ...

    @property
    def is_remote(self) -> bool:
        """Whether images come over a network, so that threads mostly wait."""
        return False

    def rows(self, first: int, last: int) -> Self:
        """Return the images ``[first, last)``."""
        ...

    def location(self, i: int) -> str:
        """Return where image `i` comes from, for messages."""
        ...

    def reads(self, path: str) -> bool:
        """Whether some of the images are in the local file `path`."""
        del path
        return False

    def portable(self) -> Self:
        """Return the images for another process, which may have another working directory."""
        return self

    def prefetch(self) -> None:
        """Ask the kernel to read ahead, so that a cold disk has several reads to work on.

        Images in the page cache need no reading ahead.
        """

    def prefetch_all(self) -> bool:
        """Prefetch all images of a split, if the page cache can hold them.

        A disk reads files faster in their own order than in the order of the payload.

        Returns
        -------
        bool
            Whether they were prefetched, so that the tasks of single blocks need not do it.
        """
        return False

    def read(self, i: int, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes of image `i`, from byte `start` of it on.

        Raises
        ------
        OSError or ValueError
            If they cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class FileRanges:
    """Images that are ranges of files on the local disk, or of objects in buckets.

    Attributes
    ----------
    files : sequence of str
        Paths of the files, or addresses of the objects.
    file, offset, nbytes : ndarray of integers, shape (n,)
        Each image is the bytes ``[offset, offset + nbytes)`` of ``files[file]``.
    states : FileStates, optional
        Expected states of `files` when they are opened; needed for objects.
    """

    files: Sequence[str]
    file: NDArray[np.integer[Any]]
    offset: Ints
    nbytes: Ints
    states: FileStates = NO_FILES
    _last: dict[int, OpenFile] = field(default_factory=dict, init=False, repr=False, compare=False)
    _ahead: list[FileBytes] = field(default_factory=list, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[Callable[..., FileRanges], tuple[Any, ...]]:
        columns = map(CompressedArray.of, (self.file, self.offset, self.nbytes))
        return _decompressed, (self.files, *columns, self.states)

    @property
    def is_remote(self) -> bool:
        """See `ImageSource`."""
        return self.states.buckets is not None

    def rows(self, first: int, last: int) -> FileRanges:
        """See `ImageSource`."""
        rows = slice(first, last)
        used, file = np.unique(self.file[rows], return_inverse=True)
        states = self.states.take(used) if self.states else self.states
        files = states.paths if self.states else tuple(self.files[i] for i in used)
        return FileRanges(files, file, self.offset[rows], self.nbytes[rows], states)

    def location(self, i: int) -> str:
        """See `ImageSource`."""
        return f"{self.files[self.file[i]]} (at byte {self.offset[i]:,})"

    def reads(self, path: str) -> bool:
        """See `ImageSource`."""
        return path in self.files

    def portable(self) -> FileRanges:
        """See `ImageSource`."""
        if not self.states:
            return self
        states = self.states.portable()
        return replace(self, files=states.paths, states=states)

    def prefetch(self) -> None:
        """See `ImageSource`; images in buckets are requested by `read`, many at a time."""
        if not self.is_remote and not self._is_cached():
            self._prefetch_rows()

    def _prefetch_rows(self) -> None:
        if not hasattr(os, "posix_fadvise"):
            return
        order = np.lexsort((self.offset, self.file))
        for row in range(0, len(order), _PREFETCH_ROWS):
            self._prefetch(order[row : row + _PREFETCH_ROWS])

    def _is_cached(self) -> bool:
        """Whether all images are in the page cache, judging by a few of them."""
        few = range(0, len(self.nbytes), max(1, len(self.nbytes) // _PROBED))
        # The first bytes were read with the header, so they are cached in any case.
        middles = ((i, int(self.offset[i] + self.nbytes[i] // 2)) for i in few)
        return all(
            self._opened(int(self.file[i])).is_cached(middle, unknown=False)
            for i, middle in middles
        )

    def _prefetch(self, order: Ints) -> None:
        file, start = self.file[order], self.offset[order]
        stop = start + self.nbytes[order]
        is_first = np.r_[True, (np.diff(file) != 0) | (start[1:] - stop[:-1] > _MAX_GAP_NBYTES)]
        first = np.flatnonzero(is_first)
        runs = (file[first], start[first], np.maximum.reduceat(stop, first))
        for number, begin, end in zip(*(column.tolist() for column in runs), strict=True):
            fd = self._opened(number).fd
            for offset in range(begin, end, _ADVICE_NBYTES):
                nbytes = min(_ADVICE_NBYTES, end - offset)
                os.posix_fadvise(fd, offset, nbytes, os.POSIX_FADV_WILLNEED)

    def prefetch_all(self) -> bool:
        """See `ImageSource`."""
        if self.is_remote:
            return False
        fits = len(self.files) <= _FEW_FILES and int(self.nbytes.sum()) <= page_cache_nbytes() // 2
        if not fits or self._is_cached():  # then the task of each block decides for itself
            return False
        self._prefetch_rows()
        return True

    def read(self, i: int, start: int, buffer: memoryview) -> None:
        """See `ImageSource`; `SourceError` if the file changed or has become shorter."""
        number = int(self.file[i])
        if self.is_remote and is_address(self.files[number]):
            self._read_object(i, start, buffer)
            return
        start += int(self.offset[i])
        nbytes = read_into(self._opened(number).fd, buffer, start)
        if nbytes < len(buffer):
            raise SourceError(
                f"{self.files[number]}: ends at byte {start + nbytes:,}, expected at least "
                f"{start + len(buffer):,} bytes; it has become shorter since the conversion began"
            )

    def _read_object(self, i: int, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from an object; the images that are read next are requested with it."""
        number, offset = int(self.file[i]), int(self.offset[i]) + start
        if not (self._ahead and self._ahead[0].has(number, offset, len(buffer))):
            self._ahead[:] = [self._fetched(i, start, max(_WINDOW_NBYTES, len(buffer)))]
        buffer[:] = self._ahead[0].read(number, offset, len(buffer))

    def _fetched(self, i: int, start: int, most: int) -> FileBytes:
        """Request image `i` from byte `start` of it on, and the next ones: `most` bytes in all."""
        ends = np.cumsum(self.nbytes[i:]) - start
        stop = i + max(1, int(np.searchsorted(ends, most, side="right")))
        offset, nbytes = self.offset[i:stop].copy(), self.nbytes[i:stop].copy()
        offset[0] += start
        nbytes[0] = min(nbytes[0] - start, most)
        found = FileBytes(self.states)
        found.fetch(self.file[i:stop], offset, nbytes)
        return found

    def _opened(self, number: int) -> OpenFile:
        """Open a file, or return it if it was the last to be opened."""
        if number not in self._last:
            self._last.clear()
            try:
                file = open_file(self.files[number])
            except FileNotFoundError:
                raise gone(self.files[number]) from None
            if self.states:
                self.states.check_open(number, file.fd)
            self._last[number] = file
        return self._last[number]


def _decompressed(
    files: Sequence[str],
    file: CompressedArray,
    offset: CompressedArray,
    nbytes: CompressedArray,
    states: FileStates,
) -> FileRanges:
    return FileRanges(files, file.array(), offset.array(), nbytes.array(), states)


def page_cache_nbytes() -> int:
    """Return the possible size of the page cache in bytes; 0 if the system does not report it."""
    limits = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                limits.append(int(value.split()[0]) * 1024)
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # not Linux, no limit ("max"), or not in a memory cgroup
        pass
    return min(limits, default=0)
