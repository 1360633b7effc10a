"""Sets of positions in a split, compactly: a range if they are consecutive, else an array.

A whole split is a range, and so takes two numbers however long it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from arraystore._typing import Ints, Mask


def compact(positions: Ints) -> range | Ints:
    """Return positions as a range if they are consecutive, else unchanged."""
    n = len(positions)
    if not n:
        return range(0)
    first = int(positions[0])
    if int(positions[-1]) - first != n - 1 or not np.all(positions[1:] - positions[:-1] == 1):
        return positions
    return range(first, first + n)


def take(own: range | Ints, positions: range | Ints) -> range | Ints:
    """Return ``own[positions]``.

    Parameters
    ----------
    own : range or ndarray of int64, shape (m,)
        Positions in a stored split.
    positions : range or ndarray of int64, shape (n,)
        Indices into `own`.

    Returns
    -------
    range or ndarray of int64, shape (n,)
    """
    if isinstance(own, range):
        shift = own.start
        if isinstance(positions, range):
            return range(positions.start + shift, positions.stop + shift)
        return positions + shift
    if isinstance(positions, range):
        return own[positions.start : positions.stop]
    result: Ints = own[positions]
    return result


def rows(column: NDArray[Any], own: range | Ints) -> NDArray[Any]:
    """Return ``column[own]``: a view if the positions are consecutive."""
    rows: NDArray[Any] = column[own.start : own.stop] if isinstance(own, range) else column[own]
    return rows


def indices_among(own: range | Ints, positions: Ints) -> Ints:
    """Return the ascending indices in `own` of those positions that it contains.

    Parameters
    ----------
    own : range or ndarray of int64, shape (m,)
    positions : ndarray of int64, shape (n,)
        Ascending.

    Returns
    -------
    ndarray of int64, shape (n_found,)
    """
    if isinstance(own, range):
        first, last = np.searchsorted(positions, (own.start, own.stop))
        return positions[first:last] - own.start
    return np.flatnonzero(np.isin(own, positions))


def indices_of(own: range | Ints, positions: Ints, sorter: Ints | None = None) -> Ints:
    """Return the first index in `own` of each position, or -1.

    Parameters
    ----------
    own : range or ndarray of int64, shape (m,)
    positions : ndarray of int64, shape (n,)
    sorter : ndarray of int64, shape (m,), optional
        The stable argsort of `own`, if it is an array.

    Returns
    -------
    ndarray of int64, shape (n,)
    """
    if isinstance(own, range):
        is_inside = (positions >= own.start) & (positions < own.stop)
        return np.where(is_inside, positions - own.start, -1)
    if not len(own):
        return np.full(len(positions), -1, dtype=np.int64)
    if sorter is None:
        sorter = np.argsort(own, kind="stable")
    rank = np.minimum(np.searchsorted(own, positions, sorter=sorter), len(own) - 1)
    indices = sorter[rank]
    return np.where(own[indices] == positions, indices, -1)


def is_ascending(own: range | Ints) -> bool:
    """Return whether each position is greater than the previous one."""
    return isinstance(own, range) or bool(np.all(own[1:] > own[:-1]))


def as_mask(n: int, positions: Ints) -> Mask:
    """Return a mask of length `n` that is True at some positions.

    Examples
    --------
    >>> as_mask(4, np.array([3, 0, 3]))
    array([ True, False, False,  True])
    """
    mask = np.zeros(n, dtype=np.bool_)
    mask[positions] = True
    return mask


def union(some: list[Ints]) -> Ints:
    """Return the ascending positions that any of some ascending arrays contains."""
    if len(some) == 1:
        return some[0]
    return distinct(np.concatenate([np.empty(0, dtype=np.int64), *some]))


def distinct(values: Ints) -> Ints:
    """Return the distinct values, ascending.

    `numpy.unique` imports ``numpy.ma`` at its first call, which takes longer than opening a store.

    Examples
    --------
    >>> distinct(np.array([3, 0, 3]))
    array([0, 3])
    """
    ascending = np.sort(values)
    is_first = np.ones(len(ascending), dtype=np.bool_)
    np.not_equal(ascending[1:], ascending[:-1], out=is_first[1:])
    return ascending[is_first]
