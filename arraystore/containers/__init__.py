"""The two formats, thin and alike, behind one protocol.

Which of them a store has is known here, and nowhere else.
"""

from __future__ import annotations

import os
import stat
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from arraystore.containers.hdf5.block_cache import BLOCK_NBYTES, HEAD_NBYTES, BlockReader
from arraystore.containers.hdf5.reader import SIGNATURE, HDF5Reader
from arraystore.containers.hdf5.writer import HDF5Writer
from arraystore.containers.zarr.reader import METADATA, ZarrReader
from arraystore.containers.zarr.writer import ZarrWriter
from arraystore.errors import FormatError, StorageError, changed, escaped
from arraystore.indexing.byte_range import ByteRange
from arraystore.storage.range_reader import LocalReader
from arraystore.storage.server_answers import strange_answer
from arraystore.storage.workspace_folder import restore

if TYPE_CHECKING:
    from pathlib import Path, PurePath

    from arraystore.containers.protocol import ContainerReader, ContainerWriter
    from arraystore.storage.objects.connection import Connection
    from arraystore.storage.objects.reader import ObjectReader
    from arraystore.storage.range_reader import RangeReader

TAIL_NBYTES: Final = 2**18
"""What a disk is asked for of the end of an HDF5 file, where metadata and small columns are."""

_HDF5_SUFFIXES: Final = (".h5", ".hdf5")
_WRITERS: Final[dict[str, type[ContainerWriter]]] = {
    ".zarr": ZarrWriter,
    ".h5": HDF5Writer,
    ".hdf5": HDF5Writer,
}


def writer_for(target: PurePath, location: str = "") -> type[ContainerWriter]:
    """Return the writer of the container that the suffix of a name chooses.

    Parameters
    ----------
    target : PurePath
        Path or key of the store.
    location : str, optional
        What an error message calls the store; `target` by default.

    Raises
    ------
    ValueError
        If the suffix is not one of a container.
    """
    try:
        return _WRITERS[target.suffix.lower()]
    except KeyError:
        raise ValueError(
            escaped(
                f"{location or target}: the suffix chooses the container and must be one of "
                f"{', '.join(_WRITERS)}, got {target.suffix!r}"
            )
        ) from None


def is_container(path: Path) -> bool:
    """Whether a file or folder on the local disk looks like a container, even if damaged."""
    return any(writer.is_at(path) for writer in _WRITERS.values())


def open_local(
    path: Path, *, max_gap: int = 0, mmap: bool = True
) -> tuple[RangeReader, ContainerReader]:
    """Open a container on the local disk.

    Parameters
    ----------
    path : Path
        A Zarr group's folder, or an HDF5 file, whatever their names.
    max_gap : int, default 0
    mmap : bool, default True
        See `arraystore.storage.range_reader.LocalReader`.

    Returns
    -------
    RangeReader, ContainerReader
        What reads the bytes of payloads, and what tells where they are.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    FormatError
        If what is there is neither.
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
        return _open_local(path, status.st_mode, max_gap=max_gap, mmap=mmap)
    except (FormatError, OSError):
        now = _status(path)
        if now is None or not os.path.samestat(now, status):
            raise changed(str(path)) from None
        raise


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # no file can have such a name
        return None


def _open_local(
    path: Path, mode: int, *, max_gap: int, mmap: bool
) -> tuple[RangeReader, ContainerReader]:
    where = str(path)
    reader: RangeReader
    if stat.S_ISDIR(mode):
        if not (path / METADATA).is_file():
            is_v2 = (path / ".zgroup").exists() or (path / ".zarray").exists()
            found = "a Zarr v2 hierarchy" if is_v2 else "a folder"
            raise FormatError(
                f"{where}: is not an arraystore store: {found} without {METADATA}, "
                "expected a Zarr v3 group or an HDF5 file"
            )
        reader = LocalReader(path, max_gap=max_gap, mmap=mmap)
        return reader, ZarrReader(reader, where)
    if not stat.S_ISREG(mode):
        raise FormatError(f"{where}: is not an arraystore store: neither a folder nor a file")
    reader = LocalReader(path.parent, max_gap=max_gap, mmap=mmap)
    nbytes = reader.size(path.name)
    # libhdf5 reads a little here and there in these, and waits for the disk each time.
    ends = ((0, HEAD_NBYTES), (max(0, nbytes - TAIL_NBYTES), nbytes))
    reader.read_ahead([ByteRange(path.name, *end) for end in ends])
    (start,) = reader.read_ranges([ByteRange(path.name, 0, len(SIGNATURE))])
    _check_signature(start, where)
    return reader, HDF5Reader(reader, path.name, where)


def open_objects(
    connection: Connection, key: str, *, max_gap: int, max_in_flight: int
) -> tuple[RangeReader, ContainerReader]:
    """Open a container in a bucket, or behind a web server; nothing is listed.

    Parameters
    ----------
    connection : Connection
        What to ask.
    key : str
        A Zarr group's prefix, or an HDF5 file's key. The suffix says which is looked
        for first.
    max_gap, max_in_flight : int
        See `arraystore.storage.objects.reader.ObjectReader`.

    Returns
    -------
    RangeReader, ContainerReader
        As from `open_local`.

    Raises
    ------
    FileNotFoundError
        If there is neither.
    FormatError
        If what is there is no container.
    StorageError
        If the server cannot be reached, refuses, or has no byte ranges.
    """
    from arraystore.storage.objects.reader import ObjectReader

    where = connection.where + key

    def at(prefix: str) -> ObjectReader:
        return ObjectReader(connection, prefix, max_gap=max_gap, max_in_flight=max_in_flight)

    def zarr() -> tuple[RangeReader, ContainerReader]:
        reader = at(key)
        (document,) = reader.read_objects([METADATA])
        return reader, ZarrReader(reader, where, document)

    def hdf5() -> tuple[RangeReader, ContainerReader]:
        parent, _, name = key.rpartition("/")
        reader = at(parent)
        return reader, _open_hdf5(reader, name, where)

    is_hdf5 = PurePosixPath(key).suffix.lower() in _HDF5_SUFFIXES
    first, second = (hdf5, zarr) if is_hdf5 else (zarr, hdf5)
    try:
        return first()
    except FileNotFoundError as error:
        try:
            return second()
        except (FileNotFoundError, StorageError):
            # A web server may answer the second question with anything.
            raise FileNotFoundError(escaped(f"{where}: {error.strerror}")) from None


def _open_hdf5(reader: ObjectReader, name: str, where: str) -> ContainerReader:
    nbytes, head, tail = reader.read_ends(name, HEAD_NBYTES, BLOCK_NBYTES)
    if what := strange_answer(bytes(head[:1024])):
        raise StorageError(f"{where}: must be an HDF5 file, but the server sent {what}")
    _check_signature(head[: len(SIGNATURE)], where)
    return HDF5Reader(BlockReader(reader, name, nbytes, head, tail), name, where)


def _check_signature(start: memoryview, where: str) -> None:
    if bytes(start) != SIGNATURE:
        raise FormatError(
            f"{where}: is not an arraystore store: begins with {bytes(start)!r}, "
            "expected a Zarr v3 group or an HDF5 file"
        )
