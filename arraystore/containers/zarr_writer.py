"""Zarr v3, written: metadata and columns by zarr-python, payloads in place.

The shards of a payload are inner chunks back to back and an index that depends on
lengths alone, so they are laid out here and filled by whoever has the bytes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from typing_extensions import override

from arraystore.containers.base import ContainerWriter, as_string_array
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

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_ZSTD_LEVEL: Final = 3


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
        import zarr

        self._path = path
        self._is_skeleton = is_skeleton
        self._root: Any = zarr.open_group(path, mode="a", zarr_format=3, use_consolidated=False)

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

        return {name: version(name) for name in ("zarr", "numcodecs")}

    @override
    @staticmethod
    def payload_object(path: str, start: int, stop: int) -> tuple[str, bytes]:
        nbytes = stop - start
        padding = bytes(-nbytes % INNER_CHUNK_NBYTES)
        footer = shard_footer(nbytes, SHARD_NBYTES, INNER_CHUNK_NBYTES)
        return f"{path}/c/{start // SHARD_NBYTES}", padding + footer

    @override
    def create_group(self, path: str) -> None:
        self._root.create_group(path)

    @override
    def create_payload(self, path: str, nbytes: int) -> None:
        self._root.create_array(
            path,
            shape=(nbytes,),
            dtype="uint8",
            chunks=(INNER_CHUNK_NBYTES,),
            shards=(SHARD_NBYTES,),
            compressors=None,
            filters=None,
            fill_value=0,
            dimension_names=["byte"],
            attributes={"dense": True},
        )
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
        from zarr.codecs import Crc32cCodec, ZstdCodec

        is_text = column.data_type == STRING
        array = self._root.create_array(
            path,
            shape=(len(values),),
            dtype=str if is_text else column.data_type,
            chunks=(COLUMN_CHUNK_ROWS,),
            compressors=[ZstdCodec(level=_ZSTD_LEVEL), Crc32cCodec()],
            filters=None,
            fill_value=column.fill,
            dimension_names=[column.dimension],
            # zarr-python drops chunks equal to the fill value otherwise; a chunk that is not
            # there must be a loss that the reader can tell.
            config={"write_empty_chunks": True},
        )
        if not is_text:
            array[:] = np.asarray(values)
            return
        for start in range(0, len(values), COLUMN_CHUNK_ROWS):
            rows = slice(start, start + COLUMN_CHUNK_ROWS)
            array[rows] = as_string_array(values[rows])

    @override
    def set_attributes(self, path: str, attributes: Mapping[str, Any]) -> None:
        node = self._root[path] if path else self._root
        node.attrs.update(attributes)

    @override
    def close(self) -> None:
        """Write the root's metadata again, with that of all other nodes in it.

        `zarr.consolidate_metadata` would do the same in the order in which the
        file system lists the nodes; sorted, the same store gives the same bytes.
        """
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
        (self._path / METADATA).write_text(json.dumps(root, indent=2))
