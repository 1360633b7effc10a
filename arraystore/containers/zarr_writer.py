"""Zarr v3, written: the bytes are those that zarr-python would write, without its import.

The shards of a payload are inner chunks back to back and an index that depends on
lengths alone, so they are laid out here and filled by whoever has the bytes.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from arraystore.containers.base import ContainerWriter
from arraystore.containers.frames import encode_chunk
from arraystore.containers.shards import shard_footer, shard_object_nbytes, split_length
from arraystore.containers.zarr import METADATA
from arraystore.files import reserve
from arraystore.schema import (
    COLUMN_CHUNK_ROWS,
    INNER_CHUNK_NBYTES,
    SHARD_NBYTES,
    STRING,
    Column,
)
from arraystore.storage import crc32c

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_ZSTD_LEVEL: Final = 3
_ZSTD: Final = {"name": "zstd", "configuration": {"level": _ZSTD_LEVEL, "checksum": False}}
_CRC32C: Final = {"name": "crc32c"}
_LITTLE_ENDIAN: Final = {"name": "bytes", "configuration": {"endian": "little"}}


class ZarrWriter(ContainerWriter):
    """Write a Zarr v3 hierarchy on the local disk.

    Parameters
    ----------
    path, is_skeleton
        See `ContainerWriter`.
    """

    root_key = METADATA
    root_nbytes = 2**24

    def __init__(self, path: Path, *, is_skeleton: bool = False) -> None:
        self._path = path
        self._is_skeleton = is_skeleton
        if not (path / METADATA).exists():
            self.create_group("")

    @override
    @staticmethod
    def is_root(data: bytes) -> bool:
        try:
            return bool(json.loads(data)["node_type"] == "group")
        except (KeyError, TypeError, ValueError):
            return False

    @override
    @staticmethod
    def libraries() -> dict[str, str]:
        from importlib.metadata import version

        return {"numcodecs": version("numcodecs")}

    @override
    @staticmethod
    def payload_object(path: str, start: int, stop: int) -> tuple[str, bytes]:
        nbytes = stop - start
        padding = bytes(-nbytes % INNER_CHUNK_NBYTES)
        footer = shard_footer(nbytes, SHARD_NBYTES, INNER_CHUNK_NBYTES)
        return f"{path}/c/{start // SHARD_NBYTES}", padding + footer

    @override
    def create_group(self, path: str) -> None:
        self._create(path, {"attributes": {}, "zarr_format": 3, "node_type": "group"})

    @override
    def create_payload(self, path: str, nbytes: int) -> None:
        inside = {
            "chunk_shape": [INNER_CHUNK_NBYTES],
            "codecs": [{"name": "bytes"}],
            "index_codecs": [_LITTLE_ENDIAN, _CRC32C],
            "index_location": "end",
        }
        codecs = [{"name": "sharding_indexed", "configuration": inside}]
        column = Column("uint8", "byte")
        self._create(path, _array(nbytes, SHARD_NBYTES, column, codecs, {"dense": True}))
        if self._is_skeleton:
            return
        folder = self._path / path / "c"
        for index, length in enumerate(split_length(nbytes, SHARD_NBYTES)):
            folder.mkdir(exist_ok=True)
            shard = folder / str(index)
            reserve(shard, shard_object_nbytes(length, SHARD_NBYTES, INNER_CHUNK_NBYTES))
            with shard.open("r+b") as file:
                footer = shard_footer(length, SHARD_NBYTES, INNER_CHUNK_NBYTES)
                file.seek(-len(footer), 2)
                file.write(footer)

    @override
    def write_column(self, path: str, values: NDArray[Any] | Sequence[str], column: Column) -> None:
        is_text = column.data_type == STRING
        first = {"name": "vlen-utf8", "configuration": {}} if is_text else _LITTLE_ENDIAN
        self._create(path, _array(len(values), COLUMN_CHUNK_ROWS, column, [first, _ZSTD, _CRC32C]))
        folder = self._path / path / "c"
        for number, start in enumerate(range(0, len(values), COLUMN_CHUNK_ROWS)):
            rows = values[start : start + COLUMN_CHUNK_ROWS]
            frame = encode_chunk(rows, column, COLUMN_CHUNK_ROWS, _ZSTD_LEVEL)
            folder.mkdir(exist_ok=True)
            (folder / str(number)).write_bytes(frame + struct.pack("<I", crc32c(frame)))

    @override
    def set_attributes(self, path: str, attributes: Mapping[str, Any]) -> None:
        document = self._path / path / METADATA
        node = json.loads(document.read_bytes())
        node["attributes"] |= attributes
        document.write_text(_text(node))

    @override
    def close(self) -> None:
        """Write the root's metadata again, with that of all other nodes in it, sorted."""
        nodes = {
            str(file.parent.relative_to(self._path)): json.loads(file.read_bytes())
            for file in sorted(self._path.rglob(METADATA))
        }
        root = nodes.pop(".")
        root["consolidated_metadata"] = {
            "kind": "inline",
            "must_understand": False,
            "metadata": nodes,
        }
        (self._path / METADATA).write_text(_text(root))

    def _create(self, path: str, node: dict[str, Any]) -> None:
        folder = self._path / path
        folder.mkdir(exist_ok=not path)
        (folder / METADATA).write_text(_text(node))


def _array(
    length: int,
    chunk_length: int,
    column: Column,
    codecs: list[dict[str, Any]],
    attributes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the metadata of an array, with its keys in the order of zarr-python."""
    return {
        "shape": [length],
        "data_type": column.data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [chunk_length]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": column.fill,
        "codecs": codecs,
        "attributes": attributes or {},
        "dimension_names": [column.dimension],
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def _text(node: dict[str, Any]) -> str:
    return json.dumps(node, indent=2)
