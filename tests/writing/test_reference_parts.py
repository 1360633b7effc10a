"""Splits with parts and further columns whose images are in other files."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import arraystore
from arraystore.cli.commands import main
from arraystore.errors import ChecksumError
from tests.support import SUFFIXES, picture, write_folder
from tests.writing.test_append import append, names_of
from tests.writing.test_references import referring

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def images(*numbers: int) -> dict[str, bytes]:
    return {f"{'ab'[i % 2]}/{i}.jpg": picture(seed=i) for i in numbers}


FIRST, SECOND, THIRD = images(0, 1, 2, 3, 4), images(10, 11, 12, 3), images(20, 21)
ALL = FIRST | SECOND | THIRD


@pytest.fixture(params=SUFFIXES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A store whose first and last part have their images in other files."""
    folder = write_folder(tmp_path / "first", FIRST)
    path = referring(folder, f"some{request.param}", split="train")
    write_folder(tmp_path / "second", SECOND)
    append(path, f"folder:{tmp_path / 'second'}", on_existing="replace")
    write_folder(tmp_path / "third", THIRD)
    report = append(path, f"folder:{tmp_path / 'third'}", copy_images=False)
    assert report.notes == ("train.2: 2 images stay in 2 files",)
    shutil.rmtree(tmp_path / "second")
    return path


def has_all(split: arraystore.Split, expected: Mapping[str, bytes] = ALL) -> bool:
    found = dict(zip(names_of(split), split.image_bytes[:], strict=True))
    return found == dict(expected)


def test_images_of_all_parts_are_read(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened = arraystore.open(store)
    train = opened["train"]
    assert has_all(train)
    assert {name for b in train.batches(3, seed=1) for name in b.file_name} == set(ALL)
    assert [bytes(view) for view in train.image_views[:]] == train.image_bytes[:]
    info = opened.info
    assert info.references == ("train", "train.2")
    assert info.splits["train"].is_referenced
    assert info.splits["train"].content_digest.startswith("unchecked:")
    with pytest.raises(ValueError, match="checksums of its images are not known"):
        _ = train.image_crc32c
    assert arraystore.verify(store, decode=True).problems == ()
    assert main(["info", str(store)]) == 0
    assert "images of train, train.2" in capsys.readouterr().out
    out = store.parent / "out"
    assert main(["export", str(store), "train", "-o", str(out)]) == 0
    written = {p.relative_to(out).as_posix() for p in out.rglob("*.jpg")}
    assert written == set(ALL)  # as of a split without parts
    (store.parent / "third" / "b" / "21.jpg").write_bytes(b"other")
    assert len(arraystore.verify(store).problems) == 1


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_copy_joins_parts_and_images(store: Path, tmp_path: Path, suffix: str) -> None:
    whole = write_folder(tmp_path / "whole", ALL)
    full = arraystore.convert(f"folder:{whole}", tmp_path / "full.zarr", split="train", sync=False)
    copy = arraystore.copy(store, tmp_path / f"copy{suffix}", sync=False)
    assert copy.splits["train"].content_digest == full.splits["train"].content_digest
    assert has_all(arraystore.open(copy.path)["train"])
    part = arraystore.copy(store, tmp_path / f"part{suffix}", copy_images=False, sync=False)
    opened = arraystore.open(part.path)
    assert has_all(opened["train"])
    assert opened.info.parts == {}
    assert opened.info.splits["train"].content_digest.startswith("unchecked:")


def test_checksums_make_the_digest_that_of_copies(tmp_path: Path) -> None:
    digests = []
    for copy_images in (True, False):
        folder = tmp_path / str(copy_images)
        first, third = (write_folder(folder / n, some) for n, some in (("1", FIRST), ("3", THIRD)))
        options: Any = {"copy_images": copy_images, "checksums": True}
        path = referring(first, "some.zarr", split="train", **options)
        append(path, f"folder:{third}", **options)
        assert arraystore.verify(path).problems == ()
        digests.append(arraystore.open(path).info.splits["train"].content_digest)
    assert digests[0] == digests[1]
    assert ":" not in digests[0]


def test_copy_compares_the_checksums_that_are_known(store: Path, tmp_path: Path) -> None:
    data = SECOND["b/11.jpg"]
    for path in (store, *store.rglob("image_payload/c/*")):
        if path.is_file() and data in path.read_bytes():
            path.write_bytes(path.read_bytes().replace(data, data[:-1] + b"x"))
    with pytest.raises(ChecksumError, match=r"b/11\.jpg"):
        arraystore.copy(store, tmp_path / "copy.zarr", sync=False)
    assert not (tmp_path / "copy.zarr").exists()


def test_relocated_store_keeps_parts_and_columns(store: Path, tmp_path: Path) -> None:
    names = names_of(arraystore.open(store)["train"])
    values: dict[str, Any] = {
        "score": np.arange(len(names)),
        "tags": [[name] * (i % 3) for i, name in enumerate(names)],
    }
    for name, some in values.items():
        arraystore.add_column(store, "train", name, some, sync=False, description="of a model")
    shutil.move(tmp_path / "third", tmp_path / "moved")
    report = arraystore.relocate(store, tmp_path / "third", tmp_path / "moved")
    assert report.num_files == 2
    train = arraystore.open(store)["train"]
    assert names_of(train) == names
    assert has_all(train)
    assert train.columns["score"][:].tolist() == values["score"].tolist()
    assert [some.tolist() for some in train.columns["tags"][:]] == values["tags"]
    assert arraystore.verify(store).problems == ()


def test_columns_of_a_store_that_others_refer_to(tmp_path: Path) -> None:
    whole = write_folder(tmp_path / "whole", ALL)
    full = tmp_path / "full.zarr"
    arraystore.convert(f"folder:{whole}", full, split="train", sync=False)
    few = arraystore.open(full)["train"].select([3, 0, 5])
    part = arraystore.copy(few, tmp_path / "part.h5", copy_images=False, sync=False).path
    arraystore.add_column(full, "train", "score", np.arange(len(ALL)), sync=False)
    arraystore.add_column(part, "train", "rank", [2, 1, 3], sync=False)
    train = arraystore.open(part)["train"]
    assert train.image_bytes[:] == arraystore.open(full)["train"].image_bytes[[3, 0, 5]]
    assert train.columns["rank"][:].tolist() == [2, 1, 3]


def test_columns_of_images_in_other_files(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "photos", FIRST)
    for suffix in SUFFIXES:
        path = referring(folder, f"some{suffix}", split="train")
        features = np.arange(15.0).reshape(5, 3)
        arraystore.add_column(path, "train", "features", features, sync=False)
        arraystore.add_column(path, "train", "score", features[:, 0], sync=False)
        train = arraystore.open(path)["train"]
        assert train.where(score=6.0).image_bytes[:] == [train.image_bytes[2]]
        (batch,) = train.batches(5, columns=["features"], seed=1, size=8)
        at = [train.find(name) for name in batch.file_name]
        assert batch.columns["features"].tolist() == features[at].tolist()
        assert arraystore.verify(path).problems == ()
        for target in SUFFIXES:
            copy = arraystore.copy(path, tmp_path / f"copy{suffix}{target}", sync=False)
            copied = arraystore.open(copy.path)["train"]
            assert copied.columns["features"][:].tolist() == features.tolist()
            assert arraystore.verify(copy.path).problems == ()
        arraystore.remove_column(path, "train", "features", sync=False)
        assert has_all(arraystore.open(path)["train"], FIRST)
