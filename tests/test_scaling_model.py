"""The model of large stores against small ones, where the format fixes what it predicts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr

from arraystore.schema import COLUMN_CHUNK_ROWS, PAYLOAD, SHARD_NBYTES
from benchmarks import scaling_model as model
from benchmarks.grown_stores import make
from benchmarks.scaling_check import recorded, requested
from benchmarks.scaling_model import DataSet
from benchmarks.shuffle_quality import predicted, simulated
from tests.support import write_store

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of columns with two chunks, and a payload that is mostly absent."""
    path = tmp_path_factory.mktemp("grown") / "a.zarr"
    make(path, 66_000)
    assert COLUMN_CHUNK_ROWS < 66_000
    return path


def test_payload_has_the_predicted_shards(tmp_path: Path) -> None:
    images = [bytes(SHARD_NBYTES - 1), b"ab", b"c"]
    path = write_store(tmp_path / "a.zarr", ["a", "b", "c"], [0, 0, 0], images, classes=["x"])
    total = SHARD_NBYTES + 2
    shards = [file.stat().st_size for file in (path / "train" / PAYLOAD / "c").iterdir()]
    assert (model.n_shards(total), model.shards_nbytes(total)) == (len(shards), sum(shards))
    files = [file for file in path.rglob("*") if file.is_file()]
    assert model.n_column_objects(DataSet(3, n_classes=1)) + len(shards) == len(files)


def test_columns_have_the_predicted_sizes(grown: Path) -> None:
    data = DataSet(66_000)
    group = zarr.open_group(grown, mode="r")["train"]
    assert isinstance(group, zarr.Group)
    found = {name: array for name, array in group.arrays() if name != PAYLOAD}
    expected = model.column_nbytes(data)
    nbytes = {name: array.size * array.dtype.itemsize for name, array in found.items()}
    names = np.asarray(found["file_name"][:]).tolist()
    nbytes["file_name"] = sum(len(name.encode()) for name in names)
    assert nbytes == expected
    files = (file.as_posix() for file in grown.rglob("*") if file.is_file())
    objects = [file for file in files if f"{PAYLOAD}/c/" not in file]
    assert model.n_column_objects(data) == len(objects)


def test_journal_and_requests_are_as_predicted(grown: Path) -> None:
    for what, _, expected, found, _ in (*recorded(20_000), *requested(grown, 66_000)):
        assert found == pytest.approx(expected, rel=0.03), what


def test_shuffle_quality_is_as_predicted() -> None:
    n, buffer_size = 64_000, 1024
    assert simulated(n, buffer_size) == pytest.approx(predicted(n, buffer_size), rel=0.03)


def test_a_payload_of_100_terabytes_is_within_the_limits() -> None:
    limits = model.limits()
    assert min(limits["shards of a payload"], limits["chunks of a column"]) > 10**9
