"""Labels, names, masks and saved selections, as samples."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from arraystore._arguments import as_count, check_bools
from arraystore.dataset.sample_set import Part, Parts
from arraystore.dataset.samples import Samples
from arraystore.dataset.saved_selection import SavedSelection, SelectedRanks
from arraystore.errors import FormatError, brief, escaped
from arraystore.indexing.packed_names import is_pattern
from arraystore.indexing.positions import as_mask, compact, distinct, union
from arraystore.indexing.selection import as_positions, is_one

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import SupportsIndex

    from arraystore._typing import Ints, Mask
    from arraystore.indexing.selection import Selection
    from arraystore.reading.stored_split import StoredSplit
    from arraystore.schema import SplitInfo

    Label = SupportsIndex | str

_MOST_TOLD: Final = 60
"""Characters of a condition that are shown in the name of a split."""

_DIGEST_DIGITS: Final = 12

_MOST_EMPTY_PARTS: Final = 2**16
"""Parts that a split with fewer samples may be cut into: more processes than anybody has."""


class Queries(Samples):
    """Samples that can be asked for by label, by name, by mask, and combined as sets."""

    def where(
        self,
        *,
        label: Label | Iterable[Label] | None = None,
        file_name: str | Iterable[str] | None = None,
        is_a: str | Iterable[str] | None = None,
    ) -> Self:
        """Return the samples that meet all conditions given, in the order they have here.

        A query by label reads two numbers and one group of the index, never the
        column of labels; a query by name the names.

        Parameters
        ----------
        label : int, str, or iterable of them, optional
            Class by its number, its id (``"n01443537"``) or words for it
            (``"goldfish"``, in any case); several mean any of them.
        file_name : str or iterable of str, optional
            A name, or a pattern with ``*``, ``?`` and ``[abc]``; several mean any.
        is_a : str or iterable of str, optional
            A wider concept, such as ``"dog"`` or ``"n02084071"``: samples of all classes that
            are a kind of it; several mean any. See `Store.is_a`.

        Returns
        -------
        Split
            Empty if a pattern matches nothing.

        Raises
        ------
        KeyError
            If there is no such class or name, with the nearest there are, or if words
            mean several classes or concepts, with those.
        TypeError
            If no condition is given.
        ValueError
            If `is_a` is given, and the store has no hierarchy of its classes.

        Examples
        --------
        >>> import arraystore
        >>> train = arraystore.open("1pct.zarr")["train"]
        >>> train.where(label="tench", file_name="*_[12].JPEG").file_name.tolist()
        ['n01440764_1.JPEG', 'n01440764_2.JPEG']
        >>> train.where(is_a="reptile").label_counts().nonzero()[0]
        array([52])
        """
        if label is None and file_name is None and is_a is None:
            raise TypeError("where() needs a condition: label=…, file_name=… or is_a=…")
        found = self
        if label is not None:
            keys = _listed(label)
            labels = sorted({self._store.vocabulary.label(key) for key in keys})
            places = self._parts.among(lambda stored: union([stored.labelled(k) for k in labels]))
            found = self._derived(places, f"{self._term}.where(label={_short(label)})")
        if is_a is not None:
            kinds = union([self._store.is_a(key) for key in _listed(is_a)]).tolist()
            name = f"{found._term}.where(is_a={_short(is_a)})"
            places = found._parts.among(lambda stored: union([stored.labelled(k) for k in kinds]))
            found = found._derived(places, name)
        if file_name is not None:
            named = self._named(_listed(file_name))
            name = f"{found._term}.where(file_name={_short(file_name)})"
            found = found._derived(found._parts.among(lambda stored: named[stored.where]), name)
        return found

    def select(self, selection: Selection | SavedSelection | str | os.PathLike[str]) -> Self:
        """Return the samples that are selected, lazily.

        Parameters
        ----------
        selection : slice, sequence of int, ndarray, SavedSelection, str or path-like
            What NumPy takes in brackets: positions or a mask, such as
            ``split.image_height >= 256``. A saved selection, or its file. A name
            that the store keeps a selection under, such as ``"1pct"``. Of a saved
            or named one those samples are returned that are here, in its order.

        Returns
        -------
        Split

        Raises
        ------
        IndexError
            If a position is out of bounds, a mask is not as long as the split, or the
            selection is neither of integers nor of booleans.
        KeyError
            If the store keeps no selection of that name.
        FormatError
            If a file is no saved selection, or a damaged one.
        ValueError
            If a saved or named selection is of other splits than these.
        """
        if isinstance(selection, str) and selection in self._store.selections:
            places = self._parts.places_of(self._kept(selection))
            return self._derived(places, f"{self._term}.select({selection!r})")
        if isinstance(selection, str) and not (os.sep in selection or selection.endswith(".json")):
            kept = ", ".join(self._store.selections) or "none"
            raise KeyError(
                escaped(
                    f"the store keeps no selection {brief(selection)}; it keeps {kept} (the name "
                    "of a saved selection's file ends in .json)"
                )
            )
        if isinstance(selection, str | os.PathLike):
            path = os.fspath(selection)
            return self._saved(SavedSelection.load(path), path)
        if isinstance(selection, SavedSelection):
            return self._saved(selection, selection.made)
        if isinstance(selection, slice) and selection.step in (None, 1):
            start, stop, _ = selection.indices(len(self))
            name = f"{self._term}.select({start}:{stop})"
            return self._derived(range(start, max(start, stop)), name)
        if is_one(selection):
            one = brief(selection)
            raise IndexError(escaped(f"select() takes many, got {one}; split[{one}] is one sample"))
        positions = as_positions(selection, len(self))
        return self._derived(positions, f"{self._term}.select({len(positions):,} positions)")

    def find(self, file_name: str) -> int:
        """Return the position here of the sample of a file name.

        The names are sorted when this is first used.

        Raises
        ------
        KeyError
            If there is no such sample; the message has the nearest names there are.

        Examples
        --------
        >>> import arraystore
        >>> train = arraystore.open("1pct.zarr")["train"]
        >>> train.find("n04200800_7.JPEG")
        5
        """
        position = self._found(file_name)
        if position is None:
            raise self._missing(file_name)
        return position

    def __contains__(self, file_name: object) -> bool:
        """Whether there is a sample of that file name."""
        if not isinstance(file_name, str):
            raise TypeError(f"a split contains file names, got {type(file_name).__name__}")
        return self._found(file_name) is not None

    def selection(self) -> SavedSelection:
        """Return which samples these are, as a value that can be saved.

        It fits every store of the same content, whatever its order and container. Where
        samples of several stored splits are joined, it keeps the order within each.

        Examples
        --------
        >>> import arraystore
        >>> train = arraystore.open("1pct.zarr")["train"]
        >>> train.per_label(1).selection().save("fewshot.json")
        >>> arraystore.open("1pct.h5")["train"].select("fewshot.json")
        <Split 'train.select(fewshot.json)' of ...1pct.h5: 20 samples>
        """
        splits = {
            stored.name: SelectedRanks(
                stored.info.content_digest, len(stored), stored.names.ranks(positions)
            )
            for stored, positions in self._parts.by_stored().values()
        }
        return SavedSelection(self._store.dataset, self.name, splits)

    def label_counts(self) -> Ints:
        """Return the number of samples of each label: ndarray of int64, shape (n_classes,).

        Of a whole split it is read from the index, else from the column of labels.
        """
        if self._parts.whole is not None:
            return self._parts.whole.label_counts()
        n_classes = len(self.label_names)
        return np.bincount(self.label[self.label >= 0], minlength=n_classes).astype(np.int64)

    def even_splits(self, n: int, *, drop_remainder: bool = False) -> list[Self]:
        """Cut into parts of equal length, as ``tfds.even_splits`` does.

        Parameters
        ----------
        n : int
            Number of parts, 1 or more. At most the number of samples, or 65,536 if that
            is more.
        drop_remainder : bool, default False
            Leave out the last samples that do not make one for each part. Else the first
            parts have one more.

        Raises
        ------
        ValueError
            If `n` is less or more than that.
        TypeError
            If it is no integer.

        Examples
        --------
        >>> import arraystore
        >>> validation = arraystore.open("1pct.zarr")["validation[:11]"]
        >>> [len(part) for part in validation.even_splits(3)]
        [4, 4, 3]
        """
        check_bools(drop_remainder=drop_remainder)
        n = as_count(n, "n", least=1, most=max(len(self), _MOST_EMPTY_PARTS))
        length, rest = divmod(len(self), n)
        lengths = np.full(n, length)
        if not drop_remainder:
            lengths[:rest] += 1
        stops = np.cumsum(lengths).tolist()
        starts = (stops - lengths).tolist()
        name = f"{self._term}.even_splits({n})"
        return [
            self._derived(range(a, b), f"{name}[{i}]")
            for i, (a, b) in enumerate(zip(starts, stops, strict=True))
        ]

    def __and__(self, other: object) -> Self:
        """Return the samples that are in both, once each, in their stored order."""
        return self._combined(other, "&", np.logical_and)

    def __or__(self, other: object) -> Self:
        """Return the samples that are in either, once each, in their stored order."""
        return self._combined(other, "|", np.logical_or)

    def __sub__(self, other: object) -> Self:
        """Return the samples that are not in the other, once each, in their stored order."""
        return self._combined(other, "-", np.greater)

    def __invert__(self) -> Self:
        """Return all other samples of the stored splits, in their stored order."""
        parts = [
            Part(stored, compact(np.flatnonzero(~as_mask(len(stored), positions))))
            for stored, positions in self._parts.by_stored().values()
        ]
        return type(self)(self._store, f"(~{self._term})", Parts(parts))

    def _found(self, file_name: str) -> int | None:
        def position(stored: StoredSplit) -> Ints:
            at = stored.names.find(file_name)
            return np.array([] if at is None else [at], dtype=np.int64)

        places = self._parts.places_of(position)
        return int(places[0]) if len(places) else None

    def _missing(self, file_name: str) -> KeyError:
        """Return the error that says where a name is instead, or which are near it."""
        elsewhere = [s.name for s, _ in self._parts if s.names.find(file_name) is not None]
        if elsewhere:
            return KeyError(
                escaped(f"{brief(file_name)} is in {elsewhere[0]}, but not in {self.name}")
            )
        near = [name for stored, _ in self._parts for name in stored.names.near(file_name)]
        hint = f"; near it: {', '.join(near)}" if near else ""
        return KeyError(escaped(f"there is no file name {brief(file_name)}{hint}"))

    def _named(self, patterns: list[Any]) -> dict[str, Ints]:
        """Return the ascending positions in each stored split of names and patterns."""
        wrong = [pattern for pattern in patterns if not isinstance(pattern, str)]
        if wrong:
            raise TypeError(f"a file name is text, got {brief(wrong[0])}")
        exact = [pattern for pattern in patterns if not is_pattern(pattern)]
        found = {}
        lacking = set(exact)
        for stored, _ in self._parts:
            at = stored.names.find_all(exact)
            lacking -= {name for name, i in zip(exact, at.tolist(), strict=True) if i >= 0}
            others = [stored.names.matching(p) for p in patterns if is_pattern(p)]
            found[stored.where] = union([distinct(at[at >= 0]), *others])
        for name in exact:
            if name in lacking:
                raise self._missing(name)
        return found

    def _kept(self, name: str) -> Callable[[StoredSplit], Ints]:
        """Return what tells the positions that the store keeps under a name."""
        splits = self._store.selections[name]
        here = [stored.name for stored, _ in self._parts]
        if not set(here) & set(splits):
            raise ValueError(
                escaped(
                    f"the selection {name!r} is of {', '.join(splits)}, this is of "
                    f"{', '.join(here)}"
                )
            )
        none = np.empty(0, dtype=np.int64)
        return lambda stored: stored.selection(name) if stored.name in splits else none

    def _saved(self, selection: SavedSelection, path: str) -> Self:
        """Return the samples of a saved selection that are here."""
        chosen = {stored.where: _entry_for(stored, selection) for stored, _ in self._parts}
        if not any(chosen.values()):
            here = ", ".join(_digest_of(stored.where, stored.info) for stored, _ in self._parts)
            made_of = ", ".join(_digest_of(*entry) for entry in selection.splits.items())
            raise ValueError(
                escaped(
                    f"{path}: is a selection of other content: made of {selection.dataset} "
                    f"({made_of}), this is {here}"
                )
            )

        def positions(stored: StoredSplit) -> Ints:
            selected = chosen[stored.where]
            if selected is None:
                return np.empty(0, dtype=np.int64)
            if selected.num_samples != len(stored):
                raise FormatError(
                    f"{path}: says that the split has {selected.num_samples} samples, "
                    f"{stored.where} of the same digest has {len(stored)}"
                )
            return stored.names.order[selected.ranks]

        return self._derived(self._parts.places_of(positions), f"{self._term}.select({path})")

    def _combined(self, other: object, sign: str, combine: Callable[[Mask, Mask], Mask]) -> Self:
        """Combine as sets what each has of the same stored splits."""
        if not isinstance(other, Queries):
            return NotImplemented  # type: ignore[no-any-return] # as Python has it
        if self._store.address != other._store.address:
            raise ValueError(
                escaped(
                    f"{sign} needs samples of one store, got {self._store.address} and "
                    f"{other._store.address}"
                )
            )
        mine, theirs = self._parts.by_stored(), other._parts.by_stored()
        for where in mine.keys() & theirs.keys():
            one, another = mine[where][0], theirs[where][0]
            if one is not another and one.identity != another.identity:
                raise ValueError(
                    escaped(
                        f"{sign} needs samples of one store, but {where} has other samples or "
                        "another order for one of the two: the store was replaced between them; "
                        "open it once and make both again"
                    )
                )
        none = np.empty(0, dtype=np.int64)
        parts = []
        for where, (stored, _) in (mine | theirs if sign == "|" else mine).items():
            a, b = (
                as_mask(len(stored), side.get(where, (stored, none))[1]) for side in (mine, theirs)
            )
            parts.append(Part(stored, compact(np.flatnonzero(combine(a, b)))))
        return type(self)(self._store, f"({self.name} {sign} {other.name})", Parts(parts))


def _entry_for(stored: StoredSplit, selection: SavedSelection) -> SelectedRanks | None:
    """Return what a selection has of a split: of its content, and if it can be, of its name."""
    digest = stored.info.content_digest
    same = {n: entry for n, entry in selection.splits.items() if entry.content_digest == digest}
    return same.get(stored.name) or next(iter(same.values()), None)


def _digest_of(name: str, split: SplitInfo | SelectedRanks) -> str:
    return f"{name} {split.content_digest[:_DIGEST_DIGITS]}"


def _listed(condition: object) -> list[Any]:
    """Return what a condition names: one thing, or each of several."""
    if isinstance(condition, str | bytes) or not isinstance(condition, Iterable):
        return [condition]
    return np.atleast_1d(condition).tolist() if isinstance(condition, np.ndarray) else [*condition]


def _short(condition: object) -> str:
    """Write a condition as it was given, cut off if it is long."""
    text = repr(condition if isinstance(condition, str) else _plain(condition))
    return text if len(text) <= _MOST_TOLD else f"{text[: _MOST_TOLD - 1]}…"


def _plain(condition: object) -> object:
    """Return NumPy's numbers and arrays as Python's."""
    if isinstance(condition, np.ndarray | np.generic):
        return condition.tolist()
    return condition
