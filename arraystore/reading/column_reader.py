"""The columns of one split as it is stored, whole or by chunk, and the index of its labels."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import numpy as np

from arraystore.errors import FormatError, StoreChangedError
from arraystore.indexing.layout import hash_numbers
from arraystore.indexing.packed_names import NameIndex
from arraystore.indexing.sampling import Groups, ranked
from arraystore.schema import (
    COLUMN_CHUNK_ROWS,
    COLUMNS,
    ORDERS,
    SELECTIONS,
    STRING,
    UNLABELLED,
    SplitInfo,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from arraystore._typing import Ints
    from arraystore.reading.store_handle import Opening

    Chunk = tuple[str, int]
    Identity = tuple[str, str]

T = TypeVar("T")

WHOLE_SAMPLES: Final = 2**22
"""Columns of a split with more samples are read by chunk, where some rows of them are wanted."""

_UNCHECKED_SAMPLES: Final = 2**21
"""Samples that a split may state before a column is asked for their number.

Positions of so many take 16 MiB, and the columns are compared with it when they are read.
"""

_COUNTED_BY: Final = "image_nbytes"

_SEEDS_KEPT: Final = 3
"""Seeds of which the hashes of all names are kept, 8 bytes a sample each."""

_NEEDED_BY: Final = {"label": ("label_indptr",)}
"""Columns without which others cannot be checked."""


class StoredColumns:
    """The columns of one split of a store.

    Parameters
    ----------
    opening : Opening
        What opens the store.
    name : str
        The split.
    expected : (str, str), optional
        The `identity` that the split must have. It is compared before anything is read.
    """

    def __init__(self, opening: Opening, name: str, expected: Identity | None = None) -> None:
        self.name = name
        self.where = f"{opening.address}/{name}"
        self._unchecked = opening
        self._expected = expected
        self._columns: dict[str, NDArray[Any]] = {}
        self._touched: dict[str, set[int]] = {}
        self._name_keys: dict[int, NDArray[np.uint64]] = {}
        self._ranked: dict[int, Groups] = {}

    def __len__(self) -> int:
        return self.info.num_samples

    def __reduce__(self) -> tuple[type[Self], tuple[Opening, str, Identity]]:
        return type(self), (self._unchecked, self.name, self.identity)

    @cached_property
    def stated(self) -> SplitInfo:
        """The attributes of the split, compared with nothing yet."""
        return SplitInfo.from_attributes(
            self._unchecked.container.attributes(self.name), location=self.where
        )

    @cached_property
    def info(self) -> SplitInfo:
        """The attributes of the split.

        Raises
        ------
        FormatError
            If they state many samples that are not stored.
        StoreChangedError
            If the split does not have the identity that it must have.
        """
        n = self.stated.num_samples
        if n > _UNCHECKED_SAMPLES:
            path = f"{self.name}/{_COUNTED_BY}"
            self._unchecked.container.check_column(path, COLUMNS[_COUNTED_BY].data_type, n)
        if self._expected is not None:
            self._check_identity(self._expected, self._identity_of(self.stated))
        return self.stated

    @property
    def identity(self) -> Identity:
        """The content digest, and what fixes the order: equal where positions mean the same.

        Of shuffled samples and of those in the order of their labels the content and two
        attributes fix the order, so that nothing is read. In any other order it is a digest
        of all file names.
        """
        return self._own_identity if self._expected is None else self._expected

    @cached_property
    def _own_identity(self) -> Identity:
        return self._identity_of(self.info)

    @cached_property
    def _opening(self) -> Opening:
        """What opens the store, once the split has proved to be the one expected."""
        if self._expected is not None:
            _ = self.info
        return self._unchecked

    def _identity_of(self, info: SplitInfo) -> Identity:
        if info.order in ORDERS[:2]:
            return info.content_digest, f"{info.order}, seed {info.seed}"
        digest = hashlib.blake2b(digest_size=16)
        path, starts = f"{self.name}/file_name", range(0, info.num_samples, COLUMN_CHUNK_ROWS)
        chunks = [(path, STRING, (start, start + COLUMN_CHUNK_ROWS)) for start in starts]
        for names in self._unchecked.container.read_rows(chunks):
            digest.update("\0".join([*names.tolist(), ""]).encode())
        return info.content_digest, f"{info.order}, names {digest.hexdigest()}"

    def _check_identity(self, expected: Identity, found: Identity) -> None:
        if found == expected:
            return
        if found[0] == expected[0]:
            difference = f"order was {expected[1]}, is {found[1]}"
        else:
            difference = f"content digest was {expected[0][:12]}…, is {found[0][:12]}…"
        raise StoreChangedError(
            f"{self.where}: the store was replaced after this split was pickled ({difference}); "
            "open the store and make the split again, or save split.selection(), which fits "
            "every order of the same content"
        )

    @property
    def is_small(self) -> bool:
        """Whether whole columns take little memory."""
        return len(self) <= WHOLE_SAMPLES

    def column(self, name: str) -> NDArray[Any]:
        """Return a whole column, read-only.

        Raises
        ------
        FormatError
            If it is missing, damaged, or its values cannot be.
        """
        if name not in self._columns:
            self.load((name,))
        return self._columns[name]

    def load(self, names: Iterable[str]) -> None:
        """Load columns together, which from afar takes one round trip.

        Raises
        ------
        FormatError
            See `column`.
        """
        wanted = [name for first in names for name in (*_NEEDED_BY.get(first, ()), first)]
        missing = [name for name in dict.fromkeys(wanted) if name not in self._columns]
        types = {f"{self.name}/{name}": COLUMNS[name].data_type for name in missing}
        for name, values in zip(missing, self._opening.container.read_columns(types), strict=True):
            if COLUMNS[name].dimension == "sample" and len(values) != len(self):
                raise FormatError(
                    f"{self.where}/{name}: must have {len(self)} values, one a sample, "
                    f"got {len(values)}"
                )
            if name == "label":
                self._check_labels(values, np.arange(len(values)))
            values.flags.writeable = False
            self._columns[name] = values

    def take(self, name: str, positions: Ints) -> NDArray[Any]:
        """Return a column's values at some positions, see `take_all`."""
        return self.take_all((name,), positions)[0]

    def take_all(self, names: Sequence[str], positions: Ints) -> list[NDArray[Any]]:
        """Return the values of columns at some positions, in any order.

        Of a column that is not loaded only the chunks that hold them are read, from afar all
        at once, and those read last are kept. In a split of no more than `WHOLE_SAMPLES` it
        is loaded as soon as half of its chunks have been wanted, and from afar at once.

        Parameters
        ----------
        names : sequence of str
            Columns with a value a sample.
        positions : ndarray of int64, shape (n,)

        Returns
        -------
        list of ndarray, shape (n,)

        Raises
        ------
        FormatError
            See `column`; of what is wrong in chunks that are not read nothing is told.
        """
        missing = [name for name in names if name not in self._columns]
        if self.are_whole(missing, positions):
            self.load(missing)
            missing = []
        taken = self._by_chunk(missing, positions) if missing else {}
        return [taken[name] if name in taken else self._columns[name][positions] for name in names]

    def labelled(self, label: int) -> Ints:
        """Return the ascending positions of the samples of one label.

        Of the columns of the index only the chunks that hold the answer are read.

        Parameters
        ----------
        label : int
            0 or more.
        """
        bounds = self._rows("label_indptr", label, label + 2)
        if len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1] <= len(self):
            raise FormatError(
                f"{self.where}/label_indptr: label {label} must be a range inside of {len(self)} "
                f"samples, got {bounds.tolist()}"
            )
        positions = self._rows("label_order", *bounds.tolist())
        self._check_positions("label_order", positions, int(bounds[1] - bounds[0]), ascending=True)
        return positions

    @cached_property
    def groups(self) -> Groups:
        """Positions of all labelled samples, grouped by label: the whole index."""
        order, indptr = self.column("label_order"), self.column("label_indptr")
        sizes = np.diff(indptr)
        if not len(indptr) or indptr[0] != 0 or indptr[-1] != len(order) or np.any(sizes < 0):
            raise FormatError(
                f"{self.where}/label_indptr: must ascend from 0 to the {len(order)} values of "
                f"label_order"
            )
        self._check_positions("label_order", order, len(order))
        ends = np.zeros(len(order) + 1, dtype=np.bool_)
        ends[indptr] = True
        if np.any((np.diff(order) <= 0) & ~ends[1:-1]):
            raise FormatError(f"{self.where}/label_order: must ascend in each label")
        return Groups(order, indptr)

    def label_counts(self) -> Ints:
        """Return the number of samples of each label, from the index's bounds alone."""
        return np.diff(self.column("label_indptr"))

    @cached_property
    def names(self) -> NameIndex:
        """Where each file name is."""
        return NameIndex(self.column("file_name"))

    def is_hashed(self, seed: int) -> bool:
        """Whether the samples are stored in the order of the hashes of this seed."""
        return (self.info.order, self.info.seed) == (ORDERS[0], seed)

    def ranked(self, seed: int) -> Groups:
        """Return `groups`, each in the order of the hashed names; those of few seeds are kept."""
        groups = self.groups
        if self.is_hashed(seed):
            return groups
        return _kept(self._ranked, seed, lambda: ranked(groups, self.name_keys(seed)))

    def name_keys(self, seed: int, positions: Ints | None = None) -> NDArray[np.uint64]:
        """Return the keyed hash of each file name, or of those at positions, as a number.

        Those of all names are kept for few seeds.
        """
        names = self.column("file_name")
        if positions is None:
            return _kept(self._name_keys, seed, lambda: hash_numbers(names.tolist(), seed))
        keys = self._name_keys.get(seed)
        return hash_numbers(names[positions].tolist(), seed) if keys is None else keys[positions]

    def selection(self, name: str) -> Ints:
        """Return the positions that the store keeps under a name."""
        positions = self._opening.container.read_column(f"{SELECTIONS}/{name}/{self.name}", "int64")
        self._check_positions(f"../{SELECTIONS}/{name}/{self.name}", positions, len(positions))
        return positions

    def _rows(self, name: str, start: int, stop: int) -> Ints:
        """Return some rows of a column of the index, and keep the chunks that hold them."""
        whole = self._columns.get(name)
        if whole is not None:
            return whole[start:stop]
        first, last = start // COLUMN_CHUNK_ROWS, max(start, stop - 1) // COLUMN_CHUNK_ROWS
        parts = list(self._chunks([(name, number) for number in range(first, last + 1)]))
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
        rows: Ints = joined[start - first * COLUMN_CHUNK_ROWS : stop - first * COLUMN_CHUNK_ROWS]
        return rows

    def are_whole(self, names: Sequence[str], positions: Ints) -> bool:
        """Whether columns are loaded, or are to be: for what was and now is wanted of them."""
        names = [name for name in names if name not in self._columns]
        if not names or not self.is_small:
            return not names
        if len(self) <= COLUMN_CHUNK_ROWS or self._opening.reader.is_remote:
            return True  # from afar, chunk after chunk would be round trip after round trip
        numbers = set((positions // COLUMN_CHUNK_ROWS).tolist())
        touched = [self._touched.setdefault(name, set()) for name in names]
        for seen in touched:
            seen |= numbers
        return any(2 * len(seen) * COLUMN_CHUNK_ROWS >= len(self) for seen in touched)

    def _by_chunk(self, names: Sequence[str], positions: Ints) -> dict[str, NDArray[Any]]:
        order = np.argsort(positions, kind="stable")
        ascending = positions[order]
        numbers, first = np.unique(ascending // COLUMN_CHUNK_ROWS, return_index=True)
        places = np.split(order, first[1:])[: len(numbers)]
        taken = {name: np.empty(len(positions), dtype=_dtype(name)) for name in names}
        wanted = [(name, number) for name in names for number in numbers.tolist()]
        for (name, number), chunk, here in zip(
            wanted, self._chunks(wanted), places * len(names), strict=True
        ):
            taken[name][here] = chunk[positions[here] - number * COLUMN_CHUNK_ROWS]
        if "label" in taken:
            self._check_labels(taken["label"], positions)
        return taken

    def _chunks(self, wanted: Sequence[Chunk]) -> Iterator[NDArray[Any]]:
        """Yield chunks of columns, read together where they are not kept; keep the last."""
        cache = self._opening.chunks
        kept = {chunk: cache.get((self.name, *chunk)) for chunk in wanted}
        missing = [chunk for chunk in wanted if kept[chunk] is None]
        read = self._opening.container.read_rows(
            [
                (
                    f"{self.name}/{name}",
                    COLUMNS[name].data_type,
                    (number * COLUMN_CHUNK_ROWS, (number + 1) * COLUMN_CHUNK_ROWS),
                )
                for name, number in missing
            ]
        )
        for name, number in wanted:
            values = kept[name, number]
            if values is None:
                values = next(read)
                self._check_length(name, number, values)
                values.flags.writeable = False
                cache.put((self.name, name, number), values)
            yield values

    def _check_length(self, name: str, number: int, values: NDArray[Any]) -> None:
        start = number * COLUMN_CHUNK_ROWS
        expected = min(COLUMN_CHUNK_ROWS, len(self) - start)
        if COLUMNS[name].dimension == "sample" and len(values) != expected:
            raise FormatError(
                f"{self.where}/{name}: must have {len(self)} values, one a sample, got "
                f"{len(values)} from {start} on, where {expected} must be"
            )

    def _check_positions(
        self, name: str, positions: Ints, n: int, *, ascending: bool = False
    ) -> None:
        if len(positions) != n:
            raise FormatError(f"{self.where}/{name}: {n - len(positions)} values are missing")
        if not n:
            return
        if ascending:
            is_wrong = positions[0] < 0 or positions[-1] >= len(self)
            is_wrong = is_wrong or bool(np.any(positions[1:] <= positions[:-1]))
        else:
            is_wrong = positions.min() < 0 or positions.max() >= len(self)
        if is_wrong:
            kind = "ascending positions" if ascending else "positions"
            raise FormatError(f"{self.where}/{name}: must hold {kind} in range({len(self)})")

    def _check_labels(self, label: Ints, positions: Ints) -> None:
        n_classes = len(self.column("label_indptr")) - 1
        outside = np.flatnonzero((label < UNLABELLED) | (label >= n_classes))
        if len(outside):
            i = int(outside[0])
            raise FormatError(
                f"{self.where}/label: must be -1 or in range({n_classes}), got {label[i]} at "
                f"{positions[i]}"
            )


def _dtype(name: str) -> np.dtype[Any]:
    data_type = COLUMNS[name].data_type
    return np.dtypes.StringDType() if data_type == STRING else np.dtype(data_type)


def _kept(kept: dict[int, T], seed: int, make: Callable[[], T]) -> T:
    """Return what is kept of a seed, or make it and forget the oldest."""
    value = kept.get(seed)
    if value is None:
        value = make()
        kept[seed] = value
        for oldest in list(kept)[:-_SEEDS_KEPT]:
            kept.pop(oldest, None)
    return value
