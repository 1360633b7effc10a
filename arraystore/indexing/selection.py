"""Selections, as NumPy and TFDS write them, as positions: int64 indices into a split."""

from __future__ import annotations

import operator
import re
import string
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, SupportsIndex, TypeAlias, TypeGuard

import numpy as np

from arraystore._arguments import as_count
from arraystore.errors import brief, escaped

if TYPE_CHECKING:
    from types import EllipsisType

    from numpy.typing import NDArray

    from arraystore._typing import Ints

    Selection: TypeAlias = slice | Sequence[int] | Sequence[bool] | NDArray[Any] | EllipsisType
    """A selection of several samples; an integer selects one."""


_MAX_SIDE: Final = 65_535
_SHOWN: Final = 50


class SplitSlice(NamedTuple):
    """One term of a split string: the positions ``[start, stop)`` of a split."""

    name: str
    start: int
    stop: int


def as_position(index: SupportsIndex, length: int) -> int:
    """Turn one integer into a position counted from the first sample.

    Parameters
    ----------
    index : int or integer scalar
        Negative numbers count from the end.
    length : int
        Number of samples to select from.

    Raises
    ------
    IndexError
        If the position is out of bounds.
    """
    position = operator.index(index)
    if 0 <= position < length:
        return position
    if not -length <= position < length:
        raise IndexError(f"position {brief(position)} is out of bounds for {length} samples")
    return position + length


def is_one(selection: object) -> TypeGuard[SupportsIndex]:
    """Return whether a selection selects one sample rather than several.

    Examples
    --------
    >>> [is_one(x) for x in (3, np.int8(3), np.array(3), [3], True)]
    [True, True, True, False, False]
    """
    if isinstance(selection, bool):
        return False
    if isinstance(selection, np.ndarray | np.generic) and selection.dtype.kind not in "iu":
        return False
    if not hasattr(selection, "__index__"):
        return False
    try:
        # Every tensor has `__index__`, but those with several numbers have a length as well.
        len(selection)  # type: ignore[arg-type] # the TypeError is the test
    except TypeError:
        return True
    return False


def as_size(size: Any) -> tuple[int, int]:
    """Return height and width in pixels; one number means both.

    Parameters
    ----------
    size : int or (int, int)

    Raises
    ------
    ValueError
        If a side is not 1 to 65,535, the most that a JPEG can have.
    TypeError
        If `size` is neither one integer nor a pair of them.

    Examples
    --------
    >>> as_size(224), as_size((32, 48))
    ((224, 224), (32, 48))
    """
    both = size if isinstance(size, tuple) else (size, size)
    if len(both) != 2:
        raise TypeError(f"size must be one integer or a pair of them, got {brief(size)}")
    height, width = (as_count(side, "size", least=1, most=_MAX_SIDE) for side in both)
    return height, width


def as_positions(selection: SupportsIndex | Selection, length: int) -> Ints:
    """Turn a selection into positions counted from the first sample.

    Parameters
    ----------
    selection : slice, ellipsis, sequence of int, or ndarray of integers or bools
        The samples to select, as in NumPy: negative integers count from the end, order and
        repeats are kept, a boolean mask has one entry per sample.
    length : int
        Number of samples to select from.

    Returns
    -------
    ndarray of int64, shape (n_selected,)
        Positions in ``range(length)``.

    Raises
    ------
    IndexError
        If an integer is out of bounds, a mask is not `length` long, or NumPy would refuse the
        selection along one axis. A list that mixes integers and bools is an error too, although
        NumPy treats True as 1.
    TypeError, ValueError
        If Python refuses a slice, for example because a bound is not an integer.

    Examples
    --------
    >>> as_positions(slice(None, None, -2), 5)
    array([4, 2, 0])
    >>> as_positions([-1, 0, 0], 5)
    array([4, 0, 0])
    >>> as_positions(np.array([True, False, True]), 3)
    array([0, 2])
    """
    if isinstance(selection, slice):
        start, stop, step = selection.indices(length)
        step = max(-length - 1, min(step, length + 1))  # longer ones select the same
        return np.arange(start, stop, step, dtype=np.int64)
    if selection is Ellipsis:
        return np.arange(length, dtype=np.int64)
    if not isinstance(selection, list | np.ndarray):
        selection = _listed(selection)
    try:
        index = np.asarray(selection)
    except (TypeError, ValueError):  # such as lists of several lengths
        raise IndexError(f"{_KINDS}, got {brief(selection)}") from None
    if index.ndim != 1:
        raise IndexError(f"a selection must have one dimension, got {index.ndim}")
    if index.size == 0 and isinstance(selection, list):
        return np.empty(0, dtype=np.int64)
    if index.dtype == np.bool_:
        if index.size != length:
            raise IndexError(f"mask selects from {index.size} samples, but there are {length}")
        return np.flatnonzero(index)
    if index.dtype.kind not in "iu":
        raise IndexError(f"{_KINDS}, got dtype {index.dtype}")
    if isinstance(selection, list):
        _check_unmixed(selection)
    outside = (index < -length) | (index >= length)
    if outside.any():
        raise IndexError(f"position {index[outside][0]} is out of bounds for {length} samples")
    positions = index.astype(np.int64)
    positions[positions < 0] += length
    return positions


def _listed(selection: object) -> list[Any] | NDArray[Any]:
    """Return a range, a pandas index, a tensor or another sequence as a list or array."""
    if hasattr(selection, "__array__") and not isinstance(selection, np.generic):
        return np.asarray(selection)
    if isinstance(selection, Sequence) and not isinstance(selection, str | bytes | tuple):
        return list(selection)
    raise IndexError(f"{_KINDS}, got {brief(selection)}")


def _check_unmixed(selection: list[Any]) -> None:
    """Raise `IndexError` for bools in a list that NumPy has converted to integers."""
    for kind in set(map(type, selection)) - {int}:
        if issubclass(kind, int | np.integer) and kind is not bool:
            continue
        for value in selection:
            # A bool of NumPy, or a tensor whose dtype has the same name.
            if type(value) is kind and str(getattr(value, "dtype", kind.__name__)).endswith("bool"):
                raise IndexError(
                    f"a selection must be of integers or of bools, got both: {brief(selection)}"
                )


_KINDS: Final = "a selection must be an integer, a slice, or a list or array of integers or bools"

ALL: Final = "all"
"""Name of all splits joined, as in TFDS; a split with that name takes precedence."""

_BOUND = r"-?[0-9][0-9_]*(?:\.[0-9_]*)?\s*%|-?[0-9][0-9_]*"
_TERM = re.compile(
    r"(?P<name>[A-Za-z0-9_.-]+)"
    rf"(?P<slice>\s*\[\s*(?P<start>{_BOUND})?\s*:\s*(?P<stop>{_BOUND})?\s*\])?"
)


def parse_split_string(text: str, lengths: Mapping[str, int]) -> list[SplitSlice]:
    """Parse a split string of TFDS: ``train[:10%]``, ``train[100:200]+validation``.

    Percentages may have decimals. They are rounded to the nearest sample, as in TFDS by default, so
    that consecutive slices cover every sample once. ``all`` means all splits joined.

    Parameters
    ----------
    text : str
        Terms joined by ``+``. Each is the name of a split with an optional slice, whose two
        bounds are both absolute or both percentages.
    lengths : mapping of str to int
        Number of samples of each split.

    Returns
    -------
    list of SplitSlice

    Raises
    ------
    KeyError
        If no split has the name.
    ValueError
        If `text` is not such a string, or a bound is outside the split. (TFDS raises an error as
        well, while NumPy would clip the bound.)

    Examples
    --------
    >>> parse_split_string("train[:10%]+test[-1:]", {"train": 25, "test": 4})
    [SplitSlice(name='train', start=0, stop=2), SplitSlice(name='test', start=3, stop=4)]
    """
    slices = []
    for term in text.split("+"):
        if term.strip() == ALL and ALL not in lengths:
            slices += [SplitSlice(name, 0, length) for name, length in lengths.items()]
        else:
            slices.append(_parse_term(term, lengths))
    if not slices:
        raise ValueError("the store has no splits to join")
    return slices


def _parse_term(term: str, lengths: Mapping[str, int]) -> SplitSlice:
    match = _TERM.fullmatch(term.strip())
    if match is None:
        raise ValueError(
            f"{brief(term)} is not a split: write a name, or a name with a slice such as "
            "'train[:10%]', 'train[100:200]'"
        )
    name = match["name"]
    if name not in lengths:
        raise KeyError(
            escaped(f"there is no split {brief(name)}; there are {', '.join(lengths) or 'none'}")
        )
    length = lengths[name]
    given = [bound for bound in (match["start"], match["stop"]) if bound]
    if len({bound.endswith("%") for bound in given}) > 1:
        raise ValueError(f"{brief(term.strip())} mixes a percentage with a number of samples")
    start = _bound(match["start"], 0, length, term)
    stop = _bound(match["stop"], length, length, term)
    return SplitSlice(name, start, max(start, stop))


def _bound(text: str | None, default: int, length: int, term: str) -> int:
    if not text:
        return default
    is_percent = text.endswith("%")
    from fractions import Fraction

    try:
        number = Fraction(text.rstrip("%" + string.whitespace).replace("_", ""))
    except ValueError:
        raise ValueError(f"{brief(term.strip())}: has a bound with too many digits") from None
    if abs(number) > (100 if is_percent else length):
        raise ValueError(
            escaped(
                f"{brief(term.strip())}: {text[:_SHOWN]} is outside the split, which has {length} "
                "samples"
            )
        )
    absolute = round(number * length / 100) if is_percent else int(number)
    return absolute + length if number < 0 else absolute
