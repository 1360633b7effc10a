"""Values of a new column: checked, described, and written block by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore.errors import brief, escaped
from arraystore.reading.column_digest import ColumnDigest
from arraystore.reading.user_column import column_spec
from arraystore.schema import COLUMN_DESCRIPTION, COLUMN_DIGEST, RAGGED, STRING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from arraystore._typing import Ints
    from arraystore.containers.protocol import ContainerWriter
    from arraystore.schema import ArraySpec

_BLOCK_CHUNKS: Final = 16
"""Chunks that are converted and written at a time."""

_KINDS: Final = "biufc"
_MAX_TEXT_NBYTES: Final = 2**20
_EXAMPLES: Final = "numbers, bools or text"


@dataclass(frozen=True, slots=True)
class NewColumn:
    """The values of a new column.

    Attributes
    ----------
    arrays : mapping of str to (ArraySpec, array)
        By the name of the part; an only one has no name.
    """

    arrays: Mapping[str, tuple[ArraySpec, Any]]

    @property
    def is_simple(self) -> bool:
        """Whether stores of version 1.0 may have such a column."""
        return all(not part and len(spec.shape) == 1 for part, (spec, _) in self.arrays.items())

    @property
    def kind(self) -> tuple[Any, ...]:
        """See `UserColumn.kind`."""
        is_ragged = "" not in self.arrays
        spec, _ = self.arrays[RAGGED[0] if is_ragged else ""]
        rest = spec.shape[1:]
        return (None, *rest) if is_ragged else rest, is_ragged, spec.data_type == STRING

    @property
    def summary(self) -> str:
        """Data type and shape; ``?`` where sizes differ."""
        if "" in self.arrays:
            spec, _ = self.arrays[""]
            shape = [str(n) for n in spec.shape]
        else:
            spec, bounds = (self.arrays[part][0] for part in RAGGED)
            shape = [str(bounds.shape[0] - 1), "?", *map(str, spec.shape[1:])]
        return f"{spec.data_type} ({', '.join(shape)})"

    def of_part(self, positions: range | Ints, first: int, n: int) -> NewColumn:
        """Return the column of one part of a split: consecutive values, and zeros between them.

        Parameters
        ----------
        positions : range or ndarray of int64, shape (m,)
            Positions in the part of the samples that have the values, ascending. The others are
            replaced by later parts.
        first : int
            Index of the first of the values.
        n : int
            Samples of the part.
        """
        places, last = np.asarray(positions, dtype=np.int64), first + len(positions)
        if "" in self.arrays:
            spec, values = self.arrays[""]
            if n == len(places) == spec.shape[0]:
                return self
            shape = n, *spec.shape[1:]
            return NewColumn({"": (spec._replace(shape=shape), _PlacedRows(values, places, first))})
        (spec, values), (bounds, indptr) = (self.arrays[part] for part in RAGGED)
        lengths = np.zeros(n, np.int64)
        lengths[places] = np.diff(indptr[first : last + 1])
        mine = values[indptr[first] : indptr[last]]
        starts = np.cumsum([0, *lengths.tolist()], dtype=np.int64)
        arrays = (spec._replace(shape=mine.shape), mine), (bounds._replace(shape=(n + 1,)), starts)
        return NewColumn(dict(zip(RAGGED, arrays, strict=True)))

    def write(self, writer: ContainerWriter, path: str, description: str = "") -> None:
        """Write the column at a path, with its digest."""
        digest = ColumnDigest()
        if "" not in self.arrays:
            writer.create_group(path)
        for part, (spec, values) in self.arrays.items():
            at = f"{path}/{part}" if part else path
            writer.write_array(at, spec, digest.passed(spec, blocks_of(spec, values)))
        attributes = {COLUMN_DESCRIPTION: description} if description else {}
        writer.set_attributes(path, attributes | {COLUMN_DIGEST: digest.text})


@dataclass(frozen=True, slots=True)
class _PlacedRows:
    """Consecutive rows of an array, at their positions in a part; read when they are sliced."""

    values: Any
    positions: Ints
    first: int

    def __getitem__(self, some: slice) -> NDArray[Any]:
        a, b = np.searchsorted(self.positions, (some.start, some.stop)).tolist()
        rows = np.asarray(self.values[self.first + a : self.first + b])
        found = np.zeros((some.stop - some.start, *rows.shape[1:]), rows.dtype)
        found[self.positions[a:b] - some.start] = rows
        return found


def as_new_column(values: Any, name: str, n: int, *, ragged: bool | None = None) -> NewColumn:
    """Check the values of a new column.

    Parameters
    ----------
    values : array-like, or sequence of array-like
        See `add_column`.
    name : str
        Name of the column.
    n : int
        Samples of the split.
    ragged : bool, optional
        See `add_column`.

    Raises
    ------
    TypeError
        If values are neither numbers, bools nor text.
    ValueError
        If there is not one value per sample, or rows of a ragged column have different shapes.
    """
    array = None if ragged else _as_array(values, name)
    if array is None and ragged is False:
        raise ValueError(
            f"the column {name} has values of different shapes, but ragged=False was passed"
        )
    found = len(values) if array is None else array.shape[0]
    if found != n:
        raise ValueError(f"the column {name} needs one value per sample: {n} values, got {found}")
    if array is None:
        return _ragged(values, name)
    return NewColumn({"": (_spec(array, name, name), array)})


def _as_array(values: Any, name: str) -> Any:
    """Return values as something with a shape and a data type, or None if they are ragged."""
    if hasattr(values, "dtype") and hasattr(values, "shape"):
        if not len(values.shape):
            raise ValueError(f"the column {name} needs one value per sample, got a single value")
        return values if values.dtype.kind != "O" else _as_array(list(values), name)
    if hasattr(values, "__array__"):
        return _as_array(np.asarray(values), name)
    if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
        raise TypeError(
            escaped(f"the column {name} needs a sequence or array, got {brief(values)}")
        )
    try:
        if any(isinstance(value, str) for value in values):
            return np.array(_texts(values, name), dtype=np.dtypes.StringDType())
        if not _is_even(values):
            return None
        array = np.asarray(values)
    except ValueError:  # lists of several lengths within one value
        return None
    if array.dtype.kind == "O":
        raise TypeError(
            escaped(f"the column {name} needs {_EXAMPLES}, got {brief(next(iter(values)))}")
        )
    return array


def _texts(values: Sequence[Any], name: str) -> list[str]:
    for i, value in enumerate(values):
        if not isinstance(value, str):
            raise TypeError(
                escaped(f"the column {name} mixes text with other values: {brief(value)} at {i}")
            )
    return list(values)


def _is_even(values: Sequence[Any]) -> bool:
    """Return whether all values have the shape of the first."""
    shapes = {np.shape(value) for value in values}
    return len(shapes) < 2


def _ragged(values: Sequence[Any], name: str) -> NewColumn:
    parts = [np.asarray(value) for value in values]
    for i, part in enumerate(parts):
        if not part.ndim or part.dtype.kind == "O":
            raise TypeError(
                escaped(
                    f"the column {name} needs {_EXAMPLES}, or arrays of them, one per sample, got "
                    f"{brief(values[i])} at {i}"
                )
            )
    full = [part for part in parts if part.size] or parts
    rest = {part.shape[1:] for part in full}
    if len(rest) > 1:
        raise ValueError(
            f"the column {name} is ragged, and all its values must have the same shape behind the "
            f"first dimension, got {brief(sorted(rest)[:3])}"
        )
    (shape,) = rest
    even = [part if part.size else np.empty((0, *shape), part.dtype) for part in parts]
    texts = {part.dtype.kind in "UT" for part in full}
    if len(texts) > 1:
        raise TypeError(f"the column {name} mixes text with other values")
    if texts == {True}:
        strings = np.dtypes.StringDType()
        joined = np.concatenate([part.astype(strings) for part in even])
    else:
        dtype = np.result_type(*(part.dtype for part in full))
        joined = np.concatenate([part.astype(dtype, copy=False) for part in even])
    indptr = np.cumsum([0, *map(len, even)], dtype=np.int64)
    items, bounds = RAGGED
    return NewColumn(
        {
            items: (_spec(joined, name, name, items), joined),
            bounds: (_spec(indptr, name, name, bounds), indptr),
        }
    )


def _spec(array: Any, name: str, column: str, part: str = "") -> ArraySpec:
    """Return how an array is stored, after checking its data type and shape."""
    dtype, shape = np.dtype(array.dtype), tuple(map(int, array.shape))
    if 0 in shape[1:]:
        raise ValueError(escaped(f"the values of the column {name} are empty: shape {shape}"))
    if dtype.kind in "UT" or dtype == np.dtypes.StringDType():
        return column_spec(column, STRING, shape, _text_nbytes(array, name), part)
    if dtype.kind not in _KINDS or dtype.itemsize // (2 if dtype.kind == "c" else 1) > 8:
        remedy = "; decode it to text" if dtype.kind == "S" else ""
        raise TypeError(
            escaped(f"the column {name} needs {_EXAMPLES}, got data type {dtype}{remedy}")
        )
    return column_spec(column, dtype.name, shape, 0, part)


def _text_nbytes(array: Any, name: str) -> int:
    """Return the most bytes of UTF-8 that a text takes, after checking all texts."""
    most = 0
    for i, text in enumerate(np.asarray(array).ravel().tolist()):
        if not isinstance(text, str):
            raise TypeError(escaped(f"the column {name} has no text at {i}, got {brief(text)}"))
        try:
            nbytes = len(text.encode())
        except UnicodeEncodeError:
            raise ValueError(
                escaped(f"the column {name} has text at {i} with a lone surrogate")
            ) from None
        if "\0" in text or nbytes > _MAX_TEXT_NBYTES:
            raise ValueError(
                escaped(
                    f"the column {name} has text at {i} that has a NUL, or more than "
                    f"{_MAX_TEXT_NBYTES} bytes"
                )
            )
        most = max(most, nbytes)
    return most


def blocks_of(spec: ArraySpec, values: Any) -> Iterator[NDArray[Any]]:
    """Yield an array in runs of some chunks, in the type in which it is stored."""
    dtype = np.dtypes.StringDType() if spec.data_type == STRING else np.dtype(spec.data_type)
    step = spec.chunk_rows * (1 if len(spec.shape) == 1 else _BLOCK_CHUNKS)
    for start in range(0, spec.shape[0], step):
        stop = min(start + step, spec.shape[0])
        yield np.asarray(values[start:stop]).astype(dtype, copy=False)
