"""Columns of users in splits: selections, conditions, batches, xarray, and what is read."""

from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import arraystore
from arraystore.containers.hdf5.reader import HDF5Reader
from arraystore.containers.zarr.arrays import PlainArray
from arraystore.dataset import columns as dataset_columns
from arraystore.exporting.folders import METADATA
from arraystore.reading.user_column import UserColumn
from arraystore.schema import ArraySpec
from tests.support import SUFFIXES, picture, write_folder

if TYPE_CHECKING:
    from pathlib import Path

N: Final = 30
FEATURES: Final = np.arange(N * 8, dtype=np.float32).reshape(N, 8)
SCORE: Final = np.arange(N) / 10
GROUP: Final = ["one", "two", "three"] * (N // 3)
TAGS: Final = [list(range(i % 4)) for i in range(N)]


@pytest.fixture(scope="module", params=SUFFIXES)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with columns in chunks of four rows; it must not be changed."""
    folder = tmp_path_factory.mktemp("columns")
    files = {f"train/{'abc'[i % 3]}/{i}.png": picture(4, 5, seed=i) for i in range(N)}
    source = write_folder(folder / "source", files | {"val/a/v.png": picture(seed=99)})
    target = folder / f"store{request.param}"
    arraystore.convert(f"folder:{source}", target, sync=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ArraySpec, "chunk_rows", property(lambda _: 4))
        for name, values in {"features": FEATURES, "score": SCORE, "group": GROUP}.items():
            arraystore.add_column(target, "train", name, values, sync=False)
    arraystore.add_column(target, "train", "tags", TAGS, sync=False)
    arraystore.add_column(target, "val", "features", FEATURES[:1] - 1, sync=False)
    arraystore.add_column(target, "val", "score", np.zeros((1, 2)), sync=False)
    return target


@pytest.fixture
def train(path: Path) -> arraystore.Split:
    return arraystore.open(path)["train"]


@settings(max_examples=25)
@given(
    st.one_of(
        st.lists(st.integers(-N, N - 1)),
        st.slices(N),
        st.integers(-N, N - 1),
        st.lists(st.booleans(), min_size=N, max_size=N).map(np.array),
    )
)
def test_index_follows_numpy(path: Path, index: Any) -> None:
    column = arraystore.open(path)["train"].columns["features"]
    is_empty = isinstance(index, list) and not index
    expected = FEATURES[np.empty(0, np.int64) if is_empty else index]
    assert column[index].tolist() == expected.tolist()


def test_further_axes_take_integers_and_slices(train: arraystore.Split) -> None:
    column = train.columns["features"]
    assert column[:, 2].tolist() == FEATURES[:, 2].tolist()
    assert column[[3, 1], ..., :4].tolist() == FEATURES[[3, 1], :4].tolist()
    assert column[5, 1] == FEATURES[5, 1]
    with pytest.raises(IndexError, match="select the samples first"):
        _ = column[:, [1, 2]]
    with pytest.raises(IndexError, match="is ragged and has one axis"):
        _ = train.columns["tags"][:, 0]
    with pytest.raises(IndexError, match="out of bounds"):
        _ = column[N]


def test_columns_follow_every_selection(train: arraystore.Split) -> None:
    few = train.where(label=1).sample(5, seed=3)
    assert few.columns["features"][:].tolist() == FEATURES[few.positions].tolist()
    assert few.columns["tags"][:][2].tolist() == TAGS[few.positions[2]]
    assert (train - few).columns["score"][0] == SCORE[(train - few).positions[0]]
    again = pickle.loads(pickle.dumps(few))
    assert again.columns["score"][:].tolist() == SCORE[few.positions].tolist()
    assert list(few.columns["score"]) == SCORE[few.positions].tolist()


def test_joined_splits_have_their_common_columns(path: Path) -> None:
    joined = arraystore.open(path)["val+train[:2]"]
    assert list(joined.columns) == ["features"]
    expected = np.concatenate([FEATURES[:1] - 1, FEATURES[:2]])
    assert np.array_equal(joined.columns["features"], expected)
    with pytest.raises(ValueError, match="values of different shapes"):
        _ = joined.columns["score"]
    with pytest.raises(KeyError, match="has no column 'group', it has features; val"):
        _ = joined.columns["group"]


def test_conditions_select_samples(train: arraystore.Split) -> None:
    columns = train.columns
    high = train.select(columns["score"] > 2.45)
    assert high.positions.tolist() == list(range(25, N))
    assert (columns["score"] <= columns["score"]).all()
    assert (columns["group"] == "two").nonzero()[0].tolist() == list(range(1, N, 3))
    assert train.where(score=1.5).positions.tolist() == [15]
    assert train.where(group=["two", "three"], label=0).positions.tolist() == [
        i for i in range(N) if GROUP[i] != "one" and train.label[i] == 0
    ]
    assert train.where(tags=2).positions.tolist() == list(range(3, N, 4))
    assert high.where(score=0.1).positions.tolist() == []
    assert train.where(score=1.5).name == "train.where(score=1.5)"


def test_wrong_conditions_raise(train: arraystore.Split) -> None:
    with pytest.raises(TypeError, match="group has text, got 1"):
        train.where(group=1)
    with pytest.raises(TypeError, match="is compared with text, got 3"):
        _ = train.columns["group"] == 3
    with pytest.raises(TypeError, match="is compared with a number, got 'a'"):
        _ = train.columns["score"] < "a"
    with pytest.raises(TypeError, match="is ragged and cannot be compared"):
        _ = train.columns["tags"] == 1
    with pytest.raises(KeyError, match="has no column 'scores', it has features, group"):
        train.where(scores=1)
    with pytest.raises(TypeError, match="needs a condition"):
        train.where()


@pytest.mark.parametrize("shuffle", ["full", "block", False])
@pytest.mark.parametrize("is_loaded", [True, False])
def test_batches_have_columns(
    train: arraystore.Split, shuffle: Any, is_loaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_loaded:
        monkeypatch.setattr(dataset_columns, "_MOST_LOADED", 0)
        monkeypatch.setattr(dataset_columns, "_FEW", 0)
    batches = train.batches(
        8, seed=1, shuffle=shuffle, buffer_size=16, columns=["features", "tags", "group"]
    )
    for batch, indices in zip(batches, batches.positions(), strict=True):
        image, label, file_name = batch
        assert len(image) == len(label) == len(file_name) == len(indices)
        assert file_name.tolist() == train.file_name[indices].tolist()
        columns = batch.columns
        assert columns["features"].tolist() == FEATURES[indices].tolist()
        assert [tags.tolist() for tags in columns["tags"]] == [TAGS[i] for i in indices]
        assert columns["group"].tolist() == [GROUP[i] for i in indices]


def test_ragged_column_whose_parts_are_opened_twice_is_right(
    train: arraystore.Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that begin to read at the same time each open the array of the bounds."""
    opened = UserColumn.__dict__["bounds"].func
    monkeypatch.setattr(UserColumn, "bounds", property(opened))
    for row in (3, 7):
        assert train.columns["tags"][row].tolist() == TAGS[train.positions[row]]


def test_batches_refuse_unknown_columns(train: arraystore.Split) -> None:
    with pytest.raises(KeyError, match="has no column 'nothing'"):
        train.batches(4, columns=["nothing"])
    with pytest.raises(TypeError, match="a list of names"):
        train.batches(4, columns="features")


def test_array_and_repr(train: arraystore.Split) -> None:
    columns = train.columns
    assert np.asarray(columns["features"], dtype=np.float64).sum() == FEATURES.sum()
    assert repr(columns["tags"]) == "<Column 'tags': int64 (30, ?)>"
    assert repr(columns["group"]) == "<Column 'group': string (30)>"
    assert repr(columns) == "<Columns of train: features, group, score, tags>"
    assert columns["features"].ndim == 2
    with pytest.raises(TypeError, match="is not one array"):
        np.asarray(columns["tags"])
    with pytest.raises(ValueError, match="always a copy"):
        np.asarray(columns["score"], copy=False)


def test_only_needed_chunks_are_read(
    train: arraystore.Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    for owner, name in ((PlainArray, "chunks"), (HDF5Reader, "_array_chunks")):
        function = getattr(owner, name)

        def recorded(*args: Any, function: Any = function) -> Any:
            read.extend(args[-1])
            return function(*args)

        monkeypatch.setattr(owner, name, recorded)
    column = train.columns["features"]
    assert (column.shape, read) == ((N, 8), [])
    _ = column[[9, 10, 2, 29]]
    assert read == [0, 2, 7]
    _ = column[8:12]  # in the cache
    assert read == [0, 2, 7]


def test_export_writes_columns(train: arraystore.Split, tmp_path: Path) -> None:
    few = train.where(label=1)
    arraystore.export(few, tmp_path / "files", columns=["features", "tags", "group"])
    lines = (tmp_path / "files" / METADATA).read_text().splitlines()
    rows = {row.pop("file_name"): row for row in map(json.loads, lines)}
    assert rows == {
        name: {"features": FEATURES[i].tolist(), "tags": TAGS[i], "group": GROUP[i]}
        for name, i in zip(few.file_name.tolist(), few.positions.tolist(), strict=True)
    }
    assert all((tmp_path / "files" / name).is_file() for name in rows)


def test_attributes_that_would_be_lost_are_refused(train: arraystore.Split) -> None:
    with pytest.raises(AttributeError, match="does not keep the attribute 'features'"):
        train.features = FEATURES


def test_xarray_shows_columns(path: Path, train: arraystore.Split) -> None:
    dataset = xr.open_dataset(path, engine="arraystore", group="train")
    assert dataset.features.dims == ("sample", "features.1")
    assert dataset.features.isel(sample=[4, 1]).values.tolist() == FEATURES[[4, 1]].tolist()
    assert dataset.features[3, 2:4].values.tolist() == FEATURES[3, 2:4].tolist()
    assert dataset.features.isel({"features.1": 3}).values.tolist() == FEATURES[:, 3].tolist()
    assert dataset.tags[7].item().tolist() == TAGS[7]
    assert [tags.tolist() for tags in dataset.tags.values] == TAGS
    assert dataset.group.values.tolist() == GROUP
    assert dataset.where(dataset.score > 2.75, drop=True).group.values.tolist() == GROUP[28:]
