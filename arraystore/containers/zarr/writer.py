"""Write a Zarr v3 store through zarr-python; shards of payloads are created here.

A shard of a payload consists of inner chunks one after another and an index that depends only on
lengths, so any process can fill any part of it.
"""

from __future__ import annotations

import json
import weakref
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from typing_extensions import override

from arraystore.containers.protocol import ContainerWriter, as_string_array
from arraystore.containers.zarr.reader import METADATA
from arraystore.containers.zarr.shards import shard_footer, shard_object_nbytes, split_length
from arraystore.errors import FormatError
from arraystore.schema import (
    COLUMN_CHUNK_ROWS,
    INNER_CHUNK_NBYTES,
    SHARD_NBYTES,
    STRING,
    Column,
)
from arraystore.storage.open_files import reserve

if TYPE_CHECKING:
    from asyncio import Runner
    from collections.abc import Coroutine, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

T = TypeVar("T")

_ZSTD_LEVEL: Final = 3
_KEYS: Final = (
    "shape",
    "data_type",
    "chunk_grid",
    "chunk_key_encoding",
    "fill_value",
    "codecs",
    "attributes",
    "dimension_names",
    "zarr_format",
    "node_type",
    "storage_transformers",
)
"""Order of the keys of a metadata document, see `canonical`."""


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
        from zarr.api.asynchronous import open_group

        self._path = path
        self._is_skeleton = is_skeleton
        self._loop = _Loop()
        root = open_group(path, mode="a", zarr_format=3, use_consolidated=False)
        self._root = self._loop.run(root)

    @override
    @staticmethod
    def import_libraries() -> None:
        import zarr.api.asynchronous
        import zarr.codecs  # noqa: F401 - later imports are then fast

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
        self._loop.run(self._root.create_group(_checked(path)))

    @override
    def create_payload(self, path: str, nbytes: int) -> None:
        self._create_array(
            path,
            nbytes,
            Column("uint8", "byte"),
            chunks=(INNER_CHUNK_NBYTES,),
            shards=(SHARD_NBYTES,),
            compressors=None,
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

        array = self._create_array(
            path,
            len(values),
            column,
            chunks=(COLUMN_CHUNK_ROWS,),
            compressors=[ZstdCodec(level=_ZSTD_LEVEL), Crc32cCodec()],
            # By default, chunks that contain only the fill value are not stored. A missing chunk
            # must be a loss that the reader can report.
            config={"write_empty_chunks": True},
        )
        is_text = column.data_type == STRING
        for start in range(0, len(values), COLUMN_CHUNK_ROWS):
            rows = values[start : start + COLUMN_CHUNK_ROWS]
            data = as_string_array(rows) if is_text else np.asarray(rows)
            self._loop.run(array.setitem(slice(start, start + len(data)), data))

    @override
    def set_attributes(self, path: str, attributes: Mapping[str, Any]) -> None:
        async def update() -> None:
            node = await self._root.getitem(path) if path else self._root
            await node.update_attributes(dict(attributes))

        self._loop.run(update())

    @override
    def close(self) -> None:
        """Rewrite all metadata documents in the form of `canonical`, and consolidate them."""
        self._loop.close()
        nodes = {}
        for file in sorted(self._path.rglob(METADATA)):
            text = file.read_text()
            node = canonical(json.loads(text))
            nodes[str(file.parent.relative_to(self._path))] = node
            _replace(file, text, node)
        root = nodes.pop(".")
        # `zarr.consolidate_metadata` would warn, and write another order in each version.
        root["consolidated_metadata"] = {
            "kind": "inline",
            "must_understand": False,
            "metadata": nodes,
        }
        _replace(self._path / METADATA, "", root)

    def _create_array(self, path: str, length: int, column: Column, **options: Any) -> Any:
        from zarr.codecs import BytesCodec
        from zarr.dtype import parse_dtype

        is_text = column.data_type == STRING
        kind = parse_dtype(str if is_text else column.data_type, zarr_format=3)
        array = self._root.create_array(
            _checked(path),
            shape=(length,),
            dtype=kind,
            filters=None,
            serializer="auto" if is_text else BytesCodec(endian="little"),
            # A fill value read from a Zarr store is as in JSON; from an HDF5 file, a number.
            fill_value=kind.from_json_scalar(column.fill, zarr_format=3),
            dimension_names=[column.dimension],
            **options,
        )
        return self._loop.run(array)


def canonical(node: dict[str, Any]) -> dict[str, Any]:
    """Return a metadata document in a form that does not depend on the version of zarr-python.

    Keys are in order, nothing is null, and the codec ``bytes`` of a column states its byte order,
    even if values have one byte.

    Examples
    --------
    >>> canonical({"zarr_format": 3, "attributes": {}, "consolidated_metadata": None})
    {'attributes': {}, 'zarr_format': 3}
    """
    keys = dict.fromkeys((*_KEYS, *node))
    node = {key: node[key] for key in keys if node.get(key) is not None}
    for codec in node.get("codecs", ()):
        if codec["name"] == "bytes":
            codec["configuration"] = {"endian": "little"}
    return node


def _checked(path: str) -> str:
    if "\\" in path:  # zarr-python would replace it by a slash
        raise FormatError(
            f"{path[:80]!r} is not a path in a Zarr store: it has a backslash; rename it"
        )
    return path


class _Loop:
    """An event loop in its own thread, which runs coroutines of zarr-python one by one.

    zarr-python's own loop lives as long as the process. It would keep running after Ctrl-C, and
    write to a folder that is removed or resumed; and its threads would exist when the process
    forks. The caller's thread may already run a loop, as in Jupyter.
    """

    def __init__(self) -> None:
        from asyncio import Runner

        self._thread, self._runner = ThreadPoolExecutor(1), Runner()
        self.close = weakref.finalize(self, _end, self._thread, self._runner)
        self.close.atexit = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of a coroutine when it has ended; wait for its end after Ctrl-C too."""
        future = self._thread.submit(self._runner.run, work)
        try:
            return future.result()
        finally:
            wait([future])


def _end(thread: ThreadPoolExecutor, runner: Runner) -> None:
    thread.submit(runner.close).result()
    thread.shutdown()


def _replace(file: Path, text: str, node: dict[str, Any]) -> None:
    """Write a metadata document if it differs from the text in the file."""
    if (new_text := json.dumps(node, indent=2)) != text:
        file.write_text(new_text)
