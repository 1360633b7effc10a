"""Samples of one or more stored splits: which they are, in which order, and where each is."""

from __future__ import annotations

from functools import cached_property
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
from arraystore.reading.image_reader import ReadPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from arraystore._typing import Ints
    from arraystore.reading.stored_split import StoredSplit


class Part(NamedTuple):
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


class Parts:
    """Samples of stored splits, each split in one part.

    Parameters
    ----------
    parts : sequence of Part
        One or more, of different stored splits.
    order : ndarray of int64, shape (n,), optional
        The samples as places in the parts end to end, if they are not all of them in turn;
        only where there are several parts.
    """

    def __init__(self, parts: Sequence[Part], order: Ints | None = None) -> None:
        self._parts = tuple(parts)
        self.order = order
        self._sorters: dict[int, Ints] = {}

    @classmethod
    def joined(cls, parts: Sequence[Part]) -> Parts:
        """Return parts end to end, of which several may be of one stored split."""
        mine: dict[str, list[Part]] = {}
        for part in parts:
            mine.setdefault(part.stored.where, []).append(part)
        merged = [
            some[0] if len(some) == 1 else Part(some[0].stored, compact(_end_to_end(some)))
            for some in mine.values()
        ]
        if len(merged) in (1, len(parts)):
            return cls(merged)
        stops = np.cumsum([len(part.positions) for part in merged])
        next_place = {
            part.stored.where: int(stop) - len(part.positions)
            for part, stop in zip(merged, stops, strict=True)
        }
        places = []
        for stored, positions in parts:
            start = next_place[stored.where]
            next_place[stored.where] = stop = start + len(positions)
            places.append(np.arange(start, stop, dtype=np.int64))
        return cls(merged, np.concatenate(places))

    def __reduce__(self) -> tuple[type[Parts], tuple[tuple[Part, ...], Ints | None]]:
        return Parts, (self._parts, self.order)

    def __len__(self) -> int:
        if self.order is not None:
            return len(self.order)
        if len(self._parts) == 1:
            return len(self._parts[0].positions)
        return int(self._stops[-1])

    def __iter__(self) -> Iterator[Part]:
        return iter(self._parts)

    @cached_property
    def _stops(self) -> Ints:
        return np.cumsum([len(part.positions) for part in self._parts], dtype=np.int64)

    @property
    def only(self) -> Part | None:
        """The one part there is, if there is one alone."""
        return self._parts[0] if len(self._parts) == 1 else None

    @property
    def whole(self) -> StoredSplit | None:
        """The stored split that these are all samples of, in its order."""
        stored, own = self._parts[0]
        is_whole = len(self._parts) == 1 and isinstance(own, range) and len(own) == len(stored)
        return stored if is_whole else None

    def take(self, selection: range | Ints) -> Parts:
        """Return some of the samples, in the order of `selection`, which are places here."""
        if len(self._parts) == 1:
            stored, own = self._parts[0]
            taken = take(own, selection)
            return Parts([Part(stored, taken if isinstance(taken, range) else compact(taken))])
        places = np.asarray(selection, dtype=np.int64)
        return Parts(self._parts, places if self.order is None else self.order[places])

    def column(self, name: str) -> NDArray[Any]:
        """Return a column of the samples: a view of the stored one, where they are consecutive."""
        return self.gather(lambda stored: stored.column(name))

    def gather(self, column: Callable[[StoredSplit], NDArray[Any]]) -> NDArray[Any]:
        """Return the samples' values of something that each stored split has one a sample of."""
        values = [rows(column(stored), own) for stored, own in self._parts]
        joined = values[0] if len(values) == 1 else np.concatenate(values)
        return joined if self.order is None else joined[self.order]

    def values(self, names: Sequence[str], places: Ints) -> list[NDArray[Any]]:
        """Return columns of some of the samples, and read no more of them than that needs."""
        found = [(which, s.take_all(names, at)) for s, at, which in self.locate(places)]
        if len(found) == 1:
            return found[0][1]
        values = [np.empty(len(places), dtype=column.dtype) for column in found[0][1]]
        for which, columns in found:
            for all_of_it, column in zip(values, columns, strict=True):
                all_of_it[np.asarray(which, dtype=np.int64)] = column
        return values

    def fetch(self, places: Ints) -> None:
        """Fetch the columns that some of the samples need, if round trips are dear."""
        for stored, at, _ in self.locate(places):
            stored.fetch(at)

    def plan(self, places: Ints) -> ReadPlan:
        """Return what reading the encoded images of some of the samples takes."""
        (nbytes,) = self.values(("image_nbytes",), places)
        plans = [stored.plan(at) for stored, at, _ in self.locate(places)]
        objects = {key for keys, _, _ in plans for key in keys}
        return ReadPlan(
            len(objects), sum(p[1] for p in plans), sum(p[2] for p in plans), int(nbytes.sum())
        )

    def place(self, place: int) -> tuple[StoredSplit, int]:
        """Return the stored split of one sample, and the position in it."""
        if len(self._parts) == 1:
            stored, own = self._parts[0]
            return stored, int(own[place])
        ((stored, positions, _),) = (
            found for found in self.locate(np.array([place])) if len(found[1])
        )
        return stored, int(positions[0])

    def locate(self, places: Ints) -> Iterator[tuple[StoredSplit, Ints, Sequence[int]]]:
        """Yield each stored split, positions in it, and which of `places` those are."""
        if len(self._parts) == 1:
            stored, own = self._parts[0]
            yield stored, np.asarray(take(own, places)), range(len(places))
            return
        joined = places if self.order is None else self.order[places]
        part_of = np.searchsorted(self._stops, joined, side="right")
        for number, (stored, own) in enumerate(self._parts):
            mine = np.flatnonzero(part_of == number)
            within = joined[mine] - (self._stops[number] - len(own))
            yield stored, np.asarray(take(own, within)), mine.tolist()

    def by_stored(self) -> dict[str, tuple[StoredSplit, Ints]]:
        """Return the positions in each stored split, in their order here, by its address."""
        everything = np.arange(len(self), dtype=np.int64)
        return {stored.where: (stored, at) for stored, at, _ in self.locate(everything)}

    def among(self, wanted: Callable[[StoredSplit], Ints]) -> Ints:
        """Return the ascending places whose positions are wanted (ascending) of their split."""
        found = [
            indices_among(own, wanted(stored)) + (stop - len(own))
            for (stored, own), stop in zip(self._parts, self._stops.tolist(), strict=True)
        ]
        if self.order is None:
            return found[0] if len(found) == 1 else np.concatenate(found)
        is_wanted = np.zeros(int(self._stops[-1]), dtype=np.bool_)
        is_wanted[np.concatenate(found)] = True
        return np.flatnonzero(is_wanted[self.order])

    def places_of(self, positions: Callable[[StoredSplit], Ints]) -> Ints:
        """Return the first place of each position of each split, in that order, if it is here."""
        found = []
        for number, ((stored, own), stop) in enumerate(
            zip(self._parts, self._stops.tolist(), strict=True)
        ):
            places = indices_of(own, positions(stored), self._sorter(number, own))
            found.append(places[places >= 0] + (stop - len(own)))
        places = found[0] if len(found) == 1 else np.concatenate(found)
        if self.order is None:
            return places
        places = indices_of(self.order, places, self._sorter(-1, self.order))
        return places[places >= 0]

    def distinct(self) -> Ints | None:
        """Return the first place of every sample, ascending, if any is here more than once."""
        only = self.only
        if only is not None and is_ascending(only.positions):
            return None
        starts = np.cumsum([0, *(len(stored) for stored, _ in self._parts)]).tolist()
        start_of = {stored.where: a for (stored, _), a in zip(self._parts, starts, strict=False)}
        keys = self.gather(lambda stored: np.arange(len(stored)) + start_of[stored.where])
        first = np.unique(keys, return_index=True)[1]
        return None if len(first) == len(keys) else np.sort(first)

    def _sorter(self, number: int, own: range | Ints) -> Ints | None:
        """Return what sorts a part's positions, made when it is first needed."""
        if isinstance(own, range):
            return None
        if number not in self._sorters:
            self._sorters[number] = np.argsort(own, kind="stable")
        return self._sorters[number]


def _end_to_end(parts: Sequence[Part]) -> Ints:
    return np.concatenate([np.asarray(part.positions, dtype=np.int64) for part in parts])
