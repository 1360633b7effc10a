"""Read a Zarr v3 store: one object per shard of the payload, one per chunk of a column.

Only metadata documents and data objects are read, by key. Nothing is listed, so a plain HTTP server
is enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

import numpy as np
from typing_extensions import Buffer, override

from arraystore.containers.protocol import (
    ArrayReader,
    ContainerReader,
    Fault,
    Tree,
    as_string_array,
    check_nodes,
)
from arraystore.containers.zarr.arrays import ForeignArray, PlainArray
from arraystore.containers.zarr.column_codec import check_chunk, decode_chunk, import_codecs
from arraystore.containers.zarr.faults import document_faults, shard_faults
from arraystore.containers.zarr.metadata import (
    METADATA,
    ArrayMetadata,
    NDArrayMetadata,
    check_document,
    consolidated_documents,
    document_key,
    is_group,
)
from arraystore.containers.zarr.shards import (
    MAX_SHARDS,
    ShardKeys,
    ShardManifest,
    index_nbytes,
    parse_shard_index,
    shard_object_nbytes,
)
from arraystore.errors import FormatError, ShortReadError, StorageError, brief, escaped
from arraystore.indexing.byte_range import ByteRange, ChunkManifest
from arraystore.schema import (
    COLUMN_CHUNK_ROWS,
    INNER_CHUNK_NBYTES,
    MAX_CHUNK_NBYTES,
    MAX_NBYTES,
    ORDERS,
    PARTS,
    PAYLOAD,
    SHARD_NBYTES,
    STRING,
    USER_COLUMNS,
    Column,
    parse_json,
    without_parts,
)
from arraystore.storage.range_reader import RangeReader, each_exactly, read_exactly
from arraystore.storage.server_responses import is_truncated_json, unexpected_response

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from numpy.typing import NDArray
    from zarr import Group

    from arraystore._typing import Ints
    from arraystore.containers.protocol import ColumnRows

_MAX_INNER_CHUNKS: Final = 2**20
MAX_COLUMN_CHUNKS: Final = 2**16
"""More than any store has; metadata that states more is refused before memory is allocated."""

_MANY_SHARDS: Final = 2**12
"""Shards that a payload may state before the stored ones are counted."""

_PROBES: Final = 16
"""Objects to read a byte of where a server would have to list all objects to count them."""


class _MissingError(FormatError):
    """No group or array exists at a path."""


@dataclass(frozen=True, slots=True)
class _ChunkedRows:
    """Consecutive rows of a column, and the chunks that contain them.

    Attributes
    ----------
    data_type : str
    start, stop : int
        The rows, counted from the first row of the first chunk.
    keys : list of str
        The chunks.
    chunk_rows : int
        Rows in a chunk.
    """

    data_type: str
    start: int
    stop: int
    keys: list[str]
    chunk_rows: int


class ZarrReader(ContainerReader):
    """Read a Zarr v3 hierarchy.

    Parameters
    ----------
    reader : RangeReader
        Reads objects; keys are paths below the root group.
    location : str
        Address of the store, for messages.
    document : bytes-like, optional
        The metadata document of the root, if it was read already.
    """

    def __init__(self, reader: RangeReader, location: str, document: Buffer | None = None) -> None:
        self._reader = reader
        self._location = location
        self._nodes: dict[str, dict[str, Any]] = {}
        if document is not None:
            self._nodes[""] = self._parsed(METADATA, document)
        root = self._node("", "group")
        nodes = consolidated_documents(root)
        self._is_consolidated = False
        if nodes is not None and all(isinstance(node, dict) for node in nodes.values()):
            self._is_consolidated = True
            self._nodes |= nodes

    @override
    def import_libraries(self) -> None:
        import_codecs()

    @override
    def attributes(self, path: str = "") -> dict[str, Any]:
        attributes = self._node(path).get("attributes", {})
        if not isinstance(attributes, dict):
            raise FormatError(f"{self._locate(path)}: attributes must be a JSON object")
        return attributes

    @override
    def read_rows(self, columns: Sequence[ColumnRows]) -> Iterator[NDArray[Any]]:
        self._read_nodes(dict.fromkeys(path for path, _, _ in columns))
        found = [self._chunked_rows(*column) for column in columns]
        chunks = self._read_chunks([key for rows in found for key in rows.keys])
        for rows in found:
            yield self._decoded(chunks, rows)

    @override
    def check_column(self, path: str, data_type: str, length: int) -> None:
        array = self._array(path)
        array.check_column(data_type)
        if array.length != length:
            raise FormatError(f"{array.location}: must have {length} values, got {array.length}")
        self._check_number(array, length)
        self._check_stored(path, -(-length // array.chunk_length))

    def _check_stored(self, path: str, n_chunks: int) -> None:
        """Refuse an array that states many chunks and has few of them stored."""
        found = self._reader.count(f"{path}/c")
        if found is None:
            found = n_chunks
            some = {n_chunks * i // _PROBES for i in range(_PROBES)} | {n_chunks - 1}
            ranges = [ByteRange(f"{path}/c/{number}", 0, 1) for number in sorted(some)]
            try:
                read_exactly(self._reader, ranges)
            except StorageError as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise
                raise FormatError(
                    f"{self._locate(path)}: states {n_chunks} chunks, but some of them are not "
                    f"stored: {error}"
                ) from None
        if 2 * found < n_chunks:
            raise FormatError(
                f"{self._locate(path)}: states {n_chunks} chunks, but {found} are stored"
            )

    @override
    def manifest(self, path: str, recheck: Collection[str] = ()) -> ChunkManifest:
        is_known = self._reader.is_remote and bool(self.attributes(path).get("dense"))
        manifest = self._shards(path, is_known=is_known)
        for key in recheck:
            manifest.is_known[int(key.rpartition("/")[2])] = False
        return manifest

    def _shards(self, path: str, *, is_known: bool) -> ShardManifest:
        """Return where shards are; unless they are known, look into them when they are needed."""
        array, location = self._array(path), self._locate(path)
        inner_nbytes = array.inner_chunk_length()
        length, shard_nbytes = array.length, array.chunk_length
        n_shards, per_shard = -(-length // shard_nbytes), shard_nbytes // inner_nbytes
        if n_shards > MAX_SHARDS or per_shard > _MAX_INNER_CHUNKS:
            raise FormatError(
                f"{location}: may have {MAX_SHARDS} shards of {_MAX_INNER_CHUNKS} chunks, "
                f"got {length} bytes in shards of {shard_nbytes}, chunks of {inner_nbytes}"
            )
        if n_shards > _MANY_SHARDS:
            self._check_stored(path, n_shards)
        is_dense = bool(self.attributes(path).get("dense"))

        def look_up(shard: int) -> Ints | None:
            key = f"{path}/c/{shard}"
            size = self._size(key)
            nbytes = min(shard_nbytes, length - shard * shard_nbytes)
            if is_dense and size == shard_object_nbytes(nbytes, shard_nbytes, inner_nbytes):
                return None
            if array.fill_value != 0:
                raise FormatError(
                    f"{location}: fill_value must be 0 where chunks may be left out, got "
                    f"{brief(array.fill_value)}"
                )
            return self._shard_index(key, size, per_shard, inner_nbytes)

        return ShardManifest(
            ShardKeys(path, n_shards),
            np.arange(n_shards, dtype=np.int64),
            np.zeros(n_shards, dtype=np.int64),
            shard_nbytes,
            length,
            inner_nbytes,
            look_up,
            np.full(n_shards, is_known),
        )

    @override
    def has_same_samples(self, later: Self) -> bool:
        parts = [reader.attributes().get(PARTS) for reader in (self, later)]
        if self._users() == later._users() and parts[0] == parts[1]:
            return False
        mine, theirs = self._samples(), later._samples()
        # Samples that were appended are in groups that this store did not have.
        return mine == {path: theirs.get(path) for path in mine}

    def _samples(self) -> dict[str, Any]:
        """Return the documents that are in the root, without those of columns of users."""
        nodes = consolidated_documents(self._nodes[""]) or {}
        kept = {path: nodes[path] for path in nodes if not _is_of_users(path)}
        return kept | {"": without_parts(self.attributes())}

    def _users(self) -> dict[str, Any]:
        """Return what a change of columns of users changes in the root."""
        nodes = consolidated_documents(self._nodes[""]) or {}
        users = {path: nodes[path] for path in nodes if _is_of_users(path)}
        return users | {"": self.attributes().get("format_version")}

    def is_column_change(self, document: bytes) -> bool:
        """Whether the root's document was replaced only by new columns of users, or new samples.

        Positions must follow from what is in the document: then the order of each split does.
        """
        try:
            later = type(self)(self._reader, self._location, document)
        except FormatError:
            return False
        mine = self._samples()
        names = mine[""].get("splits", [])
        orders = {mine.get(name, {}).get("attributes", {}).get("order") for name in names}
        return orders <= {*ORDERS[:2]} and self.has_same_samples(later)

    @override
    def tree(self) -> Tree:
        groups, columns, others = [], {}, []
        self._list()
        paths = sorted(self._nodes.keys() - {""})
        check_nodes(paths, self._location)
        for path in paths:
            if is_group(self._nodes[path]):
                groups.append(path)
            elif (column := self._as_column(path)) is not None:
                columns[path] = column
            else:
                others.append(path)
        return Tree(tuple(groups), columns, tuple(others))

    def _as_column(self, path: str) -> Column | None:
        """Return an array as a column, or None if it is not stored like one."""
        try:
            array = ArrayMetadata.parse(self._nodes[path], self._locate(path))
        except FormatError:
            return None
        return array.column if array.is_column else None

    def _list(self) -> None:
        """Read the documents of all groups and arrays, level by level.

        Raises
        ------
        StorageError
            If the store cannot be listed and has no consolidated metadata.
        """
        level = [""]
        while level:
            found = []
            for group in level:
                names = self._reader.folders(group)
                if names is None:
                    if self._is_consolidated:
                        return
                    raise StorageError(
                        f"{self._location}: {METADATA} has no consolidated metadata, and a web "
                        "server does not list the objects of a store; download the store and copy "
                        "it from a disk or bucket"
                    )
                if not group and self._is_consolidated:
                    names = [name for name in names if not self._is_unlisted_part(name)]
                found += [f"{group}/{name}" if group else name for name in sorted(names)]
            check_nodes(found, self._location)
            check_nodes(self._nodes.keys(), self._location)
            self._read_nodes(found)
            level = [path for path in found if self._is_group(path)]

    def _is_unlisted_part(self, name: str) -> bool:
        """Return whether a folder has the name of a part and the root does not list it.

        A writer is adding it, or was killed before it was complete.
        """
        split, _, number = name.rpartition(".")
        return split in self._nodes and number.isdecimal() and name not in self._nodes

    def _is_group(self, path: str) -> bool:
        """Return whether a folder is a group; one without a document does not belong to Zarr."""
        if path not in self._nodes:
            try:
                self._nodes[path] = self._read_node(path)
            except _MissingError:
                return False
        return is_group(self._nodes[path])

    @override
    def members(self, path: str) -> dict[str, bool]:
        prefix = f"{path}/"
        if not self._is_consolidated:
            try:
                self._node(path, "group")
            except _MissingError:
                return {}
            names = self._reader.folders(path)
            if names is None:
                raise StorageError(
                    f"{self._locate(path)}: {METADATA} of the store has no consolidated metadata, "
                    "and a web server does not list the arrays of a group; download the store, or "
                    "add consolidated metadata with zarr.consolidate_metadata"
                )
            self._read_nodes([prefix + name for name in names])
            found = {name: prefix + name for name in sorted(names)}
            return {
                name: self._is_group(at)
                for name, at in found.items()
                if self._is_group(at) or at in self._nodes
            }
        inside = {at.removeprefix(prefix): at for at in self._nodes if at.startswith(prefix)}
        return {n: is_group(self._nodes[inside[n]]) for n in sorted(inside) if "/" not in n}

    @override
    def open_array(self, path: str) -> ArrayReader:
        location = self._locate(path)
        array = NDArrayMetadata.parse(self._node(path, "array"), location)
        if not array.is_plain:
            return ForeignArray(array, location, lambda: self.as_zarr()[path])
        return PlainArray(array, location, path, self._read_chunks)

    @override
    def describe_array(self, path: str) -> Column:
        return self._array(path).column

    @override
    def manifest_from_metadata(self, path: str) -> ChunkManifest | None:
        manifest = self._shards(path, is_known=True)
        return manifest if self.attributes(path).get("dense") else None

    @override
    def faults(self, path: str) -> Iterator[Fault]:
        if not path:
            yield from document_faults(self._reader, self._nodes[""])
        elif path.rpartition("/")[2] == PAYLOAD:
            yield from self._payload_faults(path)
        else:
            yield from self._column_faults(path)

    def _payload_faults(self, path: str) -> Iterator[Fault]:
        array = self._array(path)
        inner_nbytes, shard_nbytes = array.inner_chunk_length(), array.chunk_length
        if (shard_nbytes, inner_nbytes) != (SHARD_NBYTES, INNER_CHUNK_NBYTES):
            sizes = f"{SHARD_NBYTES} bytes and inner chunks of {INNER_CHUNK_NBYTES}"
            text = f"must have shards of {sizes}, got {shard_nbytes} and {inner_nbytes}"
            yield Fault(path, "layout", text)
        dense = self.attributes(path).get("dense", True)
        if dense is not True:
            text = f"attribute 'dense' must be true or left out, got {brief(dense)}"
            yield Fault(path, "layout", text)
        if self.attributes(path).get("dense"):
            yield from shard_faults(self._reader, path, array.length, shard_nbytes, inner_nbytes)

    def _column_faults(self, path: str) -> Iterator[Fault]:
        try:
            array = self._array(path)
            array.check_column(str(array.data_type))
        except FormatError:
            return  # reading the column reports it
        if array.chunk_length != COLUMN_CHUNK_ROWS:
            text = f"must have chunks of {COLUMN_CHUNK_ROWS} rows, got {array.chunk_length}"
            yield Fault(path, "layout", text)

    @override
    def as_zarr(self) -> Group:
        from zarr import open_group
        from zarr.storage import LocalStore, ObjectStore

        root = self._reader.root
        if isinstance(root, str):
            return open_group(LocalStore(root, read_only=True), mode="r", zarr_format=3)
        from arraystore.storage.objects.event_loop import check_process

        check_process()
        store, key = root
        objects = ObjectStore(store, read_only=True)
        return open_group(objects, path=key, mode="r", zarr_format=3)

    @override
    def as_h5py(self) -> NoReturn:
        raise TypeError(
            escaped(f"{self._location}: is a Zarr store, not an HDF5 file; use store.zarr()")
        )

    def _locate(self, path: str) -> str:
        return f"{self._location}/{path}" if path else self._location

    def _node(self, path: str, kind: str | None = None) -> dict[str, Any]:
        node = self._nodes.get(path)
        if node is None:
            node = self._nodes[path] = self._read_node(path)
        check_document(node, kind, self._locate(path))
        return node

    def _read_node(self, path: str) -> dict[str, Any]:
        key = document_key(path)
        try:
            if not self._reader.is_remote:
                self._check_nbytes(key, self._reader.size(key))
            (document,) = self._reader.read_objects([key])
        except FileNotFoundError:
            raise _MissingError(f"{self._locate(path)}: is missing (there is no {key})") from None
        return self._parsed(key, document)

    def _read_nodes(self, paths: Collection[str]) -> None:
        """Read the documents that are not known yet at once."""
        missing = [path for path in paths if path not in self._nodes]
        if not missing or not self._reader.is_remote:
            return
        try:
            documents = self._reader.read_objects([document_key(path) for path in missing])
        except FileNotFoundError:
            return  # reported when the missing document is needed
        for path, document in zip(missing, documents, strict=True):
            self._nodes[path] = self._parsed(document_key(path), document)

    def _check_nbytes(self, key: str, nbytes: int, most: int = MAX_NBYTES) -> None:
        if nbytes > most:
            raise FormatError(f"{self._locate(key)}: has {nbytes} bytes, at most {most} are read")

    def _parsed(self, key: str, document: Buffer) -> dict[str, Any]:
        self._check_nbytes(key, memoryview(document).nbytes)
        try:
            node = parse_json(bytes(document))
        except ValueError as error:
            raise self._not_json(key, bytes(document), error) from None
        if not isinstance(node, dict):
            raise FormatError(f"{self._locate(key)}: must be a JSON object")
        return node

    def _not_json(self, key: str, data: bytes, error: Exception) -> FormatError | StorageError:
        """Return the error about a document that is not JSON, or not the document at all."""
        location, is_remote = self._locate(key), self._reader.is_remote
        if is_remote and (what := unexpected_response(data)):
            return StorageError(f"{location}: must be JSON, but the server sent {what}")
        if not is_truncated_json(data):
            return FormatError(f"{location}: must be JSON: {error}")
        found = f"must be JSON, but ends after {len(data)} bytes"
        if is_remote:
            return ShortReadError(
                f"{location}: {found}; the response was cut short, or the object is truncated"
            )
        return FormatError(f"{location}: {found}; the file is truncated")

    def _array(self, path: str) -> ArrayMetadata:
        return ArrayMetadata.parse(self._node(path, "array"), self._locate(path))

    def _size(self, key: str) -> int:
        try:
            return self._reader.size(key)
        except FileNotFoundError:
            raise FormatError(f"{self._locate(key)}: the chunk is missing") from None

    def _shard_index(self, key: str, size: int, per_shard: int, inner_nbytes: int) -> Ints:
        """Read the index of a shard, see `parse_shard_index`."""
        tail = index_nbytes(per_shard)
        if size < tail:
            raise FormatError(
                f"{self._locate(key)}: has {size} bytes, its index alone needs {tail}"
            )
        (data,) = read_exactly(self._reader, [ByteRange(key, size - tail, size)])
        try:
            return parse_shard_index(data, size, inner_nbytes)
        except ValueError as error:
            raise FormatError(f"{self._locate(key)}: {error}") from None

    def _chunked_rows(
        self, path: str, data_type: str, rows: tuple[int, int] | None = None
    ) -> _ChunkedRows:
        """Find the chunks of a column that contain some rows of it, or all."""
        array = self._array(path)
        array.check_column(data_type)
        length, chunk_rows = array.length, array.chunk_length
        start, stop = rows or (0, length)
        stop = max(start, min(stop, length))
        first = start // chunk_rows
        end = -(-stop // chunk_rows) if stop > start else first
        offset = first * chunk_rows
        self._check_number(array, stop - offset)
        keys = [f"{path}/c/{number}" for number in range(first, end)]
        return _ChunkedRows(data_type, start - offset, stop - offset, keys, chunk_rows)

    def _check_number(self, array: ArrayMetadata, length: int) -> None:
        """Refuse more chunks of a column, or larger ones, than any store has."""
        chunk_rows = array.chunk_length
        if -(-length // chunk_rows) > MAX_COLUMN_CHUNKS or chunk_rows > MAX_CHUNK_NBYTES // 8:
            raise FormatError(
                f"{array.location}: may have {MAX_COLUMN_CHUNKS} chunks of {MAX_CHUNK_NBYTES} "
                f"bytes, got {length} values in chunks of {chunk_rows}"
            )

    def _read_chunks(self, keys: Sequence[str]) -> Iterator[bytes | memoryview]:
        """Yield whole chunks, see `RangeReader.read_each`."""
        is_remote = self._reader.is_remote
        try:
            if is_remote:
                yield from self._reader.read_objects(keys) if keys else []
                return
            ranges = [ByteRange(key, 0, self._size(key)) for key in keys]
            for key, _, nbytes in ranges:
                self._check_nbytes(key, nbytes, MAX_CHUNK_NBYTES)
            yield from each_exactly(self._reader, ranges)
        except FileNotFoundError as error:
            # The file name of a local error is a whole path.
            location = self._locate(error.filename) if is_remote else error.filename
            raise FormatError(f"{location}: the chunk is missing") from None

    def _decoded(self, chunks: Iterator[bytes | memoryview], rows: _ChunkedRows) -> NDArray[Any]:
        """Return rows, decoded from the next of `chunks`."""
        is_text = rows.data_type == STRING
        parts = [np.empty(0, np.dtypes.StringDType() if is_text else rows.data_type)]
        for number, key in enumerate(rows.keys):
            values = self._decoded_chunk(memoryview(next(chunks)), key, rows)
            first = number * rows.chunk_rows
            some = values[max(0, rows.start - first) : rows.stop - first]
            # The padding of the last chunk is not converted to text.
            parts.append(as_string_array(some) if is_text else some)
        return parts[1] if len(parts) == 2 else np.concatenate(parts)

    def _decoded_chunk(self, chunk: memoryview, key: str, rows: _ChunkedRows) -> NDArray[Any]:
        try:
            frame = check_chunk(chunk)
        except ValueError as error:
            if self._reader.is_remote and (what := unexpected_response(bytes(chunk[:1024]))):
                raise StorageError(
                    f"{self._locate(key)}: must be a chunk, but the server sent {what}"
                ) from None
            raise FormatError(f"{self._locate(key)}: {error}") from None
        try:
            return decode_chunk(frame, rows.data_type, rows.chunk_rows)
        except (RuntimeError, ValueError, TypeError) as error:
            raise FormatError(f"{self._locate(key)}: cannot be decoded: {error}") from None


def _is_of_users(path: str) -> bool:
    """Whether a group or array is in the group of further columns of a split."""
    return path.split("/")[1:2] == [USER_COLUMNS]
