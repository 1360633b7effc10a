"""Columns added to finished stores and removed, also by processes that are killed meanwhile."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import h5py
import numpy as np
import pytest
import xarray as xr
import zarr

import arraystore
from arraystore.containers.hdf5 import redo
from arraystore.errors import FormatError, SourceError, StorageError, StoreChangedError
from arraystore.storage import workspace_folder
from arraystore.writing.workspace import editing
from tests.support import SUFFIXES, copied, picture, write_folder

if TYPE_CHECKING:
    from collections.abc import Callable

N: Final = 12

RAGGED: Final[dict[str, Any]] = {
    "boxes": [np.arange(4 * (i % 3), dtype=np.float32).reshape(-1, 4) + i for i in range(N)],
    "captions": [[f"é{i}", "two"][: i % 3] for i in range(N)],
}
PLAIN: Final[dict[str, Any]] = {
    "score": np.linspace(0, 1, N),
    "features": np.arange(N * 6, dtype=np.float32).reshape(N, 2, 3),
    "noise": np.random.default_rng(0).standard_normal((N, 4000)),  # not compressed in HDF5
    "flag": np.arange(N) % 3 == 0,
    "half": np.arange(N, dtype=np.float16),
    "phase": np.exp(1j * np.arange(N)).astype(np.complex64),
    "big-endian": np.arange(N, dtype=">i4"),
    "text": np.array(["", "é", "漢" * 9] * (N // 3)),
    "words": np.array([["a", "bc"]] * N),
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small store in each container."""
    folder = tmp_path_factory.mktemp("columns")
    files = {f"train/{'ab'[i % 2]}/{i}.jpg": picture(8, 9, seed=i) for i in range(N)}
    source = write_folder(folder / "source", files | {"val/a/v.jpg": picture(seed=99)})
    for suffix in SUFFIXES:
        arraystore.convert(f"folder:{source}", folder / f"plain{suffix}", sync=False)
        both = copied(folder / f"plain{suffix}", folder / f"both{suffix}")
        for name, values in (PLAIN | RAGGED).items():
            arraystore.add_column(both, "train", name, values, description=name, sync=False)
    return folder


@pytest.fixture(params=SUFFIXES)
def path(request: pytest.FixtureRequest, stores: Path, tmp_path: Path) -> Path:
    """A copy of the store without columns, in each container."""
    return copied(stores / f"plain{request.param}", tmp_path / f"store{request.param}")


@pytest.fixture(params=SUFFIXES)
def full(request: pytest.FixtureRequest, stores: Path) -> Path:
    """The store with all columns, in each container; it must not be changed."""
    return stores / f"both{request.param}"


def same(found: Any, expected: Any) -> bool:
    """Whether values agree, also those of ragged columns and of text."""
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, map(np.asarray, expected)))
    return bool(np.asarray(found).tolist() == np.asarray(expected).tolist())


def payload(path: Path) -> dict[str, bytes]:
    """The bytes that hold images."""
    if path.is_file():
        with h5py.File(path) as file:
            dataset = file["train/image_payload"]
            place = dataset.id.get_offset()
            return {"": place.to_bytes(8) + dataset[()].tobytes()}
    return {str(p): p.read_bytes() for p in path.rglob("image_payload/**/*") if p.is_file()}


@pytest.mark.parametrize("name", [*PLAIN, *RAGGED])
def test_column_is_read_as_it_was_added(full: Path, name: str) -> None:
    column = arraystore.open(full)["train"].columns[name]
    expected = (PLAIN | RAGGED)[name]
    assert same(column[:], expected)
    assert same(column[3], np.asarray(expected[3]))
    assert column.attributes["description"] == name
    some = [5, -1, 5, 0]
    assert same(column[some], [expected[i] for i in some])
    assert column.is_ragged == (name in RAGGED)
    if name in PLAIN:
        assert column.dtype == (PLAIN[name].dtype.newbyteorder("=")) or name in ("text", "words")
        assert column.shape == PLAIN[name].shape


def test_images_and_digests_are_unchanged(path: Path) -> None:
    before, images = arraystore.open(path), payload(path)
    facts = before.info.splits, before["train"].image_bytes[:]
    arraystore.add_column(path, "train", "features", PLAIN["features"], sync=False)
    after = arraystore.open(path)
    assert payload(path) == images
    assert (after.info.splits, after["train"].image_bytes[:]) == facts
    assert after.info.columns == {"train": {"features": "float32 (12, 2, 3)"}}
    assert arraystore.verify(path).ok


def test_version_is_raised_only_for_new_kinds_of_columns(path: Path) -> None:
    version = arraystore.open(path).info.format_version
    arraystore.add_column(path, "train", "score", PLAIN["score"], sync=False)
    assert arraystore.open(path).info.format_version == version != "1.2"
    arraystore.add_column(path, "train", "boxes", RAGGED["boxes"], sync=False)
    assert arraystore.open(path).info.format_version == "1.2"


def test_removed_column_leaves_the_store_as_before(path: Path) -> None:
    documents = json.loads((path / "zarr.json").read_text()) if path.is_dir() else {}
    for name in ("score", "boxes"):
        values = (PLAIN | RAGGED)[name][:1]
        arraystore.add_column(path, "val", name, values, ragged=name in RAGGED, sync=False)
    assert arraystore.open(path)["val"].columns["boxes"][0].shape == (0, 4)
    for name in ("boxes", "score"):
        arraystore.remove_column(path, "val", name, sync=False)
    assert list(arraystore.open(path)["val"].columns) == []
    assert arraystore.verify(path).ok
    assert not [p for p in path.parent.iterdir() if p != path]
    if path.is_dir():
        found = json.loads((path / "zarr.json").read_text())
        assert found["consolidated_metadata"] == documents["consolidated_metadata"]
        assert not (path / "val/columns").exists()
    else:
        with h5py.File(path) as file:
            assert "columns" not in file["val"]


def test_open_stores_and_pickles_stay_valid(path: Path) -> None:
    import pickle

    store = arraystore.open(path)
    train, labels = store["train"], store["train"].label
    pickled = pickle.dumps(train)
    arraystore.add_column(path, "train", "features", PLAIN["features"], sync=False)
    assert train[3].label == labels[3]
    assert len(train.image_bytes[:]) == N
    assert pickle.loads(pickled).label.tolist() == labels.tolist()


def test_replaced_store_with_columns_is_not_taken_for_the_old(path: Path, stores: Path) -> None:
    store = arraystore.open(path)
    _ = store["val"].label
    path.rename(path.with_name("old"))  # so that its inode is not used again
    copied(stores / f"both{path.suffix}", path)
    with pytest.raises(StoreChangedError):
        _ = store["train"].image_bytes[0]


def test_other_clients_read_columns(full: Path) -> None:
    if full.suffix == ".h5":
        with h5py.File(full) as file:
            group: Any = file["train/columns"]
            assert same(group["features"][:], PLAIN["features"])
            assert same(group["flag"][:], PLAIN["flag"])
            assert group["features"].dims[0][0].name == "/train/columns/sample"
            assert same(group["boxes/values"][:], np.concatenate(RAGGED["boxes"]))
        found = xr.open_dataset(full, engine="h5netcdf", group="train/columns")
    else:
        group = zarr.open_group(full, mode="r")["train/columns"]
        assert same(group["features"][:], PLAIN["features"])
        assert same(group["text"][:], PLAIN["text"])
        assert group["features"].metadata.dimension_names == ("sample", "features.1", "features.2")
        found = xr.open_zarr(full, group="train/columns")
    assert found["features"].dims == ("sample", "features.1", "features.2")
    assert same(found["features"].values, PLAIN["features"])


@pytest.mark.parametrize("target", SUFFIXES)
def test_copy_keeps_every_column(full: Path, target: str, tmp_path: Path) -> None:
    report = arraystore.copy(full, tmp_path / f"copy{target}", sync=False)
    assert report.left_out == ()
    assert arraystore.verify(report.path).ok
    source, copy = arraystore.open(full), arraystore.open(report.path)
    assert copy.info == source.info
    for name, column in source["train"].columns.items():
        assert same(copy["train"].columns[name][:], column[:])
        assert copy["train"].columns[name].attributes == column.attributes
    again = arraystore.copy(report.path, tmp_path / f"again{target}", sync=False)
    one, other = Path(report.path), Path(again.path)
    files = [""] if one.is_file() else [p.relative_to(one) for p in one.rglob("*") if p.is_file()]
    assert all((one / name).read_bytes() == (other / name).read_bytes() for name in files)


@pytest.mark.parametrize(
    ("name", "values", "error", "message"),
    [
        ("label", range(N), ValueError, "is a column of every split"),
        ("a/b", range(N), ValueError, "use at most 100 letters"),
        ("new", range(N - 1), ValueError, "12 values, got 11"),
        ("new", np.array(5), ValueError, "one value per sample, got a single value"),
        ("new", [object()] * N, TypeError, "numbers, bools or text"),
        ("new", np.zeros((N, 0)), ValueError, "are empty"),
        ("new", np.zeros(N, "S3"), TypeError, "decode it to text"),
        ("new", np.zeros(N, "M8[s]"), TypeError, "got data type datetime64"),
        ("new", ["a"] * (N - 1) + [1], TypeError, "mixes text with other values: 1 at 11"),
        ("new", ["a\0b"] * N, ValueError, "has a NUL"),
        ("new", [np.zeros((i, i)) for i in range(N)], ValueError, "must have the same shape"),
        ("new", "text" * 3, SourceError, "must end in one of .npy"),
        ("new", 5, TypeError, "needs a sequence or array"),
    ],
)
def test_wrong_values_raise_and_change_nothing(
    name: str, values: Any, error: type[Exception], message: str, stores: Path
) -> None:
    path = stores / "plain.zarr"
    before = (path / "zarr.json").read_bytes()
    with pytest.raises(error, match=message):
        arraystore.add_column(path, "train", name, values)
    assert (path / "zarr.json").read_bytes() == before
    assert not (stores / ".plain.zarr.partial").exists()


def test_taken_name_and_unknown_names_raise(full: Path) -> None:
    with pytest.raises(FileExistsError, match="remove it first"):
        arraystore.add_column(full, "train", "score", PLAIN["score"])
    with pytest.raises(KeyError, match="has no split 'test', it has train, val"):
        arraystore.add_column(full, "test", "score", PLAIN["score"])
    with pytest.raises(KeyError, match="has no column 'scores', it has"):
        arraystore.remove_column(full, "train", "scores")


def test_error_of_values_undoes_everything(path: Path) -> None:
    class Broken:
        shape, dtype = (N, 4000), np.dtype("f8")

        def __len__(self) -> int:
            return N

        def __getitem__(self, rows: slice) -> Any:
            raise OSError("the disk of the values failed")

    before = {str(p): p.read_bytes() for p in (path, *path.rglob("*")) if p.is_file()}
    with pytest.raises(OSError, match="the disk of the values failed"):
        arraystore.add_column(path, "train", "new", Broken())
    after = {str(p): p.read_bytes() for p in (path, *path.rglob("*")) if p.is_file()}
    assert after == before
    assert [*path.parent.iterdir()] == [path]


def test_second_writer_is_refused(path: Path) -> None:
    with editing(path, lambda path, folder: None), pytest.raises(StorageError, match="another"):
        arraystore.add_column(path, "train", "score", PLAIN["score"])


class Disk:
    """Copies the folder of a store before each change of it, as a kill would leave it.

    Changes of paths that contain `ignored` are not counted.
    """

    def __init__(
        self, folder: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch, ignored: str = "//"
    ) -> None:
        self._folder, self._scratch, self._ignored = folder, scratch, ignored
        self.moments: list[Path] = []
        for name in ("pwrite", "ftruncate", "fsync"):
            self._watch(monkeypatch, os, name)
        for name in ("rename", "replace", "unlink", "mkdir", "write_text"):
            self._watch(monkeypatch, Path, name)
        self._is_copying = False

    def _watch(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def watched(*args: Any, **options: Any) -> Any:
            if not self._is_copying and self._ignored not in str(args[0]):
                self._is_copying = True
                moment = self._scratch / str(len(self.moments))
                shutil.copytree(self._folder, moment)
                self.moments.append(moment)
                self._is_copying = False
            return function(*args, **options)

        monkeypatch.setattr(owner, name, watched)


def change(path: Path, how: str) -> None:
    if how == "add":
        arraystore.add_column(path, "train", "words", PLAIN["words"])
    else:
        arraystore.remove_column(path, "train", "features")


@pytest.mark.parametrize("how", ["add", "remove"])
def test_killed_change_leaves_the_store_before_or_after(
    how: str, path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    arraystore.add_column(path, "train", "features", PLAIN["features"], sync=False)
    scratch = tmp_path_factory.mktemp("moments")
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(path.parent, scratch, patch)
        change(path, how)
    states = set()
    for moment in disk.moments:
        killed = moment / path.name
        store = arraystore.open(killed)
        columns = store["train"].columns
        states.add(tuple(columns))
        for name, column in columns.items():
            assert same(column[:], PLAIN[name])
        assert len(store["train"].image_bytes[:]) == N
        if moment in disk.moments[::7]:
            if how == "add" and "words" not in columns:  # the next writer can do it again
                change(killed, how)
            assert arraystore.verify(killed).ok
    both = ("features", "words") if how == "add" else ()
    assert states == {("features",), both}
    assert len(disk.moments) > 5


def killed_at(path: Path, step: Callable[[redo.Redo, Path], None]) -> None:
    """Add a column to an HDF5 file, in a process that is killed when it applies the journal."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redo.Redo, "apply", step)
        with pytest.raises(KeyboardInterrupt):
            arraystore.add_column(path, "train", "score", PLAIN["score"])


def marked(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(redo.MARK)


def test_journal_of_another_file_is_refused(stores: Path, tmp_path: Path) -> None:
    path = copied(stores / "plain.h5", tmp_path / "store.h5")

    def stop(self: redo.Redo, file: Path) -> None:
        raise KeyboardInterrupt

    killed_at(path, stop)
    shutil.copy(stores / "both.h5", path)
    marked(path)
    with pytest.raises(FormatError, match="is not the one that was changed"):
        arraystore.open(path)
    (tmp_path / ".store.h5.partial" / "redo").unlink()
    with pytest.raises(StorageError, match="missing or damaged"):
        arraystore.open(path)


def test_overwriting_completes_a_killed_change_first(stores: Path, tmp_path: Path) -> None:
    path = copied(stores / "plain.h5", tmp_path / "store.h5")

    def stop(self: redo.Redo, file: Path) -> None:
        marked(file)
        raise KeyboardInterrupt

    killed_at(path, stop)
    with pytest.raises(FileExistsError):
        arraystore.convert(f"folder:{stores / 'source'}", path)
    with pytest.raises(ValueError, match="on_error"):
        arraystore.convert(f"folder:{stores / 'source'}", path, overwrite=True, on_error="no")
    assert list(arraystore.open(path)["train"].columns) == ["score"]


def test_column_without_consolidated_metadata_is_found(stores: Path, tmp_path: Path) -> None:
    path = copied(stores / "plain.zarr", tmp_path / "store.zarr")
    root = json.loads((path / "zarr.json").read_text())
    del root["consolidated_metadata"]
    (path / "zarr.json").write_text(json.dumps(root))
    assert list(arraystore.open(path)["train"].columns) == []
    for name in ("boxes", "score"):
        arraystore.add_column(path, "train", name, (PLAIN | RAGGED)[name], sync=False)
    columns = arraystore.open(path)["train"].columns
    assert list(columns) == ["boxes", "score"]
    assert same(columns["boxes"][:], RAGGED["boxes"])


def test_columns_of_other_programs_are_read(stores: Path, tmp_path: Path) -> None:
    values = np.arange(N * 20).reshape(N, 20)
    zarr_path = copied(stores / "plain.zarr", tmp_path / "store.zarr")
    train: Any = zarr.open_group(zarr_path, mode="a", use_consolidated=False)["train"]
    train.create_group("columns").create_array("x", data=values, chunks=(5, 7))
    with pytest.warns(match="not part in the Zarr format 3"):
        zarr.consolidate_metadata(zarr_path)
    hdf5_path = copied(stores / "plain.h5", tmp_path / "store.h5")
    with h5py.File(hdf5_path, "a") as file:
        file["train"].create_dataset("columns/x", data=values, chunks=(5, 7), fletcher32=True)
        file["train/columns/y"] = values
        file["train/columns/odd"] = ["variable"] * N
    for path, names in ((zarr_path, ["x"]), (hdf5_path, ["odd", "x", "y"])):
        columns = arraystore.open(path)["train"].columns
        assert list(columns) == names
        for name in set(names) - {"odd"}:
            assert same(columns[name][[7, 2]], values[[7, 2]])
    with pytest.raises(FormatError, match="variable-length text"):
        _ = columns["odd"][:]
    report = arraystore.copy(hdf5_path, tmp_path / "copy.zarr", sync=False)
    assert report.left_out == ("train/columns/odd",)


def test_damaged_column_is_found(full: Path, tmp_path: Path) -> None:
    path = copied(full, tmp_path / full.name)
    if path.is_dir():
        chunk = path / "train/columns/noise/c/0/0"
        data = bytearray(chunk.read_bytes())
        data[100] ^= 1
        chunk.write_bytes(data)
    else:
        with h5py.File(path, "a") as file:
            file["train/columns/noise"][3, 5] += 1
            file["train/columns/boxes/indptr"][-1] = 1
    problems = [p.message for p in arraystore.verify(path).problems]
    assert any("noise" in text or "digest" in text for text in problems)
    if path.is_file():
        assert any("must ascend from 0" in text for text in problems)
    else:
        (path / "train/columns/score/c/0").unlink()
        with pytest.raises(FormatError, match="the chunk is missing"):
            _ = arraystore.open(path)["train"].columns["score"][:]


def test_reader_waits_for_a_running_change(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copied(stores / "plain.h5", tmp_path / "store.h5")
    seen: list[int] = []

    def applied(self: redo.Redo, file: Path) -> None:
        marked(file)
        monkeypatch.setattr(workspace_folder, "_RESTORE_PAUSES", (0,))
        with pytest.raises(StorageError, match="its columns are being changed; try again"):
            arraystore.open(path)
        seen.append(1)
        apply(self, file)

    apply = redo.Redo.apply
    monkeypatch.setattr(redo.Redo, "apply", applied)
    arraystore.add_column(path, "train", "score", PLAIN["score"])
    assert seen == [1]
    assert list(arraystore.open(path)["train"].columns) == ["score"]


def test_store_that_may_not_be_written_to_is_reported(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copied(stores / "plain.h5", tmp_path / "store.h5")

    def stop(self: redo.Redo, file: Path) -> None:
        marked(file)
        raise KeyboardInterrupt

    def refused(self: redo.Redo, file: Path) -> None:
        raise PermissionError

    killed_at(path, stop)
    with monkeypatch.context() as patch:
        patch.setattr(redo.Redo, "apply", refused)
        with pytest.raises(StorageError, match="open it once with permission to write"):
            arraystore.open(path)
    assert list(arraystore.open(path)["train"].columns) == ["score"]
