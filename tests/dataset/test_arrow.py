"""Splits and columns as Arrow tables, read by pyarrow, pandas, Polars and DuckDB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import arraystore
from tests.support import copied

if TYPE_CHECKING:
    from pathlib import Path

SCORE = np.linspace(0, 1, 30)
FEATURES = np.arange(180, dtype=np.float32).reshape(30, 2, 3)
BOXES = [np.full((i % 3, 4), i, np.int32) for i in range(30)]
TAGS = [[f"é{i}"] * (i % 3) for i in range(30)]


@pytest.fixture(scope="module")
def split(path: Path, tmp_path_factory: pytest.TempPathFactory) -> arraystore.Split:
    target = copied(path, tmp_path_factory.mktemp("arrow") / path.name)
    for name, values in (("score", SCORE), ("features", FEATURES)):
        arraystore.add_column(target, "train", name, values)
    for name, ragged in (("boxes", BOXES), ("tags", TAGS)):
        arraystore.add_column(target, "train", name, ragged, ragged=True)
    return arraystore.open(target)["train"]


def test_table_has_all_columns(split: arraystore.Split) -> None:
    table = pa.table(split)
    assert table["file_name"].to_pylist() == split.file_name.tolist()
    assert table["label"].to_pylist() == split.label.tolist()
    assert table["label_name"].to_pylist() == [split.label_names[k] for k in split.label]
    for name in ("image_height", "image_width", "image_nbytes"):
        assert table[name].to_numpy().tolist() == getattr(split, name).tolist()
    assert table["score"].to_pylist() == SCORE.tolist()
    assert table["features"].to_pylist() == FEATURES.tolist()
    assert table["boxes"].to_pylist() == [some.tolist() for some in BOXES]
    assert table["tags"].to_pylist() == TAGS
    assert len(table.column_names) == 10


def test_column_is_an_arrow_array(split: arraystore.Split) -> None:
    part = split.select(slice(0, 30, 2))
    assert pa.chunked_array(part.columns["features"]).to_pylist() == FEATURES[::2].tolist()
    assert pl.Series(part.columns["boxes"]).to_list() == [some.tolist() for some in BOXES[::2]]


def test_images_are_a_binary_column(split: arraystore.Split) -> None:
    some = split.select([3, 1, 29])
    images = some.to_arrow(images=True)["image_bytes"]
    assert images.type == pa.large_binary()
    assert images.to_pylist() == some.image_bytes[:]
    assert "image_bytes" not in some.to_arrow().column_names


def test_missing_labels_are_null(tmp_path: Path) -> None:
    from tests.support import write_store

    write_store(tmp_path / "a.zarr", ["1", "2"], [-1, 0], classes=["x"], order="source")
    (split,) = arraystore.open(tmp_path / "a.zarr").values()
    table = pa.table(split)
    assert table["label"].to_pylist() == [None, 0]
    assert table["label_name"].to_pylist() == [None, "x"]


def test_empty_split_is_an_empty_table(split: arraystore.Split) -> None:
    none = split.select([])
    table = none.to_arrow(images=True)
    assert table.num_rows == 0
    assert table.schema == split.to_arrow(images=True).schema


def test_other_libraries_read_a_split(split: arraystore.Split) -> None:
    high = split.file_name[SCORE > 0.5].tolist()
    assert pl.DataFrame(split).filter(pl.col("score") > 0.5)["file_name"].to_list() == high
    train = split  # DuckDB finds the variable by its name
    relation = duckdb.sql("select file_name from train where score > 0.5")
    assert relation is not None
    found = relation.fetchall()
    assert [name for (name,) in found] == high
    del train
    assert split.to_pandas()["score"].tolist() == SCORE.tolist()


@pytest.mark.parametrize("library", ["pyarrow", "polars", "pandas"])
def test_their_masks_and_positions_select(library: str, split: arraystore.Split) -> None:
    masks: dict[str, Any] = {
        "pyarrow": pc.greater(pa.table(split)["score"], 0.5),
        "polars": pl.DataFrame(split)["score"] > 0.5,
        "pandas": split.to_pandas()["score"] > 0.5,
    }
    positions: dict[str, Any] = {
        "pyarrow": pa.array([5, 2]),
        "polars": pl.Series([5, 2]),
        "pandas": split.to_pandas().index[[5, 2]],
    }
    assert split.select(masks[library]).positions.tolist() == split.positions[SCORE > 0.5].tolist()
    assert split.select(positions[library]).positions.tolist() == split.positions[[5, 2]].tolist()
