"""Samples of one or more stored splits: which they are, and in which order."""

from __future__ import annotations

import hashlib
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from arraystore.indexing.positions import (
    compact,
    indices_among,
    indices_of,
    is_ascending,
    rows,
    take,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from arraystore._typing import Ints
    from arraystore.reading.stored_split import StoredSplit

    Located = tuple[StoredSplit, Ints, Sequence[int]]


class StoredPositions(NamedTuple):
    """Some samples of one stored split.

    Attributes
    ----------
    stored : StoredSplit
    positions : range or ndarray of int64
        Positions in it; a range (of step 1) where they are consecutive, so that it stays
        small.
    """

    stored: StoredSplit
    positions: range | Ints


class SampleSet:
    """Samples of stored splits, in some order.

    An *index* counts the samples of the set, a *position* those of a stored split.

    Parameters
    ----------
    members : sequence of StoredPositions
        One or more, each of another stored split.
    order : ndarray of int64, shape (n,), optional
        Selects from the members end to end, and orders; by default all of them, in turn. Only
        where there are several members.
    """

    def __init__(self, members: Sequence[StoredPositions], order: Ints | None = None) -> None:
        self._members = tuple(members)
        self.order = order
        self._sorters: dict[int, Ints] = {}

    @classmethod
    def joined(cls, terms: Sequence[StoredPositions]) -> SampleSet:
        """Return samples end to end; several terms may be of one stored split."""
        terms_of: dict[str, list[StoredPositions]] = {}
        for term in terms:
            terms_of.setdefault(term.stored.location, []).append(term)
        merged = [
            some[0] if len(some) == 1 else StoredPositions(some[0].stored, _end_to_end(some))
            for some in terms_of.values()
        ]
        if len(merged) in (1, len(terms)):
            return cls(merged)
        stops = np.cumsum([len(member.positions) for member in merged])
        next_of = {
            member.stored.location: int(stop) - len(member.positions)
            for member, stop in zip(merged, stops, strict=True)
        }
        order = []
        for stored, positions in terms:
            start = next_of[stored.location]
            next_of[stored.location] = stop = start + len(positions)
            order.append(np.arange(start, stop, dtype=np.int64))
        return cls(merged, np.concatenate(order))

    def __reduce__(self) -> tuple[type[SampleSet], tuple[tuple[StoredPositions, ...], Ints | None]]:
        return SampleSet, (self._members, self.order)

    def __len__(self) -> int:
        if self.order is not None:
            return len(self.order)
        if len(self._members) == 1:
            return len(self._members[0].positions)
        return int(self._stops[-1])

    def __iter__(self) -> Iterator[StoredPositions]:
        return iter(self._members)

    @cached_property
    def _stops(self) -> Ints:
        return np.cumsum([len(member.positions) for member in self._members], dtype=np.int64)

    @property
    def only(self) -> StoredPositions | None:
        """The member, if there is a single one."""
        return self._members[0] if len(self._members) == 1 else None

    @property
    def whole(self) -> StoredSplit | None:
        """The stored split, if these are all its samples in its order."""
        stored, own = self._members[0]
        is_whole = len(self._members) == 1 and isinstance(own, range) and len(own) == len(stored)
        return stored if is_whole else None

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the content of the stored splits, and of the positions and their order.

        It is that of the same samples in the same order in any other copy of the store.
        """
        digest = hashlib.blake2b(digest_size=16)
        for stored, positions in self._members:
            digest.update(repr((stored.identity, _described(positions))).encode())
        if self.order is not None:
            digest.update(_described(self.order).encode())
        return digest.hexdigest()

    def take(self, indices: range | Ints) -> SampleSet:
        """Return some of the samples, in the order of `indices`."""
        if len(self._members) == 1:
            stored, own = self._members[0]
            taken = take(own, indices)
            if not isinstance(taken, range):
                taken = compact(taken)
            return SampleSet([StoredPositions(stored, taken)])
        chosen = np.asarray(indices, dtype=np.int64)
        return SampleSet(self._members, chosen if self.order is None else self.order[chosen])

    def values(self, read: Callable[[StoredSplit], NDArray[Any]]) -> NDArray[Any]:
        """Return one value per sample, from arrays with one value per sample of a stored split.

        Where the samples are consecutive in one stored split, the result is a view of its array.
        """
        found = [rows(read(stored), own) for stored, own in self._members]
        joined = found[0] if len(found) == 1 else np.concatenate(found)
        return joined if self.order is None else joined[self.order]

    def gather(
        self,
        indices: Ints,
        read: Callable[[StoredSplit, Ints, Sequence[int]], Sequence[Any]],
    ) -> list[Any]:
        """Read some of the samples from each stored split, and return them in order.

        Parameters
        ----------
        indices : ndarray of int64, shape (n,)
        read : callable
            Given a stored split, positions in it, and the places that these have in `indices`;
            returns arrays or lists with one value per position. It is called once for each stored
            split that has any of the samples.

        Returns
        -------
        list of ndarray or list, length n
            What `read` returned for all samples, in the order of `indices`.
        """
        located = list(self.locate(indices))
        parts = [part for part in located if len(part[1])] or located[:1]
        if len(parts) == 1:
            return list(read(*parts[0]))
        found = [read(*part) for part in parts]
        place_of = np.argsort(np.concatenate([np.asarray(which) for _, _, which in parts]))
        return [_in_order(columns, place_of) for columns in zip(*found, strict=True)]

    def locate(self, indices: Ints) -> Iterator[Located]:
        """Yield each stored split, positions in it, and their places in `indices`."""
        if len(self._members) == 1:
            stored, own = self._members[0]
            yield stored, np.asarray(take(own, indices)), range(len(indices))
            return
        joined = indices if self.order is None else self.order[indices]
        member_of = np.searchsorted(self._stops, joined, side="right")
        for number, (stored, own) in enumerate(self._members):
            mine = np.flatnonzero(member_of == number)
            within = joined[mine] - (self._stops[number] - len(own))
            yield stored, np.asarray(take(own, within)), mine.tolist()

    def locate_one(self, index: int) -> tuple[StoredSplit, int]:
        """Return the stored split of one sample, and the position in it."""
        if len(self._members) == 1:
            stored, own = self._members[0]
            return stored, int(own[index])
        ((stored, positions, _),) = (
            part for part in self.locate(np.array([index])) if len(part[1])
        )
        return stored, int(positions[0])

    def by_stored(self) -> dict[str, tuple[StoredSplit, Ints]]:
        """Return each stored split and positions in it, in the order of the set, by location."""
        everything = np.arange(len(self), dtype=np.int64)
        return {stored.location: (stored, at) for stored, at, _ in self.locate(everything)}

    def among(self, positions: Callable[[StoredSplit], Ints]) -> Ints:
        """Return the ascending indices of samples by their positions, which ascend as well."""
        found = [
            indices_among(own, positions(stored)) + (stop - len(own))
            for (stored, own), stop in zip(self._members, self._stops.tolist(), strict=True)
        ]
        if self.order is None:
            return found[0] if len(found) == 1 else np.concatenate(found)
        is_found = np.zeros(int(self._stops[-1]), dtype=np.bool_)
        is_found[np.concatenate(found)] = True
        return np.flatnonzero(is_found[self.order])

    def indices_of(self, positions: Callable[[StoredSplit], Ints]) -> Ints:
        """Return the first index of each position, in the order of the positions.

        Positions whose sample is not in the set are left out.
        """
        found = []
        for number, ((stored, own), stop) in enumerate(
            zip(self._members, self._stops.tolist(), strict=True)
        ):
            places = indices_of(own, positions(stored), self._sorter(number, own))
            found.append(places[places >= 0] + (stop - len(own)))
        joined = found[0] if len(found) == 1 else np.concatenate(found)
        if self.order is None:
            return joined
        indices = indices_of(self.order, joined, self._sorter(-1, self.order))
        return indices[indices >= 0]

    def distinct(self) -> Ints | None:
        """Return the first index of every sample, ascending; None if no sample is repeated."""
        only = self.only
        if only is not None and is_ascending(only.positions):
            return None
        starts = np.cumsum([0, *(len(stored) for stored, _ in self._members)]).tolist()
        start_of = {s.location: start for (s, _), start in zip(self._members, starts, strict=False)}
        keys = self.values(lambda stored: np.arange(len(stored)) + start_of[stored.location])
        first = np.unique(keys, return_index=True)[1]
        return None if len(first) == len(keys) else np.sort(first)

    def _sorter(self, number: int, own: range | Ints) -> Ints | None:
        """Return the indices that sort a member's positions; computed once."""
        if isinstance(own, range):
            return None
        if number not in self._sorters:
            self._sorters[number] = np.argsort(own, kind="stable")
        return self._sorters[number]


def _end_to_end(members: Sequence[StoredPositions]) -> range | Ints:
    positions = [np.asarray(member.positions, dtype=np.int64) for member in members]
    return compact(np.concatenate(positions))


def _in_order(parts: Sequence[Any], place_of: Ints) -> Any:
    """Join arrays or lists, and put their values in order."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)[place_of]
    joined = list(chain.from_iterable(parts))
    return [joined[place] for place in place_of.tolist()]


def _described(positions: range | Ints) -> str:
    """Return a text that is equal where positions are: a range of step 1, or a digest."""
    if isinstance(positions, range) and positions.step != 1:
        positions = np.asarray(positions, dtype=np.int64)
    if isinstance(positions, range):
        return f"{positions.start}:{positions.stop}"
    return hashlib.blake2b(positions.astype("<i8", copy=False).tobytes()).hexdigest()
