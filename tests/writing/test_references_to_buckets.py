"""Stores whose images are objects in a bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import arraystore
from arraystore.errors import ReferencedFileError, SourceError
from tests.support import SUFFIXES, picture, write_folder
from tests.web import WebServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PHOTOS = {f"train/{'ab'[i % 2]}/{i}.jpg": picture(10 + i, 16, seed=i) for i in range(6)}
SOURCE = "folder:s3://bucket/data/photos"
FOLDER = "s3://bucket/data"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebServer]:
    with WebServer() as server:
        server.put(write_folder(tmp_path / "photos", PHOTOS), "bucket/data/photos")
        yield server


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_store_on_a_disk_reads_objects(web: WebServer, tmp_path: Path, suffix: str) -> None:
    path, full = tmp_path / f"a{suffix}", tmp_path / f"full{suffix}"
    options = web.s3
    report = arraystore.convert(
        SOURCE, path, source_options=options, copy_images=False, checksums=True, sync=False
    )
    arraystore.convert(f"folder:{tmp_path / 'photos'}", full, sync=False)
    assert "allow_references='s3://bucket/data/photos/train" in report.notes[1]
    with pytest.raises(ReferencedFileError, match="outside of its folder"):
        _ = arraystore.open(path, storage_options=options)["train"].image_bytes[:]
    how: Any = {"storage_options": options, "allow_references": FOLDER}
    train, expected = arraystore.open(path, **how)["train"], arraystore.open(full)["train"]
    web.asked.clear()
    assert train.image_bytes[:] == expected.image_bytes[:]
    assert len(web.asked) <= len(PHOTOS)
    assert train.image_bytes[2] == expected.image_bytes[2]
    assert len(list(train.batches(4))) == 2
    assert arraystore.verify(path, **how).problems == ()
    copy = tmp_path / f"copy{suffix}"
    arraystore.copy(path, copy, source_options=options, allow_references=FOLDER, sync=False)
    assert arraystore.open(copy).info == arraystore.open(full).info


def test_store_in_a_bucket_refers_to_objects_beside_it(web: WebServer, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    target = "s3://bucket/data/a.zarr"
    report = arraystore.convert(
        SOURCE, target, storage_options=web.s3, source_options=web.s3, copy_images=False
    )
    assert report.notes == ("train: 6 images stay in 6 files",)
    train = arraystore.open(target, storage_options=web.s3)["train"]
    assert sorted(train.image_bytes[:]) == sorted(PHOTOS.values())
    with pytest.raises(SourceError, match="is on a disk, and the store"):
        arraystore.convert(
            f"folder:{tmp_path / 'photos'}",
            "s3://bucket/b.zarr",
            storage_options=web.s3,
            copy_images=False,
        )
    assert not path.exists()


def test_parts_and_columns_of_a_store_in_a_bucket(web: WebServer, tmp_path: Path) -> None:
    target, others = "s3://bucket/data/a.zarr", "s3://bucket/data/more"
    options: Any = {"storage_options": web.s3, "source_options": web.s3}
    arraystore.convert(SOURCE, target, copy_images=False, **options)
    more = {f"{'ab'[i % 2]}/{i}.jpg": picture(10 + i, 16, seed=i) for i in range(5, 10)}
    web.put(write_folder(tmp_path / "more", more), "bucket/data/more")
    report = arraystore.append(
        target, f"folder:{others}", split="train", on_existing="skip", copy_images=False, **options
    )
    assert report.notes[-1] == "train.1: 4 images stay in 4 files"
    copied = write_folder(tmp_path / "copied", {"a/20.jpg": picture(seed=20)})
    arraystore.append(
        target, f"folder:{copied}", split="train", storage_options=web.s3, progress=False
    )
    scores = list(range(11))
    arraystore.add_column(target, "train", "score", scores, storage_options=web.s3)
    train = arraystore.open(target, storage_options=web.s3)["train"]
    found = dict(zip(train.file_name.tolist(), train.image_bytes[:], strict=True))
    expected = {name.removeprefix("train/"): data for name, data in PHOTOS.items()}
    assert found == more | expected | {"a/20.jpg": picture(seed=20)}
    assert train.columns["score"][:].tolist() == scores
    assert arraystore.verify(target, storage_options=web.s3).problems == ()
    copy = arraystore.copy(target, tmp_path / "copy.h5", source_options=web.s3, sync=False)
    assert arraystore.open(copy.path)["train"].image_bytes[:] == train.image_bytes[:]
    assert arraystore.open(copy.path)["train"].columns["score"][:].tolist() == scores


def test_changed_object_is_noticed(web: WebServer, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    arraystore.convert(SOURCE, path, source_options=web.s3, copy_images=False, sync=False)
    changed = {"train/a/0.jpg": picture(99, 99, seed=99)}
    web.put(write_folder(tmp_path / "other", changed), "bucket/data/photos")
    train = arraystore.open(path, storage_options=web.s3, allow_references=True)["train"]
    with pytest.raises(ReferencedFileError, match="arraystore relocate"):
        _ = train.image_bytes[:]
