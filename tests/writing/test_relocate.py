"""Files of a store that moved: stating their new place."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

import arraystore
from arraystore.cli.commands import main
from arraystore.errors import ReferencedFileError
from tests.support import SUFFIXES, picture, write_folder
from tests.writing.test_references import objects

if TYPE_CHECKING:
    from pathlib import Path

    from arraystore.cli.synthetic_archives import DrawnArchives

IMAGES = {f"train/{label}/{i}.jpg": picture(8 + i, seed=i) for i in range(3) for label in "ab"}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "old" / "photos", IMAGES)


def referring(photos: Path, suffix: str = ".zarr", **options: Any) -> Path:
    path = photos.parent / f"some{suffix}"
    arraystore.convert(f"folder:{photos}", path, copy_images=False, sync=False, **options)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_moved_archives_are_read_from_their_new_place(
    drawn: DrawnArchives, tmp_path: Path, suffix: str
) -> None:
    old, new, path = tmp_path / "old", tmp_path / "new", tmp_path / f"some{suffix}"
    shutil.copytree(drawn.folder, old)
    arraystore.convert(
        *("imagenet2012_subset/1pct", path),
        manual_dir=old,
        partial=True,
        copy_images=False,
        sync=False,
    )
    expected = {name: split.image_bytes[:] for name, split in arraystore.open(path).items()}
    shutil.copytree(old, new, copy_function=shutil.copy)  # with other times
    shutil.rmtree(old)
    with pytest.raises(ReferencedFileError, match=f"relocate {path} {old}"):
        _ = arraystore.open(path)["train"].image_bytes[:]
    report = arraystore.relocate(path, old, new)
    assert report.num_files == 2
    assert report.num_compared == 48  # two of the 50 were encoded again
    store = arraystore.open(path)
    assert {name: split.image_bytes[:] for name, split in store.items()} == expected
    assert arraystore.verify(path).problems == ()


@pytest.mark.parametrize("checksums", [True, False])
def test_other_images_of_the_same_size_are_refused(photos: Path, checksums: bool) -> None:
    path = referring(photos, checksums=checksums)
    new = photos.parent / "new"
    shutil.copytree(photos, new)
    data = picture(20, seed=9)
    first = new / "train/a/0.jpg"
    size = first.stat().st_size
    first.write_bytes((data + bytes(size))[:size])
    before = objects(path)
    with pytest.raises(ReferencedFileError, match="has another image"):
        arraystore.relocate(path, photos, new)
    first.write_bytes(b"1")
    with pytest.raises(ReferencedFileError, match="has 1 bytes"):
        arraystore.relocate(path, photos, new)
    first.unlink()
    with pytest.raises(ReferencedFileError, match=r"0\.jpg"):
        arraystore.relocate(path, photos, new)
    assert objects(path) == before


def test_copies_with_other_times_are_accepted(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = referring(photos)
    file = photos / "train/a/1.jpg"
    os.utime(file, ns=(5, 5))
    with pytest.raises(ReferencedFileError, match="was modified"):
        _ = arraystore.open(path)["train"].image_bytes[:]
    assert main(["relocate", str(path), str(file), str(file)]) == 0
    assert "1 file moved; 1 images compared" in capsys.readouterr().out
    assert len(arraystore.open(path)["train"].image_bytes[:]) == len(IMAGES)


def test_unknown_place_is_refused(photos: Path) -> None:
    path = referring(photos)
    with pytest.raises(ValueError, match="refers to no file at /nowhere"):
        arraystore.relocate(path, "/nowhere", photos)
    with pytest.raises(ValueError, match="only stores on a disk"):
        arraystore.relocate("s3://bucket/a.zarr", "/nowhere", photos)
