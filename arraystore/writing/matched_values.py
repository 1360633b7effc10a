"""Values of a column that belong to file names, put in the order of a split."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore.errors import brief, escaped
from arraystore.indexing.layout import label_index
from arraystore.indexing.packed_names import NameIndex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from arraystore._typing import Ints
    from arraystore.dataset.split import Split

_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class MatchedValues:
    """Rows of an array in the order of a split, read when they are sliced.

    Attributes
    ----------
    values : array
        Has a shape and a data type, and is indexed by arrays of positions.
    rows : ndarray of int64, shape (n,)
        Row of each sample, -1 if it has none.
    fill : Any
        Value of those.
    """

    values: Any
    rows: Ints
    fill: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all rows."""
        return len(self.rows), *self.values.shape[1:]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the values."""
        found: np.dtype[Any] = np.dtype(self.values.dtype)
        return found

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, some: slice) -> NDArray[Any]:
        rows = self.rows[some]
        is_missing = rows < 0
        if not self.values.shape[0]:
            return np.full((len(rows), *self.shape[1:]), self.fill, self.dtype)
        found = _taken(self.values, np.where(is_missing, 0, rows))
        if is_missing.any():
            found[is_missing] = self.fill
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        del copy
        return np.asarray(self[:], dtype)


def matched(
    values: Any,
    names: Sequence[str],
    split: Split,
    location: str,
    *,
    fill: Any = None,
    ragged: bool | None = None,
) -> tuple[Any, tuple[str, ...]]:
    """Return values in the order of a split, and notes on what did not match.

    Parameters
    ----------
    values : array-like
        One value per name.
    names : sequence of str
        The file name that each value belongs to; with or without folders and suffix if none has
        all of both.
    split : Split
        The samples.
    location : str
        Address of the split, for messages.
    fill : Any, optional
        Value of samples without one. By default they are an error.
    ragged : bool, optional
        If true, a sample has all values of its name, in their order, and may have none.

    Raises
    ------
    ValueError
        If no name matches; if a name is repeated and `ragged` is not true; or if a sample has no
        value and there is no `fill`.
    """
    n = values.shape[0] if hasattr(values, "shape") else len(values)
    if n != len(names):
        raise ValueError(f"file_names must be one per value, {n}, got {len(names)}")
    own = split.file_name
    positions, notes = _positions(names, own)
    is_known = positions >= 0
    if len(names) and not is_known.any():
        raise ValueError(
            escaped(
                f"{location}: none of {len(names):,} file names is one of its samples, for "
                f"example {brief(names[0])}; its first sample is {brief(str(own[0]))}"
                if len(own)
                else f"{location}: has no samples"
            )
        )
    if not is_known.all():
        unknown = [names[i] for i in np.flatnonzero(~is_known)[:_SHOWN].tolist()]
        number = int(np.count_nonzero(~is_known))
        notes += (f"{number:,} of {len(names):,} values are of no sample: {_listed(unknown)}",)
    counts = np.bincount(positions[is_known], minlength=len(own))
    missing = np.flatnonzero(counts == 0)
    if len(missing):
        examples = _listed(own[missing[:_SHOWN]].tolist())
        text = f"{len(missing):,} of {len(own):,} samples have no value: {examples}"
        if fill is None and not ragged:
            raise ValueError(escaped(f"{location}: {text}; pass fill (--fill) for them"))
        notes += (text,)
    if ragged:
        order, indptr = label_index(np.where(is_known, positions, -1), len(own))
        bounds = pairwise(indptr.tolist())
        if isinstance(values, list) and all(np.ndim(value) for value in values):
            return [_joined(values, order[a:b].tolist()) for a, b in bounds], notes
        array = values if hasattr(values, "dtype") else np.asarray(values)
        return [_taken(array, order[a:b]) for a, b in bounds], notes
    if counts.max(initial=0) > 1:
        twice = own[int(np.argmax(counts))]
        raise ValueError(
            escaped(
                f"{location}: {brief(str(twice))} has {counts.max()} values; pass "
                "ragged=True (--ragged) if samples may have several"
            )
        )
    rows = np.full(len(own), -1, dtype=np.int64)
    rows[positions[is_known]] = np.flatnonzero(is_known)
    if isinstance(values, list) and not _is_even(values):
        nothing = np.empty(0) if fill is None else fill
        return [values[row] if row >= 0 else nothing for row in rows.tolist()], notes
    array = values if hasattr(values, "dtype") else np.asarray(values)
    if array.dtype.kind == "U":
        array = array.astype(np.dtypes.StringDType())
    return MatchedValues(array, rows, fill), notes


def _taken(values: Any, rows: Ints) -> NDArray[Any]:
    """Return rows of an array in any order; h5py and Zarr take ascending ones, each once."""
    unique, place = np.unique(rows, return_inverse=True)
    found = getattr(values, "oindex", values)[unique] if len(unique) else values[:0]
    return np.asarray(found)[place]


def _joined(values: list[Any], rows: list[int]) -> NDArray[Any]:
    """Join the values of some rows."""
    some = [np.asarray(values[row]) for row in rows]
    return np.concatenate(some) if some else np.asarray(values[0])[:0]


def _is_even(values: list[Any]) -> bool:
    return len({np.shape(value) for value in values}) < 2


def _positions(names: Sequence[str], own: NDArray[Any]) -> tuple[Ints, tuple[str, ...]]:
    """Return the position of each name, by parts of the names if no whole one matches."""
    found = NameIndex(own).find_all(list(names))
    if (found >= 0).any() or not len(names):
        return found, ()
    for what, part in (("folder", _base), ("folder and suffix", _stem)):
        position = {part(name): i for i, name in enumerate(own.tolist())}
        if len(position) < len(own):
            continue
        found = np.array([position.get(part(name), -1) for name in names], dtype=np.int64)
        if (found >= 0).any():
            return found, (f"file names were compared without {what}",)
    return found, ()


def _base(name: str) -> str:
    return PurePosixPath(name).name


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(brief, names))
