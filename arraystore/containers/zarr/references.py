"""Documents of a Zarr group whose payload is made of ranges of other files, one chunk each.

Programs that read references, such as fsspec's, put them together: see
`arraystore.integrations.kerchunk`.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from arraystore.containers.zarr.metadata import document_key
from arraystore.containers.zarr.writer import ZarrWriter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from arraystore._typing import Ints
    from arraystore.schema import Column


def column_objects(
    columns: Mapping[str, tuple[Any, Column]], attributes: Mapping[str, Mapping[str, Any]]
) -> dict[str, bytes]:
    """Return the objects of a Zarr group with some columns, by their keys.

    Parameters
    ----------
    columns : mapping of str to (values, Column)
        By path; groups of the paths are created.
    attributes : mapping of str to mapping of str to anything
        Attributes of the root and of groups, by path.
    """
    with TemporaryDirectory(prefix="arraystore-") as folder:
        root = Path(folder) / "columns"
        with ZarrWriter(root) as writer:
            for group in {path.rpartition("/")[0]: None for path in columns}:
                if group:
                    writer.create_group(group)
            for path, (values, column) in columns.items():
                writer.write_column(path, values, column)
            for path, values in attributes.items():
                writer.set_attributes(path, values)
        files = sorted(path for path in root.rglob("*") if path.is_file())
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def payload_document(path: str, sizes: Ints) -> tuple[str, str]:
    """Return key and document of a payload whose chunks have these sizes in bytes.

    The grid is ``rectilinear``, which zarr-python reads with the setting
    ``array.rectilinear_chunks``.
    """
    grid = {"kind": "inline", "chunk_shapes": [sizes.tolist()]}
    document = {
        "shape": [int(sizes.sum())],
        "data_type": "uint8",
        "chunk_grid": {"name": "rectilinear", "configuration": grid},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [{"name": "bytes"}],
        "attributes": {},
        "dimension_names": ["byte"],
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
    return document_key(path), json.dumps(document)


def chunk_keys(path: str, n_chunks: int) -> Sequence[str]:
    """Return the keys of the chunks of a payload."""
    return [f"{path}/c/{i}" for i in range(n_chunks)]
