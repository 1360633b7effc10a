"""Bounding boxes of ImageNet, from Kaggle's tables and the official archives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

import arraystore
from arraystore.errors import SourceError
from tests.sources.forms import write_tar
from tests.support import write_store

if TYPE_CHECKING:
    from pathlib import Path

NAMES: Final = ["n01440764_18.JPEG", "n01440764_37.JPEG", "n01443537_2.JPEG"]
BOXES: Final = {NAMES[0]: [[1, 2, 30, 40]], NAMES[1]: [[5, 6, 7, 8], [9, 10, 11, 12]], NAMES[2]: []}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_store(tmp_path / "a.zarr", NAMES, [0, 0, 1], classes=["n01440764", "n01443537"])


def xml(boxes: list[list[int]]) -> bytes:
    sides = ("xmin", "ymin", "xmax", "ymax")
    objects = [
        "<object><name>n01440764</name>\n<bndbox>"
        + "".join(f"\n<{side}>{n}</{side}>" for side, n in zip(sides, box, strict=True))
        + "</bndbox></object>"
        for box in boxes
    ]
    return f"<annotation>{''.join(objects)}</annotation>".encode()


def found(store: Path) -> dict[str, list[list[int]]]:
    train = arraystore.open(store)["train"]
    column = train.columns["boxes"]
    assert (str(column.dtype), column.shape) == ("int32", (3, None, 4))
    boxes = [some.tolist() for some in column]
    return dict(zip(train.file_name.tolist(), boxes, strict=True))


def test_tables_of_kaggle(store: Path, tmp_path: Path) -> None:
    table = tmp_path / "LOC_train_solution.csv"
    rows = []
    for name in NAMES[:2]:
        boxes = "".join(f"n01440764 {' '.join(map(str, box))} " for box in BOXES[name])
        rows.append(f"{name.removesuffix('.JPEG')},{boxes}")
    table.write_text("\n".join(["ImageId,PredictionString", *rows, "other_1,n1 1 2 3 4 "]))
    report = arraystore.add_column(store, "train", "boxes", table)
    assert found(store) == BOXES
    assert "boxes are xmin, ymin, xmax, ymax in pixels" in report.notes[0]
    assert "1 of 3 values are of no sample: 'other_1'" in report.notes
    assert any(note.startswith("1 of 3 samples have no value") for note in report.notes)
    table.write_text("ImageId,PredictionString\nn01440764_18,n1 1 2 3\n")
    with pytest.raises(SourceError, match="must be classes with four numbers each"):
        arraystore.add_column(store, "train", "more", table)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_official_archives(mode: str, store: Path, tmp_path: Path) -> None:
    file = tmp_path / ("boxes.tar" if mode == "w" else "ILSVRC2012_bbox_train_v2.tar.gz")
    members = [
        (f"{name[:9]}/{name.removesuffix('.JPEG')}.xml", xml(some))
        for name, some in BOXES.items()
        if some
    ]
    write_tar(file, members, mode)
    arraystore.add_column(store, "train", "boxes", file)
    assert found(store) == BOXES
    write_tar(file, [("a.xml", b"<bndbox><xmin>1</xmin></bndbox>")], mode)
    with pytest.raises(SourceError, match="a box must have xmin, ymin, xmax, ymax"):
        arraystore.add_column(store, "train", "more", file)
    file.write_bytes(file.read_bytes()[:99])
    with pytest.raises(SourceError, match=r"cannot be read|no \.xml"):
        arraystore.add_column(store, "train", "more", file)
