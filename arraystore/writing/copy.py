"""Copy a store, or selected samples, to another place or into the other container.

Images are compared with their checksums during the copy. Of a whole store the columns, attributes,
the order of the samples and all other groups and arrays are copied as well. A copy of samples is
planned in `arraystore.writing.plan_selection`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore._arguments import as_seed, check_bools, check_choice
from arraystore.containers.protocol import check_path
from arraystore.dataset.split import Split
from arraystore.errors import FormatError, brief, escaped
from arraystore.indexing.byte_range import ZEROS, ByteRange
from arraystore.indexing.layout import content_digest, image_starts
from arraystore.reader import Store, open_store
from arraystore.schema import (
    COLUMNS,
    MAX_DEPTH,
    ORDERS,
    PAYLOAD,
    RAGGED,
    REFERENCE_COLUMNS,
    REFERENCES,
    ROOT_ATTRIBUTES,
    ROOT_COLUMNS,
    SPLIT_ATTRIBUTES,
    USER_COLUMNS,
    DatasetInfo,
    SplitInfo,
)
from arraystore.storage.file_states import NO_FILES, FileStates
from arraystore.storage.folder_trees import files_below
from arraystore.storage.location import Location
from arraystore.storage.range_reader import check_zeros, read_elements, read_exactly
from arraystore.storage.referenced_files import as_allowed
from arraystore.writing.open_writer import open_writer
from arraystore.writing.plan_selection import CLASSES, check_splits, name_of, plan_selection
from arraystore.writing.progress import meter
from arraystore.writing.references import notes_on, of_selected
from arraystore.writing.seal import dataset_info, seal
from arraystore.writing.selected_images import SelectedImages

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from arraystore._typing import Checksums, Ints
    from arraystore.containers.protocol import ContainerReader, ContainerWriter, Tree
    from arraystore.indexing.byte_range import ChunkManifest
    from arraystore.reading.column_reader import ColumnReader
    from arraystore.schema import Column
    from arraystore.storage.location import ObjectStore
    from arraystore.storage.range_reader import RangeReader
    from arraystore.writing.image_source import ImageSource
    from arraystore.writing.plan_selection import SelectionPlan
    from arraystore.writing.references import SplitReferences
    from arraystore.writing.store_writer import StoreWriter

    Target = str | os.PathLike[str] | tuple[ObjectStore, str]
    Place = Target | ObjectStore

_PAYLOAD_ATTRIBUTE: Final = "dense"
"""Attribute of a payload, which its creation sets."""

_PROBED: Final = 1024
"""Pieces of a payload that are probed in one round trip."""

_WINDOW_NBYTES: Final = 8 * 2**20
"""Bytes that the copying of a block reads at a time."""


@dataclass(frozen=True, slots=True)
class CopyReport:
    """Result of copying a store.

    Attributes
    ----------
    dataset : str
        Name, config and version of the data set.
    source, path : str
        The store that was copied, or several with ``", "`` between them, and the copy.
    splits : dict of str to SplitInfo
    left_out : tuple of str
        Paths of arrays, links, and attributes (``path@name``) that arraystore does not write
        and could not copy, or that have no place in a copy of samples.
    seconds : float
        Wall time.
    notes : tuple of str
        Whether labels were renumbered, and whether a symbolic link was replaced.
    """

    dataset: str
    source: str
    path: str
    splits: dict[str, SplitInfo]
    left_out: tuple[str, ...]
    seconds: float
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        return asdict(self)


def copy(
    source: Place | Store | Split | Mapping[str, Split],
    target: Target,
    *,
    source_options: Mapping[str, Any] | None = None,
    target_options: Mapping[str, Any] | None = None,
    classes: str = CLASSES[0],
    order: str | None = None,
    seed: int = 0,
    copy_images: bool = True,
    allow_references: bool | str | os.PathLike[str] | Sequence[str] = False,
    overwrite: bool = False,
    sync: bool = True,
    executor: Executor | None = None,
    progress: bool | None = None,
) -> CopyReport:
    """Copy a store, or selected samples, to another place or into the other container.

    A copy of a whole store loses nothing. A copy of samples has the bytes that a conversion of
    these samples would have: the selection ``1pct`` of a store of ImageNet becomes a store of
    ``imagenet2012_subset/1pct``. Every image is compared with its checksum. Images that are in
    other files are copied into the store. A copy that fails or is interrupted leaves nothing at
    `target`.

    Parameters
    ----------
    source : path-like, obstore store, pair of an obstore store and a key, Store, Split or mapping
        The store: a path, or an address, see `arraystore.open`; or the samples: a split or any
        query of one, or a mapping of names to splits. These may be of several stores with the same
        classes. A single split keeps its name.
    target : path-like, or pair of an obstore store and a key
        The copy: a path, or an address such as ``s3://bucket/1pct.h5``. Its suffix chooses the
        container.
    source_options, target_options : mapping of str to anything, optional
        Options of the buckets; see `storage_options` of `arraystore.open`.
    classes : {"keep", "present"}
        ``"present"`` leaves out classes without samples, and renumbers the labels.
    order : {"shuffled", "label", "source"}, optional
        Order of the samples, see `arraystore.convert`; ``"source"`` is that of the splits. By
        default samples stay in their order, and the copy records whether it is shuffled.
    seed : int, default 0
        Of the shuffled order.
    copy_images : bool, default True
        If false, images stay in the files of the stores that they are from, and the new store
        states where they are there; see docs/references.md. Few images that lie in two files are
        copied nevertheless, and of a whole store only what a copy of samples has.
    allow_references
        See `arraystore.open`.
    overwrite, sync, executor, progress
        See `arraystore.convert`.

    Returns
    -------
    CopyReport

    Raises
    ------
    ChecksumError
        If an image is damaged.
    FormatError
        If the source does not follow the format specification.
    SourceChangedError
        If a file of the source changes while it is copied.
    FileExistsError
        If `target` exists.
    StorageError
        If the disk is full, or a bucket cannot be reached or written to.
    ValueError
        If source and target are the same and `overwrite` is true, if one lies in the other, or if
        an option is unknown. If a sample occurs twice in a split, two of its samples have one file
        name, or classes of several stores differ.

    Examples
    --------
    >>> import arraystore
    >>> report = arraystore.copy("1pct.zarr", "copy.h5")
    >>> arraystore.open("copy.h5").info == arraystore.open("1pct.zarr").info
    True
    >>> train = arraystore.open("1pct.zarr")["train"]
    >>> report = arraystore.copy({"few": train.per_label(2)}, "few.zarr", classes="present")
    >>> arraystore.open("few.zarr")
    <Store ...few.zarr: few; few (40 samples)>
    """
    check_bools(overwrite=overwrite, sync=sync, progress=False if progress is None else progress)
    check_bools(copy_images=copy_images)
    check_choice(classes, "classes", CLASSES)
    if order is not None:
        check_choice(order, "order", ORDERS)
    seed = as_seed(seed)
    began = time.perf_counter()
    location = Location.parse(target, target_options)
    how = source_options, as_allowed(allow_references)
    samples, states = _opened(source, *how, location, overwrite=overwrite)
    store_writer = open_writer(location, overwrite=overwrite, sync=sync)
    is_plain = copy_images and (classes, order) == (CLASSES[0], None)
    if isinstance(samples, Store) and is_plain and not samples._root.dataset.parts:
        report = _copy_store(samples, states, store_writer, progress, executor)
    else:
        splits = dict(samples)
        check_splits(splits)
        name = PurePosixPath(location.key).stem
        selection = plan_selection(splits, name, classes=classes, order=order, seed=seed)
        references = {} if copy_images else _references(selection, location)
        report = _copy_samples(selection, states, store_writer, progress, references, executor)
        report = replace(report, notes=(*report.notes, *notes_on(references, location)))
    addresses = dict.fromkeys(str(location) for location in _locations(samples))
    return replace(
        report,
        source=", ".join(addresses),
        path=str(location),
        seconds=time.perf_counter() - began,
    )


def _opened(
    source: Place | Store | Split | Mapping[str, Split],
    options: Mapping[str, Any] | None,
    allowed: bool | tuple[str, ...],
    target: Location,
    *,
    overwrite: bool,
) -> tuple[Store | Mapping[str, Split], FileStates]:
    """Return the samples to copy, and the states of the files that they are read from."""
    if not isinstance(source, Split | Mapping):
        location = Location.parse(source, options)
        _check_apart(location, target, overwrite=overwrite)
        states = _states(location)  # before anything is read
        return open_store(location, allow_references=allowed), states
    if options:
        raise ValueError("source_options need an address; pass them to arraystore.open")
    if allowed:
        raise ValueError("allow_references needs an address; pass it to arraystore.open")
    samples = {name_of(source): source} if isinstance(source, Split) else source
    for name, split in samples.items():
        if not isinstance(split, Split):
            raise TypeError(escaped(f"{name}: must be a split to be copied, got {brief(split)}"))
    states = NO_FILES
    for location in _locations(samples):
        _check_apart(location, target, overwrite=overwrite)
        states = states.joined(_states(location))
    return samples, states


def _locations(samples: Store | Mapping[str, Split]) -> list[Location]:
    """Return where the stores of some samples are, each once."""
    if isinstance(samples, Store):
        return [samples._handle.location]
    roots = {address: root for split in samples.values() for address, root in split._roots.items()}
    return [root.handle.location for root in roots.values()]


def _copy_store(
    store: Store,
    states: FileStates,
    store_writer: StoreWriter,
    progress: bool | None,
    executor: Executor | None,
) -> CopyReport:
    reader, container = store.opened
    splits = {name: store.stored(name).info for name in store}
    images: dict[str, ImageSource] = {
        name: (
            SelectedImages.of(store.stored(name))
            if info.is_referenced or executor is not None
            else _stored_images(store, name, reader, container)
        )
        for name, info in splits.items()
    }
    tree = container.tree()
    for path in (*tree.groups, *tree.columns):
        check_path(path)
    with store_writer as writer, meter(progress) as shown:
        writer.create_arrays({name: info.num_bytes for name, info in splits.items()})
        with states.unchanged():
            changes = _Changes()
            for name, info in splits.items():
                columns = store.stored(name).columns
                expected = columns["image_crc32c"] if info.has_checksums else None
                checksums = writer.fill(
                    name, images[name], shown, expected=expected, executor=executor
                )
                if info.is_referenced:
                    splits[name] = changes.add(name, info, columns, checksums)
            if store.info.references:
                changes.add_root(store)
            shown.status("sealing")
            with writer.sealing() as copied:
                left_out = _copy_nodes(store, tree, copied, tuple(splits), changes)
        writer.publish(shown)
    return CopyReport(store.info.full_name, "", "", splits, left_out, 0, notes=writer.notes)


def _copy_samples(
    selection: SelectionPlan,
    states: FileStates,
    store_writer: StoreWriter,
    progress: bool | None,
    references: Mapping[str, SplitReferences],
    executor: Executor | None,
) -> CopyReport:
    source, plans = selection.source, selection.plans
    info = dataset_info(source, plans)
    images, checksums = dict(selection.images), dict(selection.checksums)
    for name, referenced in references.items():
        images[name] = images[name].take(np.flatnonzero(referenced.is_own))
    with store_writer as writer, meter(progress) as shown:
        writer.create_arrays({name: int(some.nbytes.sum()) for name, some in images.items()})
        with states.unchanged():
            filled = {}
            for name, some in images.items():
                known = checksums[name]
                expected = known
                if known is not None and name in references:
                    expected = known[references[name].is_own]
                filled[name] = writer.fill(name, some, shown, expected=expected, executor=executor)
                if known is None:  # of some images
                    some.check(filled[name])
                if name in references:  # those of all images are stored, if they are known
                    filled[name] = np.empty(0, np.uint32) if known is None else known
        shown.status("sealing")
        with writer.sealing() as container:
            reports = seal(container, source, plans, filled, references)
        writer.publish(shown)
    splits = {
        name: SplitInfo(
            report.num_samples,
            report.num_bytes,
            plan.order,
            plan.seed,
            report.content_digest,
            name in references,
        )
        for (name, report), plan in zip(reports.items(), plans.values(), strict=True)
    }
    notes = (*source.notes, *writer.notes)
    return CopyReport(info.full_name, "", "", splits, selection.left_out, 0, notes=notes)


def _references(selection: SelectionPlan, target: Location) -> dict[str, SplitReferences]:
    """Return what a copy states of the files that keep its images."""
    found = ((name, of_selected(images, target)) for name, images in selection.images.items())
    return {name: references for name, references in found if references is not None}


@dataclass(frozen=True, slots=True)
class _Changes:
    """What a copy has otherwise than its source, because images were in other files.

    Attributes
    ----------
    columns : dict of str to ndarray
        Columns by path.
    attributes : dict of str to dict of str to anything
        Attributes by path; one that is None is left out.
    left_out : set of str
        Paths of columns that the copy does not have.
    """

    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)

    def add(
        self, split: str, info: SplitInfo, columns: ColumnReader, checksums: Checksums
    ) -> SplitInfo:
        """Add the changes of a split; return its attributes in the copy."""
        nbytes = columns["image_nbytes"]
        self.columns[f"{split}/image_start"] = image_starts(nbytes)
        self.columns[f"{split}/image_crc32c"] = checksums
        self.left_out.update(f"{split}/{name}" for name in REFERENCE_COLUMNS)
        names = columns["file_name"].tolist()
        digest = content_digest(names, columns["label"], nbytes, checksums)
        copied = replace(info, content_digest=digest, is_referenced=False)
        self.attributes[split] = copied.attributes()
        # As `seal` writes it; see there.
        self.attributes[f"{split}/image_nbytes"] = {"sample_dimension": "byte"}
        return copied

    def add_root(self, store: Store) -> None:
        """Add the changes of the root."""
        attributes = store.opened[1].attributes()
        info = DatasetInfo.from_attributes(attributes, location=store.address)
        version = replace(info, references=()).attributes()["format_version"]
        columns = [c for name in store for c in store.stored(name).user_columns.values()]
        if all(not column.is_ragged and len(column.spec("").shape) == 1 for column in columns):
            self.attributes[""] = {REFERENCES: None, "format_version": version}
        else:
            self.attributes[""] = {REFERENCES: None}


def _check_apart(source: Location, target: Location, *, overwrite: bool) -> None:
    """Refuse a copy that would replace its source, or become part of it."""
    is_below, is_above = target.is_within(source), source.is_within(target)
    if is_below and is_above:
        if overwrite:
            raise ValueError(escaped(f"{target}: is the source itself; choose another target"))
    elif is_below or is_above:
        raise ValueError(
            escaped(f"{target}: one of source and target lies in the other; choose another target")
        )


def _states(source: Location) -> FileStates:
    """Return the states of the files of a local store; objects in buckets have versions."""
    if not source.is_local or not source.path.exists():
        return NO_FILES
    path = source.path.resolve()
    return FileStates.of(files_below(str(path), MAX_DEPTH) if path.is_dir() else [str(path)])


class StoredImages:
    """The stored images of a split; an `arraystore.writing.image_source.ImageSource`.

    Parameters
    ----------
    reader : RangeReader
        Reads the objects that hold the payload.
    manifest : ChunkManifest
        Where the payload lies in these objects.
    start, nbytes : ndarray of int64, shape (n,)
        Bytes of each image in the payload, without gaps.
    names : ndarray of str, shape (n,)
        File names of the images.
    location : str
        Address of the split, for messages.
    """

    def __init__(
        self,
        reader: RangeReader,
        manifest: ChunkManifest,
        start: Ints,
        nbytes: Ints,
        names: NDArray[Any],
        location: str,
    ) -> None:
        self._reader = reader
        self._manifest = manifest
        self._start = start
        self._names, self._location = names, location
        self.nbytes = nbytes
        self._window, self._window_start = memoryview(b""), 0

    def rows(self, first: int, last: int) -> StoredImages:
        """See `ImageSource`."""
        rows = slice(first, last)
        columns = self._start[rows], self.nbytes[rows], self._names[rows]
        return StoredImages(self._reader, self._manifest, *columns, self._location)

    @property
    def is_remote(self) -> bool:
        """See `ImageSource`."""
        return False  # the number of threads suits the target

    def location(self, i: int) -> str:
        """See `ImageSource`."""
        return f"{self._location}: {self._names[i]}"

    def reads(self, path: str) -> bool:
        """See `ImageSource`."""
        del path
        return False

    def portable(self) -> StoredImages:
        """See `ImageSource`; only for threads, since a reader may hold secrets."""
        return self

    def prefetch(self) -> None:
        """See `ImageSource`; not needed, because the payload is read in its own order."""

    def prefetch_all(self) -> bool:
        """See `ImageSource`."""
        return True

    def read(self, i: int, start: int, buffer: memoryview) -> None:
        """See `ImageSource`."""
        first, done = int(self._start[i]) + start, 0
        while done < len(buffer):
            offset = first + done - self._window_start
            if not 0 <= offset < len(self._window):
                self._move_window(first + done)
                offset = 0
            part = self._window[offset : offset + len(buffer) - done]
            buffer[done : done + len(part)] = part
            done += len(part)

    def _move_window(self, start: int) -> None:
        end = int(self._start[-1] + self.nbytes[-1])
        nbytes = min(_WINDOW_NBYTES, end - start)
        wanted = np.array([start]), np.array([nbytes])
        (self._window,) = read_elements(self._reader, self._manifest, *wanted)
        self._window_start = start


def _stored_images(
    store: Store, split: str, reader: RangeReader, container: ContainerReader
) -> StoredImages:
    stored = store.stored(split)
    nbytes = stored.columns["image_nbytes"]
    location = f"{store.address}/{split}"
    if not np.array_equal(stored.columns["image_start"], image_starts(nbytes)):
        raise FormatError(f"{location}/image_start: must be the running sum of image_nbytes")
    manifest = container.manifest(f"{split}/{PAYLOAD}")
    if not 0 <= stored.info.seed < 2**63:
        raise FormatError(
            f"{location}: attribute 'seed' must be in range(2**63) to be copied, got "
            f"{brief(stored.info.seed)}"
        )
    for stated in (stored.info.num_bytes, manifest.nbytes):
        if stated != nbytes.sum():
            raise FormatError(
                f"{location}/{PAYLOAD}: must have the {nbytes.sum()} bytes of all images, got "
                f"{stated}"
            )
    _check_is_stored(reader, manifest)
    names = stored.columns["file_name"]
    return StoredImages(reader, manifest, image_starts(nbytes), nbytes, names, location)


def _check_is_stored(reader: RangeReader, manifest: ChunkManifest) -> None:
    """Read the last byte of each piece of a payload, before disk space is reserved for it.

    Raises
    ------
    ShortReadError
        If fewer bytes are stored than the payload's length states.
    """
    whole = manifest.locate(np.zeros(1, np.int64), np.array([manifest.nbytes]))
    check_zeros(whole)
    stops = (whole.start + whole.nbytes)[whole.start != ZEROS].tolist()
    keys = whole.object[whole.start != ZEROS].tolist()
    for first in range(0, len(stops), _PROBED):
        some = slice(first, first + _PROBED)
        ends = [
            ByteRange(manifest.keys[key], stop - 1, stop)
            for key, stop in zip(keys[some], stops[some], strict=True)
        ]
        read_exactly(reader, ends)


def copy_nodes(store: Store, writer: ContainerWriter, columns: Mapping[str, NDArray[Any]]) -> None:
    """Copy everything of a store except payloads, and replace some columns.

    Parameters
    ----------
    store : Store
    writer : ContainerWriter
        Its groups and payloads exist.
    columns : mapping of str to ndarray
        Other values of columns, by path.
    """
    groups = store._root.dataset.groups
    _copy_nodes(store, store.opened[1].tree(), writer, groups, _Changes(dict(columns)))


def _copy_nodes(
    store: Store,
    tree: Tree,
    writer: ContainerWriter,
    splits: Sequence[str],
    changes: _Changes,
) -> tuple[str, ...]:
    """Copy columns and attributes, the version last; return the paths of those left out."""
    container = store.opened[1]
    ours = {"": dict(ROOT_COLUMNS)}
    ours |= {split: {f"{split}/{name}": COLUMNS[name] for name in COLUMNS} for split in splits}
    known = {path for columns in ours.values() for path in columns} | changes.left_out
    below = tuple(f"{split}/{USER_COLUMNS}/" for split in splits)
    theirs = {
        path: column
        for path, column in tree.columns.items()
        if path not in known and not path.startswith(below)
    }
    groups = [path for path in tree.groups if path not in splits and not path.startswith(below)]
    payloads = {f"{split}/{PAYLOAD}" for split in splits}
    left_out = [path for path in tree.others if path not in payloads and not path.startswith(below)]
    for path, columns in ours.items():
        _copy_columns(container, writer, columns, changes)
        nodes = [*columns, f"{path}/{PAYLOAD}", path] if path else columns
        for node in nodes:
            left_out += _copy_attributes(container, writer, node, changes)
    for path in sorted({*groups, *theirs}):  # as a conversion writes them
        if path in theirs:
            _copy_columns(container, writer, {path: theirs[path]}, changes)
        else:
            writer.create_group(path)
        left_out += _copy_attributes(container, writer, path, changes)
        if f"{path}/" in below:
            left_out += _copy_user_columns(store, path.split("/")[0], tree, writer, changes)
    left_out += _copy_attributes(container, writer, "", changes)
    return tuple(left_out)


def _copy_user_columns(
    store: Store, split: str, tree: Tree, writer: ContainerWriter, changes: _Changes
) -> list[str]:
    """Copy further columns, block by block; return the paths of what could not be copied."""
    left_out, container, prefix = [], store.opened[1], f"{split}/{USER_COLUMNS}/"
    known = set()
    for column in store.stored(split).user_columns.values():
        parts = RAGGED if column.is_ragged else ("",)
        paths = [f"{column.path}/{part}" if part else column.path for part in parts]
        known |= {column.path, *paths}
        try:
            specs = [column.spec(part) for part in parts]
        except FormatError:
            left_out.append(column.path)
            continue
        if column.is_ragged:
            writer.create_group(column.path)
        for part, path, spec in zip(parts, paths, specs, strict=True):
            writer.write_array(path, spec, column.blocks(of_bounds=part == RAGGED[1]))
        for path in dict.fromkeys((*paths, column.path)):
            left_out += _copy_attributes(container, writer, path, changes)
    nodes = (*tree.groups, *tree.columns, *tree.others)
    return left_out + [path for path in nodes if path.startswith(prefix) and path not in known]


def _copy_columns(
    container: ContainerReader,
    writer: ContainerWriter,
    columns: Mapping[str, Column],
    changes: _Changes,
) -> None:
    values = container.read_columns({path: column.data_type for path, column in columns.items()})
    for (path, column), data in zip(columns.items(), values, strict=True):
        writer.write_column(path, changes.columns.get(path, data), column)


def _copy_attributes(
    container: ContainerReader, writer: ContainerWriter, path: str, changes: _Changes
) -> list[str]:
    """Copy attributes; return the paths of those left out."""
    changed = container.attributes(path) | changes.attributes.get(path, {})
    found = {name: value for name, value in changed.items() if value is not None}
    # Ours in the order of a conversion: the version is last, and the copy has the same bytes.
    ours = dict.fromkeys((*SPLIT_ATTRIBUTES, *ROOT_ATTRIBUTES))
    names = [name for name in found if name not in ours] + [name for name in ours if name in found]
    wanted = {name: found[name] for name in names if name != _PAYLOAD_ATTRIBUTE}
    plain = {name: value for name, value in wanted.items() if _is_plain(value)}
    if plain:
        writer.set_attributes(path, plain)
    return [f"{path}@{name}" for name in wanted if name not in plain]


def _is_plain(value: Any) -> bool:
    """Whether both containers can hold the value of an attribute."""
    if isinstance(value, list):
        kinds = {type(item) for item in value}
        return len(kinds) == 1 and kinds <= {str, int, float} and all(map(_is_plain, value))
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return isinstance(value, str | float)
