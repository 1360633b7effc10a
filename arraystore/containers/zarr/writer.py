"""Write a Zarr v3 store through zarr-python; shards of payloads are created here.

A shard of a payload consists of inner chunks one after another and an index that depends only on
lengths, so any process can fill any part of it.
"""

from __future__ import annotations

import json
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from typing_extensions import override

from arraystore.containers.protocol import ContainerWriter, as_string_array
from arraystore.containers.zarr.metadata import METADATA
from arraystore.containers.zarr.root_document import root_with_part
from arraystore.containers.zarr.shards import (
    MAX_SHARDS,
    ShardKeys,
    shard_footer,
    shard_object_nbytes,
    split_length,
)
from arraystore.errors import FormatError
from arraystore.indexing.byte_range import ChunkManifest
from arraystore.schema import (
    COLUMN_CHUNK_ROWS,
    INNER_CHUNK_NBYTES,
    SHARD_NBYTES,
    STRING,
    ArraySpec,
    Column,
)
from arraystore.storage.open_files import reserve

if TYPE_CHECKING:
    from asyncio import Runner
    from collections.abc import Coroutine, Iterable, Mapping, Sequence
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
        path.mkdir(exist_ok=True)
        self._path = path
        self._is_skeleton = is_skeleton
        self._loop: _Loop | None = None
        self._group: Any = None
        self._new_nodes: list[tuple[str, int | None]] = []

    @override
    @staticmethod
    def is_at(path: Path) -> bool:
        return (path / METADATA).is_file()

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
    @staticmethod
    def root_with_part(
        root: bytes, other: bytes, group: str, attributes: Mapping[str, Any]
    ) -> bytes:
        new = root_with_part(json.loads(root), json.loads(other), group, attributes)
        return json.dumps(new, indent=2).encode()

    @override
    def create_group(self, path: str) -> None:
        self._new_nodes.append((_checked(path), None))

    @override
    def create_payload(self, path: str, nbytes: int) -> ChunkManifest:
        if nbytes > MAX_SHARDS * SHARD_NBYTES:
            raise FormatError(
                f"{path}: images of {nbytes:,} bytes need more than {MAX_SHARDS:,} shards of "
                f"{SHARD_NBYTES:,} bytes, which readers refuse; divide them into several stores"
            )
        self._new_nodes.append((_checked(path), nbytes))
        lengths = split_length(nbytes, SHARD_NBYTES)
        if not self._is_skeleton:
            self._create_shards(self._path / path / "c", lengths)
        return ChunkManifest(
            ShardKeys(str(self._path / path), len(lengths)),
            np.arange(len(lengths), dtype=np.int64),
            np.zeros(len(lengths), dtype=np.int64),
            SHARD_NBYTES,
            nbytes,
        )

    def _create_shards(self, folder: Path, lengths: Sequence[int]) -> None:
        for index, length in enumerate(lengths):
            folder.mkdir(parents=True, exist_ok=True)
            shard = folder / str(index)
            reserve(shard, shard_object_nbytes(length, SHARD_NBYTES, INNER_CHUNK_NBYTES))
            with shard.open("r+b") as file:
                footer = shard_footer(length, SHARD_NBYTES, INNER_CHUNK_NBYTES)
                file.seek(-len(footer), 2)
                file.write(footer)

    @override
    def reset_layout(self, payloads: Mapping[str, int], scratch: Path) -> list[ChunkManifest]:
        shards = [self._path / path / "c" for path in payloads]
        for path in sorted(self._path.rglob("*"), reverse=True):
            if any(path == folder or folder in path.parents for folder in shards):
                continue
            if not path.is_dir() or path.is_symlink():
                path.unlink()
            elif not any(path in folder.parents for folder in shards):
                path.rmdir()
        self._is_skeleton = True  # the shards exist
        return self.create_payloads(payloads)

    @override
    def write_column(self, path: str, values: NDArray[Any] | Sequence[str], column: Column) -> None:
        spec = ArraySpec(column.data_type, (len(values),), (column.dimension,))
        rows = range(0, len(values), COLUMN_CHUNK_ROWS)
        blocks = (values[start : start + COLUMN_CHUNK_ROWS] for start in rows)
        is_text = column.data_type == STRING
        self._write(
            path,
            spec,
            (as_string_array(rows) if is_text else np.asarray(rows) for rows in blocks),
            column.fill,
            COLUMN_CHUNK_ROWS,
        )

    @override
    def write_array(self, path: str, spec: ArraySpec, blocks: Iterable[NDArray[Any]]) -> None:
        is_text, is_bool = spec.data_type == STRING, spec.data_type == "bool"
        fill = "" if is_text else False if is_bool else 0
        self._write(path, spec, blocks, fill, spec.chunk_rows)

    def _write(
        self,
        path: str,
        spec: ArraySpec,
        blocks: Iterable[NDArray[Any]],
        fill: float | str,
        chunk_rows: int,
    ) -> None:
        root = self._root()
        from zarr.codecs import Crc32cCodec, ZstdCodec

        array = self._create_array(
            root,
            path,
            spec,
            fill,
            chunks=(chunk_rows, *spec.shape[1:]),
            compressors=[ZstdCodec(level=_ZSTD_LEVEL), Crc32cCodec()],
            # By default, chunks that contain only the fill value are not stored. A missing chunk
            # must be a loss that the reader can report.
            config={"write_empty_chunks": True},
        )
        start = 0
        for block in blocks:
            self._run(array.setitem(slice(start, start + len(block)), block))
            start += len(block)

    @override
    def set_attributes(self, path: str, attributes: Mapping[str, Any]) -> None:
        root = self._root()

        async def update() -> None:
            node = await root.getitem(path) if path else root
            await node.update_attributes(dict(attributes))

        self._run(update())

    @override
    def release(self) -> None:
        loop, self._loop, self._group = self._loop, None, None
        if loop is not None:
            loop.close()

    @override
    def close(self) -> None:
        """Rewrite all metadata documents in the form of `canonical`, and consolidate them."""
        self._root()
        self.release()
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

    def _root(self) -> Any:
        """Return the root, after writing the documents of new groups and payloads.

        They are written as late as this, so that zarr-python can be imported while payloads are
        filled.
        """
        if self._group is None:
            # The same module first as in `import_libraries`, which another thread may call at this
            # moment: two threads that begin with different modules of a package whose modules
            # import each other may get incomplete ones.
            from zarr.api.asynchronous import open_group

            from arraystore.containers.zarr.plain_store import PlainStore

            store = PlainStore(self._path)
            root = open_group(store, mode="a", zarr_format=3, use_consolidated=False)
            self._group = self._run(root)
        new_nodes, self._new_nodes = self._new_nodes, []
        for path, nbytes in new_nodes:
            if nbytes is None:
                self._run(self._group.create_group(path))
                continue
            self._create_array(
                self._group,
                path,
                ArraySpec("uint8", (nbytes,), ("byte",)),
                chunks=(INNER_CHUNK_NBYTES,),
                shards=(SHARD_NBYTES,),
                compressors=None,
                attributes={"dense": True},
            )
        return self._group

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            self._loop = _Loop()
        return self._loop.run(work)

    def _create_array(
        self, root: Any, path: str, spec: ArraySpec, fill: float | str = 0, **options: Any
    ) -> Any:
        from zarr.codecs import BytesCodec
        from zarr.dtype import parse_dtype

        is_text = spec.data_type == STRING
        kind = parse_dtype(str if is_text else spec.data_type, zarr_format=3)
        is_complex = not is_text and np.dtype(spec.data_type).kind == "c"
        array = root.create_array(
            _checked(path),
            shape=spec.shape,
            dtype=kind,
            filters=None,
            serializer="auto" if is_text else BytesCodec(endian="little"),
            # A fill value read from a Zarr store is as in JSON; from an HDF5 file, a number.
            fill_value=kind.from_json_scalar([0.0, 0.0] if is_complex else fill, zarr_format=3),
            dimension_names=spec.dimensions,
            **options,
        )
        return self._run(array)


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
        try:
            return self._thread.submit(self._runner.run, work).result()
        except BaseException:
            # Ctrl-C can interrupt `submit` after the work has begun. As there is one thread, it
            # closes the coroutine after it has run; if it was not submitted, it never runs.
            self._thread.submit(work.close).result()
            raise


def _end(thread: ThreadPoolExecutor, runner: Runner) -> None:
    thread.submit(runner.close).result()
    thread.shutdown()


def _replace(file: Path, text: str, node: dict[str, Any]) -> None:
    """Write a metadata document if it differs from the text in the file."""
    if (new_text := json.dumps(node, indent=2)) != text:
        file.write_text(new_text)
