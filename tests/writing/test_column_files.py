"""Columns from files: .npy, .csv, .tsv and .parquet, in stored order or matched by file name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

import arraystore
from arraystore.cli.commands import main
from arraystore.errors import SourceError
from tests.support import copied, write_store

if TYPE_CHECKING:
    from pathlib import Path

N: Final = 6
NAMES: Final = [f"{'ab'[i % 2]}/pic{i}.jpg" for i in range(N)]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("files") / "store.zarr"
    return write_store(target, NAMES, [i % 2 for i in range(N)], classes=["a", "b"])


@pytest.fixture
def store(stored: Path, tmp_path: Path) -> Path:
    return copied(stored, tmp_path / "store.zarr")


def values_by_name(store: Path, name: str) -> dict[str, Any]:
    train = arraystore.open(store)["train"]
    return dict(zip(train.file_name.tolist(), train.columns[name][:], strict=True))


def test_npy_is_in_stored_order(store: Path, tmp_path: Path) -> None:
    array = np.arange(N * 3, dtype=np.int16).reshape(N, 3)
    np.save(tmp_path / "x.npy", array)
    report = arraystore.add_column(store, "train", "x", tmp_path / "x.npy")
    assert (report.values, report.notes) == ("int16 (6, 3)", ())
    assert np.array_equal(arraystore.open(store)["train"].columns["x"], array)


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("library", ["h5py", "zarr"])
def test_arrays_of_other_libraries_are_taken(
    library: str, by_name: bool, store: Path, tmp_path: Path
) -> None:
    train, values = arraystore.open(store)["train"], np.arange(N * 2).reshape(N, 2)
    order = [4, 0, 5, 1, 3] if by_name else range(N)
    array: Any = zarr.create_array({}, data=values[order])
    if library == "h5py":
        array = h5py.File(tmp_path / "x.h5", "w").create_dataset("x", data=values[order])
    names = train.file_name[order].tolist() if by_name else None
    fill = -1 if by_name else None
    arraystore.add_column(store, "train", "x", array, file_names=names, fill=fill)
    expected = values.copy()
    expected[np.setdiff1d(np.arange(N), order)] = -1
    assert np.array_equal(arraystore.open(store)["train"].columns["x"], expected)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["1", "2", "3", "4", "5", "6"], [1, 2, 3, 4, 5, 6]),
        (["1", "2.5", "3", "nan", "5", "6e3"], [1.0, 2.5, 3.0, float("nan"), 5.0, 6000.0]),
        (["true", "False", "true", "true", "true", "true"], [True, False, True, True, True, True]),
        (["01", "2", "3", "4", "5", "6"], ["01", "2", "3", "4", "5", "6"]),
        (["1", "two", "é", "", "x,y", "6"], ["1", "two", "é", "", "x,y", "6"]),
    ],
)
def test_csv_is_matched_by_name(
    texts: list[str], expected: list[Any], store: Path, tmp_path: Path
) -> None:
    rows = [f'{name},0,"{text}"' for name, text in zip(NAMES, texts, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["file_name,other,score", *reversed(rows)]))
    report = arraystore.add_column(store, "train", "score", str(tmp_path / "t.csv"))
    assert report.notes == ("values from score, file names from 'file_name'",)
    found = values_by_name(store, "score")
    assert str([np.asarray(found[name]).item() for name in NAMES]) == str(expected)


def test_rows_that_do_not_match_are_reported(store: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text(f"path,score\n{NAMES[2]},7\nother.jpg,8\n")
    with pytest.raises(ValueError, match=r"5 of 6 samples have no value: .*pass fill \(--fill\)"):
        arraystore.add_column(store, "train", "score", table)
    report = arraystore.add_column(store, "train", "score", table, fill=-1)
    assert report.notes[1] == "1 of 2 values are of no sample: 'other.jpg'"
    assert report.notes[2].startswith("5 of 6 samples have no value: ")
    assert values_by_name(store, "score") == {n: 7 if n == NAMES[2] else -1 for n in NAMES}
    table.write_text("path,score\nx.jpg,7\n")
    with pytest.raises(ValueError, match="none of 1 file names is one of its samples"):
        arraystore.add_column(store, "train", "new", table, fill=0)


@pytest.mark.parametrize("key", ["pic{}.jpg", "pic{}", "elsewhere/pic{}.png"])
def test_names_are_matched_without_folder_or_suffix(key: str, store: Path) -> None:
    values = {key.format(i): i for i in range(N)}
    report = arraystore.add_column(store, "train", "x", values)
    assert "file names were compared without folder" in report.notes[0]
    assert values_by_name(store, "x") == {name: i for i, name in enumerate(NAMES)}


def test_repeated_names_need_ragged(store: Path, tmp_path: Path) -> None:
    table = tmp_path / "boxes.tsv"
    lines = [f"{NAMES[1]}\t1\t2", f"{NAMES[4]}\t3\t4", f"{NAMES[1]}\t5\t6"]
    table.write_text("\n".join(["image\tx\ty", *lines]))
    fields = ["x", "y"]
    with pytest.raises(ValueError, match=r"has 2 values; pass ragged=True \(--ragged\)"):
        arraystore.add_column(store, "train", "boxes", table, fields=fields, fill=0)
    report = arraystore.add_column(store, "train", "boxes", table, fields=fields, ragged=True)
    assert report.values == "int64 (6, ?, 2)"
    found = values_by_name(store, "boxes")
    assert found[NAMES[1]].tolist() == [[1, 2], [5, 6]]
    assert found[NAMES[4]].tolist() == [[3, 4]]
    assert found[NAMES[0]].shape == (0, 2)


def test_parquet_columns_of_all_kinds(store: Path, tmp_path: Path) -> None:
    columns = {
        "file_name": NAMES,
        "score": [0.5] * N,
        "text": list("abcdef"),
        "vector": pa.array([[i, 1] for i in range(N)], pa.list_(pa.float32(), 2)),
        "tags": [[1] * (i % 3) for i in range(N)],
        "hole": [1, None, 3, 4, 5, 6],
    }
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table(columns), file)
    for name, summary in {
        "score": "float64 (6)",
        "text": "string (6)",
        "vector": "float32 (6, 2)",
        "tags": "int64 (6, ?)",
    }.items():
        assert arraystore.add_column(store, "train", name, file).values == summary
    assert values_by_name(store, "vector")[NAMES[3]].tolist() == [3, 1]
    assert values_by_name(store, "tags")[NAMES[5]].tolist() == [1, 1]
    assert values_by_name(store, "text")[NAMES[3]] == "d"
    with pytest.raises(SourceError, match="hole has 1 values that are null"):
        arraystore.add_column(store, "train", "hole", file)
    with pytest.raises(SourceError, match=r"name those with the values \(--field\)"):
        arraystore.add_column(store, "train", "new", file)
    with pytest.raises(SourceError, match="has no column 'score2', it has"):
        arraystore.add_column(store, "train", "new", file, fields=["score2"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"a,b\n1\n", "line 2 has 1 values, expected 2"),
        ("t.csv", b"\xff\xfe\x00", "cannot be read"),
        ("t.npy", b"not an array", "is not an array of numbers"),
        ("t.parquet", b"not a table", "is not a Parquet file"),
        ("t.txt", b"1\n2\n", "must end in one of .npy, .csv, .tsv, .parquet"),
    ],
)
def test_unreadable_file_raises(
    name: str, content: bytes, message: str, stored: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message):
        arraystore.add_column(stored, "train", "x", tmp_path / name)


def test_commands(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.csv").write_text(f"file_name,score\n{NAMES[2]},7\n")
    add = ["column", "add", str(store), "train", "score", str(tmp_path / "t.csv")]
    assert main(add) == 1
    assert "pass fill (--fill)" in capsys.readouterr().err
    assert main([*add, "--fill", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["values"] == "int64 (6)"
    assert main(["column", "ls", str(store)]) == 0
    assert capsys.readouterr().out == "train/score: int64 (6)\n"
    assert main(["column", "ls", str(store), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"train": {"score": "int64 (6)"}}
    assert main(["info", str(store)]) == 0
    assert "train/score: int64 (6)" in capsys.readouterr().out
    assert main(["column", "remove", str(store), "train", "score"]) == 0
    assert main(["column", "remove", str(store), "train", "score"]) == 1
    assert "has no column 'score'" in capsys.readouterr().err
