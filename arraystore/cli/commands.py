"""The ``arraystore`` command: each subcommand calls one function and prints its result."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import numpy as np
from typing_extensions import override

import arraystore
from arraystore._arguments import ON_ERROR, as_path
from arraystore.cli import tables
from arraystore.cli.contact_sheet import contact_sheet
from arraystore.cli.demo import run_demo
from arraystore.cli.executors import executing
from arraystore.cli.options import (
    COLUMN,
    FUNCTION,
    JSON,
    OVERWRITE,
    PATH,
    PROGRESS,
    SUBSET_LIST,
    narrowing,
    new_file,
    probing,
    selecting,
    source_options,
    storage_option,
)
from arraystore.errors import (
    ArrayStoreError,
    FormatError,
    OtherSelectionError,
    escaped,
    escaped_json,
)
from arraystore.exporting.export import SHARD_NBYTES
from arraystore.exporting.formats import FORMATS
from arraystore.indexing.selection import ALL
from arraystore.integrations.references import export_references
from arraystore.schema import ORDERS
from arraystore.sources.imagenet2012_inventory import take_inventory
from arraystore.sources.label_space import LABEL_SPACES
from arraystore.storage.location import Location
from arraystore.storage.referenced_files import VARIABLE
from arraystore.writing.append import ON_EXISTING
from arraystore.writing.computed_column import IMAGES
from arraystore.writing.plan_selection import CLASSES, name_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from arraystore.dataset.split import Split
    from arraystore.reader import Store


_CONDITIONS: Final = ("selection", "labels", "kinds", "file_names", "per_label", "sample")
"""Arguments of `narrowing`, except the seed."""

_INTERRUPTED: Final = 128 + signal.SIGINT
"""Exit status of shells after Ctrl-C."""


class _Commands(click.Group):
    """Reports Ctrl-C itself; click would print an empty line first."""

    @override
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            if sys.stderr.isatty():
                click.echo("\r", err=True, nl=False)  # over the ^C that a terminal shows
            return _report_failure(f"interrupted{_all_notes(error)}", _INTERRUPTED)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(arraystore.__version__, package_name="arraystore")
@click.option(
    "--allow-references",
    metavar="FOLDER",
    multiple=True,
    help="Read images that a store has in files below FOLDER (a path or an address), outside of "
    "its own folder; 1 allows all. May be repeated.",
)
def cli(allow_references: tuple[str, ...]) -> None:
    """Convert image data sets to Zarr or HDF5 stores, and read them."""
    if allow_references:
        stated = filter(None, (os.environ.get(VARIABLE, ""),))
        is_all = "1" in allow_references
        os.environ[VARIABLE] = "1" if is_all else os.pathsep.join((*stated, *allow_references))


@cli.command(short_help="Convert a data set to a store.")
@click.argument("dataset")
@click.argument("target", type=str)
@storage_option("--storage-option", "TARGET")
@storage_option("--source-option", "the source")
@click.option("--manual-dir", help="Folder of the ImageNet archives; a path or an address.")
@SUBSET_LIST
@click.option("--partial", is_flag=True, help="Convert an incomplete source as far as it goes.")
@source_options()
@COLUMN
@click.option(
    "--label-space",
    type=click.Choice(LABEL_SPACES),
    default=LABEL_SPACES[0],
    show_default=True,
    help="Classes that labels index: the 1000 of ImageNet 2012 if all classes are named by their "
    "WordNet ids (auto), these in any case, also by number (imagenet2012), or those found (own).",
)
@click.option(
    "--order",
    type=click.Choice(ORDERS),
    default=ORDERS[0],
    show_default=True,
    help="Order of the samples in each split.",
)
@probing
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace a store (or any Zarr group or HDF5 file) at TARGET, and without --resume also "
    "an unfinished one.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Continue an interrupted conversion to TARGET, or start a new one. A complete store is "
    "reported with exit status 0. In a bucket only .zarr can be resumed, and a conversion that "
    "still runs there is taken over.",
)
@click.option(
    "--sync/--no-sync",
    default=True,
    help="Wait until all data is on the disk. A conversion without it cannot be resumed.  "
    "[default: sync]",
)
@executing
@PROGRESS
@JSON
def convert(
    dataset: str,
    target: str,
    as_json: bool,
    storage_option: dict[str, Any],
    source_option: dict[str, Any],
    **options: Any,
) -> None:
    """Convert DATASET to a store at TARGET.

    DATASET is imagenet2012_subset/1pct, imagenet2012_subset/10pct or imagenet2012, optionally
    followed by :VERSION (2.0.0, 2.0.1, 3.0.0, 5.0.0 or 5.1.0); imagenet_v2/…, imagenet_a,
    imagenet_r, imagenet_sketch, imagenet2012_corrupted/TYPE_SEVERITY or imagenet2012_real;
    folder:PATH for a folder of images, arranged as split/class/file or class/file (--layout for
    others); or files that match a pattern: wds:PATTERN, tfrecord:PATTERN, parquet:PATTERN,
    array_record:PATTERN, csv:FILE, tsv:FILE. PATH, PATTERN and FILE may be addresses such as
    s3://BUCKET/KEY.

    TARGET is a path or an address such as s3://BUCKET/KEY, outside that folder. Its suffix
    chooses the format: .zarr, or .h5 or .hdf5.
    """
    report = arraystore.convert(
        dataset, target, storage_options=storage_option, source_options=source_option, **options
    )
    if as_json:
        _print_json(report.as_dict())
    else:
        tables.print_report(report, resumed=options["resume"])


@cli.command(short_help="Append samples to a split of a store.")
@click.argument("store", type=str)
@click.argument("source")
@storage_option("--storage-option", "STORE")
@click.option("--split", required=True, help="The split of STORE that gets the samples.")
@click.option(
    "--on-existing",
    type=click.Choice(ON_EXISTING),
    default=ON_EXISTING[0],
    show_default=True,
    help="What happens to samples whose file names the split has: stop, leave them out, or put "
    "them in the place of those in STORE.",
)
@storage_option("--source-option", "the source")
@click.option("--manual-dir", help="Folder of the ImageNet archives; a path or an address.")
@SUBSET_LIST
@click.option("--partial", is_flag=True, help="Take an incomplete source as far as it goes.")
@source_options(has_split=False)
@COLUMN
@click.option(
    "--order",
    type=click.Choice(ORDERS),
    default=ORDERS[0],
    show_default=True,
    help="Order of the new samples among themselves.",
)
@probing
@click.option(
    "--overwrite",
    is_flag=True,
    help="Delete an unfinished append beside STORE, and start again.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Continue an interrupted append of the same samples, or start a new one. If they are "
    "in STORE already, the exit status is 0. In a bucket, an append that still runs is taken "
    "over.",
)
@click.option(
    "--sync/--no-sync",
    default=True,
    help="Wait until all data is on the disk. An append without it cannot be resumed.  "
    "[default: sync]",
)
@executing
@PROGRESS
@JSON
def append(
    store: str,
    source: str,
    as_json: bool,
    storage_option: dict[str, Any],
    source_option: dict[str, Any],
    **options: Any,
) -> None:
    """Append the samples of SOURCE to a split of STORE.

    STORE is a path, or the address of a .zarr store in a bucket. SOURCE is what convert takes, such
    as folder:PATH. What STORE has is not rewritten. Classes are matched by name; new ones are an
    error.
    """
    report = arraystore.append(
        store, source, storage_options=storage_option, source_options=source_option, **options
    )
    if as_json:
        _print_json(report.as_dict())
    else:
        tables.print_append(report)


@cli.command(short_help="Copy a store, or samples of it, to another place or format.")
@click.argument("source", type=str)
@click.argument("target", type=str)
@storage_option("--source-option", "SOURCE")
@storage_option("--target-option", "TARGET")
@click.option(
    "--split",
    "splits",
    metavar="[NAME=]SPLIT",
    multiple=True,
    help="Copy a split of SOURCE, such as train or 'train[:10%]', perhaps under another name; may "
    "be repeated.  [default: all splits]",
)
@narrowing
@click.option(
    "--classes",
    type=click.Choice(CLASSES),
    default=CLASSES[0],
    show_default=True,
    help="Keep all classes, or only those that samples have (present), with new labels.",
)
@click.option(
    "--order",
    type=click.Choice(ORDERS),
    help="Order of the samples: shuffled with --seed, by label, or as selected (source).  "
    "[default: as in SOURCE]",
)
@click.option(
    "--copy-images/--no-copy-images",
    default=True,
    help="Copy the images, or leave them in SOURCE and state where they are there.  "
    "[default: copy]",
)
@OVERWRITE
@click.option(
    "--sync/--no-sync", default=True, help="Wait until all data is on the disk.  [default: sync]"
)
@executing
@PROGRESS
@JSON
def copy(
    source: str,
    target: str,
    source_option: dict[str, Any],
    target_option: dict[str, Any],
    splits: tuple[str, ...],
    seed: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Copy the store SOURCE to TARGET; both are paths or addresses such as s3://BUCKET/KEY.

    The suffix of TARGET (.zarr, .h5 or .hdf5) chooses the format. Everything is copied, and every
    image is compared with its checksum.

    --split and the options from --selection to --sample copy samples instead, as a conversion of
    these samples would store them. They narrow down every split that is copied, in the order in
    which they are listed here; a selection, only the splits that it is of.
    """
    conditions = {name: options.pop(name) for name in _CONDITIONS}
    place: Any = source
    if splits or any(value not in (None, ()) for value in conditions.values()):
        store = arraystore.open(source, storage_options=source_option)
        place = _selected_splits(store, splits, seed=seed, **conditions)
        source_option = {}
    report = arraystore.copy(
        place,
        target,
        source_options=source_option,
        target_options=target_option,
        seed=seed,
        **options,
    )
    if as_json:
        _print_json(report.as_dict())
    else:
        tables.print_copy(report)


@cli.command(short_help="State where files with images of a store are now.")
@click.argument("store", type=str)
@click.argument("old", type=str)
@click.argument("new", type=str)
@storage_option("--source-option", "NEW")
@PROGRESS
@JSON
def relocate(
    store: str,
    old: str,
    new: str,
    source_option: dict[str, Any],
    progress: bool | None,
    as_json: bool,
) -> None:
    """State that files of images of STORE that were at OLD are at NEW: files, or their folders.

    Sizes and some images of the files are compared first. OLD and NEW are the same if files were
    replaced by copies of the same bytes.
    """
    report = arraystore.relocate(store, old, new, source_options=source_option, progress=progress)
    if as_json:
        _print_json(report.as_dict())
    else:
        files = "file" if report.num_files == 1 else "files"
        _print_line(
            f"{report.store}: {report.num_files:,} {files} moved; "
            f"{report.num_compared:,} images compared"
        )


@cli.command()
@click.argument("store", type=str)
@storage_option("--storage-option", "STORE")
@JSON
def info(store: str, storage_option: dict[str, Any], as_json: bool) -> None:
    """Show the metadata of STORE; or, of a folder with ImageNet, what it has and what is missing.

    A folder may hold ImageNet as archives, extracted, from Kaggle, Hugging Face or TensorFlow
    Datasets, or as WebDataset shards.
    """
    try:
        opened = arraystore.open(store, storage_options=storage_option)
    except FormatError:
        folder = as_path(store)
        inventory = take_inventory(folder) if folder.is_dir() else None
        if inventory is None:
            raise
        if as_json:
            _print_json(inventory.as_dict())
        else:
            tables.print_inventory(inventory)
        return
    if as_json:
        _print_json(dataclasses.asdict(opened.info))
    else:
        tables.print_info(opened.address, opened.info)


@cli.group(short_help="Add, compute, remove and list further columns of a store.")
def column() -> None:
    """Add, compute, remove and list further columns: features, scores, boxes, captions."""


@column.command("add", short_help="Add a column to a split of a store.")
@click.argument("store", type=str)
@click.argument("split")
@click.argument("name")
@click.argument("file", type=PATH)
@storage_option("--storage-option", "STORE")
@click.option("--key", help="Column of FILE with file names; '' if rows are in stored order.")
@click.option(
    "--field", "fields", multiple=True, help="Column of FILE with values; may be repeated."
)
@click.option("--fill", help="Value of samples that FILE has none for.")
@click.option(
    "--ragged", is_flag=True, default=None, help="Samples may have any number of rows of FILE."
)
@click.option("--description", default="", help="For people.")
@click.option(
    "--sync/--no-sync", default=True, help="Wait until all data is on the disk.  [default: sync]"
)
@JSON
def add_column(
    store: str,
    split: str,
    name: str,
    file: Path,
    storage_option: dict[str, Any],
    fill: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Add the values of FILE to SPLIT of STORE as the column NAME.

    FILE is .npy, with one value per sample in the order of the split; or .csv, .tsv or .parquet,
    matched by file names if it has a column of them. No image is rewritten.
    """
    report = arraystore.add_column(
        store,
        split,
        name,
        file,
        fill=None if fill is None else _number_or_text(fill),
        storage_options=storage_option,
        **options,
    )
    _print_column_report(report, as_json=as_json)


def _print_column_report(report: arraystore.ColumnReport, *, as_json: bool) -> None:
    if as_json:
        _print_json(report.as_dict())
        return
    _print_line(f"{report.store}/{report.split}: added {report.name}, {report.values}")
    for note in report.notes:
        _print_line(f"  {note}")


@column.command("map", short_help="Compute a column with a Python function.")
@click.argument("store", type=str)
@click.argument("split")
@click.argument("name")
@FUNCTION
@storage_option("--storage-option", "STORE")
@click.option(
    "--images",
    type=click.Choice(IMAGES),
    default=IMAGES[0],
    show_default=True,
    help="What the function gets of the images.",
)
@click.option("--size", type=click.IntRange(1), help="Resize decoded images to SIZE x SIZE pixels.")
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="NAME",
    help="Give the function the values of a further column; may be repeated.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Samples that the function gets at a time.",
)
@click.option("--description", default="", help="For people.")
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace a column of that name, and without --resume delete finished blocks.",
)
@click.option("--resume", is_flag=True, help="Keep the finished blocks of an interrupted call.")
@click.option(
    "--sync/--no-sync", default=True, help="Wait until all data is on the disk.  [default: sync]"
)
@executing
@PROGRESS
@JSON
def map_blocks(
    store: str,
    split: str,
    name: str,
    function: Any,
    storage_option: dict[str, Any],
    as_json: bool,
    **options: Any,
) -> None:
    """Compute the column NAME of SPLIT of STORE with a function.

    MODULE:FUNCTION is for example features:mean_color for a function in features.py in the current
    folder. It gets batches of samples and returns one value for each. The module is imported, which
    runs its code.
    """
    opened = arraystore.open(store, storage_options=storage_option)
    report = arraystore.map_blocks(opened[split], function, name, **options)
    _print_column_report(report, as_json=as_json)


@column.command("remove", short_help="Remove a column from a split of a store.")
@click.argument("store", type=str)
@click.argument("split")
@click.argument("name")
@storage_option("--storage-option", "STORE")
def remove_column(store: str, split: str, name: str, storage_option: dict[str, Any]) -> None:
    """Remove the column NAME from SPLIT of STORE."""
    arraystore.remove_column(store, split, name, storage_options=storage_option)
    _print_line(f"{store}/{split}: removed {name}")


@column.command("ls", short_help="List the columns of a store.")
@click.argument("store", type=str)
@storage_option("--storage-option", "STORE")
@JSON
def list_columns(store: str, storage_option: dict[str, Any], as_json: bool) -> None:
    """List the further columns of all splits of STORE, with data type and shape."""
    found = arraystore.open(store, storage_options=storage_option).info.columns
    if as_json:
        _print_json(found)
        return
    for split, columns in found.items():
        for name, summary in columns.items():
            _print_line(f"{split}/{name}: {summary}")


def _number_or_text(text: str) -> int | float | str:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


@cli.command(short_help="Read a whole store and report problems.")
@click.argument("store", type=str)
@storage_option("--storage-option", "STORE")
@click.option("--decode", is_flag=True, help="Also decode every image.")
@click.option(
    "--source",
    help="Also compare STORE with its source: the folder of the archives, or of the images (PATH "
    "or folder:PATH), or wds:PATTERN and the like; on a disk or in a bucket.",
)
@storage_option("--source-option", "the source")
@SUBSET_LIST
@source_options()
@executing
@PROGRESS
@JSON
def verify(
    store: str,
    storage_option: dict[str, Any],
    source_option: dict[str, Any],
    as_json: bool,
    **options: Any,
) -> int:
    """Read all of STORE, and report every problem with its place.

    The exit status is 0 if there are no problems, and 1 otherwise.
    """
    report = arraystore.verify(
        store, storage_options=storage_option, source_options=source_option, **options
    )
    if as_json:
        _print_json(report.as_dict())
    else:
        tables.print_verification(report)
    return 0 if report.ok else 1


def _selected(
    store: str,
    split: str,
    selection: str | None,
    save_selection: Path | None,
    storage_option: dict[str, Any],
    **conditions: Any,
) -> Split:
    """Return a split, narrowed down in the order of the arguments."""
    opened = arraystore.open(store, storage_options=storage_option)
    samples = opened[split or next(iter(opened), ALL)]
    if selection is not None:
        samples = _select(samples, selection)
    samples = _narrowed(samples, **conditions)
    if save_selection is not None:
        samples.selection().save(save_selection)
    return samples


def _selected_splits(
    store: Store, splits: Sequence[str], selection: str | None, **conditions: Any
) -> dict[str, Split]:
    """Return splits by the names that they will have, narrowed down."""
    samples: dict[str, Split] = {}
    for given in splits or store:
        name, mark, text = given.rpartition("=")
        split = store[text]
        name = name if mark else name_of(split)
        if name in samples:
            raise click.UsageError(f"--split: {name} is given twice; write NAME={text}")
        samples[name] = split
    if selection is not None:
        samples = _select_from_each(samples, selection)
    return {name: _narrowed(split, **conditions) for name, split in samples.items()}


def _select_from_each(samples: dict[str, Split], selection: str) -> dict[str, Split]:
    """Apply a selection to the splits that it is of; leave the others whole."""
    selected: dict[str, Split] = {}
    for name, split in samples.items():
        try:
            selected[name] = _select(split, selection)
        except OtherSelectionError as error:
            other = error
    if not selected:
        raise other
    return samples | selected


def _select(samples: Split, selection: str) -> Split:
    """Apply a named selection, or that of a file."""
    try:
        return samples.select(selection)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise FileNotFoundError(escaped(f"--selection: there is no file {selection}")) from None


def _narrowed(
    samples: Split,
    *,
    labels: tuple[str, ...],
    kinds: tuple[str, ...],
    file_names: tuple[str, ...],
    per_label: int | None,
    sample: int | None,
    seed: int,
) -> Split:
    """Return a split, narrowed down in the order of the arguments."""
    if labels:
        samples = samples.where(label=list(labels))
    if kinds:
        samples = samples.where(is_a=list(kinds))
    if file_names:
        samples = samples.where(file_name=list(file_names))
    if per_label is not None:
        samples = samples.per_label(per_label, seed=seed)
    if sample is not None:
        samples = samples.sample(sample, seed=seed)
    return samples


@cli.command(short_help="List samples of a store.")
@selecting
@click.option("--limit", type=click.IntRange(0), default=20, show_default=True, help="Most rows.")
@click.option(
    "--explain",
    is_flag=True,
    help="Print the requests and bytes that reading the images takes, instead of rows.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each row.")
def ls(limit: int, explain: bool, as_json: bool, **options: Any) -> None:
    """List samples of SPLIT in STORE.

    SPLIT is a split string such as train, 'train[100:200]' or 'train[:10%]+validation'; by default
    the first split. The options narrow it down in the order in which they are listed here.
    """
    samples = _selected(**options)
    shown = min(limit, len(samples))
    if explain and as_json:
        _print_json({"samples": len(samples), **samples.read_plan()._asdict()})
    elif explain:
        tables.print_plan(samples, samples.read_plan())
    elif as_json:
        for row in tables.rows(samples, shown):
            click.echo(escaped_json(json.dumps(row, ensure_ascii=False)))
    else:
        tables.print_rows(samples, shown)


@cli.command(short_help="Draw samples of a store on one sheet.")
@selecting
@click.option(
    "-o",
    "--output",
    type=PATH,
    callback=new_file,
    default=Path("contact-sheet.png"),
    show_default=True,
    help="The PNG file.",
)
@click.option(
    "--limit", type=click.IntRange(1), help="Most images; by default 64, or all with --per-label."
)
@click.option(
    "--size",
    type=click.IntRange(16, 1024),
    default=144,
    show_default=True,
    help="Height and width of each image in pixels.",
)
@click.option(
    "--columns", type=click.IntRange(1), default=8, show_default=True, help="Images in a row."
)
def show(output: Path, limit: int | None, size: int, columns: int, **options: Any) -> None:
    """Draw samples of SPLIT in STORE on one PNG sheet, with the names of their classes.

    SPLIT and the options that narrow it down are the same as for ls.
    """
    if output.suffix.lower() != ".png":
        raise click.BadParameter(f"{output} must end in .png", param_hint="--output")
    samples = _selected(**options)
    if limit is None and options["per_label"] is None:
        limit = 64
    shown = np.arange(len(samples), dtype=np.int64)[:limit]
    contact_sheet(samples, shown, size=size, columns=columns).save(output, "PNG")
    _print_line(f"{output}: {len(shown):,} of {len(samples):,} samples of {samples.name}")


@cli.command(short_help="Write images of a store in the format of other programs.")
@selecting
@click.option(
    "-o",
    "--output",
    required=True,
    help="A new name, or an empty folder; for --format arrays NAME.h5 or NAME.zarr. With "
    "--references, a new name, on a disk or in a bucket: NAME.json or NAME.parquet (kerchunk), or "
    "NAME.icechunk.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default=FORMATS[0],
    show_default=True,
    help="Files class/name in folders; shards of tar archives, of TFRecord or ArrayRecord files as "
    "TensorFlow Datasets has them, or of Parquet files as Hugging Face has them; Lance tables, of "
    "the images or of references to where they are; or arrays of variable length.",
)
@click.option(
    "--references",
    is_flag=True,
    help="Write no images, but references to them, with which other Zarr clients read exactly the "
    "bytes of each image; without SPLIT, of all splits.",
)
@storage_option("--target-option", "-o")
@click.option(
    "--column",
    "columns",
    multiple=True,
    help="Export this further column; may be repeated.  [default: all]",
)
@click.option("--no-columns", is_flag=True, help="Export no further columns.")
@click.option(
    "--shard-nbytes",
    type=int,
    default=SHARD_NBYTES,
    show_default=True,
    metavar="N",
    help="Most bytes of images in a shard.",
)
@click.option(
    "--on-error",
    type=click.Choice(ON_ERROR),
    default=ON_ERROR[0],
    show_default=True,
    help="Stop at a damaged image, or leave it out and list it.",
)
@click.option("--resume", is_flag=True, help="Continue an interrupted export, or start a new one.")
@click.option(
    "--sync/--no-sync",
    default=True,
    help="Wait until all data is on the disk.  [default: sync]",
)
@PROGRESS
@JSON
def export(
    output: str,
    form: str,
    references: bool,
    target_option: dict[str, Any],
    columns: tuple[str, ...],
    no_columns: bool,
    shard_nbytes: int,
    on_error: str,
    resume: bool,
    sync: bool,
    progress: bool | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Write images of SPLIT in STORE in the format of other programs, byte for byte as stored.

    SPLIT and the options that narrow it down are the same as for ls. Each image is compared with
    its checksum. The output appears when it is complete.
    """
    target = Location.parse(output, target_option)
    if references:
        splits = _referenced(**options)
        n_images = export_references(splits, target)
        _print_line(f"{output}: references to {n_images:,} images of {', '.join(splits)}")
        return
    if not target.is_local:
        raise click.UsageError(f"--output: images are written to a disk, got {output}")
    if columns and no_columns:
        raise click.UsageError("--column and --no-columns exclude each other")
    samples = _selected(**options)
    report = arraystore.export(
        samples,
        target.path,
        form,
        columns=columns if columns or no_columns else None,
        shard_nbytes=shard_nbytes,
        on_error=on_error,
        resume=resume,
        sync=sync,
        progress=progress,
    )
    if as_json:
        _print_json(report.as_dict())
    else:
        tables.print_export(report, samples.name, output)


def _referenced(split: str, **options: Any) -> dict[str, Split]:
    """Return the split to refer to, or all of them, by their names."""
    if split:
        samples = _selected(split=split, **options)
        return {name_of(samples): samples}
    store, save_selection = options.pop("store"), options.pop("save_selection")
    if save_selection is not None:
        raise click.UsageError("--save-selection needs SPLIT")
    opened = arraystore.open(store, storage_options=options.pop("storage_option"))
    return _selected_splits(opened, (), **options)


@cli.command(short_help="Draw small archives, convert and query them.")
@click.argument("folder", type=PATH, default=Path("demo"))
def demo(folder: Path) -> None:
    """Draw small archives in FOLDER (default: demo), convert them, and query the stores."""
    run_demo(folder, report=_print_line)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the ``arraystore`` command.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process.

    Returns
    -------
    int
        Exit status: 0 done, 1 failed (``verify``: or the store has problems), 2 wrong usage, 130
        interrupted.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Replace letters that the terminal does not have, instead of failing.
        sys.stdout.reconfigure(errors="replace")
    try:
        status = cli.main(arguments, prog_name="arraystore", standalone_mode=False)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.ClickException as error:
        usage = io.StringIO()
        error.show(usage)
        click.echo(escaped(usage.getvalue(), keep="\n"), err=True, nl=False)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):  # before the command began, or after it ended
        return _report_failure("interrupted", _INTERRUPTED)
    except BrokenPipeError:  # the program that reads the output has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyError as error:
        return _report_failure(str(error.args[0] if error.args else error))
    except MemoryError as error:
        return _report_failure(f"not enough memory: {error}")
    except (ArrayStoreError, OSError, ValueError, IndexError) as error:
        return _report_failure(str(error) + _notes(error))
    return status or 0


def _notes(error: BaseException) -> str:
    return "".join(f"; {note}" for note in getattr(error, "__notes__", ()))


def _all_notes(error: BaseException | None) -> str:
    """Return the notes of an error, and of the errors that were being handled."""
    notes = ""
    while error is not None:
        notes, error = notes + _notes(error), error.__context__
    return notes


def _report_failure(message: str, status: int = 1) -> int:
    click.echo(f"arraystore: {escaped(' '.join(message.split()))}", err=True)
    return status


def _print_json(value: Any) -> None:
    click.echo(escaped_json(json.dumps(value, indent=2, ensure_ascii=False)))


def _print_line(message: str) -> None:
    click.echo(escaped(message))
