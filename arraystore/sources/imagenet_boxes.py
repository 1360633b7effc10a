"""ImageNet's bounding boxes: Kaggle's tables, and the official archives of XML documents."""

from __future__ import annotations

import re
import tarfile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore.errors import SourceError, brief

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

KAGGLE_COLUMNS: Final = ("ImageId", "PredictionString")
"""Columns of ``LOC_train_solution.csv`` and ``LOC_val_solution.csv``."""

SUFFIXES: Final = (".tar", ".tar.gz", ".tgz")
"""Suffixes of the archives, such as ``ILSVRC2012_bbox_train_v2.tar.gz``."""

NOTE: Final = "boxes are xmin, ymin, xmax, ymax in pixels, as the source states them"

_MAX_XML_NBYTES: Final = 2**20
_BOX: Final = re.compile(rb"<bndbox>(.*?)</bndbox>", re.DOTALL)
_SIDES: Final = ("xmin", "ymin", "xmax", "ymax")


def boxes_of_text(text: str, where: str) -> NDArray[np.int32]:
    """Return the boxes of a Kaggle ``PredictionString``: ndarray of int32, shape (n, 4).

    Examples
    --------
    >>> boxes_of_text("n02017213 115 49 448 294 n02017213 1 2 3 4", "").tolist()
    [[115, 49, 448, 294], [1, 2, 3, 4]]
    """
    words = text.split()
    sides = [word for i, word in enumerate(words) if i % 5]
    if len(words) % 5 or not all(map(str.isdecimal, sides)):
        raise SourceError(f"{where}: must be classes with four numbers each, got {brief(text)}")
    numbers = [int(side) for side in sides]
    return np.array(numbers, dtype=np.int32).reshape(-1, 4)


def is_kaggle(names: Sequence[str]) -> bool:
    """Return whether a table has the columns of Kaggle's boxes."""
    return tuple(names) == KAGGLE_COLUMNS


def read_archive(file: Path) -> tuple[list[str], list[Any]]:
    """Return names, without suffixes, and boxes of the XML documents of an archive.

    Raises
    ------
    SourceError
        If it is not a readable archive of such documents.
    """
    names, boxes = [], []
    try:
        with tarfile.open(file, "r|*") as archive:
            for name, data in _documents(archive):
                names.append(PurePosixPath(name).stem)
                boxes.append(boxes_of_xml(data, f"{file}: {name}"))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise SourceError(f"{file}: cannot be read: {error}") from None
    if not names:
        raise SourceError(f"{file}: has no .xml documents")
    return names, boxes


def _documents(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for member in archive:
        if not member.isfile() or not member.name.lower().endswith(".xml"):
            continue
        opened = archive.extractfile(member)
        if opened is None or member.size > _MAX_XML_NBYTES:
            raise SourceError(f"{member.name}: has {member.size} bytes, at most a MiB is read")
        yield member.name, opened.read()


def boxes_of_xml(data: bytes, where: str) -> NDArray[np.int32]:
    """Return the boxes of an annotation in the form of PASCAL VOC.

    Examples
    --------
    >>> box = b"<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox>"
    >>> boxes_of_xml(b"<object>" + box + b"</object>", "").tolist()
    [[1, 2, 3, 4]]
    """
    boxes = []
    for box in _BOX.findall(data):
        sides = [re.search(rf"<{side}>\s*(\d+)\s*</{side}>".encode(), box) for side in _SIDES]
        if not all(sides):
            raise SourceError(f"{where}: a box must have {', '.join(_SIDES)}, got {brief(box)}")
        boxes.append([int(side[1]) for side in sides if side])
    return np.array(boxes, dtype=np.int32).reshape(-1, 4)
