"""File names of a split: where a name is, and which names a pattern means."""

from __future__ import annotations

import bisect
import difflib
import fnmatch
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

_NEIGHBOURS: Final = 64
"""Names before and after the place of one that is missing, among which the nearest are sought."""

_FEW: Final = 256
"""Names that are sought one by one; for more all names are gone through once."""

_WILDCARDS: Final = re.compile(r"[*?[]")


def is_pattern(text: str) -> bool:
    """Whether a text has wildcards of a shell."""
    return _WILDCARDS.search(text) is not None


class NameIndex:
    """The names of the samples of a stored split, sorted when they are first asked for.

    Parameters
    ----------
    names : ndarray of str, shape (n,)
        Unique, of NumPy's `StringDType`.

    Examples
    --------
    >>> index = NameIndex(np.array(["b.jpg", "a.jpg", "é.png"], dtype=np.dtypes.StringDType()))
    >>> index.find("b.jpg"), index.find("c.jpg")
    (0, None)
    >>> index.matching("?.jpg")
    array([0, 1])
    >>> index.ranks(np.array([0, 1, 2]))
    array([1, 0, 2])
    """

    def __init__(self, names: NDArray[Any]) -> None:
        self._names = names

    @cached_property
    def order(self) -> Ints:
        """Positions of the samples, sorted by the UTF-8 bytes of their names."""
        return np.argsort(self._names, kind="stable").astype(np.int64)

    def ranks(self, positions: Ints) -> Ints:
        """Return the place that each position has in `order`."""
        return self._rank[positions]

    def find(self, name: str) -> int | None:
        """Return the position of a name, or nothing if there is no such name."""
        place = self._place(name)
        if place < len(self.order):
            position = int(self.order[place])
            if self._names[position] == name:
                return position
        return None

    def find_all(self, names: Sequence[str]) -> Ints:
        """Return the position of each name, or -1."""
        if len(names) <= _FEW:
            found = map(self.find, names)
            return np.array([-1 if at is None else at for at in found], dtype=np.int64)
        position = {name: at for at, name in enumerate(self._names.tolist())}
        return np.array([position.get(name, -1) for name in names], dtype=np.int64)

    def matching(self, pattern: str) -> Ints:
        """Return the ascending positions of the names that match a pattern, or that are it.

        Parameters
        ----------
        pattern : str
            With the wildcards of a shell: ``*``, ``?`` and ``[abc]``, where ``*`` also
            matches ``/``.
        """
        # A name may hold wildcards itself.
        position = self.find(pattern)
        itself = np.array([] if position is None else [position], dtype=np.int64)
        first = _WILDCARDS.search(pattern)
        prefix = pattern[: first.start()] if first else pattern
        if not _can_be_encoded(prefix):
            return itself
        candidates = np.flatnonzero(np.strings.startswith(self._names, prefix))
        matches = re.compile(fnmatch.translate(pattern)).match
        names = self._names[candidates].tolist()
        is_match = np.array([matches(name) is not None for name in names], dtype=np.bool_)
        return np.union1d(candidates[is_match], itself)

    def near(self, name: str) -> list[str]:
        """Return names that look like one that is missing, the nearest first."""
        place = self._place(name)
        around = self.order[max(0, place - _NEIGHBOURS) : place + _NEIGHBOURS]
        return difflib.get_close_matches(name, self._names[around].tolist())

    @cached_property
    def _rank(self) -> Ints:
        rank = np.empty(len(self.order), dtype=np.int64)
        rank[self.order] = np.arange(len(self.order))
        return rank

    def _place(self, name: str) -> int:
        # Code points sort as their UTF-8 bytes do.
        return bisect.bisect_left(self.order, name, key=self._names.__getitem__)


def _can_be_encoded(text: str) -> bool:
    """Whether a text is valid Unicode, which an argument of a command need not be."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
