"""From a store to a store: another place, or the other container, and nothing lost.

Images are compared with their checksums on the way. Columns, attributes, the order
of the samples and what else the store holds come along.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore._arguments import as_path, check_bools
from arraystore.errors import FormatError, brief, escaped
from arraystore.indexing.byte_range import ZEROS, ByteRange
from arraystore.indexing.layout import image_starts
from arraystore.reader import open_store
from arraystore.schema import (
    COLUMNS,
    MAX_DEPTH,
    PAYLOAD,
    ROOT_COLUMNS,
    DatasetInfo,
    SplitInfo,
)
from arraystore.storage.file_states import NO_FILES, FileStates
from arraystore.storage.folder_trees import files_below
from arraystore.storage.range_reader import check_zeros, read_elements, read_exactly
from arraystore.writing.open_writer import name_of, open_draft
from arraystore.writing.progress import meter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from arraystore._typing import Ints
    from arraystore.containers.protocol import ContainerReader, ContainerWriter, Tree
    from arraystore.indexing.byte_range import ChunkManifest
    from arraystore.reader import Store
    from arraystore.reading.store_handle import ObjectStore
    from arraystore.schema import Column
    from arraystore.storage.range_reader import RangeReader

    Target = str | os.PathLike[str] | tuple[ObjectStore, str]
    Place = Target | ObjectStore

ROOT_ATTRIBUTES: Final = tuple(
    DatasetInfo(
        "", "", "", "", "", "", (), selections={"some": ()}, label_hierarchy="1.0"
    ).attributes()
)
SPLIT_ATTRIBUTES: Final = tuple(SplitInfo(0, 0, "", 0, "").attributes())

_PAYLOAD_ATTRIBUTE: Final = "dense"
"""What a payload has from the start."""

_PROBED: Final = 1024
"""Pieces of a payload that are probed in one round trip."""

_WINDOW_NBYTES: Final = 8 * 2**20
"""Bytes that a block being copied reads at a time."""


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What was copied.

    Attributes
    ----------
    dataset : str
        Name, config and version of the data set.
    source, path : str
        The store that was copied, and the copy.
    splits : dict of str to SplitInfo
    left_out : tuple of str
        Paths of arrays, links, and attributes (``path@name``), that arraystore does not write
        and could not copy.
    seconds : float
        Wall time.
    notes : tuple of str
        That a symbolic link was replaced.
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
    source: Place,
    target: Target,
    *,
    source_options: Mapping[str, Any] | None = None,
    target_options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    sync: bool = True,
    progress: bool | None = None,
) -> CopyReport:
    """Copy a store to another place, or into the other container, and lose nothing.

    Every image is compared with its checksum. A copy that fails or is interrupted
    leaves nothing at `target`.

    Parameters
    ----------
    source : path-like, obstore store, or pair of an obstore store and a key
        The store: a path, or an address; see `arraystore.open`.
    target : path-like, or pair of an obstore store and a key
        Where the copy is to be: a path, or an address such as
        ``s3://bucket/1pct.h5``. Its suffix chooses the container.
    source_options, target_options : mapping of str to anything, optional
        How to reach them; see `storage_options` of `arraystore.open`.
    overwrite, sync, progress
        See `arraystore.convert`.

    Returns
    -------
    CopyReport

    Raises
    ------
    ChecksumError
        If an image is damaged.
    FormatError
        If the source is not as the format says.
    SourceChangedError
        If a file of the source changes while it is copied.
    FileExistsError
        If there is something at `target`.
    StorageError
        If the disk is full, or a bucket cannot be reached or written to.
    ValueError
        If source and target are the same and would be overwritten, or one lies in the other, or an
        option is not known.

    Examples
    --------
    >>> import arraystore
    >>> report = arraystore.copy("1pct.zarr", "copy.h5")
    >>> arraystore.open("copy.h5").info == arraystore.open("1pct.zarr").info
    True
    """
    check_bools(overwrite=overwrite, sync=sync, progress=False if progress is None else progress)
    began = time.perf_counter()
    _check_apart(source, target, overwrite=overwrite)
    states = _states(source)
    store = open_store(source, storage_options=source_options)
    reader, container = store.opened
    splits = {name: store.stored(name).info for name in store}
    images = {name: _stored_images(store, name, reader, container) for name in splits}
    tree = container.tree()
    _check_paths((*tree.groups, *tree.columns))
    made = open_draft(target, storage_options=target_options, overwrite=overwrite, sync=sync)
    with made as draft, meter(progress) as shown:
        draft.lay_out({name: info.num_bytes for name, info in splits.items()})
        with states.unchanged():
            for name in splits:
                checksums = store.stored(name).column("image_crc32c")
                draft.fill(name, images[name], shown, expected=checksums)
            shown.status("sealing")
            with draft.writer() as writer:
                left_out = _copy_the_rest(container, tree, writer, tuple(splits))
        draft.publish(shown)
    return CopyReport(
        dataset=store.info.full_name,
        source=store.address,
        path=name_of(target),
        splits=splits,
        left_out=left_out,
        seconds=time.perf_counter() - began,
        notes=draft.notes,
    )


def _check_apart(source: Place, target: Target, *, overwrite: bool) -> None:
    """Refuse a copy that would replace its source, or become part of it."""
    here, there = _place(target), _place(source)
    if here == there:
        if overwrite:
            raise ValueError(escaped(f"{name_of(target)}: cannot be copied onto itself"))
    elif here[: len(there)] == there or there[: len(here)] == here:
        raise ValueError(
            escaped(
                f"{name_of(target)}: lies in what is copied, or that in it; choose another place"
            )
        )


def _states(source: Place) -> FileStates:
    """Look at the files of a store on the disk; objects elsewhere have their own versions."""
    place = _place(source)
    path = Path(*place) if isinstance(source, str | os.PathLike) and place[:1] == ("/",) else None
    if path is None or not path.exists():
        return NO_FILES
    return FileStates.of(files_below(str(path), MAX_DEPTH) if path.is_dir() else [str(path)])


def _place(place: Place) -> tuple[Any, ...]:
    """Return the parts of a place, equal for two ways to name it."""
    from arraystore.storage.objects.address import parse_address

    if not isinstance(place, str | os.PathLike):
        store, key = place if isinstance(place, tuple) else (place, "")
        return id(store), *key.strip("/").split("/")
    address = parse_address(os.fspath(place))
    if address is not None:
        return address.kind, address.bucket, *address.key.strip("/").split("/")
    return as_path(os.fspath(place).removeprefix("file://")).resolve().parts


class StoredImages:
    """The images of a split as they are stored; an `arraystore.writing.fill.ImageBytes`.

    Parameters
    ----------
    reader : RangeReader
        Where the payload is.
    manifest : ChunkManifest
        Where in it.
    start, nbytes : ndarray of int64, shape (n,)
        Where each image is in the payload; they follow each other.
    names : ndarray of str, shape (n,)
        Their file names.
    where : str
        Address of the split, for messages.
    """

    def __init__(
        self,
        reader: RangeReader,
        manifest: ChunkManifest,
        start: Ints,
        nbytes: Ints,
        names: NDArray[Any],
        where: str,
    ) -> None:
        self._reader = reader
        self._manifest = manifest
        self._start = start
        self._names, self._where = names, where
        self.nbytes = nbytes
        self._window, self._window_start = memoryview(b""), 0

    def rows(self, first: int, last: int) -> StoredImages:
        """See `ImageBytes`."""
        rows = slice(first, last)
        columns = self._start[rows], self.nbytes[rows], self._names[rows]
        return StoredImages(self._reader, self._manifest, *columns, self._where)

    def where(self, i: int) -> str:
        """See `ImageBytes`."""
        return f"{self._where}: {self._names[i]}"

    def announce(self) -> None:
        """See `ImageBytes`; here nothing is gained by it."""

    def announce_all(self) -> bool:
        """See `ImageBytes`."""
        return True

    def read(self, i: int, start: int, buffer: memoryview) -> None:
        """See `ImageBytes`."""
        at, done = int(self._start[i]) + start, 0
        while done < len(buffer):
            offset = at + done - self._window_start
            if not 0 <= offset < len(self._window):
                self._move_window(at + done)
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
    nbytes = stored.column("image_nbytes")
    where = f"{store.address}/{split}"
    if not np.array_equal(stored.column("image_start"), image_starts(nbytes)):
        raise FormatError(f"{where}/image_start: must be the running sum of image_nbytes")
    manifest = container.manifest(f"{split}/{PAYLOAD}")
    if not 0 <= stored.info.seed < 2**63:
        raise FormatError(
            f"{where}: attribute 'seed' must be in range(2**63) to be copied, got "
            f"{brief(stored.info.seed)}"
        )
    for stated in (stored.info.num_bytes, manifest.nbytes):
        if stated != nbytes.sum():
            raise FormatError(
                f"{where}/{PAYLOAD}: must have the {nbytes.sum()} bytes of all images, got {stated}"
            )
    _check_is_stored(reader, manifest)
    names = stored.column("file_name")
    return StoredImages(reader, manifest, image_starts(nbytes), nbytes, names, where)


def _check_is_stored(reader: RangeReader, manifest: ChunkManifest) -> None:
    """Read the last byte of each piece of a payload, before room is made for all of it.

    Raises
    ------
    ShortReadError
        If less is stored than the payload's length states.
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


def _copy_the_rest(
    container: ContainerReader, tree: Tree, writer: ContainerWriter, splits: Sequence[str]
) -> tuple[str, ...]:
    """Copy columns and attributes, the version last; return what could not be copied."""
    ours = {"": dict(ROOT_COLUMNS)}
    ours |= {split: {f"{split}/{name}": COLUMNS[name] for name in COLUMNS} for split in splits}
    known = {path for columns in ours.values() for path in columns}
    theirs = {path: column for path, column in tree.columns.items() if path not in known}
    groups = [path for path in tree.groups if path not in splits]
    payloads = {f"{split}/{PAYLOAD}" for split in splits}
    left_out = [path for path in tree.others if path not in payloads]
    for path, columns in ours.items():
        _copy_columns(container, writer, columns)
        nodes = [*columns, f"{path}/{PAYLOAD}", path] if path else columns
        for node in nodes:
            left_out += _copy_attributes(container, writer, node)
    for path in groups:
        writer.create_group(path)
    _copy_columns(container, writer, theirs)
    for node in (*theirs, *groups, ""):
        left_out += _copy_attributes(container, writer, node)
    return tuple(left_out)


def _check_paths(paths: Sequence[str]) -> None:
    """Refuse paths that are none below a folder, or that Zarr has another use for."""
    for path in paths:
        if {"", ".", "..", "zarr.json"} & {*path.split("/")} or "\0" in path:
            raise FormatError(f"{path[:80]!r} is no path of a group or column that can be copied")


def _copy_columns(
    container: ContainerReader, writer: ContainerWriter, columns: Mapping[str, Column]
) -> None:
    values = container.read_columns({path: column.data_type for path, column in columns.items()})
    for (path, column), data in zip(columns.items(), values, strict=True):
        writer.write_column(path, data, column)


def _copy_attributes(container: ContainerReader, writer: ContainerWriter, path: str) -> list[str]:
    """Copy attributes; return the places of those that cannot be."""
    found = container.attributes(path)
    # Ours in their own order, so that the version is last, and a copy's bytes are no others.
    ours = dict.fromkeys((*SPLIT_ATTRIBUTES, *ROOT_ATTRIBUTES))
    names = [name for name in found if name not in ours] + [name for name in ours if name in found]
    wanted = {name: found[name] for name in names if name != _PAYLOAD_ATTRIBUTE}
    plain = {name: value for name, value in wanted.items() if _is_plain(value)}
    if plain:
        writer.set_attributes(path, plain)
    return [f"{path}@{name}" for name in wanted if name not in plain]


def _is_plain(value: Any) -> bool:
    """Whether both containers can hold an attribute's value."""
    if isinstance(value, list):
        kinds = {type(item) for item in value}
        return len(kinds) == 1 and kinds <= {str, int, float} and all(map(_is_plain, value))
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return isinstance(value, str | float)
