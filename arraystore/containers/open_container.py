"""Open the container at a place, or choose the writer of a new one.

This module alone decides whether a store is Zarr or HDF5.
"""

from __future__ import annotations

import os
import stat
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from arraystore.containers.hdf5.cached_object import (
    HEAD_NBYTES,
    PAGE_NBYTES,
    CachedObjectReader,
)
from arraystore.containers.hdf5.reader import HDF5Reader
from arraystore.containers.hdf5.redo import MARK, SIGNATURE
from arraystore.containers.zarr.metadata import METADATA
from arraystore.containers.zarr.reader import ZarrReader
from arraystore.errors import FormatError, StorageError, escaped, store_changed
from arraystore.indexing.byte_range import ByteRange
from arraystore.storage.open_files import nbytes_of
from arraystore.storage.range_reader import LocalReader
from arraystore.storage.server_responses import unexpected_response
from arraystore.storage.workspace_folder import has_journal, recovered, restore

if TYPE_CHECKING:
    from pathlib import Path, PurePath

    from arraystore.containers.protocol import ColumnEditor, ContainerReader, ContainerWriter
    from arraystore.storage.location import Location
    from arraystore.storage.objects.connection import Connection
    from arraystore.storage.objects.reader import ObjectReader
    from arraystore.storage.objects.writer import ObjectWriter
    from arraystore.storage.range_reader import RangeReader

TAIL_NBYTES: Final = 2**18
"""Bytes of the end of a local HDF5 file to read ahead: metadata and small columns are there."""

_HDF5_SUFFIXES: Final = (".h5", ".hdf5")


def _writers() -> dict[str, type[ContainerWriter]]:
    """Return the writer of each suffix. Programs that only read do not import writers."""
    from arraystore.containers.hdf5.writer import HDF5Writer
    from arraystore.containers.zarr.writer import ZarrWriter

    return {".zarr": ZarrWriter, **dict.fromkeys(_HDF5_SUFFIXES, HDF5Writer)}


def writer_for(target: PurePath | Location) -> type[ContainerWriter]:
    """Return the writer of the container that the suffix of a name selects.

    Raises
    ------
    ValueError
        If the suffix is another one.
    """
    writers = _writers()
    try:
        return writers[target.suffix.lower()]
    except KeyError:
        raise ValueError(
            escaped(
                f"{target}: the suffix chooses the container and must be one of "
                f"{', '.join(writers)}, got {target.suffix!r}"
            )
        ) from None


def editor_for(path: Path) -> type[ColumnEditor]:
    """Return what changes the columns of a container on the local disk."""
    from arraystore.containers.hdf5.editor import HDF5Editor
    from arraystore.containers.zarr.editor import ZarrEditor

    return ZarrEditor if path.is_dir() else HDF5Editor


def bucket_editor_for(container: ContainerReader, objects: ObjectWriter) -> ColumnEditor:
    """Return what changes the columns of a container in a bucket.

    Raises
    ------
    ValueError
        If it is one object.
    """
    from arraystore.containers.zarr.bucket_editor import ZarrBucketEditor

    check_changeable(container, objects.at(objects.key))
    return ZarrBucketEditor(objects)


def check_changeable(container: ContainerReader, location: str) -> None:
    """Raise `ValueError` if a container in a bucket is one object, which is never changed."""
    if isinstance(container, ZarrReader):
        return
    raise ValueError(
        escaped(
            f"{location}: is an HDF5 file in a bucket, which cannot be changed in place; copy it "
            "to a disk or to a .zarr store (arraystore copy), and change the copy"
        )
    )


def is_container(path: Path) -> bool:
    """Return whether a local file or folder looks like a container, even if it is damaged."""
    return any(writer.is_at(path) for writer in _writers().values())


def open_local(
    path: Path, *, max_gap: int = 0, mmap: bool = True
) -> tuple[RangeReader, ContainerReader]:
    """Open a container on the local disk.

    Parameters
    ----------
    path : Path
        Folder of a Zarr group, or HDF5 file, with any name.
    max_gap : int, default 0
    mmap : bool, default True
        See `arraystore.storage.range_reader.LocalReader`.

    Returns
    -------
    RangeReader, ContainerReader
        The first reads the bytes of payloads, the second metadata, columns and the places of
        payloads.

    Raises
    ------
    FileNotFoundError
        If nothing exists at `path`.
    FormatError
        If it is not a container.
    StoreChangedError
        If it is replaced meanwhile.
    StorageError
        If a conversion that was killed moved it aside, and it cannot be moved back.
    """
    status = _status(path)
    if status is None:
        restore(path)
        status = _status(path)
    if status is None:
        raise FileNotFoundError(escaped(f"{path}: there is nothing here"))
    try:
        reader, container = _open_local(path, status.st_mode, max_gap=max_gap, mmap=mmap)
        reader.accepts = partial(_is_column_change, path, status, container)
        return reader, container
    except (FormatError, OSError):
        now = _status(path)
        if now is None or not os.path.samestat(now, status):
            raise store_changed(str(path)) from None
        raise


def _is_column_change(
    path: Path,
    opened: os.stat_result,
    container: ContainerReader,
    key: str,
    before: tuple[int, ...],
    after: tuple[int, ...],
) -> bool:
    """Return whether a changed file is that of a store to which columns were added.

    A Zarr store then has a new root document in the same folder. An HDF5 file has become longer.
    """
    is_folder = stat.S_ISDIR(opened.st_mode)
    if key != (METADATA if is_folder else path.name):
        return False
    now = _status(path)
    if now is None or not os.path.samestat(now, opened):
        return False
    if not is_folder and nbytes_of(after) <= nbytes_of(before):
        return False
    try:
        _, later = _open_local(path, opened.st_mode, max_gap=0, mmap=False)
        return container.has_same_samples(later)
    except (FormatError, OSError):
        return False


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # no file can have such a name
        return None


def _open_local(
    path: Path, mode: int, *, max_gap: int, mmap: bool
) -> tuple[LocalReader, ContainerReader]:
    location = str(path)
    if stat.S_ISDIR(mode):
        if not (path / METADATA).is_file():
            is_v2 = (path / ".zgroup").exists() or (path / ".zarray").exists()
            found = "a Zarr v2 hierarchy" if is_v2 else "a folder"
            raise FormatError(
                f"{location}: is not an arraystore store: {found} without {METADATA}, "
                "expected a Zarr v3 group or an HDF5 file"
            )
        reader = LocalReader(path, max_gap=max_gap, mmap=mmap)
        return reader, ZarrReader(reader, location)
    if not stat.S_ISREG(mode):
        raise FormatError(f"{location}: is not an arraystore store: neither a folder nor a file")
    reader = LocalReader(path.parent, max_gap=max_gap, mmap=mmap)
    nbytes = reader.size(path.name)
    # libhdf5 makes many small reads in these ranges, and waits for the disk each time.
    ends = ((0, HEAD_NBYTES), (max(0, nbytes - TAIL_NBYTES), nbytes))
    reader.read_ahead([ByteRange(path.name, *end) for end in ends])
    (start,) = reader.read_ranges([ByteRange(path.name, 0, len(SIGNATURE))])
    if bytes(start) != SIGNATURE and (bytes(start) == MARK or has_journal(path)):
        from arraystore.containers.hdf5.editor import HDF5Editor

        recovered(path, HDF5Editor.recover)
        return _open_local(path, mode, max_gap=max_gap, mmap=mmap)
    _check_signature(start, location)
    return reader, HDF5Reader(reader, path.name, location)


def open_remote(
    connection: Connection, key: str, *, max_gap: int, max_in_flight: int
) -> tuple[RangeReader, ContainerReader]:
    """Open a container in a bucket, or on a web server; nothing is listed.

    Parameters
    ----------
    connection : Connection
        Sends the requests.
    key : str
        Prefix of a Zarr group, or key of an HDF5 file. The suffix decides which is tried first.
    max_gap, max_in_flight : int
        See `arraystore.storage.objects.reader.ObjectReader`.

    Returns
    -------
    RangeReader, ContainerReader
        As from `open_local`.

    Raises
    ------
    FileNotFoundError
        If neither exists.
    FormatError
        If it is not a container.
    StorageError
        If the server cannot be reached, refuses, or does not support byte ranges.
    """
    from arraystore.storage.objects.reader import ObjectReader

    location = str(connection.location.at(key))

    def reader_below(prefix: str) -> ObjectReader:
        return ObjectReader(connection, prefix, max_gap=max_gap, max_in_flight=max_in_flight)

    def open_zarr() -> tuple[RangeReader, ContainerReader]:
        reader = reader_below(key)
        (document,) = reader.read_objects([METADATA])
        container = ZarrReader(reader, location, document)
        reader.accepts = container.is_column_change
        return reader, container

    def open_hdf5() -> tuple[RangeReader, ContainerReader]:
        parent, _, name = key.rpartition("/")
        reader = reader_below(parent)
        return reader, _open_remote_hdf5(reader, name, location)

    is_hdf5 = PurePosixPath(key).suffix.lower() in _HDF5_SUFFIXES
    first, second = (open_hdf5, open_zarr) if is_hdf5 else (open_zarr, open_hdf5)
    try:
        return first()
    except FileNotFoundError as error:
        try:
            return second()
        except (FileNotFoundError, StorageError):
            # A web server may send anything in response to the second request.
            raise FileNotFoundError(escaped(f"{location}: {error.strerror}")) from None


def _open_remote_hdf5(reader: ObjectReader, name: str, location: str) -> ContainerReader:
    nbytes, head, tail = reader.read_ends(name, HEAD_NBYTES, PAGE_NBYTES)
    if what := unexpected_response(bytes(head[:1024])):
        raise StorageError(f"{location}: must be an HDF5 file, but the server sent {what}")
    _check_signature(head[: len(SIGNATURE)], location)
    return HDF5Reader(CachedObjectReader(reader, name, nbytes, head, tail), name, location)


def _check_signature(start: memoryview, location: str) -> None:
    if bytes(start) != SIGNATURE:
        raise FormatError(
            f"{location}: is not an arraystore store: begins with {bytes(start)!r}, "
            "expected a Zarr v3 group or an HDF5 file"
        )
