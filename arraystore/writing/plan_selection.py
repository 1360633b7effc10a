"""Plan the copy of selected samples: what the new store is called, holds, and in which order.

A copy of samples is a conversion whose source is a set of stores, so that it has the bytes that a
conversion of these samples would have.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore.dataset.concat import check_classes
from arraystore.errors import FormatError, brief, escaped
from arraystore.indexing.layout import sample_order
from arraystore.indexing.packed_names import PackedNames, packed, repeated
from arraystore.reading.stored_split import ImageRows
from arraystore.schema import ORDERS, UNLABELLED, DatasetInfo, check_split_name
from arraystore.sources.imagenet2012 import part_of
from arraystore.sources.sample_table import SampleTable, Source, first_few
from arraystore.sources.subset_list import SUBSETS
from arraystore.writing.plan import SplitPlan
from arraystore.writing.selected_columns import described, left_out, user_columns
from arraystore.writing.selected_images import SelectedImages

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from arraystore._typing import Ints
    from arraystore.containers.protocol import Tree
    from arraystore.dataset.sample_set import SampleSet
    from arraystore.dataset.split import Split
    from arraystore.dataset.store_root import StoreRoot
    from arraystore.indexing.hierarchy import Hierarchy
    from arraystore.reading.stored_split import StoredSplit

CLASSES: Final = ("keep", "present")
"""Classes of the copy: those of the store, or those that its samples have."""

_COLUMNS: Final = ("label", "file_name", "image_height", "image_width")


@dataclass(frozen=True)
class SelectedSplit:
    """The samples of one split of the new store, in their order in it.

    Attributes
    ----------
    stored : tuple of StoredSplit
        Where they are.
    number : ndarray of int64, shape (n,)
        Index into `stored` of each sample.
    rows : ImageRows
        Position, place and checksum of each image.
    label : ndarray of int64, shape (n,)
    file_name : PackedNames, length n
    height, width : ndarray of int32, shape (n,)
    order, seed
        See `SplitInfo`.
    """

    stored: tuple[StoredSplit, ...]
    number: Ints
    rows: ImageRows
    label: Ints
    file_name: PackedNames
    height: NDArray[np.int32]
    width: NDArray[np.int32]
    order: str = ORDERS[2]
    seed: int = 0

    def __len__(self) -> int:
        return len(self.label)

    @cached_property
    def images(self) -> SelectedImages:
        """The encoded images."""
        return SelectedImages(self.stored, self.number, self.rows)

    def whole(self, infos: Mapping[str, DatasetInfo]) -> str:
        """Return the name of the split, with all of its parts, that these are all samples of.

        Empty if there is none.
        """
        addresses = {stored.handle.address for stored in self.stored}
        if len(addresses) > 1:
            return ""
        info, names = infos[addresses.pop()], {stored.name for stored in self.stored}
        for split, parts in info.parts.items():
            if names <= set(parts.groups):
                return split if len(self) == parts.num_samples else ""
        (stored, *others) = self.stored
        return stored.name if not others and len(self) == len(stored) else ""

    def is_selection(self, name: str) -> bool:
        """Whether these are the samples of a named selection of one store."""
        (stored, *others) = self.stored
        positions = stored.selection(name)
        return not others and np.array_equal(np.sort(self.rows.positions), np.sort(positions))

    def among(self, name: str, selected: Mapping[str, DatasetInfo]) -> Ints:
        """Return the ascending indices of the samples that a named selection has."""
        found = []
        for k, stored in enumerate(self.stored):
            if stored.name in selected[stored.handle.address].selections.get(name, ()):
                is_chosen = np.zeros(len(stored), dtype=np.bool_)
                is_chosen[stored.selection(name)] = True
                mine = np.flatnonzero(self.number == k)
                found.append(mine[is_chosen[self.rows.positions[mine]]])
        return np.sort(np.concatenate([np.empty(0, np.int64), *found]))

    def take(self, order: Ints, name: str, seed: int) -> SelectedSplit:
        """Return the samples in another order."""
        return SelectedSplit(
            self.stored,
            self.number[order],
            self.rows.part(order),
            self.label[order],
            self.file_name.take(order),
            self.height[order],
            self.width[order],
            name,
            seed,
        )


@dataclass(frozen=True)
class SelectionPlan:
    """The copy of selected samples.

    Attributes
    ----------
    source : Source
        All that is written beside the samples.
    plans : dict of str to SplitPlan
    images : dict of str to SelectedImages
    checksums : dict of str to (ndarray of uint32, shape (n,)) or None
        That the images must have; None if some are not known.
    left_out : tuple of str
        What the stores have that is not copied.
    """

    source: Source
    plans: dict[str, SplitPlan]
    images: dict[str, SelectedImages]
    checksums: dict[str, NDArray[np.uint32] | None]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class _Classes:
    ids: tuple[str, ...]
    words: tuple[str, ...]
    hierarchy: Hierarchy | None
    notes: tuple[str, ...] = field(default=())


def check_splits(splits: Mapping[str, Split]) -> None:
    """Check names and label spaces of the splits of a new store.

    Raises
    ------
    ValueError
        If there are none, a name is impossible, or the classes of their stores differ.
    """
    for name in splits:
        check_split_name(name)
    if not splits:
        raise ValueError("a copy needs one or more splits, got none")
    check_classes([*splits.values()])


def name_of(split: Split) -> str:
    """Return the name that the stored splits of some samples share; parts are of one split.

    Raises
    ------
    ValueError
        If they have several.
    """
    names = set()
    for address, root in split._roots.items():
        stored = [some for some, _ in split._sample_set if some.handle.address == address]
        names |= {root.dataset.split_of(some.name) for some in stored}
    if len(names) > 1:
        raise ValueError(
            escaped(
                f"{split.name} has samples of {' and '.join(sorted(names))}; pass a mapping with "
                'the name of the new split, such as {"train": split} (--split train=…)'
            )
        )
    return names.pop()


def plan_selection(
    splits: Mapping[str, Split], name: str, *, classes: str, order: str | None, seed: int
) -> SelectionPlan:
    """Plan the copy of samples.

    Parameters
    ----------
    splits : mapping of str to Split
        The samples of each split of the new store, all of one label space.
    name : str
        Name of the data set, unless the samples are all those of a known one.
    classes : {"keep", "present"}
        Whether to keep classes without samples.
    order : {"shuffled", "label", "source"}, optional
        Order of the samples; by default that of the splits.
    seed : int
        Of the shuffled order.

    Raises
    ------
    ValueError
        If a sample occurs twice in a split, or two samples have one file name.
    FormatError
        If a store does not follow the format specification.
    """
    selected = {
        target: _ordered(read_samples(target, split), order, seed)
        for target, split in splits.items()
    }
    roots = {address: root for split in splits.values() for address, root in split._roots.items()}
    infos = {address: root.dataset for address, root in roots.items()}
    trees = {address: root.handle.container.tree() for address, root in roots.items()}
    named, new_label = _classes_of(next(iter(roots.values())), selected, classes)
    rows_of = _selections(selected, infos)
    selections = {key: tuple(rows) for key, rows in rows_of.items()}
    info = None if named.notes else _same_data(selected, infos, selections)
    if info is None:
        info = _described(splits, selected, infos, selections, name)
    columns = {
        target: user_columns(some.stored, some.number, some.rows.positions)
        for target, some in selected.items()
    }
    notes = [*named.notes]
    plans = {}
    for target, some in selected.items():
        skipped, note = _skipped(some, infos)
        notes += [f"{target}: {note}"] if note else []
        table = SampleTable(
            file_name=some.file_name,
            label=new_label[some.label],
            file=np.broadcast_to(np.int32(0), len(some)),
            offset=np.broadcast_to(np.int64(0), len(some)),
            nbytes=some.rows.nbytes,
            extra=columns[target],
        )
        plans[target] = SplitPlan(
            table=table,
            height=some.height,
            width=some.width,
            skipped=skipped,
            reencoded=_reencoded(some, infos),
            selections={
                key: rows_of[key][target] for key in info.selections if target in rows_of[key]
            },
            order=some.order,
            seed=some.seed,
            descriptions={name: described(some.stored, name) for name in columns[target]},
        )
    source = Source(
        name=info.name,
        config=info.config,
        version=info.version,
        description=info.description,
        homepage=info.homepage,
        citation=info.citation,
        label_name=named.ids,
        label_words=named.words,
        files=(),
        splits={},
        origins=info.sources,
        selections={key: rows_of[key] for key in info.selections},
        partial=info.partial,
        notes=tuple(notes),
        hierarchy=named.hierarchy,
    )
    return SelectionPlan(
        source,
        plans,
        {target: some.images for target, some in selected.items()},
        {
            target: some.rows.crc32c if all(one.has_checksums for one in some.stored) else None
            for target, some in selected.items()
        },
        tuple(_left_out(selected, trees, columns)),
    )


def read_samples(target: str, split: Split) -> SelectedSplit:
    """Read the columns of the samples of a split."""
    samples: SampleSet = split._sample_set
    stored = tuple(member.stored for member in samples)
    number_of = {some.location: k for k, some in enumerate(stored)}

    def read(some: StoredSplit, positions: Ints, _: Sequence[int]) -> tuple[Any, ...]:
        rows, values = some.rows(positions, _COLUMNS, with_checksums=True)
        number = np.full(len(positions), number_of[some.location], dtype=np.int64)
        return number, *rows, *values

    gathered = samples.gather(np.arange(len(samples), dtype=np.int64), read)
    number, positions, start, nbytes, crc32c, label, names, height, width = gathered
    file_name = names.tolist()
    if twice := repeated(file_name):
        raise ValueError(
            escaped(
                f"{target}: {first_few(twice)} occur more than once; file names must be unique in "
                "a split: leave repeated samples out"
            )
        )
    rows = ImageRows(positions, start, nbytes, crc32c)
    used = np.unique(number)  # a concatenation may have no sample of some of its splits
    return SelectedSplit(
        tuple(stored[k] for k in used.tolist()) or stored[:1],
        np.searchsorted(used, number),
        rows,
        label,
        PackedNames(packed(file_name)),
        height,
        width,
    )


def _ordered(some: SelectedSplit, order: str | None, seed: int) -> SelectedSplit:
    """Return samples in an order, or state the order that they have."""
    if order is not None:
        seed = seed if order == ORDERS[0] else 0
        return some.take(sample_order(order, seed, some.file_name, some.label), order, seed)
    known = {(stored.info.order, stored.info.seed) for stored in some.stored}
    if len(known) == 1:
        ((order, seed),) = known
        if order == ORDERS[0] and not 0 <= seed < 2**63:
            raise FormatError(
                f"{some.stored[0].location}: attribute 'seed' must be in range(2**63) to be "
                f"copied, got {brief(seed)}"
            )
        if order in ORDERS[:2]:
            seed = seed if order == ORDERS[0] else 0
            expected = sample_order(order, seed, some.file_name, some.label)
            if np.array_equal(expected, np.arange(len(some))):
                return replace(some, order=order, seed=seed)
    return some


def _selections(
    selected: Mapping[str, SelectedSplit], infos: Mapping[str, DatasetInfo]
) -> dict[str, dict[str, Ints]]:
    """Return positions of the named selections that have samples in the copy, by split."""
    names = dict.fromkeys(name for info in infos.values() for name in info.selections)
    found: dict[str, dict[str, Ints]] = {}
    for name in names:
        for target, some in selected.items():
            rows = some.among(name, infos)
            if len(rows):
                found.setdefault(name, {})[target] = rows
    return found


def _described(
    splits: Mapping[str, Split],
    selected: Mapping[str, SelectedSplit],
    infos: Mapping[str, DatasetInfo],
    selections: Mapping[str, tuple[str, ...]],
    name: str,
) -> DatasetInfo:
    """Describe samples that are not all of a known data set, by the stores that they are from."""
    parts = [
        f"{target} is {split.name} ({len(split):,} samples)" for target, split in splits.items()
    ]
    origins = " and ".join(dict.fromkeys(info.full_name for info in infos.values()))
    descriptions = dict.fromkeys(info.description for info in infos.values() if info.description)
    return DatasetInfo(
        name=name,
        config="",
        version="",
        description=" ".join([f"Selected from {origins}: {'; '.join(parts)}.", *descriptions]),
        homepage=" ".join(dict.fromkeys(i.homepage for i in infos.values() if i.homepage)),
        citation="\n".join(dict.fromkeys(i.citation for i in infos.values() if i.citation)),
        splits=tuple(selected),
        sources=tuple(dict.fromkeys(row for info in infos.values() for row in info.sources)),
        partial=any(info.partial for info in infos.values()),
        selections=dict(selections),
    )


def _same_data(
    selected: Mapping[str, SelectedSplit],
    infos: Mapping[str, DatasetInfo],
    selections: Mapping[str, tuple[str, ...]],
) -> DatasetInfo | None:
    """Describe whole splits of one store, or a published subset; None if it is neither."""
    if len(infos) > 1:
        return None
    (info,) = infos.values()
    targets = tuple(selected)
    is_partial = info.partial or set(targets) != set(info.splits)
    others = {target for target, some in selected.items() if some.whole(infos) != target}
    if not others:
        plain = replace(info, splits=targets, selections=dict(selections), parts={})
        known = part_of(info, targets, selections, subset="", n=0)
        return replace(known or plain, partial=is_partial)
    train = selected.get("train")
    if train is None or others != {"train"} or train.stored[0].name != "train":
        return None
    for name in SUBSETS:
        if "train" in info.selections.get(name, ()) and train.is_selection(name):
            known = part_of(info, targets, selections, subset=name, n=len(train))
            # A skipped image may be one of the subset.
            is_partial |= any(row.get("split") == "train" for row in info.skipped)
            return None if known is None else replace(known, partial=is_partial)
    return None


def _classes_of(
    root: StoreRoot, selected: Mapping[str, SelectedSplit], classes: str
) -> tuple[_Classes, Ints]:
    """Return the classes of the copy, and the new label of each label; the last is that of -1."""
    ids, words = root.class_names.ids, root.class_names.words
    labels = np.arange(len(ids), dtype=np.int64)
    if classes == CLASSES[1]:
        found = np.unique(np.concatenate([some.label for some in selected.values()]))
        labels = found[found >= 0]
    new_label = np.full(len(ids) + 1, UNLABELLED, dtype=np.int64)
    new_label[labels] = np.arange(len(labels))
    if len(labels) == len(ids):
        return _Classes(ids, words, root.hierarchy), new_label
    note = (
        f"labels are renumbered: {len(labels):,} of {len(ids):,} classes have samples, the others "
        "are left out"
    )
    return (
        _Classes(
            tuple(ids[k] for k in labels.tolist()),
            tuple(words[k] for k in labels.tolist()),
            None if root.hierarchy is None else root.hierarchy.restricted(labels, ids, words),
            (note,),
        ),
        new_label,
    )


def _skipped(
    some: SelectedSplit, infos: Mapping[str, DatasetInfo]
) -> tuple[tuple[tuple[str, str], ...], str]:
    """Return names and reasons of images that a whole split lacks, or a note on a part's."""
    rows = [
        (row.get("file_name", ""), row.get("reason", ""))
        for stored in some.stored
        for row in infos[stored.handle.address].skipped
        if row.get("split") == stored.name
    ]
    if some.whole(infos) or not rows:
        return tuple(rows), ""
    names = first_few([name for name, _ in rows])
    return (), f"{names} could not be read when the store was converted; they may be of this part"


def _reencoded(some: SelectedSplit, infos: Mapping[str, DatasetInfo]) -> tuple[str, ...]:
    """Return the names of the images whose bytes differ from those of the source."""
    addresses = dict.fromkeys(stored.handle.address for stored in some.stored)
    names = dict.fromkeys(name for address in addresses for name in infos[address].reencoded)
    found = {name for name in some.file_name if name in names} if names else set()
    return tuple(name for name in names if name in found)


def _left_out(
    selected: Mapping[str, SelectedSplit],
    trees: Mapping[str, Tree],
    columns: Mapping[str, Mapping[str, Any]],
) -> Iterator[str]:
    """Yield what the stores have that is not copied; with the address if there are several."""
    for address, tree in trees.items():
        stored: dict[str, StoredSplit] = {}
        copied: dict[str, set[str]] = {}
        for target, some in selected.items():
            for split in some.stored:
                if split.handle.address == address:
                    stored[split.name] = split
                    copied.setdefault(split.name, set()).update(columns[target])
        if stored:
            for path in left_out([*stored.values()], tree, copied):
                yield path if len(trees) == 1 else f"{address}/{path}"
