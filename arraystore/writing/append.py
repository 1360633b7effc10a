"""Append samples to a split of a store: a new part beside the parts that it has.

The parts that exist are not changed. A new one is written as a conversion writes a split, and then
the root of the store is replaced by one that lists it, in one step.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore._arguments import ON_ERROR, as_seed, check_bools, check_choice
from arraystore.containers import check_changeable
from arraystore.errors import SourceError, brief, escaped
from arraystore.images.encode import as_encoding
from arraystore.indexing.layout import content_digest
from arraystore.reader import open_store
from arraystore.schema import (
    MAX_PARTS,
    ORDERS,
    REPLACED,
    UNCHECKED,
    Column,
    SplitParts,
)
from arraystore.sources import records
from arraystore.sources.label_space import IMAGENET, labels_among
from arraystore.sources.registry import check_source_options, folder_of, load_source
from arraystore.sources.sample_table import first_few
from arraystore.sources.source_options import SourceOptions, as_columns
from arraystore.storage.buckets import Buckets
from arraystore.storage.location import Location
from arraystore.writing.fill_plans import fill_plans
from arraystore.writing.fingerprint import of_options, of_source
from arraystore.writing.new_column import as_new_column
from arraystore.writing.open_writer import open_part_writer
from arraystore.writing.plan import plan_split
from arraystore.writing.progress import meter
from arraystore.writing.publish_part import PartRecord, state_of
from arraystore.writing.references import as_checksums, notes_on, references_of
from arraystore.writing.report import SplitReport
from arraystore.writing.seal import check_listed, seal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from arraystore._typing import Checksums, Ints
    from arraystore.dataset.split import Split
    from arraystore.reader import Store
    from arraystore.reading.stored_split import StoredSplit
    from arraystore.reading.user_column import UserColumn
    from arraystore.schema import DatasetInfo
    from arraystore.sources.sample_table import Source, Status
    from arraystore.storage.location import ObjectStore
    from arraystore.writing.plan import SplitPlan
    from arraystore.writing.progress import Meter
    from arraystore.writing.references import SplitReferences
    from arraystore.writing.store_writer import PartWriter

ON_EXISTING: Final = ("error", "skip", "replace")
"""What to do with samples whose file names the split has; the first is the default."""

_EMPTY: Final = np.empty(0, np.int64)
_NOTHING: Final = SplitReport(
    0, 0, content_digest([], _EMPTY, _EMPTY, np.empty(0, np.uint32)), (), ()
)


@dataclass(frozen=True, slots=True)
class AppendReport:
    """Result of appending samples.

    Attributes
    ----------
    dataset : str
        Name, config and version of the data set.
    path : str
        The store.
    split, part : str
        The split, and the group with the new samples; empty if there are none.
    added : SplitReport
        The new samples.
    num_replaced : int
        Samples of the split that new ones replace.
    num_existing : int
        Samples of the source that were left out, because the split has their file names.
    num_samples : int
        Samples of the split now.
    content_digest : str
        Of all samples of the split.
    notes : tuple of str
        What was assumed, and what was left out.
    seconds : float
        Wall time.
    was_complete : bool
        Whether `resume` found that these samples were appended before, so nothing was written.
    """

    dataset: str
    path: str
    split: str
    part: str
    added: SplitReport
    num_replaced: int
    num_existing: int
    num_samples: int
    content_digest: str
    notes: tuple[str, ...]
    seconds: float
    was_complete: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        return asdict(self)


def append(
    store: str | os.PathLike[str] | tuple[ObjectStore, str],
    source: Any,
    split: str,
    *,
    on_existing: str = ON_EXISTING[0],
    storage_options: Mapping[str, Any] | None = None,
    source_options: Mapping[str, Any] | None = None,
    manual_dir: str | os.PathLike[str] | None = None,
    subset_list: str | os.PathLike[str] | None = None,
    partial: bool = False,
    classes: Sequence[str] | int | str | os.PathLike[str] | None = None,
    fields: Mapping[str, str] | None = None,
    columns: Sequence[str] | Mapping[str, str] = (),
    layout: str | None = None,
    encoding: str = "png",
    quality: int = 95,
    order: str = ORDERS[0],
    seed: int = 0,
    on_error: str = ON_ERROR[0],
    check_images: bool = False,
    copy_images: bool = True,
    checksums: bool | None = None,
    overwrite: bool = False,
    resume: bool = False,
    sync: bool = True,
    executor: Executor | None = None,
    progress: bool | None = None,
) -> AppendReport:
    """Append samples to a split of a store.

    What the store has is not rewritten: the new samples become a new part of the split, behind the
    others. A store that is open keeps what it had; one that is opened afterwards has all samples.
    An append that fails, is interrupted or is killed leaves the store as it was, and can be
    resumed. `arraystore.copy` joins the parts of all splits into one each.

    Parameters
    ----------
    store : path-like, or pair of obstore store and key
        A store on a disk, or a Zarr store in a bucket.
    source : str, path-like, or iterable
        What `arraystore.convert` takes, such as ``"folder:more"``, or the samples of a split that
        `arraystore.write` takes. Of a source with several splits, the one named `split`.
    split : str
        The split of the store.
    on_existing : {"error", "skip", "replace"}
        What happens to samples whose file names the split has: an error; they are left out; or
        they take the place of those in the store, which stay on the disk until the store is copied.
    classes : sequence of str, int or path-like, optional
        Classes of the source, see `arraystore.convert`; needed if its labels are numbers. Labels
        of the store follow from their names.
    storage_options, source_options, manual_dir, subset_list, partial
        See `arraystore.convert`.
    fields, columns, layout
        See `arraystore.convert`. The split has those of its further columns that all parts have.
    encoding, quality
        See `arraystore.write`.
    order, seed
        Order of the new samples among themselves; see `arraystore.convert`.
    on_error, check_images, copy_images, checksums
        See `arraystore.convert`. The images of the split may be in other files as well.
    overwrite : bool, default False
        Delete an unfinished append or conversion beside the store and start again, unless `resume`
        is true. The store itself is never deleted. In a bucket, `overwrite` and `resume` take over
        from a process that still runs.
    resume : bool, default False
        Continue an unfinished append of the same source with the same options, or start one. If
        its samples are the last part of the split already, that is reported.
    sync, executor, progress
        See `arraystore.convert`.

    Returns
    -------
    AppendReport

    Raises
    ------
    KeyError
        If the store has no such split.
    SourceError
        If classes of the samples are not among those of the store, or file names exist already and
        `on_existing` is ``"error"``; if the source is missing, incomplete or damaged.
    SourceChangedError
        If a file of the source changes meanwhile, or has changed since the append that is resumed
        began.
    FileExistsError
        If an unfinished append or conversion exists beside the store.
    StorageError
        If the disk is full, or another process is writing to the store; if another program changes
        its samples meanwhile.
    ValueError
        If an option is not one of those above, or differs from that of the append that is resumed;
        if the store is an HDF5 file in a bucket.

    Examples
    --------
    >>> import numpy as np
    >>> images = np.zeros((2, 32, 32, 3), np.uint8)
    >>> names = ["new/0.png", "new/1.png"]
    >>> import arraystore
    >>> report = arraystore.copy("1pct.zarr", "more.zarr")
    >>> samples = [
    ...     {"image": image, "label": "n01443537", "file_name": name}
    ...     for image, name in zip(images, names)
    ... ]
    >>> report = arraystore.append("more.zarr", samples, split="train")
    >>> report.part, report.num_samples, arraystore.open("more.zarr")["train"][-1].label
    ('train.1', 162, 1)
    """
    check_choice(on_existing, "on_existing", ON_EXISTING)
    check_choice(order, "order", ORDERS)
    check_choice(on_error, "on_error", ON_ERROR)
    check_bools(partial=partial, overwrite=overwrite, resume=resume, sync=sync)
    check_bools(check_images=check_images, progress=False if progress is None else progress)
    checksums = as_checksums(checksums, copy_images=copy_images)
    how: dict[str, Any] = {
        "order": order,
        "seed": as_seed(seed),
        "on_error": on_error,
        "check_images": check_images,
    }
    began = time.perf_counter()
    location = Location.parse(store, storage_options)
    buckets = Buckets(source_options)
    is_named = isinstance(source, str | os.PathLike)
    dataset = os.fspath(source) if is_named else ""
    check_source_options(buckets, dataset if is_named else "records", manual_dir, subset_list)
    options = SourceOptions(
        classes=classes,
        fields=dict(fields or {}),
        columns=as_columns(columns),
        partial=partial,
        buckets=buckets,
        layout=layout,
        label_space=IMAGENET,  # no note that numbers are not labels: classes have names here
        skips_unreadable=on_error == "skip",
        executor=executor,
    )
    options.check()
    encoded_as = as_encoding(encoding, quality)
    if not is_named:
        records.check_splits({split: source})

    def load(writer: PartWriter, status: Status) -> Source:
        if is_named:
            return load_source(
                dataset,
                manual_dir=manual_dir,
                subset_list=subset_list,
                partial=partial,
                spool=writer.spool,
                options=options,
                status=status,
            )
        samples = {split: source}
        spool = writer.spool
        return records.load("samples", samples, options, spool, encoding=encoded_as, status=status)

    existing = open_store(location)
    _check_split(existing, split)
    if not location.is_local:
        check_changeable(existing.opened[1], str(location))
    part_writer = open_part_writer(
        location,
        source=folder_of(dataset, buckets) if is_named else None,
        overwrite=overwrite,
        sync=sync,
        resume=resume,
    )
    left = {} if copy_images else {"copy_images": copy_images, "checksums": checksums}
    stated: dict[str, Mapping[str, str]] = {
        **of_options(
            {
                "append to": split,
                "on_existing": on_existing,
                "partial": partial,
                "encoding": encoded_as,
                **how,
                **left,
                **options.stated(),
            }
        )
    }
    with ExitStack() as stack:
        writer = stack.enter_context(part_writer)
        shown = stack.enter_context(meter(progress))
        target = open_store(location)  # from here on, no other process changes it
        _check_split(target, split)
        parts = target._root.dataset.parts.values()
        writer.drop_left_over({*target, *(group for some in parts for group in some.groups)})
        state = state_of(target.opened[1])
        stated["store"] = {"state": state}
        writer.check_unchanged(stated)
        found = load(writer, shown.status)
        appending = _Appending(target, split, found, dataset or "samples")
        if resume and appending.is_last_part():
            report = appending.unchanged(was_complete=True)
        else:
            appending.leave_out_existing(on_existing)
            appending.choose_part(writer)
            writer.check_unchanged(of_source(appending.source))
            report = _write(
                appending,
                writer,
                stated,
                how,
                shown,
                copy_images=copy_images,
                checksums=checksums,
                executor=executor,
            )
    return replace(report, path=str(location), seconds=time.perf_counter() - began)


def _check_split(store: Store, split: str) -> None:
    if split not in store:
        raise KeyError(
            escaped(f"{store.address}: has no split {brief(split)}, it has {', '.join(store)}")
        )


class _Appending:
    """The samples of a source on their way to a split of a store.

    Parameters
    ----------
    store : Store
    split : str
    source : Source
    where : str
        Name of the source, for messages.

    Attributes
    ----------
    source : Source
        Its one split has the name of the new part, once `choose_part` was called.
    part : str
        Name of the new part.
    notes : list of str
    num_existing : int
        Samples left out because their file names exist.
    """

    def __init__(self, store: Store, split: str, source: Source, where: str) -> None:
        self.store, self.split, self.where = store, split, where
        self.old: Split = store[split]
        self.part = ""
        self.num_existing = 0
        name = _split_of(source, split, where)
        self.notes = list(source.notes)
        if others := [other for other in source.splits if other != name]:
            self.notes.append(f"other splits of the source are left out: {first_few(others)}")
        if name != split:
            self.notes.append(f"samples are those of the source's split {name}")
        table = source.splits[name]
        label = labels_among(table.label, source.label_name, store.label_names, where)
        self.source = replace(
            source,
            label_name=store.label_names,
            label_words=store.label_words,
            splits={split: replace(table, label=label)},
            faults={split: source.faults.get(name, {})},
            parts={split: source.parts.get(name, ())},
            selections={},
            hierarchy=None,
        )

    @property
    def location(self) -> Location:
        """Where the store is."""
        return self.store._handle.location

    @property
    def info(self) -> DatasetInfo:
        """Description of the store."""
        return self.store._root.dataset

    @property
    def parts(self) -> SplitParts:
        """The parts that the split has."""
        known = self.info.parts.get(self.split)
        if known is not None:
            return known
        info = self.store.stored(self.split).info
        return SplitParts((self.split,), info.num_samples, info.num_bytes, info.content_digest)

    def is_last_part(self) -> bool:
        """Whether the last part of the split has just these samples."""
        if len(self.parts.groups) == 1:
            return False
        last = self.store.stored(self.parts.groups[-1]).columns
        stored = dict(zip(last["file_name"].tolist(), last["label"].tolist(), strict=True))
        table = self.source.splits[self.split]
        skipped = {r.get("file_name") for r in self.info.skipped if r.get("split") == self.split}
        mine = dict(zip(table.file_name, table.label.tolist(), strict=True))
        return stored == {name: k for name, k in mine.items() if name not in skipped - {*stored}}

    def leave_out_existing(self, on_existing: str) -> None:
        """Leave out samples whose file names the split has, or raise `SourceError`."""
        table = self.source.splits[self.split]
        mine = set(table.file_name)
        existing = {name for name in self.old.file_name.tolist() if name in mine}
        if not existing or on_existing == ON_EXISTING[2]:
            return
        if on_existing == ON_EXISTING[0]:
            names = [name for name in table.file_name if name in existing]
            raise SourceError(
                f"{self.where}: {first_few(names)} exist already in {self.split}; pass "
                "on_existing='skip' (--on-existing skip) to leave them out, or 'replace'"
            )
        keep = [i for i, name in enumerate(table.file_name) if name not in existing]
        self.num_existing = len(table) - len(keep)
        self.source = _rows_of(self.source, self.split, np.array(keep, dtype=np.int64))

    def choose_part(self, writer: PartWriter) -> None:
        """Choose the name of the new part, and give it to the split of the source."""
        groups = self.parts.groups
        if len(groups) >= MAX_PARTS:
            raise ValueError(
                escaped(
                    f"{self.store.address}: {self.split} has {len(groups):,} parts, and no more "
                    "are read; copy the store, which joins them, and append to the copy"
                )
            )
        number = len(groups)
        while not writer.is_free(f"{self.split}.{number}"):
            number += 1
        self.part = f"{self.split}.{number}"
        source = self.source
        self.source = replace(
            source,
            splits={self.part: source.splits[self.split]},
            faults={self.part: source.faults[self.split]},
            parts={self.part: source.parts[self.split]},
        )

    def with_columns(self, plan: SplitPlan) -> SplitPlan:
        """Return a plan with further columns that can be joined with those of the split.

        Raises
        ------
        SourceError
            If values have another shape, or are text instead of numbers.
        """
        extra = dict(plan.table.extra)
        for group in self.parts.groups:
            columns = self.store.stored(group).user_columns
            for name in [name for name in extra if name in columns]:
                if columns[name].is_ragged:
                    extra[name] = _as_ragged(extra[name], columns[name])
                _check_kind(extra[name], columns[name], self.where)
        return replace(plan, table=replace(plan.table, extra=extra))

    def replaced(self, plan: SplitPlan) -> Ints:
        """Return the positions in the split of the samples that new ones replace."""
        new = set(plan.table.file_name)
        found = [i for i, name in enumerate(self.old.file_name.tolist()) if name in new]
        return np.array(found, dtype=np.int64)

    def unchanged(self, *, was_complete: bool = False) -> AppendReport:
        """Return the report if nothing is written."""
        parts = self.parts
        return AppendReport(
            dataset=self.store.dataset,
            path="",
            split=self.split,
            part=parts.groups[-1] if was_complete else "",
            added=_NOTHING,
            num_replaced=0,
            num_existing=self.num_existing,
            num_samples=parts.num_samples,
            content_digest=parts.content_digest,
            notes=tuple(self.notes),
            seconds=0,
            was_complete=was_complete,
        )

    def all_parts(self, plan: SplitPlan, checksums: Checksums, replaced: Ints) -> SplitParts:
        """Return the parts of the split with the new one."""
        keep = np.ones(len(self.old), dtype=np.bool_)
        keep[replaced] = False
        table, old = plan.table, self.old
        nbytes = np.concatenate([old.image_nbytes[keep], table.nbytes])
        crc, is_known = old._stored_checksums(), old.has_checksums and len(checksums) == len(table)
        if len(checksums) < len(table):
            checksums = np.zeros(len(table), np.uint32)
        digest = content_digest(
            [*old.file_name[keep].tolist(), *table.file_name],
            np.concatenate([old.label[keep], table.label]),
            nbytes,
            np.concatenate([crc[keep], checksums]),
        )
        known = self.parts
        by_group = {stored.name: positions for stored, positions in self.located(replaced)}
        return SplitParts(
            (*known.groups, self.part),
            len(nbytes),
            int(nbytes.sum()),
            digest if is_known else UNCHECKED + digest,
            known.replaced | ({self.part: tuple(by_group)} if by_group else {}),
        )

    def located(self, positions: Ints) -> list[tuple[StoredSplit, Ints]]:
        """Return the parts that have samples of the split, and the positions in each."""
        found = self.old._sample_set.locate(positions)
        return [(stored, np.sort(at)) for stored, at, _ in found if len(at)]

    def new_info(
        self, plan: SplitPlan, parts: SplitParts, references: Mapping[str, SplitReferences]
    ) -> DatasetInfo:
        """Return the description of the store with the new samples."""
        info = self.info
        skipped = [
            {"split": self.split, "file_name": name, "reason": reason}
            for name, reason in plan.skipped
        ]
        new = replace(
            info,
            parts=info.parts | {self.split: parts},
            sources=tuple(dict.fromkeys((*info.sources, *self.source.origins))),
            partial=info.partial or self.source.partial,
            skipped=(*info.skipped, *skipped),
            reencoded=tuple(dict.fromkeys((*info.reencoded, *plan.reencoded))),
            references=(*info.references, *references),
        )
        check_listed(new)
        return new

    def lacking(self, plan: SplitPlan) -> list[str]:
        """Say which further columns and selections not all samples have."""
        old, new = self.store.stored(self.split).user_columns, plan.table.extra
        notes = []
        if lacking := [name for name in old if name not in new]:
            notes.append(f"new samples have no values of the split's columns: {first_few(lacking)}")
        if unknown := [name for name in new if name not in old]:
            notes.append(f"only new samples have values of columns: {first_few(unknown)}")
        selections = [n for n, splits in self.info.selections.items() if self.split in splits]
        if selections:
            notes.append(f"stored selections have no new samples: {first_few(selections)}")
        return notes


def _write(
    appending: _Appending,
    writer: PartWriter,
    stated: dict[str, Mapping[str, str]],
    how: Mapping[str, Any],
    shown: Meter,
    *,
    copy_images: bool,
    checksums: bool,
    executor: Executor | None,
) -> AppendReport:
    """Write the new part and publish it."""
    source, part = appending.source, appending.part
    n_spooled = 0 if source.spool is None else source.spool.stat().st_size
    found = of_source(source)
    with source.states.unchanged():  # from the first header to the last image
        with writer.spool.open("ab") as file:
            plan = plan_split(source, part, file, meter=shown, executor=executor, **how)
        appending.notes += plan.notes
        if not len(plan.table):
            return appending.unchanged()
        plan = appending.with_columns(plan)
        plans = {part: plan}
        replaced = appending.replaced(plan)
        location = appending.location
        references = {} if copy_images else references_of(source, plans, location)
        filled = fill_plans(
            writer,
            source,
            plans,
            references,
            {**stated, **found},
            shown,
            n_spooled=n_spooled,
            checksums=checksums,
            executor=executor,
        )
    shown.status("sealing")
    parts = appending.all_parts(plan, filled[part], replaced)
    info = appending.new_info(plan, parts, references)
    appending.notes += [*appending.lacking(plan), *notes_on(references, location)]
    with writer.sealing() as container:
        reports = seal(container, replace(source, splits={}), plans, filled, references)
        if len(replaced):
            container.create_group(f"{part}/{REPLACED}")
        for stored, positions in appending.located(replaced):
            column = Column("int64", f"{REPLACED}_{stored.name}")
            container.write_column(f"{part}/{REPLACED}/{stored.name}", positions, column)
    writer.new_part = PartRecord(part, stated["store"]["state"], info.attributes())
    writer.publish(shown)
    return AppendReport(
        dataset=info.full_name,
        path="",
        split=appending.split,
        part=part,
        added=reports[part],
        num_replaced=len(replaced),
        num_existing=appending.num_existing,
        num_samples=parts.num_samples,
        content_digest=parts.content_digest,
        notes=(*appending.notes, *writer.notes),
        seconds=0,
    )


def _as_ragged(values: Any, column: UserColumn) -> list[NDArray[Any]]:
    """Return an array for each sample; they may all have the same length, or none any values."""
    if all(np.ndim(value) for value in values) and not any(np.size(value) for value in values):
        shape = 0, *column.array.shape[1:]
        return [np.empty(shape, column.dtype) for _ in values]
    return list(values)


def _check_kind(values: Any, column: UserColumn, where: str) -> None:
    new = as_new_column(values, column.name, len(values), ragged=isinstance(values, list))
    if column.kind not in (None, new.kind):
        raise SourceError(
            f"{where}: the column {column.name} is {new.summary}, but in {column.location} a value "
            f"is {column.array.data_type} {column.row_shape}; give values of the same shape, or "
            "leave the column out"
        )


def _split_of(source: Source, split: str, where: str) -> str:
    """Return the split of a source that is appended: its only one, or that of the same name."""
    names = list(source.splits)
    if split in names or len(names) == 1:
        return split if split in names else names[0]
    raise SourceError(
        f"{where}: has the splits {', '.join(names) or 'none'}, and none is {brief(split)}; give "
        "the folder or files of one"
    )


def _rows_of(source: Source, split: str, keep: NDArray[np.int64]) -> Source:
    """Return a source with some of the samples of its one split, in their order."""
    place_of = {int(row): place for place, row in enumerate(keep)}
    faults = source.faults[split]
    starts = [(int(np.searchsorted(keep, first)), name) for first, name in source.parts[split]]
    return replace(
        source,
        splits={split: source.splits[split].take(keep)},
        faults={split: {place_of[row]: why for row, why in faults.items() if row in place_of}},
        parts={split: starts},
    )
