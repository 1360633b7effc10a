"""Further columns of a split, which follow it through every selection."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from typing_extensions import override

from arraystore.dataset.arrow_table import arrow_array
from arraystore.errors import brief, escaped
from arraystore.indexing.selection import as_position, as_positions, is_one
from arraystore.schema import STRING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from arraystore._typing import Ints, Mask
    from arraystore.dataset.sample_set import SampleSet
    from arraystore.reading.stored_split import StoredSplit
    from arraystore.reading.user_column import UserColumn

_MOST_LOADED: Final = 64 * 2**20
"""Bytes of a column that is loaded whole for an epoch."""

_FEW: Final = 2**14
"""Samples of a column of text, or of a ragged one, that is loaded whole for an epoch."""

_ITERATED: Final = 1024
"""Samples whose values are read at a time when a column is iterated."""


class Columns(Mapping[str, "Column"]):
    """The further columns of a split, by name. Get them from `Split.columns`.

    They are listed when this is first used. If several stored splits are joined, those that all of
    them have are listed, with values of one shape.

    Parameters
    ----------
    samples : SampleSet
    split : str
        How the split was made, for messages.
    """

    def __init__(self, samples: SampleSet, split: str) -> None:
        self._samples = samples
        self._split = split

    @cached_property
    def _names(self) -> list[str]:
        first, *others = (stored.user_columns for stored, _ in self._samples)
        return [
            name
            for name, column in first.items()
            if all(name in other and other[name].kind == column.kind for other in others)
        ]

    def __getitem__(self, name: str) -> Column:
        """Return a column.

        Raises
        ------
        KeyError
            If there is no such column; the message lists those that exist.
        ValueError
            If stored splits that are joined have columns of that name with different shapes, or
            with text and numbers.
        """
        lacking = [stored.name for stored, _ in self._samples if name not in stored.user_columns]
        if lacking:
            has_any = len(lacking) < len(list(self._samples))
            where = f"; {', '.join(lacking)} has none" if has_any else ""
            names = ", ".join(self._names) or "none"
            raise KeyError(
                escaped(f"{self._split} has no column {brief(name)}, it has {names}{where}")
            )
        return Column(self._samples, name, self._split)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return escaped(f"<Columns of {self._split}: {', '.join(self._names) or 'none'}>")

    __eq__ = object.__eq__
    __hash__ = object.__hash__


class Column:
    """A further column of a split: one value per sample, of any shape, read on demand.

    Indexing follows NumPy: ``column[5]``, ``column[:64]``, ``column[[3, 1]]``, ``column[mask]``,
    ``column[:64, 0]``. Only the chunks that hold the selected samples are read. A comparison such
    as ``column > 0.5`` reads the whole column and gives a mask for `Split.select`;
    `numpy.asarray` loads it.

    Parameters
    ----------
    samples : SampleSet
    name : str
    split : str
        How the split was made, for messages.

    Attributes
    ----------
    name : str
    dtype : numpy.dtype
        Of the values; of text `numpy.dtypes.StringDType`.
    shape : tuple of int or None
        Samples, and the shape of a value; None where it differs from sample to sample.
    row_shape : tuple of int or None
        Shape of the value of a sample.
    is_ragged : bool
        Whether the number of values differs. Then an integer gives an array, and everything else a
        list of arrays.
    attributes : dict
        Attributes of the stored column, such as its ``description``.
    """

    __array_ufunc__ = None

    def __init__(self, samples: SampleSet, name: str, split: str) -> None:
        self.name = name
        self._samples = samples
        stored = [one.user_columns[name] for one, _ in samples]
        first = stored[0]
        for other in stored[1:]:
            if other.kind != first.kind:
                kinds = (f"{one.array.data_type} {one.row_shape}" for one in (first, other))
                raise ValueError(
                    escaped(
                        f"{split}: the columns {first.location} and {other.location} have values "
                        f"of different shapes or types, {' and '.join(kinds)}; use the splits one "
                        "by one"
                    )
                )
        self.is_ragged = first.is_ragged
        self.dtype: np.dtype[Any] = (
            first.dtype if len(stored) == 1 else np.result_type(*(one.dtype for one in stored))
        )
        self.row_shape = first.row_shape
        self.shape = len(samples), *first.row_shape
        self._first: UserColumn = first

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the column in the first stored split."""
        return dict(self._first.attributes)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, selection: Any) -> Any:
        rest: tuple[Any, ...] = ()
        if isinstance(selection, tuple):
            selection, *others = selection or (slice(None),)
            rest = self._checked(others)
        if is_one(selection):
            position = as_position(selection, len(self))
            value = self.take(np.array([position], dtype=np.int64))[0]
            return value[rest] if rest else value
        values = self.take(as_positions(selection, len(self)))
        return values[(slice(None), *rest)] if rest else values

    def _checked(self, rest: Sequence[Any]) -> tuple[Any, ...]:
        """Return indices of further dimensions, which may be integers and slices."""
        if self.is_ragged:
            raise IndexError(escaped(f"{self.name} is ragged and has one axis; index each value"))
        if not all(isinstance(one, slice) or one is Ellipsis or is_one(one) for one in rest):
            raise IndexError(
                "behind the first index a column takes integers and slices; select the samples "
                "first, then index the array"
            )
        return tuple(rest)

    def take(self, indices: Ints) -> Any:
        """Return the values of some samples: ndarray, shape (n, ...), or a list if ragged."""

        def read(stored: StoredSplit, positions: Ints, _: Sequence[int]) -> tuple[Any]:
            return (stored.user_columns[self.name].take(positions),)

        (values,) = self._samples.gather(indices, read)
        return values

    def to_arrow(self) -> Any:
        """Return the values as a `pyarrow.ChunkedArray`; needs ``arraystore[parquet]``."""
        n_further = tuple(n or 0 for n in self.row_shape[1:])
        return arrow_array(self[:], np.empty((0, *n_further), self.dtype))

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return the values as a stream of Arrow's C interface, for other libraries."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def loaded_if_small(self) -> Callable[[Ints], Any]:
        """Return a function like `take`, of the whole column in memory if it is small."""
        row_nbytes = math.prod(n or 1 for n in self.row_shape) * self.dtype.itemsize
        is_odd = self.is_ragged or self._first.array.data_type == STRING
        if len(self) > (_FEW if is_odd else _MOST_LOADED // row_nbytes):
            return self.take
        whole = self[:]
        if isinstance(whole, list):
            return lambda indices: [whole[i] for i in indices.tolist()]
        return lambda indices: whole[indices]

    def is_any_of(self, values: Sequence[Any]) -> Mask:
        """Return whether each sample has any of some values: ndarray of bool, shape (n,)."""
        is_text = self._first.array.data_type == STRING
        for value in values:
            if isinstance(value, str) != is_text:
                kind = "text" if is_text else "numbers"
                raise TypeError(escaped(f"{self.name} has {kind}, got {brief(value)}"))
        found = self[:]
        if self.is_ragged:
            return np.array([_is_in(some, values).any() for some in found], dtype=np.bool_)
        mask = _is_in(found, values)
        return mask.reshape(len(found), -1).any(axis=1) if mask.ndim > 1 else mask

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), _ITERATED):
            yield from self[start : start + _ITERATED]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if self.is_ragged:
            raise TypeError(
                escaped(f"{self.name} is ragged and is not one array; column[:] is a list")
            )
        if copy is False:
            raise ValueError("a column is read from its store; an array of it is always a copy")
        return np.asarray(self[:], dtype)

    def _compared(self, other: Any, operator: str) -> Mask:
        if self.is_ragged:
            raise TypeError(
                escaped(f"{self.name} is ragged and cannot be compared; compare column[:]")
            )
        value = np.asarray(other) if isinstance(other, Column) else other
        if (self._first.array.data_type == STRING) != isinstance(value, str | np.ndarray):
            wanted = "text" if self._first.array.data_type == STRING else "a number"
            if wanted == "text" or isinstance(value, str):
                raise TypeError(
                    escaped(f"{self.name} is compared with {wanted}, got {brief(value)}")
                )
        result: Mask = getattr(self[:], operator)(value)
        return result

    @override
    def __eq__(self, other: object) -> Mask:  # type: ignore[override] # a mask, as in NumPy
        return self._compared(other, "__eq__")

    @override
    def __ne__(self, other: object) -> Mask:  # type: ignore[override] # a mask, as in NumPy
        return self._compared(other, "__ne__")

    def __lt__(self, other: object) -> Mask:
        return self._compared(other, "__lt__")

    def __le__(self, other: object) -> Mask:
        return self._compared(other, "__le__")

    def __gt__(self, other: object) -> Mask:
        return self._compared(other, "__gt__")

    def __ge__(self, other: object) -> Mask:
        return self._compared(other, "__ge__")

    __hash__ = None  # type: ignore[assignment] # as of NumPy's arrays

    @property
    def summary(self) -> str:
        """Data type and shape, such as ``float32 (1281167, 512)``; ``?`` where sizes differ."""
        shape = ", ".join("?" if n is None else str(n) for n in self.shape)
        text = self._first.array.data_type == STRING
        return f"{STRING if text else self.dtype} ({shape})"

    def __repr__(self) -> str:
        return escaped(f"<Column {self.name!r}: {self.summary}>")


def _is_in(found: NDArray[Any], values: Sequence[Any]) -> Mask:
    mask = np.zeros(found.shape, np.bool_)
    for value in values:
        mask |= found == value
    return mask
