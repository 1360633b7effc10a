"""Byte ranges of the files of a source, on the disk or in buckets."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore.indexing.byte_range import ByteRange
from arraystore.storage.file_states import is_address
from arraystore.storage.open_files import OpenFile, open_file, read_at

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from arraystore._typing import Ints
    from arraystore.storage.file_states import FileStates

_MAX_GAP: Final = 2**15
"""Largest gap between two ranges of an object that is read to save a request."""


class FileBytes:
    """Read byte ranges of files and objects, each by its number.

    An instance is used by one thread at a time.

    Parameters
    ----------
    states : FileStates
        The files. Objects must have these states; files are not compared.
    spool : str, optional
        Path of one more file, whose number follows the others.
    n_files : int, optional
        How many of the files in `states` count; by default all.
    """

    def __init__(self, states: FileStates, spool: str = "", n_files: int | None = None) -> None:
        self._states = states
        self._spool = spool
        self._n_files = len(states) if n_files is None else n_files
        self._fetched: dict[int, tuple[list[int], list[memoryview]]] = {}
        self._last: tuple[int, OpenFile] | None = None

    def path(self, number: int) -> str:
        """Return the path or address of a file."""
        return self._spool if number == self._n_files else self._states.paths[number]

    @property
    def has_remote(self) -> bool:
        """Whether some files are objects."""
        return self._states.buckets is not None

    def is_remote(self, number: int) -> bool:
        """Whether a file is an object."""
        return self._states.buckets is not None and is_address(self.path(number))

    def fetch(self, file: NDArray[np.integer[Any]], start: Ints, nbytes: Ints) -> None:
        """Read ranges of objects all at once, for `read`; what was fetched before is dropped.

        Ranges of files on the disk are left out.

        Parameters
        ----------
        file, start, nbytes : ndarray of integers, shape (n,)
            Number of the file of each range, its offset and its length.

        Raises
        ------
        SourceChangedError
            If an object has another state, or no longer exists.
        """
        self._fetched = {}
        if self._states.buckets is None:
            return
        is_wanted = np.array([self.is_remote(int(number)) for number in file], np.bool_)
        rows = np.flatnonzero(is_wanted & (nbytes > 0))
        if not len(rows):
            return
        rows = rows[np.lexsort((start[rows], file[rows]))]
        number, begin = file[rows], start[rows]
        end = begin + nbytes[rows]
        is_first = np.r_[True, (np.diff(number) != 0) | (begin[1:] - end[:-1] > _MAX_GAP)]
        first = np.flatnonzero(is_first)
        runs = number[first].tolist(), begin[first].tolist()
        stops = np.maximum.reduceat(end, first).tolist()
        places = list(zip(*runs, stops, strict=True))
        ranges = [ByteRange(self.path(i), begin, stop) for i, begin, stop in places]
        states = [self._states[i] for i, _, _ in places]
        found = self._states.buckets.read(ranges, states)
        for (i, begin_at, _), data in zip(places, found, strict=True):
            starts, parts = self._fetched.setdefault(i, ([], []))
            starts.append(begin_at)
            parts.append(data)

    def read(self, number: int, start: int, nbytes: int) -> bytes | memoryview:
        """Return bytes of a file; fewer only if it ends before.

        Bytes of an object that were not fetched are requested.
        """
        if self._states.buckets is None or not self.is_remote(number):
            return read_at(self.opened(number), start, nbytes)
        found = self._found(number, start, nbytes)
        if found is not None:
            return found
        assert self._states.buckets is not None  # it is remote
        wanted = ByteRange(self.path(number), start, start + nbytes)
        return self._states.buckets.read([wanted], [self._states[number]])[0]

    def has(self, number: int, start: int, nbytes: int) -> bool:
        """Whether bytes of an object were fetched."""
        return self._found(number, start, nbytes) is not None

    def _found(self, number: int, start: int, nbytes: int) -> memoryview | None:
        starts, parts = self._fetched.get(number, ([], []))
        i = bisect.bisect_right(starts, start) - 1
        if i < 0 or start + nbytes > starts[i] + len(parts[i]):
            return None
        return parts[i][start - starts[i] : start - starts[i] + nbytes]

    def opened(self, number: int) -> OpenFile:
        """Open a file on the disk, or return it if it was the last to be opened."""
        if self._last is None or self._last[0] != number:
            self._last = number, open_file(self.path(number))
        return self._last[1]
