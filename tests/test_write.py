"""Stores of images that are Python objects."""

from __future__ import annotations

import dataclasses
import io
import itertools
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from PIL import Image

import arraystore
from arraystore.errors import SourceChangedError, SourceError
from benchmarks.kills import tree
from tests.support import SUFFIXES, picture

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

convert_module: Final = import_module("arraystore.convert")  # not the function of the same name

rng = np.random.default_rng(0)
PIXELS: Final = rng.integers(0, 256, (20, 8, 9, 3), dtype=np.uint8)
LABELS: Final = np.arange(20) % 2
CLASSES: Final = ["cat", "dog"]

every_suffix = pytest.mark.parametrize("suffix", SUFFIXES)


def written(target: Path, splits: Any, **options: Any) -> arraystore.Split:
    arraystore.write(target, splits, **{"sync": False, "order": "source", **options})
    return arraystore.open(target)[next(iter(splits))]


@every_suffix
def test_arrays_come_back_pixel_for_pixel(suffix: str, tmp_path: Path) -> None:
    target = tmp_path / f"pets{suffix}"
    train = written(target, {"train": (PIXELS, LABELS)}, classes=CLASSES)
    assert np.array_equal(train.image[:], PIXELS)
    assert train.label.tolist() == LABELS.tolist()
    assert train.file_name.tolist() == [f"{i:06}.png" for i in range(20)]
    info = arraystore.open(target).info
    assert info.name == "pets"
    assert arraystore.verify(
        target, decode=True, source={"train": (PIXELS, LABELS)}, classes=CLASSES
    ).ok


def test_gray_arrays_are_stored_gray(tmp_path: Path) -> None:
    gray = PIXELS[..., 0]
    train = written(tmp_path / "a.h5", {"train": (gray, LABELS)}, classes=2)
    assert np.array_equal(train.image[:], np.repeat(gray[..., np.newaxis], 3, axis=3))
    with Image.open(io.BytesIO(train.image_bytes[0])) as stored:
        assert stored.mode == "L"


def test_arrays_become_jpeg_by_choice(tmp_path: Path) -> None:
    options: dict[str, Any] = {"classes": 2, "encoding": "jpeg", "quality": 90, "sync": False}
    report = arraystore.write(tmp_path / "a.h5", {"train": (PIXELS, LABELS)}, **options)
    assert report.notes[0] == "20 arrays or pictures were encoded as JPEG of quality 90"
    train = arraystore.open(tmp_path / "a.h5")["train"]
    assert train.image_bytes[0][:3] == b"\xff\xd8\xff"
    assert set(train.file_name) == {f"{i:06}.jpg" for i in range(20)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "gif"}, "encoding must be one of png, jpeg, got 'gif'"),
        ({"quality": 0}, "quality must be 1 or more, got 0"),
        ({"fields": {"colour": "x"}}, "fields may name"),
    ],
)
def test_option_that_does_not_exist_is_refused(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        arraystore.write(tmp_path / "a.h5", {"train": []}, **options)


@every_suffix
def test_records_of_every_kind_are_stored(suffix: str, tmp_path: Path) -> None:
    jpeg = picture()
    (tmp_path / "p.jpg").write_bytes(jpeg)
    images = {
        "bytes": jpeg,
        "bytearray": bytearray(jpeg),
        "view": memoryview(jpeg),
        "text": str(tmp_path / "p.jpg"),
        "path": tmp_path / "p.jpg",
        "struct": {"bytes": jpeg, "path": None},
        "struct of path": {"bytes": None, "path": str(tmp_path / "p.jpg")},
        "array": PIXELS[0],
        "picture": Image.fromarray(PIXELS[0]),
    }
    records = ({"image": v, "label": "x", "file_name": k} for k, v in images.items())
    train = written(tmp_path / f"a{suffix}", {"train": records})
    found = dict(zip(train.file_name.tolist(), train.image_bytes[:], strict=True))
    assert list(found) == list(images)
    pixels = {name: found.pop(name) for name in ("array", "picture")}
    assert set(found.values()) == {jpeg}
    for data in pixels.values():
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), PIXELS[0])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_pictures_keep_their_pixels(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS[0]).convert(mode)
    train = written(tmp_path / "a.h5", {"train": [{"image": image, "label": None}]})
    with Image.open(io.BytesIO(train.image_bytes[0])) as stored:
        assert (stored.mode, stored.tobytes()) == (mode, image.tobytes())


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "has no image"),
        (3, "must be bytes, a path, an array or a picture, got an object of type int"),
        (PIXELS[0].astype(np.float32), "is an array of dtype.'float32'., expected uint8"),
        (np.zeros((3, 8, 9), np.uint8), r"is an array of shape \(3, 8, 9\), .*; transpose it"),
        (np.zeros((0, 8, 3), np.uint8), r"is an array of shape \(0, 8, 3\)"),
        (Image.new("CMYK", (8, 8)), r"is a picture of mode 'CMYK', .*\.convert\('RGB'\)"),
        (b"nothing", "is not an image that can be decoded"),
        (b"", "is empty"),
        ("/no/such/file.jpg", "No such file"),
    ],
    ids=[
        "none",
        "int",
        "float",
        "channels first",
        "empty array",
        "CMYK",
        "text",
        "empty",
        "absent",
    ],
)
def test_image_that_cannot_be_stored_is_skipped(image: Any, message: str, tmp_path: Path) -> None:
    records = [{"image": picture(), "label": 0}, {"image": image, "label": 1}]
    target = tmp_path / "a.h5"
    with pytest.raises(SourceError, match=rf"train: sample 1: 000001\.bin: .*{message}|{message}"):
        arraystore.write(target, {"train": records}, classes=2, sync=False)
    report = arraystore.write(target, {"train": records}, classes=2, sync=False, on_error="skip")
    assert [name for name, _ in report.splits["train"].skipped] == ["000001.bin"]
    assert arraystore.open(target)["train"].label.tolist() == [0]


@pytest.mark.parametrize(
    ("splits", "error", "message"),
    [
        ([], TypeError, "splits must be a mapping such as {'train': records}"),
        ({}, TypeError, "splits must be a mapping"),
        ({"a b": []}, SourceError, "a split cannot be named 'a b'"),
        ({"train": 3}, TypeError, "records must be an iterable of mappings, or a pair"),
        ({"train": [3]}, TypeError, "train: record 0 must be a mapping, got 3"),
        (
            {"train": [{"label": 0}]},
            SourceError,
            "expected a field with the image, .*'label'",
        ),
        ({"train": [{"image": b""}]}, SourceError, "expected a field with the label"),
        (
            {"train": [{"image": b"", "label": 0.5}]},
            TypeError,
            "label must be an integer",
        ),
        (
            {"train": [{"image": b"", "label": True}]},
            TypeError,
            "label must be an integer",
        ),
        (
            {"train": [{"image": b"", "label": 0, "file_name": 3}]},
            TypeError,
            "record 0: file_name must be a text, got 3",
        ),
        (
            {"train": [{"image": b"", "label": 0, "file_name": "../x"}]},
            SourceError,
            "cannot be named",
        ),
        (
            {"train": [{"image": b"", "label": 0, "file_name": "a\0"}]},
            SourceError,
            "cannot be named",
        ),
        ({"train": (PIXELS, LABELS[:3])}, SourceError, "20 images need as many labels, got 3"),
        ({"train": [{"image": b"", "label": 9}]}, SourceError, "label 9 must be less than"),
    ],
    ids=itertools.count(),
)
def test_records_that_are_not_clear_are_refused(
    splits: Any, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        arraystore.write(tmp_path / "a.h5", splits, classes=2, sync=False)
    assert list(tmp_path.iterdir()) == []


def test_numbers_need_classes_and_names_do_not(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"labels are numbers .* pass classes="):
        arraystore.write(tmp_path / "a.h5", {"train": (PIXELS, LABELS)}, sync=False)
    records = [{"image": picture(), "label": name} for name in ("dog", "cat", None)]
    train = written(tmp_path / "a.h5", {"train": records})
    assert arraystore.open(tmp_path / "a.h5").label_names == ("cat", "dog")
    assert train.label.tolist() == [1, 0, -1]


def test_same_name_twice_is_refused_in_one_split_alone(tmp_path: Path) -> None:
    record = {"image": picture(), "label": "x", "file_name": "a.jpg"}
    with pytest.raises(SourceError, match=r"train: 1 name \(a\.jpg\) found more than once"):
        arraystore.write(tmp_path / "a.h5", {"train": [record, record]}, sync=False)
    written(tmp_path / "a.h5", {"train": [record], "test": [record]})
    assert len(arraystore.open(tmp_path / "a.h5")["train+test"]) == 2


def test_fields_may_have_other_names(tmp_path: Path) -> None:
    record = {"img": picture(), "fine": "x", "coarse": "y", "id": "7"}
    fields = {"image": "img", "label": "fine", "file_name": "id"}
    report = arraystore.write(tmp_path / "a.h5", {"a": [record]}, fields=fields, sync=False)
    assert report.notes == ("further fields are left out: 1 name (coarse)",)
    stored = arraystore.open(tmp_path / "a.h5")["a"]
    assert (stored[0].file_name, stored.label.tolist()) == ("7", [0])


def records_of(pixels: NDArray[np.uint8]) -> Iterator[dict[str, Any]]:
    for i, image in enumerate(pixels):
        yield {"image": image, "label": "ab"[i % 2]}


def test_generator_is_read_once_and_front_to_back(tmp_path: Path) -> None:
    seen: list[int] = []

    def noted() -> Iterator[dict[str, Any]]:
        for i, record in enumerate(records_of(PIXELS)):
            seen.append(i)
            yield record

    written(tmp_path / "a.zarr", {"train": noted()})
    assert seen == list(range(20))


def test_error_of_a_generator_is_raised_as_it_is(tmp_path: Path) -> None:
    def failing() -> Iterator[dict[str, Any]]:
        yield from itertools.islice(records_of(PIXELS), 3)
        raise LookupError("from the generator")

    with pytest.raises(LookupError, match="from the generator"):
        arraystore.write(tmp_path / "a.zarr", {"train": failing()})
    assert list(tmp_path.iterdir()) == []


@every_suffix
def test_stopped_writing_is_resumed_with_the_same_records_alone(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / f"a{suffix}"
    with monkeypatch.context() as patch:
        patch.setattr(convert_module, "seal", stop)
        with pytest.raises(KeyboardInterrupt):
            arraystore.write(target, {"train": records_of(PIXELS)})
    changed = PIXELS.copy()
    changed[3, 0, 0] ^= 1
    with pytest.raises(SourceChangedError, match="source of images from Python is sha256"):
        arraystore.write(target, {"train": records_of(changed)}, resume=True)
    with pytest.raises(ValueError, match=r"option encoding is .*jpeg.* but was .*png"):
        arraystore.write(target, {"train": records_of(PIXELS)}, resume=True, encoding="jpeg")
    arraystore.write(target, {"train": records_of(PIXELS)}, resume=True)
    whole = tmp_path / f"a{suffix}"
    arraystore.write(whole, {"train": records_of(PIXELS)})
    assert tree(target) == tree(whole)
    assert arraystore.write(target, {"train": []}, resume=True).was_complete


# Data sets of Hugging Face, in the form that `datasets` gives them


class ClassLabel:
    def __init__(self, names: list[str]) -> None:
        self.names = names


@dataclasses.dataclass
class ImageFeature:
    decode: bool = True


class Dataset:
    """What is used of ``datasets.Dataset``."""

    def __init__(self, rows: list[dict[str, Any]], features: dict[str, Any]) -> None:
        self.rows, self.features = rows, features

    def cast_column(self, name: str, feature: Any) -> Dataset:
        return Dataset(self.rows, {**self.features, name: feature})

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self.rows:
            yield {
                name: Image.open(io.BytesIO(value["bytes"]))
                if getattr(self.features[name], "decode", False)
                else value
                for name, value in row.items()
            }


ImageFeature.__name__ = "Image"


def dataset(**labels: Any) -> Dataset:
    rows = [
        {"img": {"bytes": picture(seed=i), "path": f"{i}.jpg"}, **dict.fromkeys(labels, i % 2)}
        for i in range(4)
    ]
    return Dataset(rows, {"img": ImageFeature(), **labels})


def test_data_set_keeps_its_encoded_images_and_classes(tmp_path: Path) -> None:
    train = written(tmp_path / "a.zarr", {"train": dataset(label=ClassLabel(CLASSES))})
    assert train.image_bytes[:] == [picture(seed=i) for i in range(4)]
    assert train.file_name.tolist() == [f"{i}.jpg" for i in range(4)]
    assert arraystore.open(tmp_path / "a.zarr").label_names == tuple(CLASSES)


def test_data_set_with_two_label_columns_needs_a_field(tmp_path: Path) -> None:
    both = dataset(fine=ClassLabel(CLASSES), coarse=ClassLabel(["pet", "wild"]))
    with pytest.raises(SourceError, match=r"2 columns may hold the label .*'fine', 'coarse'"):
        arraystore.write(tmp_path / "a.zarr", {"train": both}, sync=False)
    written(tmp_path / "a.zarr", {"train": both}, fields={"label": "coarse"})
    assert arraystore.open(tmp_path / "a.zarr").label_names == ("pet", "wild")


def test_splits_with_different_classes_are_refused(tmp_path: Path) -> None:
    splits = {
        "a": dataset(label=ClassLabel(CLASSES)),
        "b": dataset(label=ClassLabel(CLASSES[::-1])),
    }
    with pytest.raises(SourceError, match="b: its classes differ from those of the other splits"):
        arraystore.write(tmp_path / "a.zarr", splits, sync=False)


def test_table_of_classes_gives_a_hierarchy(tmp_path: Path) -> None:
    table = tmp_path / "classes.tsv"
    table.write_text("name\tparent\ncat\tmammal\nowl\tbird\nmole\tmammal\n")
    records = [{"image": picture(seed=k), "label": name} for k, name in enumerate(("owl", "cat"))]
    arraystore.write(tmp_path / "a.h5", {"train": records}, classes=table, sync=False)
    store = arraystore.open(tmp_path / "a.h5")
    assert store.is_a("mammal").tolist() == [0, 2]
    assert store["train"].where(is_a="mammal").label.tolist() == [0]
