"""The payload of a split whose images are in other files, as one run of bytes.

::

    | bytes that the store itself holds | file 0 | file 1 | …

The files follow each other in this run, so images in any file are ranges of it, and are located,
sorted and merged like ranges of a stored payload.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from typing_extensions import override

from arraystore.indexing.byte_range import ChunkManifest, Pieces

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from arraystore._typing import Ints


class _Joined(Sequence[str]):
    """Two sequences, one behind the other; elements are made when they are used."""

    def __init__(self, first: Sequence[str], second: Sequence[str]) -> None:
        self._first, self._second = first, second

    @override
    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    @override
    def __getitem__(self, i: int) -> str:  # type: ignore[override] # no slices are needed
        n = len(self._first)
        return self._first[i] if i < n else self._second[i - n]


@dataclass(frozen=True, slots=True)
class ReferencedPayload(ChunkManifest):
    """Where the bytes of a run of files are. Get one from `ReferencedPayload.of`.

    Attributes
    ----------
    own : ChunkManifest
        The bytes that the store holds.
    begin : ndarray of int64, shape (1 + n_files,)
        Offset of these, and of each file, in the run.
    """

    own: ChunkManifest
    begin: Ints

    @classmethod
    def of(cls, own: ChunkManifest, files: Sequence[str], sizes: Ints) -> Self:
        """Return the payload of a store's own bytes, and of files with these keys and sizes.

        Examples
        --------
        >>> none = np.zeros(0, np.int64)
        >>> own = ChunkManifest((), none, none, 1, 0)
        >>> payload = ReferencedPayload.of(own, ["a.tar", "b.tar"], np.array([1000, 500]))
        >>> start = payload.start_of(np.array([1, 0]), np.array([100, 200]))
        >>> start
        array([1100,  200])
        >>> pieces = payload.locate(start, np.array([10, 20]))
        >>> pieces.object, pieces.start
        (array([1, 0]), array([100, 200]))
        """
        begin = np.concatenate([np.zeros(1, np.int64), own.nbytes + np.cumsum(sizes) - sizes])
        nbytes = own.nbytes + int(sizes.sum())
        none = np.empty(0, np.int64)
        return cls(_Joined(own.keys, files), none, none, max(1, nbytes), nbytes, own, begin)

    def start_of(self, file: NDArray[np.integer[Any]], offset: Ints) -> Ints:
        """Return offsets in the run, from numbers of files (-1: the store) and offsets there."""
        start: Ints = self.begin[file.astype(np.int64) + 1] + offset
        return start

    @override
    def locate(self, start: Ints, nbytes: Ints) -> Pieces:
        is_own = start < self.own.nbytes
        rows = np.flatnonzero(~is_own & (nbytes > 0))
        number = np.searchsorted(self.begin, start[rows], side="right") - 1
        there = Pieces(
            rows,
            number - 1 + len(self.own.keys),
            start[rows] - self.begin[number],
            nbytes[rows],
        )
        if not is_own.any():
            return there
        mine = np.flatnonzero(is_own)
        here = self.own.locate(start[mine], nbytes[mine])
        wanted = np.concatenate([mine[here.wanted], there.wanted])
        order = np.argsort(wanted, kind="stable")
        return Pieces(
            wanted[order],
            np.concatenate([here.object, there.object])[order],
            np.concatenate([here.start, there.start])[order],
            np.concatenate([here.nbytes, there.nbytes])[order],
        )

    @override
    def whole(self, chunk: int) -> None:
        del chunk  # the run has no chunks of one size
