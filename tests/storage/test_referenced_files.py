"""Which files a store may refer to; SECURITY.md promises that no others are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import arraystore
from arraystore.cli.commands import main
from arraystore.errors import FormatError, ReferencedFileError
from arraystore.storage.location import Location
from arraystore.storage.referenced_files import VARIABLE, ReferencedFiles, References
from tests.support import picture, write_folder

if TYPE_CHECKING:
    from pathlib import Path


def is_followed(store: str, path: str, allowed: bool | tuple[str, ...] = False) -> bool:
    references = References(Location.parse(store), allowed)
    return references.is_allowed(references.resolve(path))


@pytest.mark.parametrize(
    ("store", "path", "is_inside"),
    [
        ("/data/a.zarr", "tars/train.tar", True),
        ("/data/a.zarr", "/data/train.tar", True),
        ("/data/a.zarr", "../train.tar", False),
        ("/data/a.zarr", "tars/../../etc/passwd", False),
        ("/data/a.zarr", "/etc/passwd", False),
        ("/data/a.zarr", "/database/train.tar", False),
        ("/data/a.zarr", "file:///etc/passwd", False),
        ("/data/a.zarr", "s3://bucket/train.tar", False),
        ("/data/a.zarr", "http://169.254.169.254/latest", False),
        ("s3://bucket/data/a.zarr", "train.tar", True),
        ("s3://bucket/data/a.zarr", "s3://bucket/data/train.tar", True),
        ("s3://bucket/data/a.zarr", "s3://bucket/train.tar", False),
        ("s3://bucket/data/a.zarr", "s3://other/data/train.tar", False),
        ("s3://bucket/data/a.zarr", "gs://bucket/data/train.tar", False),
        ("s3://bucket/data/a.zarr", "file:///data/train.tar", False),
        ("https://host/data/a.zarr", "https://host.evil/data/train.tar", False),
        ("https://host/data/a.zarr", "https://host/data/train.tar", True),
    ],
)
def test_only_the_folder_of_the_store_is_followed(store: str, path: str, is_inside: bool) -> None:
    assert is_followed(store, path) is is_inside
    assert is_followed(store, path, allowed=True)


@pytest.mark.parametrize(
    ("store", "path"),
    [
        ("s3://bucket/data/a.zarr", "/etc/passwd"),
        ("s3://bucket/data/a.zarr", "../../x"),
        ("s3://bucket/a.zarr", "s3://bucket/data/../x"),
        ("https://host/data/a.zarr", "https://host/data/%2e%2e/x"),
        ("/data/a.zarr", ""),
        ("/data/a.zarr", "a\0b"),
        ("/data/a.zarr", "gopher://host/x"),
    ],
)
def test_invalid_paths_are_refused_whatever_is_allowed(store: str, path: str) -> None:
    with pytest.raises(FormatError, match="refers to"):
        References(Location.parse(store), allowed=True).resolve(path)


def test_folders_can_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    store, path = "/data/a.zarr", "/mnt/tars/train.tar"
    assert is_followed(store, path, ("/mnt/tars",))
    assert not is_followed(store, path, ("/mnt/tars2", "s3://bucket"))
    monkeypatch.setenv(VARIABLE, "/mnt/tars:s3://bucket/images")
    assert is_followed(store, path)
    assert is_followed(store, "s3://bucket/images/a.jpg")
    assert not is_followed(store, "s3://bucket/a.jpg")
    monkeypatch.setenv(VARIABLE, "1")
    assert is_followed(store, "/etc/passwd")


def files_of(store: Path, *paths: str) -> ReferencedFiles:
    sizes = np.full(len(paths), 3)
    return ReferencedFiles(References(Location.parse(store)), paths, sizes, 0 * sizes, 0 * sizes)


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    inside = write_folder(tmp_path / "inside", {"a.jpg": b"abc"})
    secret = write_folder(tmp_path / "outside", {"secret": b"abc"})
    (inside / "link.jpg").symlink_to(secret / "secret")
    (inside / "folder").symlink_to(secret)
    (inside / "fine.jpg").symlink_to(inside / "a.jpg")
    files = files_of(inside / "a.zarr", "a.jpg", "fine.jpg", "link.jpg", "folder/secret")
    assert [files[0], files[1]] == [str(inside / "a.jpg"), str(inside / "fine.jpg")]
    for number in (2, 3):
        with pytest.raises(ReferencedFileError, match="outside of its folder") as raised:
            _ = files[number]
        assert raised.value.is_refused


def test_refusal_names_what_allows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = write_folder(tmp_path / "photos", {"train/a/1.jpg": picture(), "train/b/1.jpg": b""})
    (photos / "train/b/1.jpg").write_bytes(picture(seed=1))
    (tmp_path / "apart").mkdir()
    path = tmp_path / "apart" / "a.zarr"
    arraystore.convert(f"folder:{photos}", path, copy_images=False, sync=False)
    train = arraystore.open(path)["train"]
    assert sorted(train.label.tolist()) == [0, 1]  # what the store itself has is read
    for read in (lambda: train.image_bytes[0], lambda: train.image_bytes[:], train.read_plan):
        with pytest.raises(ReferencedFileError, match="allow_references="):
            read()
    with pytest.raises(ReferencedFileError, match=VARIABLE):
        arraystore.verify(path)
    assert arraystore.open(path, allow_references=photos)["train"].image_bytes[0]
    assert arraystore.verify(path, allow_references=photos).ok
    assert main(["verify", str(path)]) == 1
    assert VARIABLE in capsys.readouterr().err


def test_command_allows_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, "")
    photos = write_folder(tmp_path / "photos", {"train/a/1.jpg": picture()})
    (tmp_path / "apart").mkdir()
    path = str(tmp_path / "apart" / "a.h5")
    assert main(["convert", f"folder:{photos}", path, "--no-copy-images", "--no-sync"]) == 0
    assert "1 images stay in 1 file" in capsys.readouterr().out
    assert main(["--allow-references", str(photos), "verify", path]) == 0


def test_pipes_and_folders_are_not_read(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    write_folder(tmp_path / "photos", {"train/a/1.jpg": picture()})
    path = tmp_path / "a.zarr"
    arraystore.convert(f"folder:{tmp_path / 'photos'}", path, copy_images=False, sync=False)
    (tmp_path / "photos/train/a/1.jpg").unlink()
    os.mkfifo(tmp_path / "photos/train/a/1.jpg")
    with pytest.raises(arraystore.StorageError, match="must be a file"):
        _ = arraystore.open(path)["train"].image_bytes[0]
