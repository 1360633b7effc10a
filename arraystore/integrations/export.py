"""Export images as files: a folder for each class, each image byte for byte as stored."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore.errors import FormatError, brief, escaped
from arraystore.reading.read_ahead import ahead

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from arraystore._typing import Ints
    from arraystore.dataset.columns import Column
    from arraystore.dataset.split import Split
    from arraystore.writing.progress import Meter

UNLABELLED_FOLDER: Final = "unlabelled"
"""Folder of the images without a label."""

_GROUP: Final = 64
_MAX_PART_NBYTES: Final = 255
_MAX_PATH_NBYTES: Final = 3000
"""Limits for a part of a path, and for a path below the folder, that all file systems allow."""


METADATA: Final = "metadata.jsonl"
"""File of the values of columns, a JSON object a line; ``ImageFolder`` of Hugging Face reads it."""


def export(split: Split, folder: Path, *, meter: Meter, columns: Sequence[str] = ()) -> int:
    """Write the encoded images of a split as ``class/name`` below a new folder.

    If samples of several splits are joined, the paths are ``split/class/name``. A sample
    that occurs twice is written once.

    Parameters
    ----------
    split : Split
    folder : Path
        A new or empty folder.
    meter : Meter
        Receives the progress.
    columns : sequence of str, optional
        Further columns whose values are written to the file `METADATA`, with the paths of the
        images as ``file_name``.

    Returns
    -------
    int
        Number of files written.

    Raises
    ------
    FileExistsError
        If `folder` is not empty.
    KeyError
        If there is no such column.
    ChecksumError
        If an image is damaged.
    FormatError
        If a name leads out of the folder or is too long, or if two images have the same path, or
        one has the path of a folder of another. Nothing is written in that case.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(escaped(f"{folder}: is not an empty folder; choose another one"))
    values = [split.columns[name] for name in columns]
    places = _places(split)
    paths, positions = list(places), np.array(list(places.values()), dtype=np.int64)
    meter.start("exporting images", len(paths), int(split.image_nbytes[positions].sum()))
    folder.mkdir(parents=True, exist_ok=True)
    groups = (slice(first, first + _GROUP) for first in range(0, len(paths), _GROUP))
    n_written = 0
    try:
        for group, images in ahead(groups, lambda g: (g, split._reader.checked(positions[g]))):
            for path, data in zip(paths[group], images, strict=True):
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as file:
                    file.write(data)
                n_written += 1
                meter.advance(1, len(data))
        if values:
            _write_values(folder / METADATA, paths, positions, values)
    except BaseException as error:
        error.add_note(
            escaped(
                f"{folder} contains {n_written:,} of {len(paths):,} files; delete it, or choose "
                "another folder"
            )
        )
        raise
    return n_written


def _write_values(
    file: Path, paths: Sequence[str], positions: Ints, columns: Sequence[Column]
) -> None:
    """Write the values of columns, a JSON object a line."""
    with file.open("x", encoding="utf-8") as lines:
        for first in range(0, len(paths), _GROUP):
            some = slice(first, first + _GROUP)
            found = {column.name: _plain(column.take(positions[some])) for column in columns}
            for i, path in enumerate(paths[some]):
                row = {"file_name": path} | {name: values[i] for name, values in found.items()}
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def _plain(values: Any) -> list[Any]:
    """Return values as JSON has them; complex numbers as pairs."""
    if isinstance(values, list):
        return [_plain(value) for value in values]
    if values.dtype.kind == "c":
        values = np.stack([values.real, values.imag], axis=-1)
    plain: list[Any] = values.tolist()
    return plain


def _places(split: Split) -> dict[str, int]:
    """Return the path of each image below the folder, with its position in the split."""
    names, labels = split.file_name.tolist(), split.label.tolist()
    located = list(split._sample_set.locate(np.arange(len(split), dtype=np.int64)))
    infos = {address: root.dataset for address, root in split._roots.items()}
    split_of = {
        stored.location: infos[stored.handle.address].split_of(stored.name)
        for stored, _, _ in located
    }
    several = (
        len({(stored.handle.address, split_of[stored.location]) for stored, _, _ in located}) > 1
    )
    places: dict[str, int] = {}
    origins: dict[str, tuple[str, int]] = {}
    for stored, positions, which in located:
        for position, i in zip(positions.tolist(), which, strict=True):
            folder = split.label_names[labels[i]] if labels[i] >= 0 else UNLABELLED_FOLDER
            path = names[i] if names[i].startswith(f"{folder}/") else f"{folder}/{names[i]}"
            if several:
                path = f"{split_of[stored.location]}/{path}"
            if not _is_below(path):
                problem = "is not a valid path of a file below a folder"
                raise FormatError(f"{stored.location}: {brief(path)} {problem}")
            if origins.setdefault(path, (stored.location, position)) != (stored.location, position):
                raise FormatError(f"{stored.location}: two images have the path {path!r}")
            places.setdefault(path, i)
    folders = {path[:at] for path in places for at, c in enumerate(path) if c == "/"}
    for path in sorted(folders & places.keys()):
        raise FormatError(f"{split.name}: {path!r} is the path of both a file and a folder")
    return places


def _is_below(path: str) -> bool:
    """Whether a path stays below its folder and is short enough for file systems."""
    parts = path.split("/")
    return len(path.encode()) <= _MAX_PATH_NBYTES and not any(
        part in {"", ".", ".."} or "\0" in part or len(part.encode()) > _MAX_PART_NBYTES
        for part in parts
    )
