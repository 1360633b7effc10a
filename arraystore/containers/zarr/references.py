"""Documents of a Zarr group whose payload is made of ranges of other files, one chunk each.

Programs that read references put them together: see `arraystore.integrations.references`.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from arraystore.containers.zarr.metadata import document_key
from arraystore.containers.zarr.writer import ZarrWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from arraystore._typing import Ints
    from arraystore.containers.protocol import ContainerWriter


def zarr_objects(write: Callable[[ContainerWriter], None]) -> dict[str, bytes]:
    """Return the objects of the Zarr group that a function writes, by their keys."""
    with TemporaryDirectory(prefix="arraystore-") as folder:
        root = Path(folder) / "columns"
        with ZarrWriter(root) as writer:
            write(writer)
        files = sorted(path for path in root.rglob("*") if path.is_file())
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def is_document(key: str) -> bool:
    """Whether an object is the document of a group or array, and not a chunk."""
    return key == document_key(key.rpartition("/")[0])


def payload_document(path: str, sizes: Ints) -> tuple[str, bytes]:
    """Return key and document of a payload whose chunks have these sizes in bytes.

    The grid is ``rectilinear``, which zarr-python reads with the setting
    ``array.rectilinear_chunks``. A payload without images has a regular one, because the other
    kind has at least one chunk.
    """
    grid: dict[str, Any] = {
        "name": "rectilinear",
        "configuration": {"kind": "inline", "chunk_shapes": [sizes.tolist()]},
    }
    if not len(sizes):
        grid = {"name": "regular", "configuration": {"chunk_shape": [1]}}
    document = {
        "shape": [int(sizes.sum())],
        "data_type": "uint8",
        "chunk_grid": grid,
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [{"name": "bytes"}],
        "attributes": {},
        "dimension_names": ["byte"],
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
    return document_key(path), json.dumps(document).encode()


def chunk_keys(path: str, n_chunks: int) -> Sequence[str]:
    """Return the keys of the chunks of a payload."""
    return [f"{path}/c/{i}" for i in range(n_chunks)]
