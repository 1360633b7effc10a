"""Zarr v3, read: one file a shard of the payload, one file a chunk of a column.

The metadata documents and raw objects are all that is needed, so nothing is ever
listed and a plain HTTP server will do.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, Final, NoReturn

import numpy as np
from typing_extensions import Buffer, override

from arraystore._checksum import crc32c
from arraystore.containers.protocol import ContainerReader, Tree, as_string_array, check_nodes
from arraystore.containers.zarr.column_codec import decode_chunk, import_codecs
from arraystore.containers.zarr.faults import document_faults, document_of, shard_faults
from arraystore.containers.zarr.shards import (
    ShardKeys,
    ShardManifest,
    index_nbytes,
    index_starts,
    shard_object_nbytes,
)
from arraystore.errors import FormatError, ShortReadError, StorageError, brief, escaped
from arraystore.indexing.byte_range import ByteRange, ChunkManifest
from arraystore.schema import (
    COLUMN_CHUNK_ROWS,
    INNER_CHUNK_NBYTES,
    MAX_CHUNK_NBYTES,
    MAX_NBYTES,
    PAYLOAD,
    SHARD_NBYTES,
    STRING,
    Column,
    parse_json,
)
from arraystore.storage.range_reader import RangeReader, each_exactly, read_exactly
from arraystore.storage.server_answers import is_cut, strange_answer

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from zarr import Group

    from arraystore.containers.protocol import Rows

METADATA: Final = document_of("")
_CHECKSUM_NBYTES: Final = 4
_MAX_SHARDS: Final = 2**20
_MAX_INNER_CHUNKS: Final = 2**20
_MAX_COLUMN_CHUNKS: Final = 2**16
"""More than any store has; what claims more is refused before memory is taken for it."""

_MANY_SHARDS: Final = 2**12
"""Shards that a payload may state before those that are stored are counted."""

_PROBES: Final = 16
"""Objects that are looked at where a server would have to list all to count them."""

_PAYLOAD_CODECS: Final = {
    "codecs": ["bytes"],
    "index_codecs": ["bytes", "crc32c"],
    "index_location": "end",
}


class _MissingError(FormatError):
    """There is no group or array at a path."""


class ZarrReader(ContainerReader):
    """Read a Zarr v3 hierarchy.

    Parameters
    ----------
    reader : RangeReader
        Its keys are paths below the root group.
    where : str
        Address of the store, for messages.
    document : bytes-like, optional
        The metadata document of the root, if it has been read already.
    """

    def __init__(self, reader: RangeReader, where: str, document: Buffer | None = None) -> None:
        self._reader = reader
        self._where = where
        self._nodes: dict[str, dict[str, Any]] = {}
        if document is not None:
            self._nodes[""] = self._parsed(METADATA, document)
        root = self._node("", "group")
        consolidated = root.get("consolidated_metadata")
        nodes = consolidated.get("metadata") if isinstance(consolidated, dict) else None
        self._is_consolidated = False
        if isinstance(nodes, dict) and all(isinstance(node, dict) for node in nodes.values()):
            self._is_consolidated = True
            self._nodes |= nodes

    @override
    def import_libraries(self) -> None:
        import_codecs()

    @override
    def attributes(self, path: str = "") -> dict[str, Any]:
        attributes = self._node(path).get("attributes", {})
        if not isinstance(attributes, dict):
            raise FormatError(f"{self._at(path)}: attributes must be a JSON object")
        return attributes

    @override
    def read_column(
        self, path: str, data_type: str, rows: tuple[int, int] | None = None
    ) -> NDArray[Any]:
        (values,) = self._read_each([(path, data_type, rows)])
        return values

    @override
    def read_columns(self, columns: Mapping[str, str]) -> list[NDArray[Any]]:
        return list(self._read_each([(*column, None) for column in columns.items()]))

    @override
    def read_rows(self, wanted: Sequence[Rows]) -> Iterator[NDArray[Any]]:
        return self._read_each(wanted)

    def _read_each(
        self, wanted: Sequence[tuple[str, str, tuple[int, int] | None]]
    ) -> Iterator[NDArray[Any]]:
        self._read_nodes(dict.fromkeys(path for path, _, _ in wanted))
        found = [
            (data_type, *self._chunks(path, data_type, rows)) for path, data_type, rows in wanted
        ]
        chunks = self._read([key for _, _, _, keys, _ in found for key in keys])
        for data_type, start, stop, keys, chunk_rows in found:
            yield self._decoded(chunks, data_type, start, stop, keys, chunk_rows)

    @override
    def check_column(self, path: str, data_type: str, length: int) -> None:
        _, found, chunk_rows = self._array(path, data_type, _codecs_of(data_type))
        if found != length:
            raise FormatError(f"{self._at(path)}: must have {length} values, got {found}")
        self._check_number(path, found, chunk_rows)
        self._check_stored(path, -(-length // chunk_rows))

    def _check_stored(self, path: str, n_chunks: int) -> None:
        """Refuse an array that states many chunks of which few are stored."""
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
                    f"{self._at(path)}: states {n_chunks} chunks, of which some are not stored: "
                    f"{error}"
                ) from None
        if 2 * found < n_chunks:
            raise FormatError(f"{self._at(path)}: states {n_chunks} chunks, but {found} are stored")

    @override
    def manifest(self, path: str, doubted: Collection[str] = ()) -> ChunkManifest:
        is_promised = self._reader.is_remote and bool(self.attributes(path).get("dense"))
        manifest = self._shards(path, is_known=is_promised)
        for key in doubted:
            manifest.is_known[int(key.rpartition("/")[2])] = False
        return manifest

    def _shards(self, path: str, *, is_known: bool) -> ShardManifest:
        """Return where shards are; what of them is not known is looked up when it is needed."""
        node, length, shard_nbytes = self._array(path, "uint8", ["sharding_indexed"])
        inner_nbytes = self._inner_chunk(path, node, shard_nbytes)
        n_shards, per_shard = -(-length // shard_nbytes), shard_nbytes // inner_nbytes
        if n_shards > _MAX_SHARDS or per_shard > _MAX_INNER_CHUNKS:
            raise FormatError(
                f"{self._at(path)}: may have {_MAX_SHARDS} shards of {_MAX_INNER_CHUNKS} chunks, "
                f"got {length} bytes in shards of {shard_nbytes}, chunks of {inner_nbytes}"
            )
        if n_shards > _MANY_SHARDS:
            self._check_stored(path, n_shards)
        is_dense = bool(self.attributes(path).get("dense"))

        def look_up(shard: int) -> NDArray[np.int64] | None:
            key = f"{path}/c/{shard}"
            size = self._size(key)
            nbytes = min(shard_nbytes, length - shard * shard_nbytes)
            if is_dense and size == shard_object_nbytes(nbytes, shard_nbytes, inner_nbytes):
                return None
            if node.get("fill_value") != 0:
                raise FormatError(
                    f"{self._at(path)}: fill_value must be 0 where chunks may be left out, "
                    f"got {brief(node.get('fill_value'))}"
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
    def tree(self) -> Tree:
        groups, columns, others = [], {}, []
        self._list()
        paths = sorted(self._nodes.keys() - {""})
        check_nodes(paths, self._where)
        for path in paths:
            node = self._nodes[path]
            if node.get("node_type") == "group":
                groups.append(path)
            elif (column := _as_column(node)) is not None:
                self._check_fill(path, column)
                columns[path] = column
            else:
                others.append(path)
        return Tree(tuple(groups), columns, tuple(others))

    def _check_fill(self, path: str, column: Column) -> None:
        try:
            _ = column.data_type == STRING or np.array(column.fill, column.data_type)
        except (OverflowError, TypeError, ValueError) as error:
            raise FormatError(
                f"{self._at(path)}: fill_value must be of type {column.data_type}, got "
                f"{brief(column.fill)}: {error}"
            ) from None

    def _list(self) -> None:
        """Read the documents of all groups and arrays, level by level.

        Raises
        ------
        StorageError
            If neither a listing nor consolidated metadata says which there are.
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
                        f"{self._where}: {METADATA} has no consolidated metadata, and a web server "
                        "does not list what a store holds; download the store and copy it from a "
                        "disk or bucket"
                    )
                found += [f"{group}/{name}" if group else name for name in sorted(names)]
            check_nodes(found, self._where)
            check_nodes(self._nodes.keys(), self._where)
            self._read_nodes(found)
            level = [path for path in found if self._is_group(path)]

    def _is_group(self, path: str) -> bool:
        """Whether a folder is a group; one without a document is nothing of Zarr's."""
        if path not in self._nodes:
            try:
                self._nodes[path] = self._read_node(path)
            except _MissingError:
                return False
        return self._nodes[path].get("node_type") == "group"

    @override
    def described(self, path: str) -> Column:
        node = self._node(path, "array")
        try:
            (_,), (dimension,) = node["shape"], node.get("dimension_names") or [""]
            return Column(str(node["data_type"]), str(dimension), node["fill_value"])
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{self._at(path)}: not a 1-d array: {error!r}") from None

    @override
    def promised(self, path: str) -> ChunkManifest | None:
        manifest = self._shards(path, is_known=True)
        return manifest if self.attributes(path).get("dense") else None

    @override
    def faults(self, path: str) -> Iterator[tuple[str, str]]:
        if not path:
            yield from document_faults(self._reader, self._nodes[""])
            return
        if path.rpartition("/")[2] != PAYLOAD:
            yield from self._column_faults(path)
            return
        node, length, shard_nbytes = self._array(path, "uint8", ["sharding_indexed"])
        inner_nbytes = self._inner_chunk(path, node, shard_nbytes)
        if (shard_nbytes, inner_nbytes) != (SHARD_NBYTES, INNER_CHUNK_NBYTES):
            sizes = f"{SHARD_NBYTES} bytes and inner chunks of {INNER_CHUNK_NBYTES}"
            yield path, f"must have shards of {sizes}, got {shard_nbytes} and {inner_nbytes}"
        dense = self.attributes(path).get("dense", True)
        if dense is not True:
            yield path, f"attribute 'dense' must be true or left out, got {brief(dense)}"
        if self.attributes(path).get("dense"):
            yield from shard_faults(self._reader, path, length, shard_nbytes, inner_nbytes)

    def _column_faults(self, path: str) -> Iterator[tuple[str, str]]:
        try:
            data_type = str(self._node(path, "array").get("data_type"))
            _, _, rows = self._array(path, data_type, _codecs_of(data_type))
        except FormatError:
            return  # reading the column reports that
        if rows != COLUMN_CHUNK_ROWS:
            yield path, f"must have chunks of {COLUMN_CHUNK_ROWS} rows, got {rows}"

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
            escaped(f"{self._where}: is a Zarr store, not an HDF5 file; use store.zarr()")
        )

    def _at(self, path: str) -> str:
        return f"{self._where}/{path}" if path else self._where

    def _node(self, path: str, kind: str | None = None) -> dict[str, Any]:
        node = self._nodes.get(path)
        if node is None:
            node = self._nodes[path] = self._read_node(path)
        if node.get("zarr_format") != 3:
            raise FormatError(
                f"{self._at(path)}: 'zarr_format' must be 3, got {brief(node.get('zarr_format'))}"
            )
        if kind is not None and node.get("node_type") != kind:
            raise FormatError(
                f"{self._at(path)}: must be {kind}, got {brief(node.get('node_type'))}"
            )
        return node

    def _read_node(self, path: str) -> dict[str, Any]:
        key = document_of(path)
        try:
            if not self._reader.is_remote:
                self._check_nbytes(key, self._reader.size(key))
            (document,) = self._reader.read_objects([key])
        except FileNotFoundError:
            raise _MissingError(f"{self._at(path)}: is missing (there is no {key})") from None
        return self._parsed(key, document)

    def _read_nodes(self, paths: Collection[str]) -> None:
        """Read the documents that are not known yet at once."""
        missing = [path for path in paths if path not in self._nodes]
        if not missing or not self._reader.is_remote:
            return
        try:
            documents = self._reader.read_objects([document_of(path) for path in missing])
        except FileNotFoundError:
            return  # it is told where the one is needed that is not there
        for path, document in zip(missing, documents, strict=True):
            self._nodes[path] = self._parsed(document_of(path), document)

    def _check_nbytes(self, key: str, nbytes: int, most: int = MAX_NBYTES) -> None:
        if nbytes > most:
            raise FormatError(f"{self._at(key)}: has {nbytes} bytes, at most {most} are read")

    def _parsed(self, key: str, document: Buffer) -> dict[str, Any]:
        self._check_nbytes(key, memoryview(document).nbytes)
        try:
            node = parse_json(bytes(document))
        except ValueError as error:
            raise self._not_json(key, bytes(document), error) from None
        if not isinstance(node, dict):
            raise FormatError(f"{self._at(key)}: must be a JSON object")
        return node

    def _not_json(self, key: str, data: bytes, error: Exception) -> FormatError | StorageError:
        """Return the error about a document that is none; that of a server may be its answer."""
        where, is_remote = self._at(key), self._reader.is_remote
        if is_remote and (what := strange_answer(data)):
            return StorageError(f"{where}: must be JSON, but the server sent {what}")
        if not is_cut(data):
            return FormatError(f"{where}: must be JSON: {error}")
        found = f"must be JSON, but ends in the middle, after {len(data)} bytes"
        if is_remote:
            return ShortReadError(f"{where}: {found}; the answer broke off, or the object did")
        return FormatError(f"{where}: {found}; the file is truncated")

    def _array(
        self, path: str, data_type: str, codecs: list[str]
    ) -> tuple[dict[str, Any], int, int]:
        """Return a one-dimensional array's document, length and chunk length, all checked."""
        node, where = self._node(path, "array"), self._at(path)
        try:
            found = node["data_type"], [codec["name"] for codec in node["codecs"]]
            (length,) = map(int, node["shape"])
            grid, separator = node["chunk_grid"], node["chunk_key_encoding"]
            (chunk_length,) = map(int, grid["configuration"]["chunk_shape"])
            layout = grid["name"], separator["name"], separator["configuration"]["separator"]
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise FormatError(f"{where}: not the metadata of a 1-d array: {brief(error)}") from None
        if found != (data_type, codecs):
            raise FormatError(
                f"{where}: must hold {data_type} with codecs {codecs}, got {str(found[0])[:80]} "
                f"with {brief(found[1])}"
            )
        if layout != ("regular", "default", "/") or not 0 <= length < 2**63 > chunk_length >= 1:
            raise FormatError(
                f"{where}: unknown chunk layout {brief((*layout, length, chunk_length))}"
            )
        return node, length, chunk_length

    def _inner_chunk(self, path: str, node: dict[str, Any], shard_nbytes: int) -> int:
        try:
            found = node["codecs"][0]["configuration"]
            (inner_nbytes,) = map(int, found["chunk_shape"])
            names = {
                name: [codec["name"] for codec in found[name]]
                for name in ("codecs", "index_codecs")
            } | {"index_location": found.get("index_location", "end")}
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise FormatError(f"{self._at(path)}: not a sharded array: {brief(error)}") from None
        if names != _PAYLOAD_CODECS:
            raise FormatError(
                f"{self._at(path)}: shards must have {_PAYLOAD_CODECS} (no compressor), "
                f"got {brief(names)}"
            )
        if inner_nbytes < 1 or shard_nbytes % inner_nbytes:
            raise FormatError(
                f"{self._at(path)}: inner chunks of {inner_nbytes} bytes do not fill a shard of "
                f"{shard_nbytes}"
            )
        return inner_nbytes

    def _size(self, key: str) -> int:
        try:
            return self._reader.size(key)
        except FileNotFoundError:
            raise FormatError(f"{self._at(key)}: the chunk is missing") from None

    def _shard_index(self, key: str, size: int, per_shard: int, inner_nbytes: int) -> NDArray[Any]:
        """Read where a shard says that its inner chunks begin."""
        tail = index_nbytes(per_shard)
        if size < tail:
            raise FormatError(f"{self._at(key)}: has {size} bytes, its index alone needs {tail}")
        (raw,) = read_exactly(self._reader, [ByteRange(key, size - tail, size)])
        try:
            return index_starts(raw, size, inner_nbytes)
        except ValueError as error:
            raise FormatError(f"{self._at(key)}: {error}") from None

    def _chunks(
        self, path: str, data_type: str, rows: tuple[int, int] | None = None
    ) -> tuple[int, int, list[str], int]:
        """Find a column's chunks: which rows of theirs are wanted, their keys, their length."""
        node, length, chunk_rows = self._array(path, data_type, _codecs_of(data_type))
        configuration = node["codecs"][0].get("configuration") or {}
        if not isinstance(configuration, dict) or configuration.get("endian", "little") != "little":
            raise FormatError(f"{self._at(path)}: must be little-endian")
        start, stop = rows or (0, length)
        stop = max(start, min(stop, length))
        begin = start // chunk_rows
        end = -(-stop // chunk_rows) if stop > start else begin
        offset = begin * chunk_rows
        self._check_number(path, stop - offset, chunk_rows)
        keys = [f"{path}/c/{index}" for index in range(begin, end)]
        return start - offset, stop - offset, keys, chunk_rows

    def _check_number(self, path: str, length: int, chunk_rows: int) -> None:
        """Refuse more chunks of a column, or larger ones, than any store has."""
        if -(-length // chunk_rows) > _MAX_COLUMN_CHUNKS or chunk_rows > MAX_CHUNK_NBYTES // 8:
            raise FormatError(
                f"{self._at(path)}: may have {_MAX_COLUMN_CHUNKS} chunks of {MAX_CHUNK_NBYTES} "
                f"bytes, got {length} values in chunks of {chunk_rows}"
            )

    def _read(self, keys: Sequence[str]) -> Iterator[bytes | memoryview]:
        """Yield the objects of chunks, see `RangeReader.read_each`."""
        try:
            if self._reader.is_remote:
                yield from self._reader.read_objects(keys) if keys else []
                return
            ranges = [ByteRange(key, 0, self._reader.size(key)) for key in keys]
            for key, _, nbytes in ranges:
                self._check_nbytes(key, nbytes, MAX_CHUNK_NBYTES)
            yield from each_exactly(self._reader, ranges)
        except FileNotFoundError as error:
            for key in keys:
                if str(error.filename).endswith(key):
                    raise FormatError(f"{self._at(key)}: the chunk is missing") from None
            raise

    def _decoded(
        self,
        chunks: Iterator[bytes | memoryview],
        data_type: str,
        start: int,
        stop: int,
        keys: Sequence[str],
        chunk_rows: int,
    ) -> NDArray[Any]:
        """Return the rows ``[start, stop)`` of the next chunks end to end."""
        parts = [np.empty(0, np.dtypes.StringDType() if data_type == STRING else data_type)]
        for number, key in enumerate(keys):
            values = self._column_chunk(memoryview(next(chunks)), key, data_type, chunk_rows)
            first = number * chunk_rows
            rows = values[max(0, start - first) : stop - first]
            # What is beyond the end of a column is not made into text.
            parts.append(as_string_array(rows) if data_type == STRING else rows)
        return parts[1] if len(parts) == 2 else np.concatenate(parts)

    def _column_chunk(
        self, raw: memoryview, key: str, data_type: str, chunk_rows: int
    ) -> NDArray[Any]:
        body = raw[:-_CHECKSUM_NBYTES]
        if bytes(raw[len(body) :]) != struct.pack("<I", crc32c(body)):
            if self._reader.is_remote and (what := strange_answer(bytes(raw[:1024]))):
                raise StorageError(f"{self._at(key)}: must be a chunk, but the server sent {what}")
            raise FormatError(f"{self._at(key)}: the chunk does not match its checksum")
        try:
            return decode_chunk(body, data_type, chunk_rows)
        except (RuntimeError, ValueError, TypeError) as error:
            raise FormatError(f"{self._at(key)}: cannot be decoded: {error}") from None


def _codecs_of(data_type: str) -> list[str]:
    return ["vlen-utf8" if data_type == STRING else "bytes", "zstd", "crc32c"]


def _codecs(node: dict[str, Any]) -> list[Any]:
    return [codec["name"] for codec in node["codecs"]]


def _as_column(node: dict[str, Any]) -> Column | None:
    """Return what an array is as a column, or None if it is none."""
    try:
        data_type, (dimension,), (_,) = node["data_type"], node["dimension_names"], node["shape"]
        column = Column(data_type, dimension, node["fill_value"])
        is_column = _codecs(node) == _codecs_of(data_type) and isinstance(dimension, str)
        return column if is_column and _is_fill(column.fill, data_type) else None
    except (KeyError, OverflowError, TypeError, ValueError):
        return None


def _is_fill(value: Any, data_type: str) -> bool:
    """Whether a fill value in JSON is text, or a number of a type that both containers have."""
    if data_type == STRING:
        return isinstance(value, str)
    dtype = np.dtype(data_type)
    if dtype.kind == "f":
        is_special = isinstance(value, float) or value in ("NaN", "Infinity", "-Infinity")
        return is_special or math.isfinite(value)
    if dtype.kind == "b":
        return isinstance(value, bool)
    return dtype.kind in "iu" and type(value) is int and dtype.type(value) == value
