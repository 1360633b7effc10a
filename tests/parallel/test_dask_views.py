"""Splits as collections of Dask, with NumPy as the oracle."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import dask
import numpy as np
import pytest

import arraystore
from arraystore.errors import SourceError
from arraystore.integrations import dask_views
from arraystore.reading.stored_split import StoredSplit
from tests.support import SUFFIXES, picture, write_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from arraystore.reading.stored_split import ImageRows

N: Final = 30
SHARD_NBYTES: Final = 2_000


@pytest.fixture(scope="module", params=SUFFIXES)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with further columns; it must not be changed."""
    path = tmp_path_factory.mktemp("dask") / f"a{request.param}"
    names, images = [f"é{i}.jpg" for i in range(N)], [picture(6 + i % 7, seed=i) for i in range(N)]
    write_store(path, names, [i % 3 for i in range(N)], images, classes="xyz")
    arraystore.add_column(path, "train", "features", np.arange(N * 6.0).reshape(N, 2, 3))
    arraystore.add_column(path, "train", "score", np.arange(N, dtype=np.float32))
    arraystore.add_column(path, "train", "caption", [f"ü{i}" for i in range(N)])
    arraystore.add_column(path, "train", "boxes", [[1] * (i % 3) for i in range(N)])
    return path


@pytest.fixture(params=["whole", "joined"])
def split(request: pytest.FixtureRequest, place: Path) -> arraystore.Split:
    train = arraystore.open(place)["train"]
    return train if request.param == "whole" else train.select([*range(20, 29), *range(17, 2, -1)])


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(dask_views, "SHARD_NBYTES", SHARD_NBYTES)
    with dask.config.set(scheduler="synchronous"):
        yield


def same(found: Any, expected: Any) -> bool:
    """Whether two lists of samples are equal."""
    return len(found) == len(expected) and all(
        np.array_equal(a.image, b.image) and a[1:] == b[1:]
        for a, b in zip(found, expected, strict=True)
    )


def test_bag_has_the_samples(split: arraystore.Split) -> None:
    assert same(split.to_dask().compute(), [*split])
    bag = split.to_dask("bag", size=4)
    assert [*bag.pluck(1).compute()] == split.label.tolist()
    assert np.array_equal(np.stack([*bag.pluck(0).compute()]), split.resized(4)[:])


def test_array_has_images_or_a_column(split: arraystore.Split) -> None:
    images = split.to_dask("array", size=(4, 5))
    assert (images.shape, images.dtype) == ((len(split), 4, 5, 3), np.uint8)
    expected = split.resized((4, 5))[:]
    assert np.array_equal(images.compute(), expected)
    for key in (5, slice(3, 9), [7, 1, 8], (slice(2, 20, 3), 1, slice(1, 3)), (-1, ..., 0)):
        assert np.array_equal(images[key].compute(), expected[key]), key
    for name in ("label", "image_height", "features", "score"):
        column: Any = split.columns[name] if name in split.columns else getattr(split, name)
        found = split.to_dask("array", columns=[name])
        assert found.dtype == column.dtype
        assert np.array_equal(found.compute(), column[:])
        assert np.array_equal(found[4:6].compute(), column[4:6])


def test_dataframe_has_the_columns(split: arraystore.Split) -> None:
    frame = split.to_dask("dataframe")
    found = frame.compute()
    assert [*found] == [*dask_views._COLUMNS, "caption", "score"]
    assert found.index.tolist() == [*range(len(split))]
    for name in found:
        column: Any = split.columns[name] if name in split.columns else getattr(split, name)
        assert found[name].tolist() == column[:].tolist()
        assert frame[name].dtype == found[name].dtype
    assert frame.loc[7].label.compute().tolist() == [split.label[7]]
    assert frame.groupby("label").score.sum().compute().sum() == split.columns["score"][:].sum()
    assert [*split.to_dask("dataframe", columns=["score"]).compute()] == ["score"]


def test_partitions_are_shards(place: Path) -> None:
    train = arraystore.open(place)["train"]
    start = train._sample_set.only.stored.columns["image_start"]  # type: ignore[union-attr]
    shards = (start // SHARD_NBYTES).tolist()
    assert len(set(shards)) > 4
    sizes = tuple(shards.count(shard) for shard in sorted(set(shards)))
    assert train.to_dask("array", size=4).chunks[0] == sizes
    frame = train.to_dask("dataframe")
    assert [len(part.compute()) for part in frame.to_delayed()] == [*sizes]
    assert train.to_dask("bag").npartitions == len(sizes)


def test_only_what_is_selected_is_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    positions: list[int] = []
    real = StoredSplit.read

    def read(self: StoredSplit, rows: ImageRows) -> list[memoryview]:
        positions.extend(rows.positions.tolist())
        return real(self, rows)

    monkeypatch.setattr(StoredSplit, "read", read)
    train = arraystore.open(place)["train"]
    images, bag = train.to_dask("array", size=4), train.to_dask("bag")
    train.to_dask("dataframe").compute()
    train.to_dask("array", columns=["features"]).compute()
    assert positions == []
    images[5:8, 1].compute()
    assert sorted(positions) == [5, 6, 7]
    positions.clear()
    bag.to_delayed()[1].compute()
    n = images.chunks[0]
    assert positions == [*range(n[0], n[0] + n[1])]


def test_cluster_computes_equal_values(client: Any, place: Path) -> None:
    train = arraystore.open(place)["train"]
    samples = client.compute(client.persist(train.to_dask())).result()
    assert same(samples, [*train])
    found = [
        client.compute(collection).result()
        for collection in (
            train.to_dask("bag", size=4).pluck(0).map(np.sum),
            train.to_dask("array", size=4).sum(axis=(1, 2, 3)),
        )
    ]
    sums = train.resized(4)[:].sum(axis=(1, 2, 3)).tolist()
    assert [[*map(int, values)] for values in found] == [sums, sums]


def test_what_dask_cannot_hold_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = arraystore.open(place)["train"]
    for error, message, options in (
        (ValueError, "kind must be one of bag, array, dataframe", {"kind": "xarray"}),
        (ValueError, "an array needs size", {"kind": "array"}),
        (ValueError, "an array needs size", {"kind": "array", "size": 4, "columns": ["score"]}),
        (ValueError, "the values of one column", {"kind": "array", "columns": ["label", "score"]}),
        (ValueError, "size is for images", {"kind": "dataframe", "size": 4}),
        (TypeError, "must be a list of names", {"kind": "dataframe", "columns": "score"}),
        (TypeError, "boxes: has text or is ragged", {"kind": "array", "columns": ["boxes"]}),
        (TypeError, "file_name: has text", {"kind": "array", "columns": ["file_name"]}),
        (TypeError, "features: has several", {"kind": "dataframe", "columns": ["features"]}),
        (KeyError, "has no column 'no'", {"kind": "array", "columns": ["no"]}),
        (KeyError, "has no column 'no'", {"kind": "dataframe", "columns": ["no"]}),
    ):
        with pytest.raises(error, match=message):
            train.to_dask(**options)
    with pytest.raises(ValueError, match="has no samples"):
        train.select(slice(0, 0)).to_dask()
    for kind, extra in (("bag", "dask"), ("dataframe", "dask,parquet")):
        monkeypatch.setitem(sys.modules, f"dask.{kind}", None)
        with pytest.raises(SourceError, match=rf"install arraystore\[{extra}\]"):
            train.to_dask(kind)
