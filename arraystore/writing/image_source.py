"""The images that a payload is filled with: encoded bytes in the files of a source."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

import numpy as np

from arraystore.errors import SourceError
from arraystore.storage.file_states import NO_FILES, FileStates, gone
from arraystore.storage.open_files import OpenFile, open_file, read_into

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from arraystore._typing import Ints

_ANNOUNCED_NBYTES: Final = 2**19  # Linux reads no more at a time when it is told
_ANNOUNCED_GAP: Final = 2**16  # read too, rather than with a request of its own
_ANNOUNCED_ROWS: Final = 2**14  # of which places are worked out at a time
_FEW_FILES: Final = 64
_LOOKS: Final = 64  # of images that tell whether all are in the page cache


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
        """Tell the kernel what will be read, so that a cold disk has more than one read to do.

        What is in the page cache need not be announced.
        """

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
    file, offset, nbytes : ndarray of integers, shape (n,)
        Where each image lies: which of `files`, and the bytes
        ``[offset, offset + nbytes)`` of it.
    states : FileStates, optional
        What `files` must be when they are opened.
    """

    files: tuple[str, ...]
    file: NDArray[np.integer[Any]]
    offset: Ints
    nbytes: Ints
    states: FileStates = NO_FILES
    _last: dict[int, OpenFile] = field(default_factory=dict, init=False, repr=False, compare=False)

    def rows(self, first: int, last: int) -> FileRanges:
        """See `ImageBytes`."""
        rows = slice(first, last)
        used, file = np.unique(self.file[rows], return_inverse=True)
        files = tuple(self.files[i] for i in used)
        states = self.states.take(used) if self.states else self.states
        return FileRanges(files, file, self.offset[rows], self.nbytes[rows], states)

    def where(self, i: int) -> str:
        """See `ImageBytes`."""
        return f"{self.files[self.file[i]]} (at byte {self.offset[i]:,})"

    def announce(self) -> None:
        """See `ImageBytes`."""
        if not self._is_cached():
            self._announce_rows()

    def _announce_rows(self) -> None:
        if not hasattr(os, "posix_fadvise"):
            return
        order = np.lexsort((self.offset, self.file))
        for row in range(0, len(order), _ANNOUNCED_ROWS):
            self._announce(order[row : row + _ANNOUNCED_ROWS])

    def _is_cached(self) -> bool:
        """Tell by a few of the images whether all are in the page cache."""
        few = range(0, len(self.nbytes), max(1, len(self.nbytes) // _LOOKS))
        # Not the first byte of each: that was read with the header.
        middles = ((i, int(self.offset[i] + self.nbytes[i] // 2)) for i in few)
        return all(
            self._opened(int(self.file[i])).is_cached(middle, unknown=False)
            for i, middle in middles
        )

    def _announce(self, order: Ints) -> None:
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
        if not fits or self._is_cached():  # each block looks for itself then
            return False
        self._announce_rows()
        return True

    def read(self, i: int, start: int, buffer: memoryview) -> None:
        """See `ImageBytes`; `SourceError` if the file changed or has become shorter."""
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
            try:
                file = open_file(self.files[number])
            except FileNotFoundError:
                raise gone(self.files[number]) from None
            if self.states:
                self.states.check_open(number, file.fd)
            self._last[number] = file
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
