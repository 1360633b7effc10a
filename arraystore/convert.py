"""Convert a source to a store: plan, create arrays, fill, seal.

::

    source ──▶ sample table ──plan──▶ layout ──fill──▶ payload ──seal──▶ STORE

The place of every byte is known before the first one is written, so the blocks of a payload can be
filled in any order and in parallel. The attribute that identifies a store is written last; then the
store gets its name.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from arraystore._arguments import ON_ERROR, as_seed, check_bools, check_choice
from arraystore.errors import FormatError, StorageError, escaped
from arraystore.images.encode import as_encoding
from arraystore.reading.store_handle import StoreHandle
from arraystore.reading.stored_split import StoredSplit
from arraystore.schema import ORDERS, DatasetInfo, SplitInfo, check_version
from arraystore.sources import records
from arraystore.sources.imagenet2012_tables import wnids
from arraystore.sources.label_space import AUTO, IMAGENET, LABEL_SPACES, OWN, in_label_space
from arraystore.sources.registry import (
    check_label_space,
    check_source_options,
    folder_of,
    load_source,
    names_of,
)
from arraystore.sources.source_options import SourceOptions, as_columns
from arraystore.storage.buckets import Buckets
from arraystore.storage.location import Location
from arraystore.writing.fill_plans import fill_plans
from arraystore.writing.fingerprint import of_options, of_source
from arraystore.writing.open_writer import open_writer
from arraystore.writing.plan import plan_splits
from arraystore.writing.progress import meter
from arraystore.writing.references import as_checksums, notes_on, references_of
from arraystore.writing.report import ConvertReport, SplitReport
from arraystore.writing.resuming import check_known
from arraystore.writing.seal import dataset_info, seal
from arraystore.writing.workspace import StoreExistsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Executor

    from arraystore.sources.sample_table import Source, Status
    from arraystore.storage.buckets import SourcePath
    from arraystore.storage.location import ObjectStore
    from arraystore.writing.journal import Fingerprint
    from arraystore.writing.store_writer import StoreWriter

_NAMES = ("name", "config", "version")
_NOT_RECORDED = (
    "the store was complete; it does not record whether its images were decoded: "
    "arraystore verify --decode decodes them"
)


def convert(
    dataset: str,
    target: str | os.PathLike[str] | tuple[ObjectStore, str],
    *,
    storage_options: Mapping[str, Any] | None = None,
    source_options: Mapping[str, Any] | None = None,
    manual_dir: str | os.PathLike[str] | None = None,
    subset_list: str | os.PathLike[str] | None = None,
    partial: bool = False,
    split: str | None = None,
    classes: Sequence[str] | int | str | os.PathLike[str] | None = None,
    fields: Mapping[str, str] | None = None,
    columns: Sequence[str] | Mapping[str, str] = (),
    layout: str | None = None,
    label_space: str = LABEL_SPACES[0],
    order: str = "shuffled",
    seed: int = 0,
    on_error: str = "raise",
    check_images: bool = False,
    copy_images: bool = True,
    checksums: bool | None = None,
    overwrite: bool = False,
    resume: bool = False,
    sync: bool = True,
    executor: Executor | None = None,
    progress: bool | None = None,
) -> ConvertReport:
    """Convert a data set to a store.

    Images keep their encoded bytes. The exceptions are images of ``imagenet2012`` from version
    3.0.0 on that are neither RGB nor gray JPEGs. A conversion that fails, is interrupted or is
    killed leaves no store at `target`. What it has copied is kept, to be resumed: on a disk in
    ``.NAME.partial`` beside the target; in a bucket as an object of that name and the shards of a
    Zarr store.

    Parameters
    ----------
    dataset : str
        ``imagenet2012_subset/1pct``, ``imagenet2012_subset/10pct`` or ``imagenet2012``, each
        with or without ``:version``; ``folder:PATH`` for images in folders; or files that match
        a pattern: ``wds:PATTERN``, ``tfrecord:PATTERN``, ``parquet:PATTERN``,
        ``array_record:PATTERN``, ``csv:FILE`` or ``tsv:FILE``. Paths and patterns may be
        addresses in buckets, such as ``folder:s3://bucket/photos``. See docs/sources.md.
    target : path-like, or pair of an obstore store and a key
        The store to create: a path, or an address such as ``s3://bucket/1pct.zarr``.
        Its suffix chooses the container: ``.zarr``; ``.h5`` or ``.hdf5``.
    storage_options : mapping of str to anything, optional
        Options of the bucket of `target`; see `arraystore.open`.
    source_options : mapping of str to anything, optional
        Options of the buckets that are read, if there are any.
    manual_dir : path-like, optional
        Folder of the ImageNet archives, or its address in a bucket; TFDS's folder for manual
        downloads by default.
    subset_list : path-like, optional
        The training images of the subset, one file name a line; a path or an address. By default
        the published list in `manual_dir`, else downloaded once.
    partial : bool, default False
        Accept an incomplete source, and archives with bytes other than zeros after their end. The
        report lists what is missing, and the store records that something is.
    split : str, optional
        Puts the samples of all files of a pattern, or of a folder without splits, into one split.
    classes : sequence of str, int or path-like, optional
        Of a folder or files of a pattern: names of the classes in the order of the labels, a
        number of classes that are numbers, or a file with one name a line, or with columns
        ``name`` and ``parent``. By default those that the files state, or, if labels are names
        or folders, these in sorted order.
    columns : sequence of str, or mapping of str to str, optional
        Further columns of ``parquet:``, ``wds:``, ``csv:`` and ``tsv:`` that are kept, see
        `Split.columns`: places of values (a column, an extension, ``json.KEY``), or names with
        places.
    fields : mapping of str to str, optional
        Where the files of a pattern keep ``image``, ``label`` and ``file_name``: names of
        columns, features or extensions. An empty label states that samples have none, an
        empty file name that names are generated.
    layout : str, optional
        What the folders above each image of ``folder:PATH`` are: ``split/class/file``,
        ``class/file``, ``split/file``, ``file`` or ``tiny-imagenet``. ``class/class/file`` has
        nested classes; in ``class/**/file`` folders below the class do not count. By default one
        of the first two or the last, if that is clear. Images without a class folder have label
        -1. File names are the paths below the split.
    label_space : {"auto", "imagenet2012", "own"}
        The classes that labels index. By default the 1000 of ImageNet 2012, with their words
        and hierarchy, if all classes of the source are named by WordNet ids of these;
        ``"imagenet2012"`` also takes classes named 0 to 999 for its labels; ``"own"`` keeps
        the classes of the source.
    order : {"shuffled", "label", "source"}
        Order of the samples in each split.
    seed : int, default 0
        Seed of the shuffled order, in ``range(2**63)``.
    on_error : {"raise", "skip"}
        Raise an error if an image cannot be read, or leave it out and record it. Of folders also
        broken links, names that are not UTF-8, and folders that cannot be listed.
    check_images : bool, default False
        Decode every image before the first is copied. Images that do not decode, such as truncated
        ones, are then treated as `on_error` states; otherwise only those whose header cannot be
        read. A conversion that is resumed decodes all images again.
    copy_images : bool, default True
        If false, images stay in the files of the source, and the store states where they are
        there. Images that are re-encoded, or compressed in the source, are stored nevertheless.
        See docs/references.md.
    checksums : bool, optional
        Whether to read all images for their checksums and the content digest. By default only if
        the images are copied, which always does it.
    overwrite : bool, default False
        Replace an existing store at `target`. On a disk readers find the old store or the new
        one at any time (on Linux; elsewhere a folder is absent for a moment). A symbolic link is
        replaced, the file or folder behind it is left alone, and the report notes it. In a bucket
        a Zarr store is deleted before the first image is sent, an HDF5 file is replaced after the
        last. An unfinished store is deleted, unless `resume` is true as well.
    resume : bool, default False
        Continue an unfinished conversion to `target`, or start one if there is none. Sources,
        options and versions must be the same; the result then has the same bytes as without
        interruption. Permissions and names of source files may have changed, and files may have
        been restored from a copy: then the copied images are compared with the source. A complete
        store at `target` is reported (`ConvertReport.was_complete`) if it records this data set
        and these options; the source is not read. An unfinished HDF5 file in a bucket cannot be
        resumed. If the earlier conversion still runs, this one raises on a disk; in a bucket it
        takes over, and the earlier one stops.
    sync : bool, default True
        Wait until everything is on the disk. If false, a loss of power soon afterwards may leave a
        damaged store, and an unfinished conversion cannot be resumed.
    executor : concurrent.futures.Executor, optional
        Reads headers and copies images; threads by default. It may use other processes, or
        machines that reach source and target, such as ``distributed.Client.get_executor()``; see
        docs/clusters.md. They send an HDF5 file in a bucket only to S3, and only with boto3.
    progress : bool, optional
        Show a progress bar; by default on a terminal.

    Returns
    -------
    ConvertReport

    Raises
    ------
    SourceError
        If the data set is unknown, or its source missing, incomplete or damaged.
    SourceChangedError
        If a file of the source changes during the conversion, or has changed since the
        conversion that is resumed began.
    FileExistsError
        If `target` exists, or an unfinished store beside it.
    StorageError
        If the disk is full, another process is converting to `target` (in a bucket: or was killed
        while it did), or a bucket cannot be reached or written to.
    ValueError
        If an option is not one of those above, or differs from that of the conversion that is
        resumed. If one of `target` and the converted folder lies in the other.

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
    buckets = Buckets(source_options)
    check_source_options(buckets, os.fspath(dataset), manual_dir, subset_list)
    options = SourceOptions(
        split=split,
        classes=classes,
        fields=dict(fields or {}),
        columns=as_columns(columns),
        partial=partial,
        buckets=buckets,
        layout=layout,
        label_space=label_space,
        skips_unreadable=on_error == "skip",
        executor=executor,
    )
    options.check()
    check_choice(label_space, "label_space", LABEL_SPACES)
    check_label_space(os.fspath(dataset), label_space)

    def load(writer: StoreWriter, status: Status) -> Source:
        return load_source(
            os.fspath(dataset),
            manual_dir=manual_dir,
            subset_list=subset_list,
            partial=partial,
            spool=writer.spool,
            options=options,
            status=status,
        )

    return _store(
        load,
        lambda: names_of(os.fspath(dataset), buckets),
        target,
        folder=folder_of(os.fspath(dataset), buckets),
        stated=options.stated(),
        label_space=label_space,
        storage_options=storage_options,
        partial=partial,
        order=order,
        seed=seed,
        on_error=on_error,
        check_images=check_images,
        copy_images=copy_images,
        checksums=as_checksums(checksums, copy_images=copy_images),
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
    columns: Sequence[str] | Mapping[str, str] = (),
    label_space: str = LABEL_SPACES[0],
    encoding: str = "png",
    quality: int = 95,
    storage_options: Mapping[str, Any] | None = None,
    order: str = "shuffled",
    seed: int = 0,
    on_error: str = "raise",
    check_images: bool = False,
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
    columns : sequence of str, or mapping of str to str, optional
        Further fields that are kept as columns, see `Split.columns`; or names of columns with the
        fields. Values are numbers, bools, text or arrays; every record must have them.
    fields : mapping of str to str, optional
        Other names of the fields, such as ``{"image": "img", "label": "fine_label"}``. An empty
        label states that samples have none, an empty file name that names are generated.
    encoding : {"png", "jpeg"}
        How arrays and pictures are encoded. PNG keeps every pixel. Encoded bytes and files are
        stored as they are.
    quality : int, default 95
        Of JPEG, 1 to 100.
    label_space, storage_options, order, seed, on_error, check_images
        See `convert`.
    overwrite, resume, sync, executor, progress
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
    options = SourceOptions(classes=classes, fields=dict(fields or {}), columns=as_columns(columns))
    options.check()
    check_choice(label_space, "label_space", LABEL_SPACES)
    encoded_as = as_encoding(encoding, quality)
    records.check_splits(splits)
    name = PurePosixPath(Location.parse(target, storage_options).key).stem or "images"

    def load(writer: StoreWriter, status: Status) -> Source:
        return records.load(name, splits, options, writer.spool, encoding=encoded_as, status=status)

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
        check_images=check_images,
        overwrite=overwrite,
        resume=resume,
        sync=sync,
        executor=executor,
        progress=progress,
    )


def _store(
    load: Callable[[StoreWriter, Status], Source],
    named: Callable[[], tuple[str, str, str]],
    target: str | os.PathLike[str] | tuple[ObjectStore, str],
    *,
    folder: SourcePath | None = None,
    stated: Mapping[str, str],
    label_space: str,
    storage_options: Mapping[str, Any] | None,
    partial: bool = False,
    order: str,
    seed: int,
    on_error: str,
    check_images: bool,
    copy_images: bool = True,
    checksums: bool = True,
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
    folder : Path or ObjectPath, optional
        The folder that is converted, if it is one.
    stated : mapping of str to str
        What else the samples depend on, to be compared when a conversion is resumed.
    target, label_space, storage_options, partial, order, seed, on_error, check_images
        See `convert`.
    copy_images, checksums
        See `convert`.
    overwrite, resume, sync, executor, progress
        See `convert`.
    """
    check_choice(order, "order", ORDERS)
    check_choice(on_error, "on_error", ON_ERROR)
    check_bools(partial=partial, overwrite=overwrite, resume=resume, sync=sync)
    check_bools(check_images=check_images)
    check_bools(progress=False if progress is None else progress)
    seed = as_seed(seed)
    began = time.perf_counter()
    location = Location.parse(target, storage_options)
    store_writer = open_writer(
        location,
        source=folder,
        overwrite=overwrite,
        sync=sync,
        resume=resume,
    )
    how: dict[str, Any] = {
        "order": order,
        "seed": seed,
        "on_error": on_error,
        "check_images": check_images,
    }
    if not copy_images:
        stated = {**stated, "copy_images": str(copy_images), "checksums": str(checksums)}
    options = of_options({"partial": partial, "label_space": label_space, **how, **stated})
    with ExitStack() as stack:
        try:
            writer = stack.enter_context(store_writer)
        except StoreExistsError as error:
            if not resume:
                raise
            return _report_complete(
                named(), location, options, error, unrecorded=list(stated), began=began
            )
        shown = stack.enter_context(meter(progress))
        writer.check_unchanged(options)
        source = in_label_space(load(writer, shown.status), label_space)
        found = of_source(source)
        writer.check_unchanged(found)
        n_spooled = 0 if source.spool is None else source.spool.stat().st_size
        with source.states.unchanged():  # from the first header to the last image
            plans = plan_splits(source, writer.spool, shown, executor=executor, **how)
            # The plans have all that is needed of the tables.
            source = replace(source, splits={}, faults={}, parts={})
            info = dataset_info(source, plans)
            references = {} if copy_images else references_of(source, plans, location)
            filled = fill_plans(
                writer,
                source,
                plans,
                references,
                {**options, **found},
                shown,
                n_spooled=n_spooled,
                checksums=checksums,
                executor=executor,
            )
            shown.status("comparing the source with its earlier state")
        shown.status("sealing")
        with writer.sealing() as container:
            splits = seal(container, source, plans, filled, references)
        writer.publish(shown)
    return ConvertReport(
        dataset=info.full_name,
        path=str(location),
        splits=splits,
        partial=source.partial,
        notes=(
            *source.notes,
            *(note for plan in plans.values() for note in plan.notes),
            *notes_on(references, location),
            *writer.notes,
        ),
        seconds=time.perf_counter() - began,
    )


def _report_complete(
    names: tuple[str, str, str],
    target: Location,
    options: Fingerprint,
    error: FileExistsError,
    *,
    unrecorded: Sequence[str],
    began: float,
) -> ConvertReport:
    """Report a complete store, if it is the one that this conversion would write.

    The data set and the options that the store records are compared; the source is not read.

    Raises
    ------
    FileExistsError
        If `target` is not a complete store.
    ValueError
        If it is the store of another data set, or of other options.
    """
    handle = StoreHandle(target)
    try:
        attributes = handle.container.attributes()
        check_version(attributes, location=handle.address)
        info = DatasetInfo.from_attributes(attributes, location=handle.address)
        splits = {name: StoredSplit(handle, name) for name in info.splits}
        infos = {name: split.info for name, split in splits.items()}
        reencoded = {
            name: _stored_names(split, info.reencoded) if info.reencoded else ()
            for name, split in splits.items()
        }
        classes = handle.container.read_column("label_name", "string").tolist()
    except (FormatError, StorageError) as fault:
        raise FileExistsError(escaped(f"{error} ({fault})")) from fault
    if info.parts:
        appended = " and ".join(info.parts)
        raise FileExistsError(escaped(f"{error} (samples were appended to {appended})"))
    stored = {
        "data set": dict(zip(_NAMES, (info.name, info.config, info.version), strict=True)),
        "option": _stored_options(info, infos, classes, options["option"]),
    }
    requested = {
        "data set": dict(zip(_NAMES, names, strict=True)),
        "option": options["option"],
    }
    check_known(str(target), stored, requested)
    recorded = ("copy_images", "checksums") if info.references else ()
    decoded = (_NOT_RECORDED,) if options["option"]["check_images"] == str(True) else ()
    return ConvertReport(
        dataset=info.full_name,
        path=str(target),
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
        notes=(
            *_not_compared([name for name in unrecorded if name not in recorded]),
            *decoded,
        ),
        seconds=time.perf_counter() - began,
        was_complete=True,
    )


def _not_compared(options: Sequence[str]) -> tuple[str, ...]:
    """Say which options a complete store does not record."""
    if not options:
        return ()
    lacks = f"the store was complete; it does not record {', '.join(options)}"
    return (f"{lacks}: arraystore verify --source compares the labels",)


def _stored_names(split: StoredSplit, names: tuple[str, ...]) -> tuple[str, ...]:
    stored = set(split.columns["file_name"].tolist())
    return tuple(name for name in names if name in stored)


def _stored_options(
    info: DatasetInfo,
    splits: Mapping[str, SplitInfo],
    classes: Sequence[str],
    requested: Mapping[str, str],
) -> dict[str, str]:
    """Return the options of a store; the requested ones where the store does not record them."""
    stored = dict(requested)
    for split in splits.values():
        stored["order"] = split.order
        if split.order == requested["order"] == "shuffled":
            stored["seed"] = str(split.seed)
    is_imagenet = bool(info.label_hierarchy) and tuple(classes) == wnids()
    if is_imagenet and requested["label_space"] == OWN:
        stored["label_space"] = AUTO
    if not is_imagenet and requested["label_space"] == IMAGENET:
        stored["label_space"] = OWN
    if info.partial:
        stored["partial"] = str(True)
    if info.skipped:
        stored["on_error"] = "skip"
    if info.references:
        has_checksums = all(split.has_checksums for split in splits.values())
        stored |= {"copy_images": str(False), "checksums": str(has_checksums)}
    return stored
