"""From a source to a store: plan, lay out, fill, seal.

::

    source ──▶ sample table ──plan──▶ layout ──fill──▶ payload ──seal──▶ STORE

Every byte's place is known before the first is written, so that blocks of the
payload can be filled in any order and at the same time. The attribute that makes a
store of it comes last, and then one rename gives it its name.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from arraystore._arguments import as_path, as_seed, check_bools, check_choice
from arraystore._threads import alongside
from arraystore.errors import FormatError, SourceError, StorageError, escaped
from arraystore.images.encode import as_encoding
from arraystore.indexing.layout import content_digest, image_starts, label_index
from arraystore.reading.store_handle import OpenOptions, open_place
from arraystore.reading.stored_split import StoredSplit
from arraystore.schema import (
    COLUMNS,
    HIERARCHY,
    HIERARCHY_COLUMNS,
    HIERARCHY_VERSION,
    MAX_NBYTES,
    ORDERS,
    ROOT_COLUMNS,
    SELECTIONS,
    USER_COLUMNS,
    Column,
    DatasetInfo,
    SplitInfo,
    check_version,
)
from arraystore.sources import records
from arraystore.sources.label_space import AUTO, IMAGENET, LABEL_SPACES, OWN, in_label_space
from arraystore.sources.registry import check_label_space, folder_of, load_source, names_of
from arraystore.sources.source_options import SourceOptions
from arraystore.storage.file_states import FileStates
from arraystore.writing.fingerprint import of_images, of_options, of_source
from arraystore.writing.image_source import FileRanges
from arraystore.writing.open_writer import name_of, open_draft
from arraystore.writing.plan import ON_ERROR, SplitPlan, plan_split
from arraystore.writing.progress import meter
from arraystore.writing.report import ConvertReport, SplitReport
from arraystore.writing.resuming import check_known
from arraystore.writing.workspace import StoreExistsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from numpy.typing import NDArray

    from arraystore.containers.protocol import ContainerWriter
    from arraystore.indexing.hierarchy import Hierarchy
    from arraystore.reading.store_handle import ObjectStore
    from arraystore.sources.sample_table import Source, Status
    from arraystore.writing.journal import Plan
    from arraystore.writing.progress import Meter
    from arraystore.writing.store_writer import Draft

_NAMES = ("name", "config", "version")


def convert(
    dataset: str,
    target: str | os.PathLike[str] | tuple[ObjectStore, str],
    *,
    storage_options: Mapping[str, Any] | None = None,
    manual_dir: str | os.PathLike[str] | None = None,
    subset_list: str | os.PathLike[str] | None = None,
    partial: bool = False,
    label_space: str = LABEL_SPACES[0],
    split: str | None = None,
    classes: Sequence[str] | int | str | os.PathLike[str] | None = None,
    fields: Mapping[str, str] | None = None,
    order: str = "shuffled",
    seed: int = 0,
    on_error: str = "raise",
    overwrite: bool = False,
    resume: bool = False,
    sync: bool = True,
    executor: Executor | None = None,
    progress: bool | None = None,
) -> ConvertReport:
    """Convert a data set to a store.

    The bytes of every image are copied as they are, but for those of ``imagenet2012``
    from version 3.0.0 on that are no RGB or gray JPEGs. A conversion that fails, is
    interrupted or killed leaves no store at `target`. On a disk it leaves what it has
    copied beside it, in ``.NAME.partial``, for another to resume; in a bucket the
    shards of a Zarr store that it has sent, and an object of that name.

    Parameters
    ----------
    dataset : str
        ``imagenet2012_subset/1pct``, ``imagenet2012_subset/10pct`` or
        ``imagenet2012``, with ``:version`` or without; ``folder:PATH`` for images in
        folders split/class/file or class/file; or files that match a pattern:
        ``wds:PATTERN``, ``tfrecord:PATTERN``, ``parquet:PATTERN``, ``array_record:PATTERN``,
        ``csv:FILE`` or ``tsv:FILE``. See docs/sources.md.
    target : path-like, or pair of an obstore store and a key
        The store to create: a path, or an address such as ``s3://bucket/1pct.zarr``.
        Its suffix chooses the container: ``.zarr``; ``.h5`` or ``.hdf5``.
    storage_options : mapping of str to anything, optional
        How to reach the bucket; see `arraystore.open`.
    manual_dir : path-like, optional
        Folder of the ImageNet archives; by default where TFDS looks for them.
    subset_list : path-like, optional
        The training images of the subset, one file name a line. By default the
        published list in `manual_dir`, else downloaded once.
    partial : bool, default False
        Convert what there is of an incomplete source, and of archives with other bytes
        than zeros behind their end; the report says what is left out, the store that
        something is.
    label_space : {"auto", "imagenet2012", "own"}
        The classes that labels index. By default the 1000 of ImageNet 2012, with their words
        and hierarchy, if all classes of the source are named by WordNet ids of these;
        ``"imagenet2012"`` also takes classes named 0 to 999 for its labels; ``"own"`` keeps
        the classes of the source.
    split : str, optional
        Puts the samples of all files of a pattern into one split.
    classes : sequence of str, int or path-like, optional
        Of the files of a pattern: names of the classes in the order of the labels, a number
        of classes without names, or a file with one name a line. By default those that the
        files state, or, if labels are names, these in sorted order.
    fields : mapping of str to str, optional
        Where the files of a pattern keep ``image``, ``label`` and ``file_name``: names of
        columns, features or extensions. An empty label states that samples have none, an
        empty file name that names are generated.
    order : {"shuffled", "label", "source"}
        Order of the samples in each split.
    seed : int, default 0
        Seed of the shuffled order, in ``range(2**63)``.
    on_error : {"raise", "skip"}
        What to do about images that cannot be read: stop, or leave them out and
        record it.
    overwrite : bool, default False
        Replace a store that is at `target`. On a disk readers find the old store or the new
        one at any time (on Linux; elsewhere a folder is absent for a moment); a symbolic link
        is replaced, what it points to is left alone, and the report says so. In a bucket a
        Zarr store is deleted when the first image is sent, an HDF5 file replaced when the last
        was. An unfinished store is deleted, unless `resume` is given as well.
    resume : bool, default False
        Go on with the unfinished store of an earlier conversion to `target`, if there
        is one, and begin if not. Sources, options and versions must be the same; then
        so are the bytes, as if nothing had happened. Permissions and names of source
        files may have changed, and files been restored from a copy: then what was copied
        is compared with the source. A complete store at `target` is reported
        (`ConvertReport.was_complete`) if it records this data set and these options; its
        source is not read. Not for HDF5 in a bucket that is not complete. If the earlier
        one still runs, it is refused on a disk; in a bucket it is taken over, and the
        earlier one stops.
    sync : bool, default True
        Wait until all is on the disk. Without, a loss of power soon after may
        leave a damaged store, and what is unfinished cannot be resumed.
    executor : concurrent.futures.Executor, optional
        Runs the copying; threads by default. Processes, or machines that see the
        same files, do as well. (A file in a bucket is sent by this process alone.)
    progress : bool, optional
        Show a bar; by default on a terminal.

    Returns
    -------
    ConvertReport

    Raises
    ------
    SourceError
        If the data set is unknown, or its source missing, incomplete or damaged.
    SourceChangedError
        If a file of the source changes while it is converted, or has changed since the
        store was begun that is to be resumed.
    FileExistsError
        If there is something at `target`, or an unfinished store.
    StorageError
        If the disk is full, another process is converting to `target` (in a bucket: or
        was killed while it did), or a bucket cannot be reached or written to.
    ValueError
        If an option is not one of those above, or not what it was when the store was
        made that is to be resumed. If `target` lies in the folder that is converted, or
        that folder in it.

    Examples
    --------
    >>> import arraystore
    >>> report = arraystore.convert(
    ...     "imagenet2012_subset/1pct", "again.h5", manual_dir="imagenet", partial=True
    ... )
    >>> report.splits["train"].num_samples
    160
    >>> arraystore.open("1pct.zarr").info.splits["train"].content_digest == (
    ...     report.splits["train"].content_digest
    ... )
    True
    """
    options = SourceOptions(
        split=split, classes=classes, fields=dict(fields or {}), partial=partial
    )
    options.check()
    check_choice(label_space, "label_space", LABEL_SPACES)
    check_label_space(os.fspath(dataset), label_space)

    def load(draft: Draft, status: Status) -> Source:
        return load_source(
            os.fspath(dataset),
            manual_dir=_path(manual_dir),
            subset_list=_path(subset_list),
            partial=partial,
            spool=draft.spool,
            options=options,
            status=status,
        )

    return _store(
        load,
        lambda: names_of(os.fspath(dataset)),
        target,
        folder=folder_of(os.fspath(dataset)),
        stated=options.stated(),
        label_space=label_space,
        storage_options=storage_options,
        partial=partial,
        order=order,
        seed=seed,
        on_error=on_error,
        overwrite=overwrite,
        resume=resume,
        sync=sync,
        executor=executor,
        progress=progress,
    )


def write(
    target: str | os.PathLike[str] | tuple[ObjectStore, str],
    splits: Mapping[str, Any],
    *,
    classes: Sequence[str] | int | str | os.PathLike[str] | None = None,
    fields: Mapping[str, str] | None = None,
    label_space: str = LABEL_SPACES[0],
    encoding: str = "png",
    quality: int = 95,
    storage_options: Mapping[str, Any] | None = None,
    order: str = "shuffled",
    seed: int = 0,
    on_error: str = "raise",
    overwrite: bool = False,
    resume: bool = False,
    sync: bool = True,
    executor: Executor | None = None,
    progress: bool | None = None,
) -> ConvertReport:
    """Write images that are Python objects to a store.

    Parameters
    ----------
    target : path-like, or pair of an obstore store and a key
        The store to create; see `convert`.
    splits : mapping of str to iterable
        The samples of each split: an iterable of mappings, which is read once, front to back;
        a pair (images, labels) of arrays of shape (n, height, width, 3) or (n, height, width),
        and (n,); or a ``Dataset`` of Hugging Face. A mapping has

        - ``image``: the encoded image as bytes, the path of its file, a uint8 array of shape
          (height, width, 3) or (height, width), or a picture of Pillow;
        - ``label``: a number, the name of a class, or None;
        - ``file_name`` (optional): unique in its split. Without, names are generated:
          ``000000.png``, ``000001.png``, …
    classes : sequence of str, int or path-like, optional
        Names of the classes in the order of the labels, a number of classes without names, or
        a file with one name a line. By default those of the data set of Hugging Face, or, if
        labels are names, these in sorted order.
    fields : mapping of str to str, optional
        Other names of the fields, such as ``{"image": "img", "label": "fine_label"}``. An empty
        label states that samples have none, an empty file name that names are generated.
    encoding : {"png", "jpeg"}
        How arrays and pictures are encoded. PNG keeps every pixel. Encoded bytes and files are
        stored as they are.
    quality : int, default 95
        Of JPEG, 1 to 100.
    label_space, storage_options, order, seed, on_error, overwrite, resume, sync, executor, progress
        See `convert`. To resume, pass the same samples in the same order.

    Returns
    -------
    ConvertReport

    Raises
    ------
    SourceError
        If a sample has no image or no label field, a label is not among the classes, labels
        are numbers and their classes are not known, or a file name occurs twice.
    TypeError
        If `splits` or a sample is not a mapping.
    FileExistsError, StorageError, ValueError
        See `convert`.

    Examples
    --------
    >>> import numpy as np
    >>> images = np.zeros((3, 32, 32, 3), np.uint8)
    >>> report = write("mine.zarr", {"train": (images, [0, 1, 0])}, classes=["cat", "dog"])
    >>> report.splits["train"].num_samples, report.notes[-1]
    (3, 'train: the file names of 3 samples were generated (000000.png, …)')
    """
    options = SourceOptions(classes=classes, fields=dict(fields or {}))
    options.check()
    check_choice(label_space, "label_space", LABEL_SPACES)
    encoded_as = as_encoding(encoding, quality)
    records.check_splits(splits)
    name = _stem_of(target)

    def load(draft: Draft, status: Status) -> Source:
        return records.load(name, splits, options, draft.spool, encoding=encoded_as, status=status)

    return _store(
        load,
        lambda: (name, "", ""),
        target,
        stated={**options.stated(), "encoding": str(encoded_as)},
        label_space=label_space,
        storage_options=storage_options,
        order=order,
        seed=seed,
        on_error=on_error,
        overwrite=overwrite,
        resume=resume,
        sync=sync,
        executor=executor,
        progress=progress,
    )


def _stem_of(target: str | os.PathLike[str] | tuple[ObjectStore, str]) -> str:
    """Return the name of a target without its suffix."""
    text = target[1] if isinstance(target, tuple) else os.fspath(target)
    return PurePosixPath(text).stem or "images"


def _store(
    load: Callable[[Draft, Status], Source],
    named: Callable[[], tuple[str, str, str]],
    target: str | os.PathLike[str] | tuple[ObjectStore, str],
    *,
    folder: Path | None = None,
    stated: Mapping[str, str],
    label_space: str,
    storage_options: Mapping[str, Any] | None,
    partial: bool = False,
    order: str,
    seed: int,
    on_error: str,
    overwrite: bool,
    resume: bool,
    sync: bool,
    executor: Executor | None,
    progress: bool | None,
) -> ConvertReport:
    """Store the samples of a source.

    Parameters
    ----------
    load : callable
        Lists the samples.
    named : callable
        Returns name, config and version of the data set.
    folder : Path, optional
        The folder that is converted, if it is one.
    stated : mapping of str to str
        What else the samples depend on, to be compared when a conversion is resumed.
    target, label_space, storage_options, partial, order, seed, on_error
        See `convert`.
    overwrite, resume, sync, executor, progress
        See `convert`.
    """
    check_choice(order, "order", ORDERS)
    check_choice(on_error, "on_error", ON_ERROR)
    check_bools(partial=partial, overwrite=overwrite, resume=resume, sync=sync)
    check_bools(progress=False if progress is None else progress)
    seed = as_seed(seed)
    began = time.perf_counter()
    made = open_draft(
        target,
        source=folder,
        storage_options=storage_options,
        overwrite=overwrite,
        sync=sync,
        resume=resume,
    )
    how: dict[str, Any] = {"order": order, "seed": seed, "on_error": on_error}
    asked = of_options({"partial": partial, "label_space": label_space, **how, **stated})
    with ExitStack() as stack:
        try:
            draft = stack.enter_context(made)
        except StoreExistsError as error:
            if not resume:
                raise
            return _report_complete(named(), target, storage_options, asked, error, began=began)
        shown = stack.enter_context(meter(progress))
        draft.expect(asked)
        stack.enter_context(alongside(draft.import_libraries))  # laying out waits for it
        source = in_label_space(load(draft, shown.status), label_space)
        found = of_source(source)
        draft.expect(found)
        n_spooled = 0 if source.spool is None else source.spool.stat().st_size
        with source.states.unchanged():  # from the first header to the last image
            plans = _plans(source, draft.spool, shown, **how)
            # What the plans need of the tables is in them.
            source = replace(source, splits={}, faults={}, parts={})
            _check_room(_info(source, plans))
            draft.lay_out(
                {name: int(plan.table.nbytes.sum()) for name, plan in plans.items()},
                {**asked, **found, **of_images(source, plans, draft.spool, start=n_spooled)},
            )
            checksums = {
                name: draft.fill(name, _images(source, draft.spool, plan), shown, executor=executor)
                for name, plan in plans.items()
            }
            shown.status("comparing the source with what it was")
        shown.status("sealing")
        seed = seed if order == "shuffled" else 0
        with draft.writer() as writer:
            splits = _seal(writer, source, plans, checksums, order=order, seed=seed)
        draft.publish(shown)
    return ConvertReport(
        dataset=_info(source, plans).full_name,
        path=name_of(target),
        splits=splits,
        partial=source.partial,
        notes=(*source.notes, *draft.notes),
        seconds=time.perf_counter() - began,
    )


def _report_complete(
    names: tuple[str, str, str],
    target: str | os.PathLike[str] | tuple[ObjectStore, str],
    storage_options: Mapping[str, Any] | None,
    asked: Plan,
    error: FileExistsError,
    *,
    began: float,
) -> ConvertReport:
    """Report a store that needs no resuming, if it is what this conversion would make.

    Compared is what the store records of its data set and options; the source is not read.

    Raises
    ------
    FileExistsError
        If what is at the target is no complete store.
    ValueError
        If it is the store of another data set, or of other options.
    """
    opening = open_place(target, OpenOptions(storage_options=storage_options))
    try:
        attributes = opening.container.attributes()
        check_version(attributes, location=opening.address)
        info = DatasetInfo.from_attributes(attributes, location=opening.address)
        splits = {name: StoredSplit(opening, name) for name in info.splits}
        infos = {name: split.info for name, split in splits.items()}
        reencoded = {
            name: _those_in(split, info.reencoded) if info.reencoded else ()
            for name, split in splits.items()
        }
    except (FormatError, StorageError) as fault:
        raise FileExistsError(escaped(f"{error} ({fault})")) from fault
    asked_of = {"data set": dict(zip(_NAMES, names, strict=True)), **asked}
    found_of = {"data set": dict(zip(_NAMES, (info.name, info.config, info.version), strict=True))}
    found_of["option"] = _options_found(info, infos, asked["option"])
    check_known(name_of(target), found_of, {part: asked_of[part] for part in found_of})
    return ConvertReport(
        dataset=info.full_name,
        path=name_of(target),
        splits={
            name: SplitReport(
                split.num_samples,
                split.num_bytes,
                split.content_digest,
                tuple(
                    (row.get("file_name", ""), row.get("reason", ""))
                    for row in info.skipped
                    if row.get("split") == name
                ),
                reencoded[name],
            )
            for name, split in infos.items()
        },
        partial=info.partial,
        notes=(),
        seconds=time.perf_counter() - began,
        was_complete=True,
    )


def _those_in(split: StoredSplit, names: tuple[str, ...]) -> tuple[str, ...]:
    stored = set(split.column("file_name").tolist())
    return tuple(name for name in names if name in stored)


def _options_found(
    info: DatasetInfo, splits: Mapping[str, SplitInfo], asked: Mapping[str, str]
) -> dict[str, str]:
    """Return the options that a store was made with; those asked for where it does not show."""
    found = dict(asked)
    for split in splits.values():
        found["order"] = split.order
        if split.order == asked["order"] == "shuffled":
            found["seed"] = str(split.seed)
    if info.label_hierarchy and asked["label_space"] == OWN:
        found["label_space"] = AUTO
    if not info.label_hierarchy and asked["label_space"] == IMAGENET:
        found["label_space"] = OWN
    if info.partial:
        found["partial"] = str(True)
    if info.skipped:
        found["on_error"] = "skip"
    return found


def _plans(source: Source, spool: Path, meter: Meter, **how: Any) -> dict[str, SplitPlan]:
    with spool.open("ab") as file:  # behind what the source has written
        return {name: plan_split(source, name, file, meter=meter, **how) for name in source.splits}


def _images(source: Source, spool: Path, plan: SplitPlan) -> FileRanges:
    """Return where the images of a split lie: in the source's files, or in the spool."""
    sources = source.states.take(np.arange(len(source.files)))
    states = sources.joined(FileStates.of([str(spool)]))
    return FileRanges(states.paths, plan.table.file, plan.table.offset, plan.table.nbytes, states)


def _seal(
    writer: ContainerWriter,
    source: Source,
    plans: dict[str, SplitPlan],
    checksums: dict[str, NDArray[np.uint32]],
    *,
    order: str,
    seed: int,
) -> dict[str, SplitReport]:
    """Write columns and attributes, the version last."""
    for name, texts in (("label_name", source.label_name), ("label_words", source.label_words)):
        writer.write_column(name, texts, ROOT_COLUMNS[name])
    reports = {}
    for split, plan in plans.items():
        table, crc = plan.table, checksums[split]
        digest = content_digest(table.file_name, table.label, table.nbytes, crc)
        values: dict[str, Any] = {
            "image_start": image_starts(table.nbytes),
            "image_nbytes": table.nbytes,
            "image_height": plan.height,
            "image_width": plan.width,
            "image_crc32c": crc,
            "label": table.label,
            "file_name": table.file_name,
        }
        for name, column in COLUMNS.items():
            if name not in values:  # the last: made when they are wanted, for the memory
                order_and_bounds = label_index(table.label, len(source.label_name))
                values |= zip(("label_order", "label_indptr"), order_and_bounds, strict=True)
            writer.write_column(f"{split}/{name}", values.pop(name), column)
        if table.extra:
            writer.create_group(f"{split}/{USER_COLUMNS}")
        for name, values_of in table.extra.items():
            column = Column("int64", "sample")
            writer.write_column(f"{split}/{USER_COLUMNS}/{name}", values_of, column)
        # CF conventions, contiguous ragged array: this is the count variable of `byte`.
        writer.set_attributes(f"{split}/image_nbytes", {"sample_dimension": "byte"})
        total = int(table.nbytes.sum())
        writer.set_attributes(split, SplitInfo(len(table), total, order, seed, digest).attributes())
        reports[split] = SplitReport(len(table), total, digest, plan.skipped, plan.reencoded)
    _write_selections(writer, source, plans)
    if source.hierarchy is not None:
        _write_hierarchy(writer, source.hierarchy)
    writer.set_attributes("", _info(source, plans).attributes())
    return reports


def _write_selections(writer: ContainerWriter, source: Source, plans: dict[str, SplitPlan]) -> None:
    """Write which samples are in each named selection of the source."""
    if source.selections:
        writer.create_group(SELECTIONS)
    for name, splits in source.selections.items():
        writer.create_group(f"{SELECTIONS}/{name}")
        for split in splits:
            positions = plans[split].selections[name]
            column = Column("int64", f"selected_{split}")
            writer.write_column(f"{SELECTIONS}/{name}/{split}", positions, column)


def _write_hierarchy(writer: ContainerWriter, hierarchy: Hierarchy) -> None:
    """Write what the classes are kinds of."""
    writer.create_group(HIERARCHY)
    for name, column in HIERARCHY_COLUMNS.items():
        values: Any = getattr(hierarchy, "names" if name == "name" else name)
        writer.write_column(f"{HIERARCHY}/{name}", values, column)
    if hierarchy.notice:
        writer.set_attributes(HIERARCHY, {"notice": hierarchy.notice})


def _info(source: Source, plans: dict[str, SplitPlan]) -> DatasetInfo:
    skipped = (
        {"split": split, "file_name": name, "reason": reason}
        for split, plan in plans.items()
        for name, reason in plan.skipped
    )
    return DatasetInfo(
        name=source.name,
        config=source.config,
        version=source.version,
        description=source.description,
        homepage=source.homepage,
        citation=source.citation,
        splits=tuple(plans),
        sources=source.origins,
        partial=source.partial,
        skipped=tuple(skipped),
        reencoded=tuple(name for plan in plans.values() for name in plan.reencoded),
        selections={name: tuple(splits) for name, splits in source.selections.items()},
        label_hierarchy=HIERARCHY_VERSION if source.hierarchy is not None else "",
    )


def _check_room(info: DatasetInfo) -> None:
    """Refuse a list of images left out that a reader would refuse, before anything is written."""
    nbytes = sum(len(str(value).encode()) for value in info.attributes().values())
    if nbytes > MAX_NBYTES // 2:  # JSON inside of JSON takes more
        raise SourceError(
            f"{info.full_name}: {len(info.skipped):,} images cannot be read, and "
            f"{len(info.reencoded):,} must be encoded anew: too many to be listed in a store"
        )


def _path(value: str | os.PathLike[str] | None) -> Path | None:
    return None if value is None else as_path(value)
