"""Parquet files: Hugging Face's and others."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import arraystore
from arraystore.errors import SourceError
from arraystore.sources.parquet import load
from arraystore.sources.source_options import SourceOptions
from tests.sources.forms import CLASSES, Drawn, hugging_face_metadata, write_parquet
from tests.support import picture

if TYPE_CHECKING:
    from pathlib import Path

    from arraystore.sources.sample_table import Source

PICTURES: Final = [picture(seed=seed) for seed in range(5)]
SAMPLES: Final = [Drawn(f"{i}.jpg", i % 3, data) for i, data in enumerate(PICTURES)]


def loaded(folder: Path, table: pa.Table, **options: Any) -> Source:
    path = folder / "train.parquet"
    pq.write_table(table, path, row_group_size=2)
    return load(str(path), SourceOptions(**options), folder / "spool")


def samples(source: Source) -> list[tuple[str, str | None, bytes]]:
    table = source.splits["train"]
    assert source.spool is not None
    data = source.spool.read_bytes()
    names = (*source.label_name, None)
    return [
        (
            table.file_name[i],
            names[table.label[i]],
            data[table.offset[i] : table.offset[i] + table.nbytes[i]],
        )
        for i in range(len(table))
    ]


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip"])
@pytest.mark.parametrize("row_group_size", [1, 2, 100])
def test_hugging_face_images_are_read(
    compression: str, row_group_size: int, tmp_path: Path
) -> None:
    path = write_parquet(
        tmp_path / "train-00000-of-00001.parquet",
        SAMPLES,
        compression=compression,
        row_group_size=row_group_size,
        write_page_checksum=True,
    )
    source = load(str(path), SourceOptions(), tmp_path / "spool")
    assert samples(source) == [(s.name, CLASSES[s.label], s.image) for s in SAMPLES]
    assert source.notes == ("columns: image is image, label is label, file name is image.path",)


BINARY: Final = [pa.binary(), pa.large_binary(), pa.binary_view()]


@pytest.mark.parametrize("kind", BINARY, ids=str)
def test_plain_binary_columns_are_read(kind: pa.DataType, tmp_path: Path) -> None:
    table = pa.table(
        {
            "jpg": pa.array(PICTURES, kind),
            "label": pa.array(["b", "a", "b", None, "a"]).dictionary_encode(),
            "file_name": [f"{i}.jpg" for i in range(5)],
            "width": list(range(5)),
        }
    )
    try:
        source = loaded(tmp_path, table)
    except pa.ArrowNotImplementedError:
        pytest.skip(f"pyarrow {pa.__version__} cannot write {kind} to Parquet")
    names = [f"{i}.jpg" for i in range(5)]
    assert samples(source) == list(zip(names, ["b", "a", "b", None, "a"], PICTURES, strict=True))
    assert "further columns are left out: 1 name (width)" in source.notes


def test_names_are_generated_where_there_are_none(tmp_path: Path) -> None:
    table = pa.table({"image": pa.array(PICTURES), "label": [0, 1, 0, -1, 1]})
    source = loaded(tmp_path, table, classes=2)
    assert [name for name, _, _ in samples(source)] == [f"{i:06}.jpg" for i in range(5)]
    assert [label for _, label, _ in samples(source)] == ["0", "1", "0", None, "1"]
    note = "train: the file names of 5 samples were generated (000000.jpg, …)"
    assert source.notes[-1] == note


def test_columns_may_be_stated(tmp_path: Path) -> None:
    rows = [
        {"data": {"jpeg": p}, "fine": "x", "coarse": "y", "id": i} for i, p in enumerate(PICTURES)
    ]
    fields = {"image": "data.jpeg", "label": "coarse", "file_name": "id"}
    source = loaded(tmp_path, pa.Table.from_pylist(rows), fields=fields)
    assert samples(source)[3] == ("3", "y", PICTURES[3])


@pytest.mark.parametrize(
    ("columns", "fields", "message"),
    [
        ({"label": [0]}, {}, "expected a column with the image, found 'label'; pass fields="),
        ({"a": [b"1"], "b": [b"2"]}, {}, "2 columns may hold the image"),
        ({"image": [b"1"], "x": [0]}, {}, "expected a column with the label, found 'image', 'x'"),
        ({"image": [b"1"]}, {"label": "y"}, "no column 'y'"),
        ({"image": [b"1"], "label": [0.5]}, {}, "'label' must hold integers or text .*double"),
        ({"image": [b"1"], "label": [[1]]}, {}, "'label' must hold integers or text .*list"),
        ({"image": ["x"], "label": [0]}, {"image": "image"}, "'image' must be binary, got string"),
        ({"image": [b"1"], "label": [7]}, {}, "label 7 must be less than"),
        (
            {"image": [b"1"], "label": ["x"], "file_name": [0.5]},
            {},
            "must hold text for file names",
        ),
    ],
    ids=str,
)
def test_columns_that_are_not_clear_are_refused(
    columns: dict[str, Any], fields: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match=message):
        loaded(tmp_path, pa.table(columns), fields=fields, classes=["x"])


def test_two_label_columns_are_refused_unless_one_is_stated(tmp_path: Path) -> None:
    features = (
        b'{"info": {"features": {"img": {"_type": "Image"}, "fine": {"_type": "ClassLabel", '
        b'"names": ["a", "b"]}, "coarse": {"_type": "ClassLabel", "names": ["c"]}}}}'
    )
    table = pa.table(
        {
            "img": pa.array([{"bytes": PICTURES[0], "path": None}]),
            "fine": [1],
            "coarse": [0],
        }
    ).replace_schema_metadata({b"huggingface": features})
    with pytest.raises(SourceError, match=r"2 columns may hold the label .'fine', 'coarse'"):
        loaded(tmp_path, table)
    assert samples(loaded(tmp_path, table, fields={"label": "fine"}))[0][:2] == ("000000.jpg", "b")


@pytest.mark.parametrize("metadata", [b"", b"{", b"[]", b'{"info": {"features": 3}}', b"null"])
def test_metadata_of_other_form_are_ignored(metadata: bytes, tmp_path: Path) -> None:
    table = pa.table({"image": pa.array(PICTURES), "label": ["a"] * 5})
    source = loaded(tmp_path, table.replace_schema_metadata({b"huggingface": metadata}))
    assert source.label_name == ("a",)


def test_image_without_bytes_is_skipped(tmp_path: Path) -> None:
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = [
        {"bytes": PICTURES[0], "path": "0.jpg"},
        {"bytes": None, "path": "1.jpg"},
        None,
        {"bytes": PICTURES[3], "path": "3.jpg"},
    ]
    table = pa.table({"image": pa.array(rows, kind), "label": ["a"] * 4})
    path = tmp_path / "train.parquet"
    pq.write_table(table, path)
    message = r"train\.parquet: sample 1: 1\.jpg: its bytes are missing .*; 1 more in train"
    with pytest.raises(SourceError, match=message):
        arraystore.convert(f"parquet:{path}", tmp_path / "a.h5", sync=False)
    report = arraystore.convert(f"parquet:{path}", tmp_path / "a.h5", sync=False, on_error="skip")
    assert [name for name, _ in report.splits["train"].skipped] == ["1.jpg", "000002.bin"]
    stored = arraystore.open(tmp_path / "a.h5")["train"]
    found = dict(zip(stored.file_name, stored.image_bytes[:], strict=True))
    assert found == {"0.jpg": PICTURES[0], "3.jpg": PICTURES[3]}


def test_files_with_other_classes_or_columns_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", SAMPLES[:2])
    write_parquet(tmp_path / "test.parquet", SAMPLES[2:], classes=["bee", "ant", "cat"])
    message = r"train\.parquet: the classes of column 'label' differ from those of test\.parquet"
    with pytest.raises(SourceError, match=message):
        load(str(tmp_path), SourceOptions(), tmp_path / "spool")
    pq.write_table(pa.table({"image": PICTURES}), tmp_path / "test.parquet")
    with pytest.raises(SourceError, match="expected a column with the label"):
        load(str(tmp_path), SourceOptions(), tmp_path / "spool")
    pattern = f"a={tmp_path}/train.parquet,b={tmp_path}/test.parquet"
    with pytest.raises(SourceError, match=r"test\.parquet: lacks 1 name \(label\), which train"):
        load(pattern, SourceOptions(), tmp_path / "spool2")


@pytest.mark.parametrize("cut", [0, 1, 100, -30, -1])
def test_damaged_file_is_refused(cut: int, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "train.parquet", SAMPLES)
    data = path.read_bytes()
    path.write_bytes(data[:cut])
    with pytest.raises(SourceError, match=r"train\.parquet: must be a Parquet file: "):
        load(str(path), SourceOptions(), tmp_path / "spool")


def test_wrong_byte_of_a_page_is_found_by_its_checksum(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "train.parquet", SAMPLES, compression="none", write_page_checksum=True
    )
    data = bytearray(path.read_bytes())
    data[data.index(PICTURES[2]) + 300] ^= 1
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"train\.parquet: cannot be read: .*(CRC|corrupt)"):
        load(str(path), SourceOptions(), tmp_path / "spool")


def test_missing_library_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(tmp_path / "train.parquet", SAMPLES)
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    message = r"parquet: needs pyarrow.*, which is not installed; install arraystore\[parquet\]"
    with pytest.raises(SourceError, match=message):
        arraystore.convert(f"parquet:{tmp_path}", tmp_path / "a.zarr", sync=False)


def test_metadata_of_many_classes_are_kept(tmp_path: Path) -> None:
    classes = [f"n{i:08}, with, commas" for i in range(1000)]
    assert len(hugging_face_metadata(classes)) > 20_000
    path = write_parquet(tmp_path / "train.parquet", SAMPLES, classes=classes)
    source = load(str(path), SourceOptions(), tmp_path / "spool")
    assert source.label_name == tuple(classes)
