"""Exported references: zarr-python and fsspec read exactly the bytes of each image."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import arraystore
from arraystore.cli.commands import main
from arraystore.integrations.kerchunk import export_references

if TYPE_CHECKING:
    from pathlib import Path

    from arraystore import Split
    from arraystore.cli.synthetic_archives import DrawnArchives


def group_of(path: Path) -> tuple[Any, list[tuple[str, int, int]]]:
    """Open references with zarr-python and fsspec; return the group and a list of all reads."""
    import zarr
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
    from fsspec.implementations.local import LocalFileSystem
    from fsspec.implementations.reference import ReferenceFileSystem

    reads: list[tuple[str, int, int]] = []

    class Files(LocalFileSystem):  # type: ignore[misc] # fsspec has no types
        cachable = False

        def cat_file(self, path: str, start: Any = None, end: Any = None, **options: Any) -> bytes:
            reads.append((path, start, end))
            data: bytes = super().cat_file(path, start, end, **options)
            return data

    files = AsyncFileSystemWrapper(Files(), asynchronous=True)
    system = ReferenceFileSystem(str(path), fs=files, asynchronous=True, skip_instance_cache=True)
    store = zarr.storage.FsspecStore(system, read_only=True, path="")
    return zarr.open_group(store, mode="r"), reads


@pytest.fixture
def rectilinear() -> Any:
    import zarr

    if zarr.config.get("array.rectilinear_chunks", None) is None:
        pytest.skip("this zarr-python does not read chunks of different sizes")
    with zarr.config.set({"array.rectilinear_chunks": True}):
        yield


def check(split: Split, path: Path) -> None:
    group, reads = group_of(path)
    train = group["train"]
    start, nbytes = train["image_start"][:], train["image_nbytes"][:]
    expected = split.image_bytes[:]
    reads.clear()
    for i in range(len(split)):
        data = train["image_payload"][int(start[i]) : int(start[i] + nbytes[i])]
        assert data.tobytes() == expected[i]
    # Not a byte more than those of the images.
    assert sum(end - first for _, first, end in reads) == sum(map(len, expected))
    assert train["label"][:].tolist() == split.label.tolist()
    assert train["file_name"][:].tolist() == split.file_name.tolist()
    assert tuple(group["label_name"][:]) == split.label_names


@pytest.mark.usefixtures("rectilinear")
def test_zarr_reads_exactly_the_images(train: Split, tmp_path: Path) -> None:
    assert export_references(train, tmp_path / "refs.json") == len(train)
    check(train, tmp_path / "refs.json")


@pytest.mark.usefixtures("rectilinear")
def test_selections_and_images_in_archives(drawn: DrawnArchives, tmp_path: Path) -> None:
    path = tmp_path / "some.h5"
    arraystore.convert(
        *("imagenet2012_subset/1pct", path),
        manual_dir=drawn.folder,
        partial=True,
        copy_images=False,
        sync=False,
    )
    store = arraystore.open(path, allow_references=True)
    some = store["train"].per_label(2)
    export_references(some, tmp_path / "refs.json")
    check(some, tmp_path / "refs.json")
    archives = {
        ref[0]
        for ref in json.loads((tmp_path / "refs.json").read_text())["refs"].values()
        if isinstance(ref, list)
    }
    assert str(drawn.folder / "ILSVRC2012_img_train.tar") in archives


def test_command_writes_references(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "refs.json"
    arguments = ["export", str(path), "train", "--references", "-o", str(output), "--sample", "3"]
    assert main(arguments) == 0
    assert "references to 3 images" in capsys.readouterr().out
    assert json.loads(output.read_text())["version"] == 1
    assert main(arguments) == 1
    assert "exists" in capsys.readouterr().err
