"""Stores whose images stay where they are: in folders, archives and buckets."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import arraystore
from arraystore.cli.commands import main
from arraystore.errors import FormatError, ReferencedFileError
from tests.sources.forms import write_tar
from tests.support import SUFFIXES, picture, write_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from arraystore.cli.synthetic_archives import DrawnArchives

NAMES = [f"train/{label}/{i}.jpg" for label in ("ant", "bee") for i in range(4)]
IMAGES = {name: picture(seed=i) for i, name in enumerate(NAMES)}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "photos", IMAGES)


def referring(photos: Path, name: str = "some.zarr", **options: Any) -> Path:
    target = photos.parent / name
    how = {"copy_images": False, "sync": False, **options}
    arraystore.convert(f"folder:{photos}", target, **how)
    return target


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("mmap", [True, False])
def test_images_equal_those_of_a_copy(
    photos: Path, suffix: str, mmap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = referring(photos, f"some{suffix}", checksums=True)
    full = photos.parent / f"full{suffix}"
    report = arraystore.convert(f"folder:{photos}", full, sync=False)
    one = arraystore.open(path, mmap=mmap)["train"]
    other = arraystore.open(full)["train"]
    assert one.image_bytes[:] == other.image_bytes[:]
    assert [bytes(view) for view in one.image_views[[3, 0, 3]]] == other.image_bytes[[3, 0, 3]]
    assert one.image_bytes[5] == other.image_bytes[5]
    monkeypatch.setattr("arraystore.reading.image_reader.SLOW_SECONDS", -1)  # then they are read
    assert [one.image_bytes[i] for i in range(len(one))] == other.image_bytes[:]
    assert np.array_equal(one[2].image, other[2].image)
    for ours, theirs in zip(one.batches(3, seed=1), other.batches(3, seed=1), strict=True):
        assert np.array_equal(np.stack(ours.image), np.stack(theirs.image))
    assert arraystore.open(path).info.splits["train"].content_digest == (
        report.splits["train"].content_digest
    )
    assert arraystore.verify(path, decode=True, source=photos).problems == ()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_archives_keep_what_is_not_encoded_again(
    drawn: DrawnArchives, tmp_path: Path, suffix: str
) -> None:
    target = tmp_path / f"some{suffix}"
    options: Any = {"manual_dir": drawn.folder, "partial": True, "sync": False}
    report = arraystore.convert(
        "imagenet2012_subset/1pct", target, copy_images=False, checksums=True, **options
    )
    full = arraystore.convert("imagenet2012_subset/1pct", tmp_path / "full.zarr", **options)
    assert report.splits == full.splits
    assert report.splits["train"].reencoded  # so that both kinds of places are read
    store = arraystore.open(target, allow_references=drawn.folder)
    expected = arraystore.open(tmp_path / "full.zarr")
    for split in store:
        assert store[split].image_bytes[::-1] == expected[split].image_bytes[::-1]
    assert arraystore.verify(target, allow_references=True).problems == ()
    n_bytes = sum(file.stat().st_size for file in [target, *target.rglob("*")] if file.is_file())
    assert n_bytes < sum(split.num_bytes for split in full.splits.values()) / 2


def test_compressed_images_are_stored(tmp_path: Path) -> None:
    members = [("0.jpg", picture()), ("0.cls", b"cat")]
    shards = write_tar(tmp_path / "train-0.tar.gz", members, mode="w:gz")
    target = tmp_path / "some.zarr"
    arraystore.convert(f"wds:{shards}", target, copy_images=False, sync=False)
    shards.unlink()
    store = arraystore.open(target)
    assert store["train"].image_bytes[0] == picture()
    assert store.info.references == ()
    assert store.info.format_version == "1.0"


def test_report_says_how_many_images_stay_where(photos: Path, tmp_path: Path) -> None:
    report = arraystore.convert(f"folder:{photos}", tmp_path / "a.zarr", copy_images=False)
    assert report.notes == ("train: 8 images stay in 8 files",)
    (tmp_path / "apart").mkdir()
    other = tmp_path / "apart" / "a.zarr"
    report = arraystore.convert(f"folder:{photos}", other, copy_images=False)
    assert f"ARRAYSTORE_ALLOW_REFERENCES={photos}" in report.notes[1]


def test_info_names_splits_with_images_elsewhere(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(referring(photos))]) == 0
    shown = capsys.readouterr().out
    assert "images of train" in shown
    assert "unchecked" in shown


def test_unknown_checksums_are_not_invented(photos: Path) -> None:
    store = arraystore.open(referring(photos), checksum="always")
    digest = store.info.splits["train"].content_digest
    assert digest.startswith("unchecked:")
    assert not store.info.splits["train"].has_checksums
    with pytest.raises(ValueError, match="checksums of its images are not known"):
        _ = store["train"].image_crc32c
    assert store["train"].image_bytes[:2] == store["train"].image_bytes[[0, 1]]
    assert len(store["train"].image[:2]) == 2


def test_checksums_are_compared(photos: Path) -> None:
    path = referring(photos, checksums=True)
    file = photos / NAMES[0]
    status = file.stat()
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    store = arraystore.open(path)
    position = store["train"].find("ant/0.jpg")
    with pytest.raises(arraystore.ChecksumError, match=r"ant/0\.jpg"):
        _ = store["train"][position].image
    with pytest.raises(arraystore.ChecksumError):
        _ = arraystore.open(path, checksum="always")["train"].image_bytes[position]
    (problem,) = arraystore.verify(path).problems
    assert problem.file_name == "ant/0.jpg"


def replaced(path: Path) -> None:
    path.write_bytes(picture(seed=99))


def touched(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def truncated(path: Path) -> None:
    os.truncate(path, 100)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replaced, "must have"),
        (touched, "was modified at 1970-01-01"),
        (truncated, "has 100 bytes, must have"),
        (os.unlink, "does not exist"),
    ],
)
def test_changed_files_are_named_with_the_remedy(
    photos: Path, change: Callable[[Path], None], message: str
) -> None:
    path = referring(photos)
    change(photos / NAMES[0])
    store = arraystore.open(path)
    position = store["train"].find("ant/0.jpg")
    for read in (
        lambda: store["train"].image_bytes[position],
        lambda: store["train"].image_bytes[:],
        lambda: store["train"].image_views[[position]],
        lambda: store["train"][position],
    ):
        with pytest.raises(ReferencedFileError, match=message) as raised:
            read()
        assert str(photos / NAMES[0]) in str(raised.value)
        assert "arraystore relocate" in str(raised.value)
    assert store["train"].image_bytes[store["train"].find("bee/0.jpg")]  # others are read
    (problem,) = arraystore.verify(path).problems
    assert problem.file_name == "ant/0.jpg"


def test_change_while_a_store_is_open_is_noticed(photos: Path) -> None:
    train = arraystore.open(referring(photos))["train"]
    before = train.image_bytes[:]
    (photos / NAMES[3]).write_bytes(picture(seed=99) + b"0")
    with pytest.raises(ReferencedFileError, match="must have"):
        _ = train.image_bytes[:]
    (photos / NAMES[3]).unlink()
    with pytest.raises(ReferencedFileError, match="does not exist"):
        _ = train.image_bytes[train.find("ant/3.jpg")]
    assert len(before) == 8


def test_store_and_files_move_together(photos: Path, tmp_path: Path) -> None:
    path = referring(photos)
    (tmp_path / "new").mkdir()
    shutil.move(path, tmp_path / "new" / "other.zarr")
    shutil.move(photos, tmp_path / "new" / photos.name)
    store = arraystore.open(tmp_path / "new" / "other.zarr")
    assert len(store["train"].image_bytes[:]) == 8


def test_options_that_contradict(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs copy_images=False"):
        arraystore.convert(f"folder:{photos}", tmp_path / "a.zarr", checksums=False)


def test_complete_store_of_other_images_is_refused(photos: Path) -> None:
    path = referring(photos, sync=True)
    again = arraystore.convert(f"folder:{photos}", path, copy_images=False, resume=True)
    assert again.was_complete
    with pytest.raises(ValueError, match="copy_images"):
        arraystore.convert(f"folder:{photos}", path, resume=True)
    with pytest.raises(ValueError, match="checksums"):
        arraystore.convert(f"folder:{photos}", path, copy_images=False, checksums=True, resume=True)


def test_older_readers_refuse_the_split_by_its_kind(photos: Path) -> None:
    group = arraystore.open(referring(photos)).zarr()
    assert group.attrs["format_version"] == "1.2"
    assert group["train"].attrs["encoding-type"] == "image-references"


def test_image_outside_of_its_file_is_refused(photos: Path) -> None:
    import zarr

    path = referring(photos)
    array = zarr.open_group(path, mode="r+")["train/image_start"]
    array[2] = 10**6  # type: ignore[index] # it is writable here
    train = arraystore.open(path)["train"]
    with pytest.raises(FormatError, match=r"image 2 is .* outside of it"):
        _ = train.image_bytes[:]


def test_splits_pickle(photos: Path) -> None:
    import pickle

    path = referring(photos)
    train = arraystore.open(path, allow_references=str(photos))["train"]
    again = pickle.loads(pickle.dumps(train))
    assert again.image_bytes[:] == train.image_bytes[:]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("checksums", [True, False])
def test_copy_has_the_bytes_of_a_conversion(
    drawn: DrawnArchives, tmp_path: Path, suffix: str, checksums: bool
) -> None:
    options: Any = {"manual_dir": drawn.folder, "partial": True, "sync": False}
    dataset, source, target = "imagenet2012_subset/1pct", tmp_path / "a.zarr", tmp_path / "copy"
    arraystore.convert(dataset, source, copy_images=False, checksums=checksums, **options)
    full = tmp_path / f"full{suffix}"
    arraystore.convert(dataset, full, **options)
    with pytest.raises(ReferencedFileError, match="allow_references"):
        arraystore.copy(source, f"{target}{suffix}")
    copy = tmp_path / f"full{suffix}.copy{suffix}"
    report = arraystore.copy(source, copy, allow_references=drawn.folder, sync=False)
    assert report.left_out == ()
    assert report.splits == arraystore.open(full).info.splits
    assert objects(copy) == objects(full)


def objects(store: Path) -> dict[str, bytes]:
    """Return all bytes of a store by their paths below it."""
    files = [store] if store.is_file() else [path for path in store.rglob("*") if path.is_file()]
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in files}


def test_damaged_image_is_not_copied(photos: Path) -> None:
    path = referring(photos, checksums=True)
    file = photos / NAMES[0]
    time = file.stat().st_mtime_ns
    file.write_bytes(file.read_bytes()[:-1] + b"0")
    os.utime(file, ns=(time, time))
    with pytest.raises(arraystore.ChecksumError, match=r"ant/0\.jpg"):
        arraystore.copy(path, photos.parent / "copy.zarr", sync=False)
    assert not (photos.parent / "copy.zarr").exists()


def test_xarray_reads_referenced_images(photos: Path) -> None:
    import xarray

    path = referring(photos)
    train = xarray.open_dataset(path, engine="arraystore", group="train")
    assert train.image_bytes[3].item() == arraystore.open(path)["train"].image_bytes[3]
    assert "image_crc32c" not in train
    assert train.attrs["is_referenced"] == 1


def test_columns_of_users_stay_with_referenced_images(photos: Path) -> None:
    path = referring(photos, checksums=True)
    values = np.arange(16.0).reshape(8, 2)
    arraystore.add_column(path, "train", "score", values, sync=False)
    train = arraystore.open(path)["train"]
    assert np.array_equal(train.columns["score"][:], values)
    copy = photos.parent / "copy.h5"
    arraystore.copy(path, copy, sync=False)
    copied = arraystore.open(copy)
    assert np.array_equal(copied["train"].columns["score"][:], values)
    assert (copied.info.format_version, copied.info.references) == ("1.2", ())
    arraystore.relocate(path, photos, photos)
    again = arraystore.open(path)["train"]
    assert np.array_equal(again.columns["score"][:], values)
    assert again.image_bytes[:] == copied["train"].image_bytes[:]
