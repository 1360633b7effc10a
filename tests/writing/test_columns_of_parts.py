"""Columns added to splits with parts and removed from them, on a disk and in a bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import h5py
import numpy as np
import pytest
import zarr

import arraystore
from arraystore.errors import StorageError
from arraystore.storage.objects import connection as stores
from arraystore.storage.workspace_folder import ADDED
from tests.support import SUFFIXES, Bucket, copied, objects_on_disk
from tests.writing.test_add_column import Disk, same
from tests.writing.test_append import CLASSES, append, names_of, records, with_two_parts

if TYPE_CHECKING:
    from pathlib import Path

N: Final = 16
COLUMNS: Final[dict[str, Any]] = {
    "score": np.linspace(1, 2, N),
    "features": np.arange(1, N * 6 + 1, dtype=np.float32).reshape(N, 2, 3),
    "text": np.array([f"é{i}" for i in range(N)]),
    "flag": np.arange(N) % 3 > 0,
    "boxes": [np.full((i % 3, 4), i, np.float32) for i in range(N)],
    "captions": [[f"é{i}", "two"][: i % 3] for i in range(N)],
}
REPLACED: Final = {"train": "a3.jpg", "train.1": "b1.jpg"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of three parts in each container; two of its samples are replaced."""
    folder = tmp_path_factory.mktemp("parts")
    plain = folder / "plain.zarr"
    samples = {"train": records("a", 9), "test": records("t", 2)}
    arraystore.write(plain, samples, classes=CLASSES, sync=False, progress=False)
    for suffix in SUFFIXES:
        with_two_parts(plain, folder / f"store{suffix}")
    return folder


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """The bucket of ``memory://`` addresses."""
    bucket = Bucket()
    monkeypatch.setattr(stores, "connect_memory", lambda: bucket)
    return bucket


@pytest.fixture(params=[*SUFFIXES, "bucket"])
def place(request: pytest.FixtureRequest, folder: Path, bucket: Bucket, tmp_path: Path) -> Any:
    """A copy of the store in each container, and of the Zarr store in a bucket."""
    if request.param != "bucket":
        name = f"store{request.param}"
        return copied(folder / name, tmp_path / name)
    for key, data in objects_on_disk(folder / "store.zarr").items():
        bucket.put(key, data)
    return "memory://store.zarr"


def files_of(place: Any, bucket: Bucket) -> dict[str, bytes]:
    return bucket.objects if isinstance(place, str) else objects_on_disk(place)


def test_columns_are_read_through_all_parts(place: Any, bucket: Bucket, tmp_path: Path) -> None:
    before = files_of(place, bucket)
    digests = arraystore.open(place).info.splits
    for name, values in COLUMNS.items():
        report = arraystore.add_column(place, "train", name, values, description=name, sync=False)
        assert f"({N}" in report.values
    store = arraystore.open(place)
    train = store["train"]
    assert list(train.columns) == sorted(COLUMNS)
    for name, values in COLUMNS.items():
        assert same(train.columns[name][:], values)
        some = [12, 3, -1, 0, 9]
        assert same(train.columns[name][some], [values[i] for i in some])
    assert store.info.splits == digests
    assert (store.info.format_version, store.info.columns["train"]["boxes"]) == (
        "2.0",
        "float32 (16, ?, 4)",
    )
    assert names_of(train.where(score=COLUMNS["score"][10])) == [train.file_name[10]]
    (batch,) = train.batches(N, columns=["features", "captions"], seed=1, size=8)
    at = [train.find(name) for name in batch.file_name]
    assert same(batch.columns["features"], COLUMNS["features"][at])
    assert same(batch.columns["captions"], [COLUMNS["captions"][i] for i in at])
    assert arraystore.verify(place).problems == ()
    copy = arraystore.copy(place, tmp_path / "joined.h5", sync=False)
    assert copy.left_out == ()
    joined = arraystore.open(copy.path)["train"]
    for name, values in COLUMNS.items():
        assert same(joined.columns[name][:], values)
        assert joined.columns[name].attributes["description"] == name
    for name in COLUMNS:
        arraystore.remove_column(place, "train", name, sync=False)
    assert list(arraystore.open(place)["train"].columns) == []
    assert files_of(place, bucket).keys() == before.keys()


def test_replaced_samples_have_zeros(place: Any, bucket: Bucket, tmp_path: Path) -> None:
    for name in ("score", "text", "boxes"):
        arraystore.add_column(place, "train", name, COLUMNS[name], sync=False)
    if isinstance(place, str):
        for key, data in bucket.objects.items():
            (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / key).write_bytes(data)
        place = tmp_path / "store.zarr"
    opened: Any = zarr.open_group(place, mode="r") if place.is_dir() else h5py.File(place)
    for part, replaced in REPLACED.items():
        names = [n if isinstance(n, str) else n.decode() for n in opened[part]["file_name"][:]]
        columns, at = opened[part]["columns"], names.index(replaced)
        assert (columns["score"][:] == 0).tolist() == [i == at for i in range(len(names))]
        assert str(columns["text"].asstr()[at] if place.is_file() else columns["text"][at]) == ""
        assert columns["boxes"]["indptr"][at] == columns["boxes"]["indptr"][at + 1]
    assert opened["train.2/columns/score"].shape == (4,)
    if place.is_file():
        opened.close()


def test_values_belong_to_file_names(place: Any, tmp_path: Path) -> None:
    names = names_of(arraystore.open(place)["train"])
    order = np.random.default_rng(0).permutation(N)[1:]
    rows = "".join(f"{names[i]},{i + 1}\n" for i in order)
    (tmp_path / "ranks.csv").write_text(f"file_name,rank\n{rows}a3,99\n")
    with pytest.raises(ValueError, match="1 of 16 samples have no value"):
        arraystore.add_column(place, "train", "rank", tmp_path / "ranks.csv")
    report = arraystore.add_column(place, "train", "rank", tmp_path / "ranks.csv", fill=-1)
    assert report.notes[1] == "1 of 16 values are of no sample: 'a3'"
    column = arraystore.open(place)["train"].columns["rank"]
    assert column[order].tolist() == (order + 1).tolist()
    assert column[np.setdiff1d(np.arange(N), order)].tolist() == [-1]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_values_are_read_by_slices(
    folder: Path, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slices:
        shape, dtype = (N, 3), np.dtype("int16")

        def __len__(self) -> int:
            return N

        def __getitem__(self, rows: slice) -> Any:
            taken.extend(range(rows.start, rows.stop))
            assert rows.stop - rows.start <= 2
            return values[rows]

    taken: list[int] = []
    values = np.arange(N * 3, dtype=np.int16).reshape(N, 3)
    monkeypatch.setattr("arraystore.writing.new_column._BLOCK_CHUNKS", 1)
    monkeypatch.setattr("arraystore.schema.ARRAY_CHUNK_NBYTES", 12)
    store = copied(folder / f"store{suffix}", tmp_path / f"store{suffix}")
    arraystore.add_column(store, "train", "x", Slices(), sync=False)
    assert sorted(taken) == list(range(N))
    assert arraystore.open(store)["train"].columns["x"][:].tolist() == values.tolist()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_new_part_hides_a_column_until_it_is_added_again(
    folder: Path, tmp_path: Path, suffix: str
) -> None:
    place = copied(folder / f"store{suffix}", tmp_path / f"store{suffix}")
    arraystore.add_column(place, "train", "score", COLUMNS["score"], sync=False)
    report = append(place, records("d", 2))
    assert "new samples have no values of the split's columns: 1 name (score)" in report.notes
    assert list(arraystore.open(place)["train"].columns) == []
    values = np.arange(N + 2)
    with pytest.raises(FileExistsError, match=r"'score' in train, train\.1, train\.2; remove it"):
        arraystore.add_column(place, "train", "score", values)
    arraystore.remove_column(place, "train", "score", sync=False)
    arraystore.add_column(place, "train", "score", values, sync=False)
    assert arraystore.open(place)["train"].columns["score"][:].tolist() == values.tolist()
    with pytest.raises(KeyError, match="has no column 'scores', it has score"):
        arraystore.remove_column(place, "train", "scores")


def test_part_whose_samples_are_all_replaced_has_zeros(folder: Path, tmp_path: Path) -> None:
    store = copied(folder / "plain.zarr", tmp_path / "a.zarr")
    append(store, records("b", 2))
    append(store, records("b", 2), on_existing="replace")
    arraystore.add_column(store, "train", "score", np.arange(11) + 1, sync=False)
    arraystore.add_column(store, "train", "tags", [[i] for i in range(11)], ragged=True, sync=False)
    columns = arraystore.open(store)["train"].columns
    assert columns["score"][:].tolist() == list(range(1, 12))
    hidden: Any = zarr.open_group(store, mode="r")["train.1/columns/score"]
    assert hidden[:].tolist() == [0, 0]
    assert same(columns["tags"][:], [[i] for i in range(11)])
    assert arraystore.verify(store).problems == ()


@pytest.mark.parametrize("how", ["add", "remove"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_killed_change_of_parts_leaves_the_store_before_or_after(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, suffix: str, how: str
) -> None:
    store = copied(folder / f"store{suffix}", tmp_path_factory.mktemp("at") / f"a{suffix}")
    values = COLUMNS["score"]

    def change(path: Path) -> None:
        if how == "add":
            arraystore.add_column(path, "train", "score", values, sync=False)
        else:
            arraystore.remove_column(path, "train", "score", sync=False)

    if how == "remove":
        arraystore.add_column(store, "train", "score", values, sync=False)
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(store.parent, tmp_path_factory.mktemp("moments"), patch, f"/{ADDED}/")
        change(store)
    states = []
    for moment in disk.moments:
        opened = arraystore.open(moment / store.name)
        parts = [opened.stored(part).user_columns for part in opened.info.parts["train"]]
        (has_column,) = {"score" in columns for columns in parts}  # all parts, or none
        states.append(has_column)
        if has_column:
            assert same(opened["train"].columns["score"][:], values)
    assert states == sorted(states, reverse=how == "remove")
    assert len(set(states)) == 2
    killed = disk.moments[states.index(how == "add") - 1] / store.name  # just before it was visible
    change(killed)
    assert arraystore.verify(killed).problems == ()
    if killed.is_dir() and how == "add":  # consolidated metadata lists the new groups
        group: Any = zarr.open_group(killed, mode="r")["train.2/columns"]
        assert "score" in group


def test_failed_change_in_a_bucket_leaves_the_store_as_it_was(folder: Path, bucket: Bucket) -> None:
    for key, data in objects_on_disk(folder / "store.zarr").items():
        bucket.put(key, data)
    before = bucket.objects
    bucket.calls.clear()
    arraystore.add_column("memory://store.zarr", "train", "score", COLUMNS["score"])
    puts = [key for key in bucket.keys_of("put") if "partial" not in key]
    assert puts.index("store.zarr/zarr.json") == len(puts) - 1
    arraystore.remove_column("memory://store.zarr", "train", "score")
    assert bucket.objects.keys() == before.keys()

    def fail(method: str, key: Any) -> None:
        if method == "put" and str(key).endswith("train.2/columns/score/zarr.json"):
            raise StorageError("no network")

    bucket.before = fail
    with pytest.raises(StorageError, match="no network"):
        arraystore.add_column("memory://store.zarr", "train", "score", COLUMNS["score"])
    assert list(arraystore.open("memory://store.zarr")["train"].columns) == []
    after = bucket.objects
    assert all(after[key] == data for key, data in before.items() if key != "store.zarr/zarr.json")
