"""File names of a split: stored compactly, and searched by name or pattern."""

from __future__ import annotations

import bisect
import difflib
import fnmatch
import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Self, overload

import numpy as np
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from arraystore._typing import Ints

_NEIGHBOURS: Final = 64
"""Sorted names before and after a missing one that are compared with it for suggestions."""

_FEW: Final = 256
"""Names that are searched one by one; for more, all names are read once."""

_PIECE: Final = 2**14
"""Names that are Python objects at a time."""

_LONG_NBYTES: Final = 4096
"""Names that are longer than this on average are not read together."""

_WILDCARDS: Final = re.compile(r"[*?[]")


def packed(names: Sequence[str]) -> bytes:
    """Return names in UTF-8, each followed by a zero byte.

    Raises
    ------
    ValueError
        If a name contains a zero byte itself.
    """
    data = "\0".join((*names, "")).encode()
    if data.count(0) != len(names):
        raise ValueError("a packed name cannot have a zero byte")
    return data


def encoded(names: Sequence[str], positions: Ints) -> list[bytes]:
    r"""Return the UTF-8 of some names.

    Examples
    --------
    >>> encoded(PackedNames(packed(["b", "é"])), np.array([1, 0]))
    [b'\xc3\xa9', b'b']
    """
    if isinstance(names, PackedNames):
        return names.packed_at(names.start[positions]).split(b"\0")[:-1]
    return [names[i].encode() for i in positions.tolist()]


class PackedNames(Sequence[str]):
    """A sequence of names in a third of the memory that a list needs.

    Parameters
    ----------
    data : bytes or bytearray
        See `packed`.
    start : ndarray of unsigned integers, shape (n,), optional
        Offset of each name in `data`; by default all names, in their order.

    Examples
    --------
    >>> names = PackedNames(packed(["b.jpg", "a.jpg", "é.png"]))
    >>> names[-1], list(names[:2]), list(names.take(np.array([2, 0])))
    ('é.png', ['b.jpg', 'a.jpg'], ['é.png', 'b.jpg'])
    """

    errors = "strict"
    """How bytes that are not UTF-8 are decoded."""

    def __init__(self, data: bytes | bytearray, start: NDArray[Any] | None = None) -> None:
        self._is_whole = start is None
        if start is None:
            stop = np.flatnonzero(np.frombuffer(data, np.uint8) == 0)
            start = np.zeros(len(stop), dtype=np.min_scalar_type(len(data)))
            start[1:] = stop[:-1]
            start[1:] += 1
        self.data, self.start = data, start

    @override
    def __len__(self) -> int:
        return len(self.start)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    @override
    def __getitem__(self, index: int | slice) -> str | Self:
        if isinstance(index, slice):
            return type(self)(self.data, self.start[index])
        return self._at(int(self.start[index]))

    @override
    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), _PIECE):
            yield from self._some(self.start[first : first + _PIECE])

    def take(self, positions: Ints) -> Self:
        """Return some of the names, in the order of `positions`."""
        return type(self)(self.data, self.start[positions])

    def repacked(self) -> Self:
        r"""Return the same names, end to end in memory: reading them in turn is then faster.

        Examples
        --------
        >>> names = PackedNames(packed(["b.jpg", "a.jpg", "c.jpg"])).take(np.array([2, 0]))
        >>> names.repacked().data
        bytearray(b'c.jpg\x00b.jpg\x00')
        """
        if self._is_whole:
            return self
        data = bytearray()
        for first in range(0, len(self), _PIECE):
            data += self.packed_at(self.start[first : first + _PIECE])
        return type(self)(data)

    @property
    def nbytes(self) -> Ints:
        """Number of bytes of each name."""
        start = self.start.astype(np.int64)
        return self._zeros[np.searchsorted(self._zeros, start)] - start

    @cached_property
    def _zeros(self) -> NDArray[np.int64]:
        """Offset of the zero byte behind each name in the data."""
        return np.flatnonzero(np.frombuffer(self.data, np.uint8) == 0)

    def packed_at(self, start: NDArray[Any]) -> bytes:
        """Return the names that begin at some offsets, each followed by a zero byte."""
        start = start.astype(np.int64)
        nbytes = self._zeros[np.searchsorted(self._zeros, start)] + 1 - start
        ends = np.cumsum(nbytes)
        places = np.repeat(start - (ends - nbytes), nbytes) + np.arange(nbytes.sum())
        names: NDArray[np.uint8] = np.frombuffer(self.data, np.uint8)[places]
        return names.tobytes()

    def _some(self, start: NDArray[Any]) -> Iterable[str]:
        begin, end = int(start[0]), self.data.index(0, int(start[-1]))
        is_dense = begin < end < begin + _LONG_NBYTES * len(start)
        if (
            is_dense
            and (start[1:] > start[:-1]).all()
            and self.data.count(0, begin, end) == len(start) - 1
        ):
            text = self.data[begin:end].decode(errors=self.errors)
            return text.split("\0")  # consecutive names
        return map(self._at, start.tolist())

    def _at(self, start: int) -> str:
        return self.data[start : self.data.index(0, start)].decode(errors=self.errors)


def is_pattern(text: str) -> bool:
    """Return whether a text contains wildcards of a shell."""
    return _WILDCARDS.search(text) is not None


def repeated(names: Sequence[str]) -> list[str]:
    """Return the names that occur more than once, each once, in the order of their first place.

    Examples
    --------
    >>> repeated(["b.jpg", "a.jpg", "b.jpg"])
    ['b.jpg']
    """
    # A set of the names would take 8 times the memory of their hashes.
    if not has_repeats(np.fromiter(map(hash, names), np.int64, len(names))):
        return []
    return [name for name, count in Counter(names).items() if count > 1]


def has_repeats(hashes: Ints) -> bool:
    """Return whether a value occurs twice; the array is sorted."""
    hashes.sort()
    return bool(np.any(hashes[1:] == hashes[:-1]))


class NameIndex:
    """An index of the file names of a stored split, sorted when it is first used.

    Parameters
    ----------
    names : ndarray of str, shape (n,)
        Unique names, of NumPy's `StringDType`.

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
        """Return the rank of each position: its index in `order`."""
        return self._rank[positions]

    def find(self, name: str) -> int | None:
        """Return the position of a name, or None if no sample has it."""
        rank = self._rank_of(name)
        if rank < len(self.order):
            position = int(self.order[rank])
            if self._names[position] == name:
                return position
        return None

    def find_all(self, names: Sequence[str]) -> Ints:
        """Return the position of each name, or -1."""
        if len(names) <= _FEW:
            found = map(self.find, names)
            return np.array([-1 if i is None else i for i in found], dtype=np.int64)
        position = {name: i for i, name in enumerate(self._names.tolist())}
        return np.array([position.get(name, -1) for name in names], dtype=np.int64)

    def with_base(self, name: str) -> Ints:
        """Return the ascending positions of the names whose part after the last ``/`` is `name`."""
        if not _can_be_encoded(name):
            return np.empty(0, dtype=np.int64)
        return np.flatnonzero(np.strings.endswith(self._names, f"/{name}"))

    def matching(self, pattern: str) -> Ints:
        """Return the ascending positions of the names that match a pattern or equal it.

        Parameters
        ----------
        pattern : str
            May contain the wildcards of a shell: ``*``, ``?`` and ``[abc]``; ``*`` also matches
            ``/``.
        """
        # A name may contain wildcards itself.
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
        """Return names similar to one that is missing, the most similar first."""
        rank = self._rank_of(name)
        around = self.order[max(0, rank - _NEIGHBOURS) : rank + _NEIGHBOURS]
        return difflib.get_close_matches(name, self._names[around].tolist())

    @cached_property
    def _rank(self) -> Ints:
        rank = np.empty(len(self.order), dtype=np.int64)
        rank[self.order] = np.arange(len(self.order))
        return rank

    def _rank_of(self, name: str) -> int:
        """Return the rank of a name, or the one that it would have."""
        # Code points sort as their UTF-8 bytes do.
        return bisect.bisect_left(self.order, name, key=self._names.__getitem__)


def _can_be_encoded(text: str) -> bool:
    """Return whether a text is valid Unicode; arguments of a command may not be."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
