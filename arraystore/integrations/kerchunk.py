"""Export references: a file with which other Zarr clients read exactly the bytes of each image.

The file has kerchunk's format, version 1: a JSON object with an entry for each object of a Zarr
group, either its content or a range of a file.
"""

from __future__ import annotations

import base64
import json
import os
from typing import TYPE_CHECKING

import numpy as np

from arraystore.containers.zarr.references import chunk_keys, column_objects, payload_document
from arraystore.errors import escaped
from arraystore.indexing.byte_range import ZEROS
from arraystore.indexing.layout import image_starts
from arraystore.schema import COLUMNS, PAYLOAD, ROOT_COLUMNS
from arraystore.writing.plan_selection import name_of, read_samples
from arraystore.writing.references import paths_of_objects

if TYPE_CHECKING:
    from pathlib import Path

    from arraystore.dataset.split import Split
    from arraystore.writing.plan_selection import SelectedSplit


def export_references(split: Split, path: Path) -> int:
    """Write references to the images of a split, in its order, and its columns.

    The group has the columns of `docs/format.md`, and the payload with a chunk for each image
    (two where an image lies in two shards).

    Parameters
    ----------
    split : Split
        Its samples are of stores with the same classes.
    path : Path
        The new file.

    Returns
    -------
    int
        Number of images.

    Raises
    ------
    FileExistsError
        If the file exists.
    ValueError
        If a sample occurs twice.
    """
    if path.exists():
        raise FileExistsError(escaped(f"{path}: exists; choose another name"))
    name = name_of(split)
    some = read_samples(name, split)
    columns = {
        f"{name}/{column}": (values, COLUMNS[column]) for column, values in _columns(some).items()
    }
    classes = {"label_name": split.label_names, "label_words": split.label_words}
    columns |= {column: (classes[column], ROOT_COLUMNS[column]) for column in ROOT_COLUMNS}
    order = {"num_samples": len(some), "num_bytes": int(some.rows.nbytes.sum())}
    objects = column_objects(columns, {name: order})
    paths, file, start, nbytes = _chunks(some)
    payload = f"{name}/{PAYLOAD}"
    key, document = payload_document(payload, nbytes)
    with path.open("x", encoding="utf-8") as output:
        output.write('{"version": 1, "refs": {')
        for one, data in objects.items():
            output.write(f"{json.dumps(one)}: {json.dumps(_inline(data))},\n")
        output.write(f"{json.dumps(key)}: {json.dumps(document)}")
        places = zip(file.tolist(), start.tolist(), nbytes.tolist(), strict=True)
        for one, (number, first, size) in zip(chunk_keys(payload, len(file)), places, strict=True):
            if first != ZEROS:
                reference = json.dumps([paths[number], first, size])
                output.write(f",\n{json.dumps(one)}: {reference}")
        output.write("}}\n")
    return len(some)


def _columns(some: SelectedSplit) -> dict[str, object]:
    """Return the columns of samples; checksums only if they are known."""
    columns: dict[str, object] = {
        "image_start": image_starts(some.rows.nbytes),
        "image_nbytes": some.rows.nbytes,
        "image_height": some.height,
        "image_width": some.width,
        "label": some.label,
        "file_name": some.file_name,
    }
    if all(stored.has_checksums for stored in some.stored):
        columns["image_crc32c"] = some.rows.crc32c
    return columns


def _chunks(
    some: SelectedSplit,
) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Return all files, and the file, offset and size of each piece in the order of the images."""
    paths: list[str] = []
    parts = []
    for stored, mine, pieces, keys in some.images.places():
        objects, number = np.unique(pieces.object, return_inverse=True)
        found = paths_of_objects(stored.handle, [keys[i] for i in objects.tolist()])
        parts.append((mine[pieces.wanted], number + len(paths), pieces.start, pieces.nbytes))
        paths += [os.fspath(path) for path in found]
    if not parts:
        none = np.zeros(0, np.int64)
        return paths, none, none, none
    image, file, start, nbytes = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(image, kind="stable")
    return paths, file[order], start[order], nbytes[order]


def _inline(data: bytes) -> str:
    """Return content as kerchunk has it in JSON."""
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        text = "base64:"
    if text.startswith("base64:"):
        return "base64:" + base64.b64encode(data).decode()
    return text
