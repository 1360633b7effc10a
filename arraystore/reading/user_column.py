"""A further column of one stored split: numbers, bools or text, of any shape, or ragged."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore.errors import FormatError, brief
from arraystore.indexing.positions import compact
from arraystore.schema import (
    COLUMN_DESCRIPTION,
    COLUMN_DIGEST,
    RAGGED,
    STRING,
    USER_COLUMNS,
    ArraySpec,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from arraystore._typing import Ints
    from arraystore.containers.protocol import ArrayReader
    from arraystore.reading.store_handle import StoreHandle

_GROUP_NBYTES: Final = 32 * 2**20
"""Bytes of chunks that are read at a time."""


def column_spec(
    name: str, data_type: str, shape: tuple[int, ...], text_nbytes: int = 0, part: str = ""
) -> ArraySpec:
    """Return how the array of a column is stored, or a part of a ragged one."""
    first = {"": "sample", RAGGED[0]: f"{name}.item", RAGGED[1]: f"{name}.bound"}[part]
    others = tuple(f"{name}.{axis}" for axis in range(1, len(shape)))
    return ArraySpec(data_type, shape, (first, *others), text_nbytes)


class UserColumn:
    """A further column of one stored split.

    Parameters
    ----------
    handle : StoreHandle
        The store.
    split : str
        Name of the split.
    name : str
        Name of the column.
    n_samples : int
        Samples of the split.
    is_ragged : bool
        Whether it is a group of two arrays, see ``docs/format.md``.

    Attributes
    ----------
    location : str
        Address of the column, for messages.
    """

    def __init__(
        self, handle: StoreHandle, split: str, name: str, n_samples: int, *, is_ragged: bool
    ) -> None:
        self.name, self.is_ragged = name, is_ragged
        self.path = f"{split}/{USER_COLUMNS}/{name}"
        self.location = f"{handle.address}/{self.path}"
        self._handle, self._n_samples = handle, n_samples

    def __len__(self) -> int:
        return self._n_samples

    @cached_property
    def array(self) -> ArrayReader:
        """The values; of a ragged column, those of all samples end to end."""
        path = f"{self.path}/{RAGGED[0]}" if self.is_ragged else self.path
        array = self._handle.container.open_array(path)
        if not self.is_ragged and array.shape[0] != self._n_samples:
            raise FormatError(
                f"{self.location}: must have {self._n_samples} values, one a sample, got "
                f"{array.shape[0]}"
            )
        return array

    @cached_property
    def bounds(self) -> ArrayReader:
        """Where the values of each sample begin; one bound more than there are samples."""
        array = self._handle.container.open_array(f"{self.path}/{RAGGED[1]}")
        if array.shape != (self._n_samples + 1,) or array.dtype.kind not in "iu":
            raise FormatError(
                f"{self.location}/{RAGGED[1]}: must be {self._n_samples + 1} integers, got "
                f"{array.data_type} {brief(array.shape)}"
            )
        return array

    @property
    def is_readable(self) -> bool:
        """Whether the values are of a type that is read, by the metadata alone."""
        parts = [f"{self.path}/{part}" for part in RAGGED] if self.is_ragged else [self.path]
        try:
            for path in parts:
                self._handle.container.open_array(path)
        except FormatError:
            return False
        return True

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the values."""
        return self.array.dtype

    @property
    def row_shape(self) -> tuple[int | None, ...]:
        """Shape of the value of a sample; None where it differs."""
        rest = self.array.shape[1:]
        return (None, *rest) if self.is_ragged else rest

    @property
    def kind(self) -> tuple[Any, ...] | None:
        """What columns of several stored splits must have in common to be joined.

        Shape of a value, whether it is ragged, and whether it is text; None if it cannot be read.
        """
        if not self.is_readable:
            return None
        return self.row_shape, self.is_ragged, self.array.data_type == STRING

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the column, among them its digest."""
        return self._handle.container.attributes(self.path)

    @property
    def digest(self) -> str:
        """Digest that the column states; empty if it has none."""
        return self._text(COLUMN_DIGEST)

    @property
    def description(self) -> str:
        """Description for people; empty if it has none."""
        return self._text(COLUMN_DESCRIPTION)

    def _text(self, name: str) -> str:
        found = self.attributes.get(name, "")
        return found if isinstance(found, str) else ""

    def spec(self, part: str = "") -> ArraySpec:
        """Return how a writer stores the same array, or the same part of a ragged column.

        The lengths of texts are found out by reading them.
        """
        array = self.bounds if part == RAGGED[1] else self.array
        longest = 0
        if array.data_type == STRING:
            texts = (text for block in self.blocks() for text in block.ravel().tolist())
            longest = max((len(text.encode()) for text in texts), default=0)
        return column_spec(self.name, array.data_type, array.shape, longest, part)

    def take(self, positions: Ints) -> NDArray[Any] | list[NDArray[Any]]:
        """Return the values at some positions; only the chunks that hold them are read.

        Parameters
        ----------
        positions : ndarray of int64, shape (n,)
            In any order.

        Returns
        -------
        ndarray, shape (n, ...), or list of ndarray
            A list if the column is ragged.

        Raises
        ------
        FormatError
            If the column is missing or damaged.
        """
        if not self.is_ragged:
            return self._rows(self.array, positions)
        starts = self._rows(self.bounds, positions, RAGGED[1])
        stops = self._rows(self.bounds, positions + 1, RAGGED[1])
        starts, stops = starts.astype(np.int64), stops.astype(np.int64)
        if ((starts < 0) | (stops < starts) | (stops > self.array.shape[0])).any():
            raise FormatError(
                f"{self.location}/{RAGGED[1]}: must ascend from 0 to {self.array.shape[0]}"
            )
        lengths = stops - starts
        ends = np.cumsum(lengths)
        shifts = np.repeat(starts - (ends - lengths), lengths)
        values = self._rows(self.array, np.arange(len(shifts)) + shifts)
        return [values[a:b] for a, b in pairwise([0, *ends.tolist()])]

    def blocks(self, *, of_bounds: bool = False) -> Iterator[NDArray[Any]]:
        """Yield the whole array in turn, some chunks at a time."""
        array = self.bounds if of_bounds else self.array
        n_chunks = -(-array.shape[0] // array.chunk_rows)
        step = self._n_together(array)
        for first in range(0, n_chunks, step):
            found = list(array.chunks(range(first, min(first + step, n_chunks))))
            yield found[0] if len(found) == 1 else np.concatenate(found)

    def _n_together(self, array: ArrayReader) -> int:
        itemsize = 64 if array.data_type == STRING else array.dtype.itemsize
        nbytes = array.chunk_rows * max(1, int(np.prod(array.shape[1:], dtype=float))) * itemsize
        return max(1, _GROUP_NBYTES // max(1, nbytes))

    def _rows(self, array: ArrayReader, positions: Ints, part: str = "") -> NDArray[Any]:
        """Return rows of an array, or of a part of a ragged column; each chunk is read once."""
        if not len(positions):
            return np.empty((0, *array.shape[1:]), array.dtype)
        size = array.chunk_rows
        is_sorted = bool(np.all(positions[1:] >= positions[:-1]))
        order = None if is_sorted else np.argsort(positions, kind="stable")
        ascending = positions if order is None else positions[order]
        rows = array.rows(ascending)
        if rows is not None and order is None:
            return rows
        found = np.empty((len(positions), *array.shape[1:]), array.dtype)
        if rows is not None:
            found[order] = rows
            return found
        chunk_of = ascending // size
        is_first = np.ones(len(chunk_of), np.bool_)
        np.not_equal(chunk_of[1:], chunk_of[:-1], out=is_first[1:])
        begins = np.flatnonzero(is_first)
        numbers, ends = chunk_of[begins].tolist(), [*begins[1:].tolist(), len(positions)]
        chunks = self._chunks(array, numbers, part)
        for number, start, stop, chunk in zip(numbers, begins.tolist(), ends, chunks, strict=True):
            within = ascending[start:stop] - number * size
            run = compact(within)
            some = chunk[run.start : run.stop] if isinstance(run, range) else chunk[run]
            found[slice(start, stop) if order is None else order[start:stop]] = some
        return found

    def _chunks(self, array: ArrayReader, numbers: list[int], part: str) -> Iterator[NDArray[Any]]:
        """Yield chunks, from the cache of the store or read some at a time."""
        cache, step = self._handle.chunks, self._n_together(array)
        for first in range(0, len(numbers), step):
            some = numbers[first : first + step]
            cached = {number: cache.get((self.path, part, number)) for number in some}
            read = array.chunks([number for number in some if cached[number] is None])
            for number in some:
                values = cached[number]
                if values is None:
                    values = next(read)
                    cache.put((self.path, part, number), values)
                yield values
