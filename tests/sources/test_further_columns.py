"""Further columns of sources that become columns of the store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import arraystore
from arraystore.cli.commands import main
from arraystore.errors import SourceError
from tests.sources.forms import write_tar
from tests.support import SUFFIXES, picture

if TYPE_CHECKING:
    from pathlib import Path

N: Final = 7
IMAGES: Final = [picture(4, 5, seed=i) for i in range(N)]
SCORES: Final = [i / 4 for i in range(N)]
CAPTIONS: Final = [f"é {i}" for i in range(N)]
TAGS: Final = [list(range(i % 3)) for i in range(N)]
VECTORS: Final = [[i, i + 1] for i in range(N)]


def check(target: Path, names: dict[str, list[Any]], version: str = "1.2") -> None:
    """Compare columns of a store, whose file names have the number of the sample."""
    store = arraystore.open(target)
    train = store["train"]
    numbers = [int("".join(filter(str.isdigit, name))) for name in train.file_name.tolist()]
    assert sorted(train.columns) == sorted(names)
    for name, expected in names.items():
        found = [np.asarray(value).tolist() for value in train.columns[name]]
        assert found == [expected[i] for i in numbers]
    assert store.info.format_version == version
    assert arraystore.verify(target).ok


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_records(suffix: str, tmp_path: Path) -> None:
    records = [
        {
            "image": IMAGES[i],
            "label": i % 2,
            "file_name": f"{i}.jpg",
            "score": SCORES[i],
            "caption": CAPTIONS[i],
            "tags": TAGS[i],
            "vector": np.array(VECTORS[i]),
            "other": 1,
        }
        for i in range(N)
    ]
    columns = {"score": "score", "text": "caption", "tags": "tags", "vector": "vector"}
    target = tmp_path / f"store{suffix}"
    report = arraystore.write(
        target, {"train": iter(records)}, classes=["a", "b"], columns=columns, sync=False
    )
    assert report.notes == ("further fields are left out: 1 name (other)",)
    check(target, {"score": SCORES, "text": CAPTIONS, "tags": TAGS, "vector": VECTORS})
    with pytest.raises(SourceError, match="has no values 'nothing' for a column, it has 'image'"):
        arraystore.write(
            tmp_path / f"x{suffix}", {"train": records}, classes=2, columns=["nothing"], sync=False
        )


def test_records_without_image_are_left_out_with_their_values(tmp_path: Path) -> None:
    records = [
        {"image": b"no" if i == 2 else IMAGES[i], "label": 0, "file_name": f"{i}", "tags": TAGS[i]}
        for i in range(N)
    ]
    target = tmp_path / "store.zarr"
    arraystore.write(
        target,
        {"train": records},
        classes=["a"],
        columns=["tags"],
        on_error="skip",
        sync=False,
    )
    assert len(arraystore.open(target)["train"]) == N - 1
    check(target, {"tags": TAGS})


def test_csv(tmp_path: Path) -> None:
    lines = ["path,label,score,caption,extra"]
    for i, image in enumerate(IMAGES):
        (tmp_path / f"{i}.jpg").write_bytes(image)
        lines.append(f"{i}.jpg,a,{SCORES[i]},{CAPTIONS[i]},0")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    target = tmp_path / "store.zarr"
    arguments = ["--split", "train", "--column", "score", "--column", "text=caption"]
    assert main(["convert", f"csv:{tmp_path}/t.csv", str(target), *arguments]) == 0
    check(target, {"score": SCORES, "text": CAPTIONS}, version="1.0")
    with pytest.raises(SourceError, match="has no values 'nothing' for a column"):
        arraystore.convert(
            f"csv:{tmp_path}/t.csv", tmp_path / "x.zarr", split="train", columns=["nothing"]
        )


def test_parquet(tmp_path: Path) -> None:
    table = pa.table(
        {
            "image": IMAGES,
            "label": ["a", "b"] * 3 + ["a"],
            "file_name": [f"{i}.jpg" for i in range(N)],
            "score": SCORES,
            "caption": CAPTIONS,
            "tags": TAGS,
            "vector": pa.array(VECTORS, pa.list_(pa.int32(), 2)),
            "other": SCORES,
        }
    )
    for number, rows in enumerate((slice(0, 3), slice(3, N))):
        part = table.slice(rows.start, rows.stop - rows.start)
        pq.write_table(part, tmp_path / f"train-{number}.parquet")
    target = tmp_path / "store.zarr"
    report = arraystore.convert(
        f"parquet:{tmp_path}/train-*.parquet",
        target,
        columns=["score", "caption", "tags", "vector"],
        split="train",
        sync=False,
    )
    assert "further columns are left out: 1 name (other)" in report.notes
    check(target, {"score": SCORES, "caption": CAPTIONS, "tags": TAGS, "vector": VECTORS})


def test_webdataset(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for i, image in enumerate(IMAGES):
        more = {"score": SCORES[i], "deep": {"tags": TAGS[i]}}
        members |= {
            f"{i}.jpg": image,
            f"{i}.cls": b"a",
            f"{i}.json": json.dumps(more).encode(),
            f"{i}.txt": CAPTIONS[i].encode(),
        }
    write_tar(tmp_path / "train-000.tar", members.items())
    target = tmp_path / "store.zarr"
    arraystore.convert(
        f"wds:{tmp_path}/train-000.tar",
        target,
        columns={"score": "json.score", "caption": "txt", "tags": "json.deep.tags"},
        split="train",
        sync=False,
    )
    check(target, {"score": SCORES, "caption": CAPTIONS, "tags": TAGS})
    with pytest.raises(SourceError, match=r"0: has no values 'json.nothing' for a column"):
        arraystore.convert(
            f"wds:{tmp_path}/train-000.tar",
            tmp_path / "x.zarr",
            columns=["json.nothing"],
            split="train",
        )


def test_columns_that_cannot_be_kept_raise(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"columns \(--column\) can be read of parquet, wds"):
        arraystore.convert(f"tfrecord:{tmp_path}/x", tmp_path / "x.zarr", columns=["score"])
    with pytest.raises(ValueError, match="is a column of every split"):
        arraystore.convert(f"parquet:{tmp_path}/x", tmp_path / "x.zarr", columns=["label"])
    with pytest.raises(TypeError, match="must be a list or mapping of names"):
        arraystore.convert(f"parquet:{tmp_path}/x", tmp_path / "x.zarr", columns="score")
