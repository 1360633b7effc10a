"""Stores whose images are in other stores: subsets without copies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import arraystore
from arraystore.cli.commands import main
from arraystore.containers.zarr import reader as zarr_reader
from arraystore.containers.zarr import writer as zarr_writer
from arraystore.errors import ReferencedFileError
from tests.support import SUFFIXES, picture, write_folder
from tests.writing.test_references import objects

if TYPE_CHECKING:
    from pathlib import Path

NAMES = [f"train/{label}/{i}.jpg" for label in ("ant", "bee") for i in range(8)]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_folder(
        tmp_path / "photos", {name: picture(10, 12, seed=i) for i, name in enumerate(NAMES)}
    )


def total(store: Path) -> int:
    return sum(map(len, objects(store).values()))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("suffix_of_part", SUFFIXES)
def test_nested_parts_share_the_images(photos: Path, suffix: str, suffix_of_part: str) -> None:
    folder = photos.parent
    full, part, few = (folder / name for name in ("full", "part", "few"))
    full, part, few = (
        full.with_suffix(suffix),
        part.with_suffix(suffix_of_part),
        few.with_suffix(suffix),
    )
    arraystore.convert(f"folder:{photos}", full, sync=False)
    train = arraystore.open(full)["train"]
    options: Any = {"copy_images": False, "sync": False}
    arraystore.copy(train.where(label="ant"), part, **options)
    middle = arraystore.open(part)["train"]
    report = arraystore.copy(arraystore.open(part)["train[:3]"], few, **options)
    assert report.notes == ("train: 3 images stay in 1 files",)
    last = arraystore.open(few)["train"]
    assert middle.image_bytes[:] == train.where(label="ant").image_bytes[:]
    assert last.image_bytes[:] == middle.image_bytes[:3]
    assert arraystore.verify(few, decode=True).ok
    (file,) = last._sample_set._members[0].stored.references.files.paths  # type: ignore[union-attr] # it is joined
    assert file.startswith(full.name)  # not the part between them
    arraystore.copy(train.where(label="ant"), folder / f"copy{suffix}", sync=False)
    copied = arraystore.open(folder / f"copy{suffix}").info
    assert arraystore.open(part).info.splits["train"].content_digest == (
        copied.splits["train"].content_digest
    )
    arraystore.copy(part, folder / f"again{suffix}", sync=False)
    again = arraystore.open(folder / f"again{suffix}").info
    assert again.splits == copied.splits


def test_images_in_two_shards_are_copied(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (zarr_writer, zarr_reader):
        monkeypatch.setattr(module, "SHARD_NBYTES", 2048)
        monkeypatch.setattr(module, "INNER_CHUNK_NBYTES", 1024)
    monkeypatch.setattr("arraystore.indexing.layout.SHARD_NBYTES", 2048)
    full, part = photos.parent / "full.zarr", photos.parent / "part.zarr"
    arraystore.convert(f"folder:{photos}", full, sync=False)
    report = arraystore.copy(full, part, copy_images=False, sync=False)
    assert "are in the store because" in report.notes[0]
    expected = arraystore.open(full)["train"].image_bytes[:]
    assert arraystore.open(part)["train"].image_bytes[:] == expected
    assert arraystore.verify(part).problems == ()


def test_unknown_checksums_stay_unknown(photos: Path) -> None:
    full, part = photos.parent / "full.zarr", photos.parent / "part.zarr"
    arraystore.convert(f"folder:{photos}", full, copy_images=False, sync=False)
    arraystore.copy(arraystore.open(full)["train[:4]"], part, copy_images=False, sync=False)
    assert not arraystore.open(part).info.splits["train"].has_checksums
    assert arraystore.verify(part).ok
    copy = photos.parent / "copy.zarr"
    arraystore.copy(arraystore.open(part)["train[:2]"], copy, sync=False)
    assert arraystore.open(copy).info.splits["train"].has_checksums
    assert arraystore.verify(copy, decode=True).ok


def test_command_leaves_images_in_a_store(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full, part = photos.parent / "full.zarr", photos.parent / "part.h5"
    arraystore.convert(f"folder:{photos}", full, sync=False)
    arguments = ["copy", str(full), str(part), "--per-label", "2", "--no-copy-images", "--no-sync"]
    assert main(arguments) == 0
    assert "4 images stay in 1 file" in capsys.readouterr().out
    assert len(arraystore.open(part)["train"].image_bytes[:]) == 4


def test_replaced_store_is_noticed(photos: Path) -> None:
    full, part = photos.parent / "full.zarr", photos.parent / "part.zarr"
    arraystore.convert(f"folder:{photos}", full, sync=False)
    arraystore.copy(full, part, copy_images=False, sync=False)
    arraystore.convert(f"folder:{photos}", full, sync=False, overwrite=True)
    with pytest.raises(ReferencedFileError, match="was modified"):
        _ = arraystore.open(part)["train"].image_bytes[:]
