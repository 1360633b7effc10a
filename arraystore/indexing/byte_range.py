"""Byte ranges as arithmetic: where array elements are in stored objects, and how to read them.

A `ByteRange` is a range of bytes of one stored object. Many ranges are columns of numbers instead
(`Pieces`, `Spans`), so that a batch takes a few NumPy calls rather than a loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from arraystore._typing import Ints

ZEROS: Final = -1
"""Start of a chunk that is not stored because all its bytes are zero."""


class ByteRange(NamedTuple):
    """The bytes ``[start, stop)`` of the stored object `key`.

    Ranges sort by object, then by offset: the order in which reading is fast.
    """

    key: str
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Number of bytes in the range."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Pieces:
    """Parts of requested ranges, each inside one stored object.

    Attributes
    ----------
    wanted : ndarray of int64, shape (n_pieces,)
        Index of the requested range that contains the piece; ascending, and the pieces of one
        range are in order.
    object : ndarray of int64, shape (n_pieces,)
        Index of the object that contains the piece, among the manifest's keys.
    start : ndarray of int64, shape (n_pieces,)
        Offset in that object, or `ZEROS`.
    nbytes : ndarray of int64, shape (n_pieces,)
        Length in bytes, 1 or more.
    """

    wanted: Ints
    object: Ints
    start: Ints
    nbytes: Ints


@dataclass(frozen=True, slots=True)
class ChunkManifest:
    """Where each chunk of a one-dimensional, uncompressed uint8 array is stored.

    Attributes
    ----------
    keys : sequence of str
        The stored objects.
    object : ndarray of int64, shape (n_chunks,)
        Index in `keys` of the object that contains each chunk.
    start : ndarray of int64, shape (n_chunks,)
        Offset of each chunk in its object, or `ZEROS`.
    chunk_nbytes : int
        Length of every chunk, in bytes.
    nbytes : int
        Length of the array, in bytes; its last chunk may extend beyond it.
    """

    keys: Sequence[str]
    object: Ints
    start: Ints
    chunk_nbytes: int
    nbytes: int

    def locate(self, start: Ints, nbytes: Ints) -> Pieces:
        """Find where array elements ``[start, start + nbytes)`` are stored.

        Parameters
        ----------
        start, nbytes : ndarray of int64, shape (n,)
            Requested ranges of the array, in elements; inside the array, and in any order. An empty
            range has no pieces.

        Returns
        -------
        Pieces

        Examples
        --------
        >>> manifest = ChunkManifest(("f",), np.array([0, 0]), np.array([100, 500]), 64, 128)
        >>> pieces = manifest.locate(np.array([60]), np.array([10]))
        >>> pieces.start, pieces.nbytes
        (array([160, 500]), array([4, 6]))
        """
        stop = start + nbytes
        first = start // self.chunk_nbytes
        last = (stop - 1) // self.chunk_nbytes
        if nbytes.all() and (first == last).all():  # a third of the general time
            stored = self.start[first]
            offset = np.where(stored == ZEROS, ZEROS, stored + start - first * self.chunk_nbytes)
            wanted = np.arange(len(start), dtype=np.int64)
            return Pieces(wanted, self.object[first], offset, nbytes)
        count = np.where(nbytes > 0, last - first + 1, 0)
        wanted = np.repeat(np.arange(len(start), dtype=np.int64), count)
        nth = np.arange(len(wanted), dtype=np.int64) - np.repeat(np.cumsum(count) - count, count)
        chunk = first[wanted] + nth
        chunk_start = chunk * self.chunk_nbytes
        lower = np.maximum(start[wanted], chunk_start)
        upper = np.minimum(stop[wanted], chunk_start + self.chunk_nbytes)
        stored = self.start[chunk]
        return Pieces(
            wanted=wanted,
            object=self.object[chunk],
            start=np.where(stored == ZEROS, ZEROS, stored + lower - chunk_start),
            nbytes=upper - lower,
        )

    def whole(self, chunk: int) -> tuple[str, int] | None:
        """Return the object that contains a chunk, and the chunk's offset in it.

        Return None if the chunk is not stored in one piece, or does not exist.

        Examples
        --------
        >>> manifest = ChunkManifest(("f",), np.array([0, 0]), np.array([100, ZEROS]), 64, 128)
        >>> [manifest.whole(chunk) for chunk in (0, 1, 2)]
        [('f', 100), None, None]
        """
        if chunk >= len(self.start) or (start := self.start.item(chunk)) == ZEROS:
            return None
        return self.keys[self.object.item(chunk)], start


@dataclass(frozen=True, slots=True)
class Spans:
    """Reads from storage, and the pieces they serve.

    Attributes
    ----------
    object, start, stop : ndarray of int64, shape (n_spans,)
        Object, first byte and end of each read; disjoint, sorted by object and offset.
    span : ndarray of int64, shape (n_pieces,)
        Index of the read that contains each piece.
    """

    object: Ints
    start: Ints
    stop: Ints
    span: Ints


def coalesce(pieces: Pieces, *, max_gap: int = 0) -> Spans:
    """Merge pieces that are close together into fewer reads.

    Parameters
    ----------
    pieces : Pieces
        In any order; they may overlap and repeat. None may be `ZEROS`.
    max_gap : int, default 0
        Most unneeded bytes to read in order to save a request. With 0, only requested bytes are
        read.

    Returns
    -------
    Spans
        Each piece is in exactly one of them.

    Raises
    ------
    ValueError
        If `max_gap` is negative.

    Examples
    --------
    >>> def spans(max_gap):
    ...     start, nbytes = np.array([10, 0, 25]), np.array([10, 10, 5])
    ...     zeros = np.zeros(3, dtype=np.int64)
    ...     merged = coalesce(Pieces(zeros, zeros, start, nbytes), max_gap=max_gap)
    ...     return list(zip(merged.start.tolist(), merged.stop.tolist())), merged.span.tolist()
    >>> spans(max_gap=0)
    ([(0, 20), (25, 30)], [0, 0, 1])
    >>> spans(max_gap=5)
    ([(0, 30)], [0, 0, 0])
    """
    if max_gap < 0:
        raise ValueError(f"max_gap must be 0 or more bytes, got {max_gap}")
    order = np.lexsort((pieces.start, pieces.object))
    key, start = pieces.object[order], pieces.start[order]
    reach = _running_maximum(start + pieces.nbytes[order], key)
    is_first = np.ones(len(order), dtype=np.bool_)
    is_first[1:] = (key[1:] != key[:-1]) | (start[1:] - reach[:-1] > max_gap)
    first = np.flatnonzero(is_first)
    span = np.empty(len(order), dtype=np.int64)
    span[order] = np.cumsum(is_first) - 1
    last = np.append(first[1:], len(order)) - 1 if len(order) else first
    return Spans(key[first], start[first], reach[last], span)


def _running_maximum(values: Ints, group: Ints) -> Ints:
    """Return the maximum so far within each run of equal `group`."""
    if len(values) == 0:
        return values
    # Each group is raised above the one before, so that one `accumulate` is enough for all.
    lift = group * (int(values.max()) + 1)
    maximum: Ints = np.maximum.accumulate(values + lift) - lift
    return maximum
