"""TFRecord files and the messages in them."""

from __future__ import annotations

import gzip
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

import arraystore
from arraystore.errors import SourceError
from arraystore.sources.source_options import SourceOptions
from arraystore.sources.tfrecord import load, masked_crc32c
from arraystore.sources.train_example import parse_example
from tests.sources.forms import delimited, example, tfrecord, varint
from tests.support import picture

if TYPE_CHECKING:
    from pathlib import Path

    from arraystore.sources.sample_table import Source

PICTURE: Final = picture()
OF_TFDS: Final = {"image": PICTURE, "label": 1, "file_name": "a.jpg"}

integers = st.integers(-(2**63), 2**63 - 1)
values = st.one_of(
    st.lists(st.binary(max_size=300), min_size=1, max_size=3),
    st.lists(integers, min_size=1, max_size=5),
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=3),
)


@given(st.dictionaries(st.text(max_size=8), values, min_size=1, max_size=5), st.booleans())
def test_message_comes_back_as_it_was(features: dict[str, list[Any]], packed: bool) -> None:
    record = example(features, packed=packed)
    found = parse_example(record)
    assert found.keys() == features.keys()
    for name, stated in features.items():
        feature = found[name]
        if isinstance(stated[0], bytes):
            assert (feature.kind, feature.count) == ("bytes", len(stated))
            assert record[feature.start : feature.stop] == stated[0]
        elif isinstance(stated[0], int):
            assert (feature.kind, feature.count) == ("int64", len(stated))
            assert feature.number == stated[0]
        else:
            assert feature.kind == "float"


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_value_error(data: bytes) -> None:
    with suppress(ValueError):
        parse_example(data)


@given(st.data())
def test_message_with_a_wrong_byte_raises_value_errors_alone(data: st.DataObject) -> None:
    record = bytearray(example({"image": b"x" * 40, "label": 3}))
    record[data.draw(st.integers(0, len(record) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ValueError):
        parse_example(bytes(record))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"", "has no features"),
        (delimited(2, b""), "has field 2, expected those of a tf.train.Example"),
        (b"\x0a\x7fabc", "a field reaches beyond its end"),
        (b"\x80" * 11, "a number has no end"),
        (varint(1 << 3) + b"\x05", "has a field of wire type 0 where a message is expected"),
        (varint(1 << 3 | 3), "has a field of wire type 3"),
    ],
)
def test_record_without_an_example_is_refused(record: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        parse_example(record)
    with pytest.raises(SourceError, match=r"record at byte 0: must be a tf\.train\.Example"):
        loaded(tmp_path, [record])


def loaded(folder: Path, records: list[bytes], **options: Any) -> Source:
    path = folder / "train.tfrecord"
    path.write_bytes(tfrecord(records))
    return load(str(path), SourceOptions(**options), folder / "spool")


def test_checksum_is_that_of_the_format() -> None:
    # The length 3 and the data "abc", as TensorFlow writes them.
    record = tfrecord([b"abc"])
    assert record[:8] == b"\x03" + bytes(7)
    assert masked_crc32c(b"abc") == (((0x364B3FB7 >> 15) | (0x364B3FB7 << 17)) + 0xA282EAD8) % 2**32


@pytest.mark.parametrize(
    ("features", "label", "name"),
    [
        ({"image": PICTURE, "label": 1, "file_name": "a.jpg"}, "b", "a.jpg"),
        ({"image/encoded": PICTURE, "image/class/synset": "b", "image/filename": "x"}, "b", "x"),
        ({"image_raw": PICTURE, "label": 0}, "a", "000000.jpg"),
        (
            {"image/encoded": PICTURE, "image/class/label": 2, "image/class/synset": "a"},
            "a",
            "000000.jpg",
        ),
    ],
    ids=["TFDS", "synset", "image_raw", "synset before number"],
)
def test_usual_features_are_found(
    features: dict[str, Any], label: str, name: str, tmp_path: Path
) -> None:
    source = loaded(tmp_path, [example(features)], classes=["a", "b"])
    table = source.splits["train"]
    assert (source.label_name[table.label[0]], table.file_name[0]) == (label, name)
    assert source.notes[0].startswith("features: image is ")


def test_further_features_are_named(tmp_path: Path) -> None:
    features = {**OF_TFDS, "height": 3, "bbox": [0.5]}
    source = loaded(tmp_path, [example(features)], classes=2)
    assert "further features are left out: 2 names (bbox, height)" in source.notes


def test_numbers_that_may_count_from_one_must_be_stated(tmp_path: Path) -> None:
    records = [
        example({"image/encoded": PICTURE, "image/class/label": number}) for number in (2, 1)
    ]
    with pytest.raises(SourceError, match="the least image/class/label is 1, so labels may count"):
        loaded(tmp_path, records, classes=3)
    stated = {"from 0": "image/class/label", "from 1": "image/class/label-1"}
    found = {
        name: loaded(tmp_path, records, classes=3, fields={"label": place}).splits["train"].label
        for name, place in stated.items()
    }
    assert {name: label.tolist() for name, label in found.items()} == {
        "from 0": [2, 1],
        "from 1": [1, 0],
    }
    records.append(example({"image/encoded": PICTURE, "image/class/label": 0}))
    assert loaded(tmp_path, records, classes=3).splits["train"].label.tolist() == [2, 1, 0]
    with pytest.raises(SourceError, match="must count from 1, got 0"):
        loaded(tmp_path, records, classes=3, fields={"label": "image/class/label-1"})


@pytest.mark.parametrize(
    ("features", "fields", "message"),
    [
        ({"x": b""}, {}, "expected a feature with the image, found 'x'; pass fields="),
        ({"image": b""}, {}, "expected a feature with the label, found 'image'"),
        ({**OF_TFDS, "label": [1, 2]}, {}, "'label' must be one number or name, got 2 values"),
        ({**OF_TFDS, "label": [0.5]}, {}, "'label' must be one number or name, got 0 values of fl"),
        (OF_TFDS, {"label": "class"}, "'class' must be one number or name, got 0 values of not"),
        ({**OF_TFDS, "file_name": b"\xff"}, {}, "'file_name' must be UTF-8 text"),
    ],
)
def test_features_that_are_missing_or_odd_are_refused(
    features: dict[str, Any], fields: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match=message):
        loaded(tmp_path, [example(features)], classes=2, fields=fields)


def test_record_without_one_image_is_skipped(tmp_path: Path) -> None:
    records = [example(OF_TFDS), example({"image": [b"a", b"b"], "label": 1, "file_name": "b"})]
    source = loaded(tmp_path, records, classes=2)
    assert source.faults == {"train": {1: "'image' must be one image, got 2 values of bytes"}}


def test_wrong_checksum_of_data_is_found_and_skipped(tmp_path: Path) -> None:
    path = tmp_path / "train.tfrecord"
    data = bytearray(tfrecord([example(OF_TFDS), example({**OF_TFDS, "file_name": "b.jpg"})]))
    data[40] ^= 1
    path.write_bytes(data)
    options: dict[str, Any] = {"classes": 2, "sync": False}
    message = r"train\.tfrecord: sample 0: train\.tfrecord: record at byte 0: its checksum is wrong"
    with pytest.raises(SourceError, match=message):
        arraystore.convert(f"tfrecord:{path}", tmp_path / "a.zarr", **options)
    report = arraystore.convert(f"tfrecord:{path}", tmp_path / "a.zarr", on_error="skip", **options)
    assert report.splits["train"].num_samples == 1
    assert len(report.splits["train"].skipped) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "must be a TFRecord file, but is empty"),
        (b"<html>" + bytes(20), "record at byte 0: its length has a wrong checksum"),
        (tfrecord([b"abc"])[:9], "record at byte 0: is truncated; download"),
        (tfrecord([example(OF_TFDS), b"abc"])[:-1], r"record at byte [0-9]+: is truncated"),
        (gzip.compress(tfrecord([example(OF_TFDS)]))[:-20], "is truncated; download it again"),
        (b"\x1f\x8b" + bytes(40), "cannot be decompressed"),
    ],
    ids=["empty", "HTML", "no record", "half a record", "half a gzip file", "no gzip file"],
)
def test_damaged_file_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "train.tfrecord").write_bytes(data)
    with pytest.raises(SourceError, match=message):
        load(f"{tmp_path}/train.tfrecord", SourceOptions(classes=2), tmp_path / "spool")
