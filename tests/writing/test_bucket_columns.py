"""Columns added to Zarr stores in buckets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest

import arraystore
from arraystore.errors import StorageError, StoreChangedError
from arraystore.storage.location import Location
from arraystore.storage.objects import connection as stores
from arraystore.storage.objects.writer import ObjectWriter
from arraystore.writing.lock_object import LockObject
from tests.support import Bucket, write_store

if TYPE_CHECKING:
    from pathlib import Path

N: Final = 8
VALUES: Final = np.arange(N * 3, dtype=np.float32).reshape(N, 3)
ADDRESS: Final = "memory://some/store.zarr"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("bucket") / "store.zarr"
    names = [f"{i}.jpg" for i in range(N)]
    return write_store(target, names, [i % 2 for i in range(N)], classes=["a", "b"])


@pytest.fixture
def bucket(local: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """The bucket of ``memory://`` addresses, with a store."""
    bucket = Bucket()
    monkeypatch.setattr(stores, "connect_memory", lambda: bucket)
    arraystore.copy(local, ADDRESS)
    return bucket


def test_column_is_added_read_and_removed(bucket: Bucket, local: Path) -> None:
    before = dict(bucket.objects)
    arraystore.add_column(ADDRESS, "train", "features", VALUES, description="x")
    boxes = [[[i, i]] * (i % 3) for i in range(N)]
    arraystore.add_column(ADDRESS, "train", "boxes", boxes)
    train = arraystore.open(ADDRESS)["train"]
    assert np.array_equal(train.columns["features"], VALUES)
    assert [len(some) for some in train.columns["boxes"][:]] == [i % 3 for i in range(N)]
    assert arraystore.verify(ADDRESS).ok == arraystore.verify(local).ok
    changed = {key for key in before if bucket.objects.get(key) != before[key]}
    assert changed == {"some/store.zarr/zarr.json"}
    for name in ("features", "boxes"):
        arraystore.remove_column(ADDRESS, "train", name)
    assert bucket.objects.keys() == before.keys()
    assert list(arraystore.open(ADDRESS)["train"].columns) == []


def test_open_stores_stay_valid(bucket: Bucket) -> None:
    train = arraystore.open(ADDRESS)["train"]
    labels = train.label
    arraystore.add_column(ADDRESS, "train", "features", VALUES)
    assert train.image_bytes[:] == [b"\0"] * N
    assert train.file_name.tolist() == arraystore.open(ADDRESS)["train"].file_name.tolist()
    assert labels.tolist() == arraystore.open(ADDRESS)["train"].label.tolist()


def test_other_changes_of_the_root_are_refused(bucket: Bucket) -> None:
    train = arraystore.open(ADDRESS)["train"]
    key = "some/store.zarr/zarr.json"
    root = bucket.objects[key].replace(b'"seed": 0', b'"seed": 1')
    bucket.put(key, root)
    with pytest.raises(StoreChangedError):
        _ = train.label


def test_second_writer_is_refused(bucket: Bucket) -> None:
    lock = LockObject(ObjectWriter(Location.parse(ADDRESS)), "some/.store.zarr.partial")
    lock.acquire()
    with pytest.raises(StorageError, match="another process is writing to the store, or was"):
        arraystore.add_column(ADDRESS, "train", "features", VALUES)
    lock.delete()


def test_root_changed_meanwhile_is_not_overwritten(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = ObjectWriter.replace

    def changed_before(self: ObjectWriter, key: str, *args: Any) -> Any:
        if key.endswith("zarr.json"):
            bucket.put(key, bucket.objects[key] + b"\n")
        return replace(self, key, *args)

    monkeypatch.setattr(ObjectWriter, "replace", changed_before)
    with pytest.raises(StorageError, match="another program has changed the store"):
        arraystore.add_column(ADDRESS, "train", "features", VALUES)
    assert list(arraystore.open(ADDRESS)["train"].columns) == []
    assert "some/.store.zarr.partial" not in bucket.objects


def test_hdf5_in_a_bucket_is_refused(bucket: Bucket, local: Path) -> None:
    arraystore.copy(local, "memory://some/store.h5")
    with pytest.raises(ValueError, match="HDF5 file in a bucket, which cannot be changed in place"):
        arraystore.add_column("memory://some/store.h5", "train", "features", VALUES)
    assert not [key for key in bucket.objects if "partial" in key]
