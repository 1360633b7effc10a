"""Lance tables that refer to images: Lance reads them from where they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lance
import pytest

import arraystore
from arraystore.cli.commands import main
from arraystore.containers.zarr import writer as zarr_writer
from arraystore.exporting import lance_references
from tests.exporting.test_formats import read_lance_references, samples_of
from tests.exporting.test_resume import exported, interrupt
from tests.reading.test_remote import KEYS
from tests.support import SUFFIXES, picture, write_folder, write_once, write_store
from tests.test_reader import stored_files
from tests.web import WebServer

if TYPE_CHECKING:
    from pathlib import Path

N_SAMPLES = 64


def write_large_store(path: Path) -> None:
    images = [picture(64, 64, seed=i) for i in range(N_SAMPLES)]
    names = [f"{i}.jpg" for i in range(N_SAMPLES)]
    write_store(path, names, [i % 2 for i in range(N_SAMPLES)], images, classes="ab")


def large_store(path: Path) -> arraystore.Split:
    write_once(write_large_store, path)
    return arraystore.open(path)["train"]


def num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("folder", ["plain", "a b", "é#1%20?+[x]"])
def test_table_refers_to_the_files_of_the_store(suffix: str, folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir()
    train = large_store(tmp_path / folder / f"a{suffix}")
    report = arraystore.export(train, tmp_path / "out", "lance-references")
    assert read_lance_references(tmp_path / "out") == samples_of(train)
    assert num_bytes(tmp_path / "out") < train.image_nbytes.sum() / 10
    whole = arraystore.open(tmp_path / folder / f"a{suffix}").info.splits["train"]
    assert report.splits["train"].content_digest == whole.content_digest
    assert not report.has_checksums
    for file in stored_files(tmp_path / folder / f"a{suffix}"):
        file.unlink()
    with pytest.raises((OSError, ValueError), match="Not found"):
        read_lance_references(tmp_path / "out")


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_table_refers_to_the_files_that_a_store_refers_to(kind: str, tmp_path: Path) -> None:
    files = {f"train/{c}/{c}{i}.jpg": picture(seed=i) for c in "ab" for i in range(5)}
    address = f"folder:{write_folder(tmp_path / 'in', files)}"
    options: dict[str, Any] = {}
    if kind == "tar":
        arraystore.convert(address, tmp_path / "copy.h5", sync=False)
        copy = arraystore.open(tmp_path / "copy.h5")["train"]
        arraystore.export(copy, tmp_path / "in.tars", "webdataset", sync=False)
        address = f"wds:{tmp_path / 'in.tars'}"
        options["classes"] = tmp_path / "in.tars" / "classes.txt"
    arraystore.convert(address, tmp_path / "a.zarr", copy_images=False, sync=False, **options)
    (train,) = arraystore.open(tmp_path / "a.zarr").values()
    arraystore.export(train, tmp_path / "out", "lance-references")
    (table,) = (tmp_path / "out").glob("*.lance")
    uris = {row["image"]["blob_uri"] for row in lance.dataset(str(table)).to_table().to_pylist()}
    assert all(str(tmp_path / "in") in uri for uri in uris)
    blobs = lance.dataset(str(table)).read_blobs("image", indices=[*range(len(train))])
    assert [data for _, data in blobs] == train.image_bytes[:]


def test_image_in_two_shards_is_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zarr_writer, "SHARD_NBYTES", 2048)
    monkeypatch.setattr(zarr_writer, "INNER_CHUNK_NBYTES", 2048)
    write_large_store(tmp_path / "a.zarr")
    train = arraystore.open(tmp_path / "a.zarr")["train"].sample(20, seed=0)
    first = train._column("image_start") // 2048
    last = (train._column("image_start") + train.image_nbytes - 1) // 2048
    is_divided = first != last
    assert is_divided.sum() > 0
    arraystore.export(train, tmp_path / "out", "lance-references")
    assert read_lance_references(tmp_path / "out") == samples_of(train)
    table = lance.dataset(str(tmp_path / "out" / "train.lance"))
    uris = [row["image"]["blob_uri"] for row in table.to_table().to_pylist()]
    assert [not uri for uri in uris] == is_divided.tolist()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_table_refers_to_objects_in_a_bucket(suffix: str, tmp_path: Path) -> None:
    train = large_store(tmp_path / f"a{suffix}")
    with WebServer() as web:
        web.put(tmp_path / f"a{suffix}", f"bucket/a{suffix}")
        settings = KEYS | {"endpoint_url": web.url}
        address = f"s3://bucket/a{suffix}"
        remote = arraystore.open(address, storage_options=settings)["train"]
        _ = remote.label, remote.file_name, remote.image_nbytes
        arraystore.export(remote, tmp_path / "out", "lance-references")
        asked = [one.range for one in web.asked if "payload" in one.path]
        assert suffix == ".h5" or not asked  # no image was read
        options = {
            "aws_endpoint": web.url,
            "aws_access_key_id": "me",
            "aws_secret_access_key": "mine",
            "aws_region": "us-east-1",
            "allow_http": "true",
        }
        table = lance.dataset(str(tmp_path / "out" / "train.lance"), storage_options=options)
        blobs = table.read_blobs("image", indices=[*range(N_SAMPLES)])
    assert [data for _, data in blobs] == train.image_bytes[:]


def test_export_of_a_moved_store_is_not_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lance_references, "_ROWS", 2)
    train = large_store(tmp_path / "a.zarr")
    interrupt(train, tmp_path / "out", "lance-references", monkeypatch)
    (tmp_path / "a.zarr").rename(tmp_path / "b.zarr")
    moved = arraystore.open(tmp_path / "b.zarr")["train"]
    with pytest.raises(ValueError, match="cannot resume: place of the images is"):
        exported(moved, tmp_path / "out", "lance-references", monkeypatch, resume=True)


def test_web_server_is_refused(tmp_path: Path) -> None:
    large_store(tmp_path / "a.zarr")
    with WebServer() as web:
        web.put(tmp_path / "a.zarr", "a.zarr")
        train = arraystore.open(f"{web.url}/a.zarr")["train"]
        with pytest.raises(ValueError, match="Lance reads blobs from disks and from s3, gs, az"):
            arraystore.export(train, tmp_path / "out", "lance-references")
    assert not (tmp_path / "out").exists()


def test_command_exports_references(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = large_store(tmp_path / "a.h5")
    command = ["export", str(tmp_path / "a.h5"), "-o", str(tmp_path / "out")]
    assert main([*command, "--format", "lance-references"]) == 0
    assert "images were not compared with checksums" in capsys.readouterr().out
    assert read_lance_references(tmp_path / "out") == samples_of(train)
