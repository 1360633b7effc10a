"""Images as files again: one folder a class, each image with the bytes it has in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from arraystore.errors import FormatError, brief, escaped
from arraystore.reading.read_ahead import ahead

if TYPE_CHECKING:
    from pathlib import Path

    from arraystore.dataset.split import Split
    from arraystore.writing.progress import Meter

UNLABELLED_FOLDER: Final = "unlabelled"
"""Folder of the images that have no label."""

_GROUP: Final = 64
_MAX_PART_NBYTES: Final = 255
_MAX_PATH_NBYTES: Final = 3000
"""What file systems have room for in a part of a path, and in all of it below a folder."""


def export(split: Split, folder: Path, *, meter: Meter) -> int:
    """Write the encoded images of a split as ``class/name`` below a new folder.

    Where samples of several stored splits are joined, as ``split/class/name``. A
    sample that the split has twice is written once.

    Parameters
    ----------
    split : Split
    folder : Path
        Must not be there, or be empty.
    meter : Meter
        Told of every image.

    Returns
    -------
    int
        Number of files written.

    Raises
    ------
    FileExistsError
        If there is something in `folder`.
    ChecksumError
        If the bytes of an image are not those that were written.
    FormatError
        If a name would lead out of the folder or is too long for a file, or two images
        would have one name, or one that of a folder of another. Nothing is written then.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(escaped(f"{folder}: is not an empty folder; name another one"))
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
    except BaseException as error:
        error.add_note(
            escaped(
                f"{folder} keeps {n_written:,} of {len(paths):,} files; delete it, or name another"
            )
        )
        raise
    return n_written


def _places(split: Split) -> dict[str, int]:
    """Return the path of each image below the folder, and its position in the split."""
    names, labels = split.file_name.tolist(), split.label.tolist()
    located = list(split.sample_set.locate(np.arange(len(split), dtype=np.int64)))
    several = len({stored.location for stored, _, _ in located}) > 1
    places: dict[str, int] = {}
    origins: dict[str, tuple[str, int]] = {}
    for stored, positions, which in located:
        for position, i in zip(positions.tolist(), which, strict=True):
            folder = split.label_names[labels[i]] if labels[i] >= 0 else UNLABELLED_FOLDER
            path = names[i] if names[i].startswith(f"{folder}/") else f"{folder}/{names[i]}"
            if several:
                path = f"{stored.name}/{path}"
            if not _is_below(path):
                shown = brief(path)
                raise FormatError(
                    f"{stored.location}: {shown} is no name for a file below a folder"
                )
            if origins.setdefault(path, (stored.location, position)) != (stored.location, position):
                raise FormatError(f"{stored.location}: two images would be the file {path!r}")
            places.setdefault(path, i)
    folders = {path[:at] for path in places for at, c in enumerate(path) if c == "/"}
    for path in sorted(folders & places.keys()):
        raise FormatError(f"{split.name}: {path!r} would be both a file and a folder")
    return places


def _is_below(path: str) -> bool:
    """Whether a path is one of a file below a folder, and not too long for a file system."""
    parts = path.split("/")
    return len(path.encode()) <= _MAX_PATH_NBYTES and not any(
        part in {"", ".", ".."} or "\0" in part or len(part.encode()) > _MAX_PART_NBYTES
        for part in parts
    )
