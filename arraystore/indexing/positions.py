"""Positions of a part of a split: which they are, where they are, and what is among them.

The samples of a part are a range (of step 1) where they are consecutive, so that a whole
split is two numbers, else an array.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from arraystore._typing import Ints


def compact(positions: Ints) -> range | Ints:
    """Return positions as a range, where they are consecutive."""
    n = len(positions)
    if not n:
        return range(0)
    first = int(positions[0])
    if int(positions[-1]) - first != n - 1 or not np.all(positions[1:] - positions[:-1] == 1):
        return positions
    return range(first, first + n)


def take(own: range | Ints, positions: range | Ints) -> range | Ints:
    """Return ``own[positions]``, as positions in the stored split."""
    if isinstance(own, range):
        shift = own.start
        if isinstance(positions, range):
            return range(positions.start + shift, positions.stop + shift)
        return positions + shift
    if isinstance(positions, range):
        return own[positions.start : positions.stop]
    taken: Ints = own[positions]
    return taken


def rows(column: NDArray[Any], own: range | Ints) -> NDArray[Any]:
    """Return ``column[own]``: a view where the positions are consecutive."""
    rows: NDArray[Any] = column[own.start : own.stop] if isinstance(own, range) else column[own]
    return rows


def among(own: range | Ints, wanted: Ints) -> Ints:
    """Return the ascending places in `own` of what is wanted; `wanted` ascends."""
    if isinstance(own, range):
        first, last = np.searchsorted(wanted, (own.start, own.stop))
        return wanted[first:last] - own.start
    return np.flatnonzero(np.isin(own, wanted))


def places_in(own: range | Ints, positions: Ints, sorter: Ints | None = None) -> Ints:
    """Return the first place in `own` of each position, or -1.

    Parameters
    ----------
    own : range or ndarray of int64, shape (m,)
    positions : ndarray of int64, shape (n,)
    sorter : ndarray of int64, shape (m,), optional
        What sorts `own` stably, if it is an array.

    Returns
    -------
    ndarray of int64, shape (n,)
    """
    if isinstance(own, range):
        is_here = (positions >= own.start) & (positions < own.stop)
        return np.where(is_here, positions - own.start, -1)
    if not len(own):
        return np.full(len(positions), -1, dtype=np.int64)
    if sorter is None:
        sorter = np.argsort(own, kind="stable")
    at = np.minimum(np.searchsorted(own, positions, sorter=sorter), len(own) - 1)
    places = sorter[at]
    return np.where(own[places] == positions, places, -1)


def is_ascending(own: range | Ints) -> bool:
    """Whether each position is greater than the one before."""
    return isinstance(own, range) or bool(np.all(own[1:] > own[:-1]))


def as_mask(n: int, positions: Ints) -> NDArray[np.bool_]:
    """Return which of ``range(n)`` are among some positions.

    Examples
    --------
    >>> as_mask(4, np.array([3, 0, 3]))
    array([ True, False, False,  True])
    """
    mask = np.zeros(n, dtype=np.bool_)
    mask[positions] = True
    return mask


def union(some: list[Ints]) -> Ints:
    """Return the ascending positions that are in any of some arrays, each ascending."""
    if len(some) == 1:
        return some[0]
    return distinct(np.concatenate([np.empty(0, dtype=np.int64), *some]))


def distinct(values: Ints) -> Ints:
    """Return the values there are, ascending.

    `numpy.unique` imports ``numpy.ma`` when it is first called, which takes longer than opening
    a store.

    Examples
    --------
    >>> distinct(np.array([3, 0, 3]))
    array([0, 3])
    """
    ascending = np.sort(values)
    is_first = np.ones(len(ascending), dtype=np.bool_)
    np.not_equal(ascending[1:], ascending[:-1], out=is_first[1:])
    return ascending[is_first]
