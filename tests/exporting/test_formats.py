"""What each format of an export holds, read with our own readers and with those of others."""

from __future__ import annotations

import json
import tarfile
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import array_record.python.array_record_module as array_record
import h5py
import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

import arraystore
from arraystore import FormatError, SourceError
from arraystore.exporting.formats import FORMATS
from arraystore.exporting.webdataset import key_of
from arraystore.sources.image_suffix import N_BYTES, suffix_of
from arraystore.sources.junk import is_junk
from arraystore.sources.tfrecord import records_of
from arraystore.sources.train_example import parse_example
from arraystore.sources.webdataset import split_key
from tests.support import SUFFIXES, picture, write_folder, write_once, write_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SHARD_NBYTES = 3000
"""So few that small splits have several shards."""

NAMES = [
    "a.b.jpg",
    "cat/ü ñ.JPEG",
    "x\x1b[2J\u202e.png",
    "../up.jpg",
    "漢字",
    ".hid",
    "__m__/1.jpg",
]
LABELS = [0, 1, -1, 1, 0, 1, 0]
CLASSES = ["cat", "dög 🐕"]


class Exported(NamedTuple):
    """One sample as read from an export."""

    name: str
    label: int
    image: bytes


def read_webdataset(target: Path) -> list[Exported]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the package itself
        import webdataset

        urls = [str(path) for path in sorted(target.glob("*.tar"))]
        samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    found = []
    for sample in samples:
        document = json.loads(sample["json"])
        (image,) = (sample[e] for e in sample if e in ("jpg", "png", "bin"))
        assert int(sample["cls"]) == document["label"]
        found.append(Exported(document["file_name"], document["label"], image))
    return found


def records_in(path: Path) -> list[memoryview]:
    with path.open("rb") as file:
        records = list(records_of(path, file))
    assert not any(record.fault for record in records)
    return [record.data for record in records]


def of_example(record: memoryview) -> Exported:
    features = parse_example(record)
    name, image = features["file_name"], features["image"]
    return Exported(
        str(record[name.start : name.stop], "utf-8"),
        features["label"].number,
        bytes(record[image.start : image.stop]),
    )


def read_tfrecord(target: Path) -> list[Exported]:
    paths = sorted(target.glob("*.tfrecord-*"))
    return [of_example(record) for path in paths for record in records_in(path)]


def read_array_record(target: Path) -> list[Exported]:
    found = []
    for path in sorted(target.glob("*.array_record-*")):
        reader = array_record.ArrayRecordReader(str(path))
        found += [of_example(memoryview(data)) for data in reader.read_all()]
        reader.close()
    return found


def read_parquet(target: Path) -> list[Exported]:
    found = []
    for path in sorted(target.glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            image = row["image"]
            found.append(Exported(image["path"], row["label"], image["bytes"]))
    return found


def read_lance(target: Path) -> list[Exported]:
    rows = lance.dataset(str(target / "train.lance")).to_table().to_pylist()
    return [Exported(row["file_name"], row["label"], row["image"]) for row in rows]


def read_lance_references(target: Path) -> list[Exported]:
    table = lance.dataset(str(target / "train.lance"))
    rows = table.to_table(columns=["file_name", "label"]).to_pylist()
    images = table.read_blobs("image", indices=[*range(len(rows))]) if rows else []
    return [
        Exported(row["file_name"], row["label"], image)
        for row, (_, image) in zip(rows, images, strict=True)
        if image is not None
    ]


def read_hdf5(target: Path) -> list[Exported]:
    with h5py.File(target) as file:
        train = file["train"]
        columns = (train["file_name"].asstr()[:], train["label"][:], train["image"][:])
        return [Exported(n, int(k), image.tobytes()) for n, k, image in zip(*columns, strict=True)]


def read_zarr(target: Path) -> list[Exported]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the data type is not in the specification itself
        train: Any = zarr.open_group(target)["train"]
        columns = [train[name][:] for name in ("file_name", "label", "image")]
    return [Exported(str(n), int(k), bytes(image)) for n, k, image in zip(*columns, strict=True)]


READERS: dict[tuple[str, str], Callable[[Path], list[Exported]]] = {
    ("webdataset", "out"): read_webdataset,
    ("tfrecord", "out"): read_tfrecord,
    ("array-record", "out"): read_array_record,
    ("parquet", "out"): read_parquet,
    ("lance", "out"): read_lance,
    ("lance-references", "out"): read_lance_references,
    ("arrays", "out.h5"): read_hdf5,
    ("arrays", "out.zarr"): read_zarr,
}
"""Formats with a row per sample, the names of their targets, and what reads them."""

COPIES = {key: reader for key, reader in READERS.items() if key[0] != "lance-references"}
"""Those that hold the images."""

every_format = pytest.mark.parametrize(("form", "name"), READERS)


def samples_of(split: arraystore.Split) -> list[Exported]:
    columns = split.file_name.tolist(), split.label.tolist(), split.image_bytes[:]
    return list(map(Exported, *columns))


def write_odd_store(path: Path) -> None:
    images = [picture(seed=i) for i in range(len(NAMES) - 1)] + [b""]
    write_store(path, NAMES, LABELS, images, classes=CLASSES)


def odd_store(path: Path) -> arraystore.Split:
    """A split with odd names, images without a label, and an image that is none."""
    write_once(write_odd_store, path)
    return arraystore.open(path)["train"]


def write_with_columns(path: Path) -> None:
    n = 8
    images = [picture(seed=i) for i in range(n)]
    write_store(
        path, [f"{i}.jpg" for i in range(n)], [i % 2 for i in range(n)], images, classes="ab"
    )
    further: dict[str, Any] = {
        "score": np.arange(n) * 10,
        "features": np.arange(n * 6, dtype=np.float32).reshape(n, 2, 3),
        "note": np.array([f"nöte {i}" for i in range(n)], np.dtypes.StringDType()),
        "boxes": [np.arange(i % 3) for i in range(n)],
    }
    for name, values in further.items():
        arraystore.add_column(path, "train", name, values)


def with_columns(path: Path) -> arraystore.Split:
    """A split with further columns of several kinds."""
    write_once(write_with_columns, path)
    return arraystore.open(path)["train"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@every_format
def test_export_restores_every_byte_in_order(
    suffix: str, form: str, name: str, tmp_path: Path
) -> None:
    train = odd_store(tmp_path / f"a{suffix}")
    mixed = train.select([3, 0, 6, 2, 1, 5, 4])
    report = arraystore.export(mixed, tmp_path / name, form, shard_nbytes=SHARD_NBYTES)
    assert READERS[form, name](tmp_path / name) == samples_of(mixed)
    split = report.splits["train"]
    assert (
        split.content_digest
        == arraystore.open(tmp_path / f"a{suffix}").info.splits["train"].content_digest
    )
    assert (split.num_samples, split.num_bytes) == (len(NAMES), int(train.image_nbytes.sum()))
    assert not (tmp_path / f".{name}.partial").exists()


@every_format
def test_export_of_nothing_is_readable(form: str, name: str, tmp_path: Path) -> None:
    none = odd_store(tmp_path / "a.h5").select([])
    assert arraystore.export(none, tmp_path / name, form).num_samples == 0
    assert READERS[form, name](tmp_path / name) == []


@every_format
def test_repeated_samples_are_written_repeatedly(form: str, name: str, tmp_path: Path) -> None:
    twice = odd_store(tmp_path / "a.h5").select([1, 1, 2, 1])
    arraystore.export(twice, tmp_path / name, form)
    assert READERS[form, name](tmp_path / name) == samples_of(twice)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("form", "source", "options"),
    [
        ("folders", "folder:{}", {}),
        ("webdataset", "wds:{}", {"fields": {"file_name": "json.file_name"}}),
        ("tfrecord", "tfrecord:{}", {}),
        ("parquet", "parquet:{}", {}),
        ("array-record", "array_record:{}", {}),
    ],
)
def test_converted_export_has_the_same_digest(
    suffix: str, form: str, source: str, options: dict[str, Any], tmp_path: Path
) -> None:
    paths = [f"{s}/{c}/{c}{i}.jpg" for s in ("train", "test") for c in "ab" for i in range(4)]
    files = {path: picture(seed=i) for i, path in enumerate(paths)}
    write_folder(tmp_path / "in", files)
    arraystore.convert(f"folder:{tmp_path / 'in'}", tmp_path / f"a{suffix}", sync=False)
    store = arraystore.open(tmp_path / f"a{suffix}")
    out = tmp_path / "out"
    report = arraystore.export(store["train+test"], out, form, shard_nbytes=SHARD_NBYTES)
    if form == "webdataset":
        options = options | {"classes": out / "classes.txt"}
    arraystore.convert(source.format(out), tmp_path / "b.zarr", sync=False, **options)
    again = arraystore.open(tmp_path / "b.zarr")
    for name in ("train", "test"):
        assert again.info.splits[name].content_digest == report.splits[name].content_digest
        assert report.splits[name].content_digest == store.info.splits[name].content_digest
    assert again.label_names == store.label_names


@given(st.text(min_size=1, max_size=20) | st.text("./_a\\\0", max_size=12))
def test_webdataset_key_is_one_that_readers_keep(name: str) -> None:
    key = key_of(name)
    if key:
        assert split_key(f"{key}.jpg") == (key, "jpg")
        assert not is_junk(f"{key}.jpg")
        assert not key.startswith("/")
        assert ".." not in key.split("/")


def test_webdataset_members_of_one_sample_follow_each_other(tmp_path: Path) -> None:
    images = [picture(), b"\x89PNG\r\n\x1a\n...", b"?"]
    names = ["d/1.x.JPEG", "d/1_x.jpg", "n"]
    path = write_store(tmp_path / "a.h5", names, [0, 1, -1], images, classes=CLASSES)
    store = arraystore.open(path)
    train = store["train"].where(file_name=names[0]) | store["train"]
    order = [train.file_name.tolist().index(name) for name in names]
    arraystore.export(train.select(order), tmp_path / "out", "webdataset")
    with tarfile.open(tmp_path / "out" / "train-00000-of-00001.tar") as archive:
        members = archive.getnames()
        document = archive.extractfile("d/1_x.json")
        assert document is not None
        assert json.load(document) == {"file_name": "d/1.x.JPEG", "label": 0, "label_name": "cat"}
    assert members == [
        *("d/1_x.jpg", "d/1_x.cls", "d/1_x.json"),
        *("d/1_x_000000001.png", "d/1_x_000000001.cls", "d/1_x_000000001.json"),
        *("n.bin", "n.cls", "n.json"),
    ]
    assert suffix_of(images[2][:N_BYTES]) == ".bin"
    assert (tmp_path / "out" / "classes.txt").read_text(encoding="utf-8").split("\n") == [
        *CLASSES,
        "",
    ]


def test_parquet_states_features_of_hugging_face(tmp_path: Path) -> None:
    train = with_columns(tmp_path / "a.zarr")
    arraystore.export(train, tmp_path / "out", "parquet", columns=["note"])
    schema = pq.read_schema(tmp_path / "out" / "train-00000-of-00001.parquet")
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features == {
        "image": {"_type": "Image"},
        "label": {"names": ["a", "b"], "_type": "ClassLabel"},
    }
    assert schema.field("image").type == pa.struct({"bytes": pa.binary(), "path": pa.string()})
    assert schema.names == ["image", "label", "note"]


def test_tfds_files_describe_the_shards(tmp_path: Path) -> None:
    train = with_columns(tmp_path / "a.zarr")
    arraystore.export(train, tmp_path / "out", "tfrecord", shard_nbytes=SHARD_NBYTES)
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_text())
    (split,) = info["splits"]
    shards = sorted((tmp_path / "out").glob("*.tfrecord-*"))
    assert [int(n) for n in split["shardLengths"]] == [len(records_in(path)) for path in shards]
    count = len(shards)
    assert count > 1
    assert [path.name for path in shards] == [
        f"{info['name']}-train.{info['fileFormat']}-{i:05d}-of-{count:05d}" for i in range(count)
    ]
    features = json.loads((tmp_path / "out" / "features.json").read_text())
    found = features["featuresDict"]["features"]
    assert found["label"]["classLabel"] == {"numClasses": "2"}
    assert found["features"]["tensor"]["shape"] == {"dimensions": ["2", "3"]}
    assert found["boxes"]["tensor"] == {
        "dtype": "int64",
        "encoding": "none",
        "shape": {"dimensions": ["-1"]},
    }
    assert (tmp_path / "out" / "label.labels.txt").read_text() == "a\nb\n"


def values_of(form: str, target: Path) -> list[dict[str, Any]]:
    """Return the further columns of each exported sample, as plain values."""
    if form == "folders":
        return [json.loads(line) for line in (target / "metadata.jsonl").read_text().splitlines()]
    if form == "parquet":
        return [row for path in sorted(target.iterdir()) for row in pq.read_table(path).to_pylist()]
    if form == "lance":
        rows: list[dict[str, Any]] = (
            lance.dataset(str(target / "train.lance")).to_table().to_pylist()
        )
        return rows
    found = []
    for path in sorted(target.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive.getmembers():
                if member.name.endswith(".json"):
                    document = archive.extractfile(member)
                    assert document is not None
                    found.append(json.load(document))
    return found


@pytest.mark.parametrize("form", ["folders", "webdataset", "parquet", "lance"])
def test_columns_are_exported(form: str, tmp_path: Path) -> None:
    train = with_columns(tmp_path / "a.zarr")
    report = arraystore.export(train, tmp_path / "out", form, shard_nbytes=SHARD_NBYTES)
    rows = values_of(form, tmp_path / "out")
    assert [row["score"] for row in rows] == train.columns["score"][:].tolist()
    assert [row["note"] for row in rows] == train.columns["note"][:].tolist()
    assert [row["features"] for row in rows] == train.columns["features"][:].tolist()
    assert [row["boxes"] for row in rows] == [box.tolist() for box in train.columns["boxes"][:]]
    assert report.left_out == ()


def test_columns_are_exported_to_arrays(tmp_path: Path) -> None:
    train = with_columns(tmp_path / "a.h5")
    reports = [
        arraystore.export(train, tmp_path / name, "arrays") for name in ("out.h5", "out.zarr")
    ]
    assert [report.left_out for report in reports] == [(), ("boxes",)]
    with h5py.File(tmp_path / "out.h5") as file:
        columns = file["train/columns"]
        boxes = [values.tolist() for values in columns["boxes"][:]]
        assert boxes == [values.tolist() for values in train.columns["boxes"][:]]
        assert columns["note"].asstr()[:].tolist() == train.columns["note"][:].tolist()
        np.testing.assert_array_equal(columns["features"][:], train.columns["features"][:])
    group: Any = zarr.open_group(tmp_path / "out.zarr")["train/columns"]
    assert group["note"][:].tolist() == train.columns["note"][:].tolist()
    np.testing.assert_array_equal(group["features"][:], train.columns["features"][:])


def test_columns_are_exported_to_examples(tmp_path: Path) -> None:
    train = with_columns(tmp_path / "a.h5").select([2, 5])
    arraystore.export(train, tmp_path / "out", "tfrecord")
    (path,) = (tmp_path / "out").glob("*.tfrecord-*")
    for i, record in enumerate(records_in(path)):
        features = parse_example(record)
        assert features["score"].number == train.columns["score"][i]
        assert features["boxes"].count == len(train.columns["boxes"][i])
        note = features["note"]
        assert str(record[note.start : note.stop], "utf-8") == train.columns["note"][i]
        packed = train.columns["features"][i].astype("<f4").tobytes()
        assert packed in bytes(record)


def test_columns_are_chosen(tmp_path: Path) -> None:
    train = with_columns(tmp_path / "a.zarr")
    report = arraystore.export(train, tmp_path / "out", "parquet", columns=())
    assert report.left_out == tuple(train.columns)
    with pytest.raises(KeyError, match="no column 'x'"):
        arraystore.export(train, tmp_path / "other", "parquet", columns=["x"])
    with pytest.raises(TypeError, match="list of names"):
        arraystore.export(train, tmp_path / "other", "parquet", columns="note")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr", "out"]


@pytest.mark.parametrize(
    ("form", "module", "extra"),
    [
        ("parquet", "pyarrow", "parquet"),
        ("lance", "lance", "lance"),
        ("array-record", "array_record.python.array_record_module", "array-record"),
    ],
)
def test_missing_library_is_named_with_its_extra(
    form: str, module: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = odd_store(tmp_path / "a.h5")
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(SourceError, match=rf"not installed; install arraystore\[{extra}\]"):
        arraystore.export(train, tmp_path / "out", form)
    assert not (tmp_path / "out").exists()


def test_splits_get_shards_of_their_own(tmp_path: Path) -> None:
    one = write_store(tmp_path / "a.zarr", ["x", "y"], [0, 1], [b"1", b"2"], classes="ab")
    other = write_store(tmp_path / "b.h5", ["z"], [1], [b"3"], classes="ab")
    both = arraystore.concat([arraystore.open(one)["train"], arraystore.open(other)["train"]])
    arraystore.export(both, tmp_path / "out", "parquet")
    assert read_parquet(tmp_path / "out") == samples_of(both)


@every_format
def test_same_names_of_two_stores_are_kept_apart(form: str, name: str, tmp_path: Path) -> None:
    """`concat` refuses them, but a sum of splits of one store may have them."""
    write_folder(
        tmp_path / "in",
        {f"{s}/{c}/1.jpg": picture(seed=i) for i, s in enumerate(("train", "test")) for c in "ab"},
    )
    arraystore.convert(f"folder:{tmp_path / 'in'}", tmp_path / "a.zarr", sync=False)
    both = arraystore.open(tmp_path / "a.zarr")["test+train"]
    report = arraystore.export(both, tmp_path / name, form)
    assert {split: one.num_samples for split, one in report.splits.items()} == {
        "test": 2,
        "train": 2,
    }
    train = arraystore.open(tmp_path / "a.zarr")["train"]
    found = READERS[form, name](tmp_path / name)
    assert sorted(found[-2:]) == sorted(samples_of(train))


@pytest.mark.parametrize("form", FORMATS)
def test_wrong_target_is_refused(form: str, tmp_path: Path) -> None:
    train = odd_store(tmp_path / "a.h5")
    taken = tmp_path / "out.zarr"
    write_folder(taken, {"mine": b"1"})
    with pytest.raises(FileExistsError, match="is not an empty folder"):
        arraystore.export(train, taken, form)
    with pytest.raises(ValueError, match="format must be one of folders, webdataset"):
        arraystore.export(train, tmp_path / "new", f"{form}s")


def test_arrays_need_a_suffix(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.h5, \.hdf5, \.zarr, got"):
        arraystore.export(odd_store(tmp_path / "a.h5"), tmp_path / "out", "arrays")


def test_class_that_tfds_cannot_hold_is_refused(tmp_path: Path) -> None:
    path = write_store(tmp_path / "a.zarr", ["a"], [0], [b"1"], classes=["x\ny"])
    with pytest.raises(FormatError, match="has a line feed"):
        arraystore.export(arraystore.open(path)["train"], tmp_path / "out", "tfrecord")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]
