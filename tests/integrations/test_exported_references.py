"""Exported references: zarr-python reads exactly the bytes of each image, with each format."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import numpy as np
import pytest

import arraystore
from arraystore.cli.commands import main
from arraystore.errors import SourceError
from arraystore.indexing.byte_range import ZEROS
from arraystore.integrations import icechunk_repository, kerchunk
from arraystore.integrations.icechunk_repository import plain_folder, url_of
from arraystore.integrations.referenced_group import referenced_group
from arraystore.integrations.references import FORMATS, export_references
from arraystore.storage.location import Location
from arraystore.storage.objects.connection import S3Service, s3_service
from tests.support import picture, write_folder, write_store
from tests.web import WebServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from arraystore import Split
    from arraystore.cli.synthetic_archives import DrawnArchives

KINDS = tuple(FORMATS)
ONE_CONTAINER = pytest.mark.parametrize("path", [".zarr"], indirect=True)


@dataclass
class Read:
    """References opened with zarr-python.

    Attributes
    ----------
    group : zarr.Group
    ranges : list of (str, int)
        Path and length of each range that fsspec read.
    """

    group: Any
    ranges: list[tuple[str, int]] = field(default_factory=list)


@pytest.fixture
def rectilinear() -> Iterator[None]:
    import zarr

    if zarr.config.get("array.rectilinear_chunks", None) is None:
        pytest.skip("this zarr-python does not read chunks of different sizes")
    with zarr.config.set({"array.rectilinear_chunks": True}):
        yield


def read(path: Path, web: WebServer | None = None) -> Read:
    """Open references; those to objects with a server."""
    return read_icechunk(path, web) if path.suffix == ".icechunk" else read_kerchunk(path, web)


def read_kerchunk(path: Path, web: WebServer | None) -> Read:
    import zarr
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
    from fsspec.implementations.local import LocalFileSystem
    from fsspec.implementations.reference import LazyReferenceMapper, ReferenceFileSystem
    from fsspec.spec import AbstractFileSystem

    found: list[tuple[str, int]] = []

    class Files(LocalFileSystem):  # type: ignore[misc] # fsspec has no types
        cachable = False

        def cat_file(self, path: str, start: Any = None, end: Any = None, **options: Any) -> bytes:
            found.append((path, end - start))
            data: bytes = super().cat_file(path, start, end, **options)
            return data

    class Objects(AbstractFileSystem):  # type: ignore[misc] # fsspec has no types
        protocol = "s3"
        cachable = False

        def cat_file(self, path: str, start: Any = None, end: Any = None, **options: Any) -> bytes:
            assert web is not None
            address = f"{web.url}/{path.removeprefix('s3://')}"
            request = Request(address, headers={"Range": f"bytes={start}-{end - 1}"})
            with urlopen(request) as response:
                data: bytes = response.read()
            return data

    files = AsyncFileSystemWrapper(Objects() if web else Files(), asynchronous=True)
    where: Any = str(path)
    if path.suffix == ".parquet":
        where = LazyReferenceMapper(where, engine="pyarrow")  # by default fastparquet
    system = ReferenceFileSystem(where, fs=files, asynchronous=True, skip_instance_cache=True)
    store = zarr.storage.FsspecStore(system, read_only=True, path="")
    return Read(zarr.open_group(store, mode="r"), found)


def read_icechunk(path: Path, web: WebServer | None) -> Read:
    icechunk = pytest.importorskip("icechunk", reason="icechunk needs Python 3.12 or newer")
    if web is None:
        storage = icechunk.local_filesystem_storage(str(path))
        access = icechunk.credentials.LocalFileSystemAccess
    else:
        storage = icechunk.s3_storage(
            bucket="bucket",
            prefix=path.name,
            region="us-east-1",
            endpoint_url=web.url,
            allow_http=True,
            anonymous=True,
            force_path_style=True,
        )
        access = icechunk.s3_anonymous_credentials()
    prefixes = icechunk.Repository.fetch_config(storage).virtual_chunk_containers or ()
    allowed = icechunk.containers_credentials(dict.fromkeys(prefixes, access))
    repository = icechunk.Repository.open(storage, authorize_virtual_chunk_access=allowed)
    import zarr

    return Read(zarr.open_group(repository.readonly_session("main").store, mode="r"))


def check(splits: Mapping[str, Split], found: Read) -> None:
    """Compare everything that references give with the splits."""
    for name, split in splits.items():
        group = found.group[name]
        start, nbytes = group["image_start"][:].tolist(), group["image_nbytes"][:].tolist()
        expected = split.image_bytes[:]
        assert nbytes == list(map(len, expected))
        assert group["image_payload"].shape == (sum(nbytes),)
        for first, size, data in zip(start, nbytes, expected, strict=True):
            assert group["image_payload"][first : first + size].tobytes() == data
        assert group["label"][:].tolist() == split.label.tolist()
        assert group["file_name"][:].tolist() == split.file_name.tolist()
        assert tuple(found.group["label_name"][:]) == split.label_names
    assert found.group.attrs["splits"] == [*splits]


def exported(splits: Mapping[str, Split], target: Path) -> Path:
    if target.suffix == ".icechunk":
        pytest.importorskip("icechunk", reason="icechunk needs Python 3.12 or newer")
    assert export_references(splits, Location.parse(target)) == sum(map(len, splits.values()))
    return target


@pytest.mark.usefixtures("rectilinear")
@pytest.mark.parametrize("kind", KINDS)
def test_zarr_reads_exactly_the_images(store: arraystore.Store, tmp_path: Path, kind: str) -> None:
    found = read(exported(store, tmp_path / f"refs{kind}"))
    check(store, found)
    if kind != ".icechunk":  # its reads are not seen here, but in a bucket
        assert sum(n for _, n in found.ranges) == sum(
            int(s.image_nbytes.sum()) for s in store.values()
        )
    assert [path.name for path in tmp_path.iterdir()] == [f"refs{kind}"]


@pytest.mark.usefixtures("rectilinear")
@pytest.mark.parametrize("kind", KINDS)
def test_selections_of_images_in_archives(drawn: DrawnArchives, tmp_path: Path, kind: str) -> None:
    arraystore.convert(
        *("imagenet2012_subset/1pct", tmp_path / "a.h5"),
        manual_dir=drawn.folder,
        partial=True,
        copy_images=False,
        sync=False,
    )
    some = arraystore.open(tmp_path / "a.h5", allow_references=True)["train"].per_label(2)
    found = read(exported({"train": some}, tmp_path / f"refs{kind}"))
    check({"train": some}, found)
    archive = str(drawn.folder / "ILSVRC2012_img_train.tar")
    assert kind == ".icechunk" or archive in {path for path, _ in found.ranges}


@pytest.mark.usefixtures("rectilinear")
@pytest.mark.parametrize(
    ("kind", "suffix"), [(".json", ".h5"), (".parquet", ".zarr"), (".icechunk", ".zarr")]
)
def test_parts_columns_and_odd_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, suffix: str
) -> None:
    monkeypatch.setattr(kerchunk, "RECORD_SIZE", 2)
    monkeypatch.setattr(icechunk_repository, "MANIFEST_CHUNKS", 2)
    folder = tmp_path / "50% of #1?"
    folder.mkdir()
    path = folder / f"ä b{suffix}"
    records = [{"image": picture(seed=i), "label": "cat", "file_name": f"{i}"} for i in range(5)]
    arraystore.write(path, {"train": records[:3]}, classes=["cat", "dog"], sync=False)
    rng = np.random.default_rng(0)
    arraystore.add_column(path, "train", "features", rng.random((3, 2, 2), np.float32))
    arraystore.add_column(path, "train", "boxes", [[1], [2, 3], []], ragged=True)
    splits = arraystore.open(path)
    found = read(exported(splits, tmp_path / f"one{kind}"))
    check(splits, found)
    columns = found.group["train/columns"]
    assert np.array_equal(columns["features"][:], splits["train"].columns["features"][:])
    bounds = columns["boxes/indptr"][:]
    values = np.split(columns["boxes/values"][:], bounds[1:-1])
    assert [v.tolist() for v in values] == [v.tolist() for v in splits["train"].columns["boxes"][:]]
    again = [{"image": picture(seed=9), "label": "dog", "file_name": "1"}, *records[3:]]
    arraystore.append(path, again, split="train", on_existing="replace", sync=False)
    parts = {"train": arraystore.open(path)["train"].select([4, 3, 0, 1, 2])}
    check(parts, read(exported(parts, tmp_path / f"parts{kind}")))


@pytest.mark.usefixtures("rectilinear")
@pytest.mark.parametrize("kind", KINDS)
def test_an_image_in_a_bucket_costs_its_bytes(path: Path, tmp_path: Path, kind: str) -> None:
    if kind == ".icechunk":
        pytest.importorskip("icechunk", reason="icechunk needs Python 3.12 or newer")
    with WebServer() as web:
        web.put(path, f"bucket/{path.name}")
        train = arraystore.open(f"s3://bucket/{path.name}", storage_options=web.s3)["train"]
        target = Location.parse(f"s3://bucket/refs{kind}", web.s3)
        export_references({"train": train}, target)
        with pytest.raises(FileExistsError, match="exists"):
            export_references({"train": train}, target)
        for name, data in web.objects.items():  # fsspec has no client of this server
            if name.startswith("bucket/refs"):
                write_folder(tmp_path, {name.removeprefix("bucket/"): data})
        found = read(tmp_path / f"refs{kind}", web)
        expected = train.image_bytes[:]
        payload = found.group["train/image_payload"]
        start = np.cumsum([0, *map(len, expected)]).tolist()
        _ = payload[:1]  # loads references
        for i in (3, 17, 5):
            web.asked.clear()
            assert payload[start[i] : start[i + 1]].tobytes() == expected[i]
            (asked,) = web.asked
            first, last = map(int, asked.range.removeprefix("bytes=").split("-"))
            assert last + 1 - first <= len(expected[i]) + 1000


@pytest.mark.usefixtures("rectilinear")
@ONE_CONTAINER
@pytest.mark.parametrize("kind", KINDS)
def test_chunks_that_are_not_stored_are_zeros(train: Split, tmp_path: Path, kind: str) -> None:
    if kind == ".icechunk":
        pytest.importorskip("icechunk", reason="icechunk needs Python 3.12 or newer")
    group = referenced_group({"train": train})
    ((path, chunks),) = group.payloads.items()
    start = np.where(np.arange(len(chunks)) == 1, ZEROS, chunks.start)
    group = replace(group, payloads={path: replace(chunks, start=start)})
    FORMATS[kind].write(tmp_path / f"refs{kind}", group)
    payload = read(tmp_path / f"refs{kind}").group[path]
    zeros = bytes(int(train.image_nbytes[1]))
    expected = b"".join([train.image_bytes[0], zeros, train.image_bytes[2]])
    assert payload[: len(expected)].tobytes() == expected


@ONE_CONTAINER
def test_icechunk_repository_is_read_only(train: Split, tmp_path: Path) -> None:
    icechunk = pytest.importorskip("icechunk", reason="icechunk needs Python 3.12 or newer")
    target = exported({"train": train}, tmp_path / "refs.icechunk")
    repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(target)))
    with pytest.raises(icechunk.IcechunkError, match=r"(?i)read.?only"):
        repository.writable_session("main")


@pytest.mark.usefixtures("rectilinear")
def test_icechunk_refuses_changed_files(tmp_path: Path) -> None:
    records = [{"image": picture(seed=i), "label": "cat", "file_name": f"{i}"} for i in range(2)]
    path = tmp_path / "a.h5"
    arraystore.write(path, {"train": records}, classes=["cat"], sync=False)
    found = read(exported(arraystore.open(path), tmp_path / "refs.icechunk"))
    payload = found.group["train/image_payload"]
    assert len(payload[:10]) == 10
    later = path.stat().st_mtime + 60
    os.utime(path, (later, later))
    with pytest.raises(Exception, match=r"changed|modified"):
        payload[:10]


@pytest.mark.usefixtures("rectilinear")
@pytest.mark.parametrize("kind", KINDS)
def test_no_samples(tmp_path: Path, kind: str) -> None:
    none = arraystore.open(write_store(tmp_path / "a.zarr", [], [], classes=["cat"]))
    check(none, read(exported(none, tmp_path / f"refs{kind}")))


@ONE_CONTAINER
def test_what_cannot_be_referred_to(
    train: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(name: str, split: Split = train) -> None:
        export_references({"train": split}, Location.parse(tmp_path / name))

    with pytest.raises(ValueError, match=r"must end in \.json, \.parquet, \.icechunk"):
        export("refs.txt")
    with pytest.raises(FileNotFoundError, match="folder does not exist; create it first"):
        export("none/refs.json")
    (tmp_path / "refs.json").write_text("mine")
    with pytest.raises(FileExistsError, match="delete it, or choose another name"):
        export("refs.json")
    assert (tmp_path / "refs.json").read_text() == "mine"
    for library, extra in (("icechunk", "icechunk"), ("pyarrow", "parquet")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, library, None)
            with pytest.raises(SourceError, match=rf"install arraystore\[{extra}\]"):
                export(f"refs.{extra}")
    assert [entry.name for entry in tmp_path.iterdir()] == ["refs.json"]


def test_icechunk_refuses_folders_without_a_plain_name() -> None:
    assert plain_folder(["/data/a/x y/1.h5", "/data/a/x y/2.h5"]) == "/data/a"
    with pytest.raises(ValueError, match=r"because of its name; rename it, or write a \.json"):
        plain_folder(["/my data/1.h5"])
    with pytest.raises(ValueError, match=r"can refer to files on a disk and in S3"):
        url_of("https://example.org/1.h5")


@ONE_CONTAINER
def test_icechunk_refuses_two_buckets_of_one_name(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("icechunk", reason="icechunk needs Python 3.12 or newer")
    with WebServer() as one, WebServer() as other:
        opened = []
        for number, web in enumerate((one, other)):
            web.put(path, f"bucket/{number}{path.suffix}")
            address = f"s3://bucket/{number}{path.suffix}"
            opened.append(arraystore.open(address, storage_options=web.s3))
        first, second = (store["train"] for store in opened)
        both = arraystore.concat([first.select([0, 1]), second.select([2, 3])])
        target = Location.parse(tmp_path / "a.icechunk")
        with pytest.raises(ValueError, match="buckets of several services"):
            export_references({"train": both}, target)


def test_how_a_bucket_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def service(**options: Any) -> S3Service:
        return s3_service(Location.parse("s3://bucket/a.zarr", options))

    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    assert service(anon=True) == (None, None, True, False)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    secret = service(key="key", secret="secret")
    assert secret == ("http://127.0.0.1:1", "eu-west-1", False, True)
    other = service(endpoint_url="http://127.0.0.1:2", region="us-west-2")
    assert other == ("http://127.0.0.1:2", "us-west-2", False, True)


@ONE_CONTAINER
def test_command_writes_references(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "refs.json")
    arguments = ["export", str(path), "--references", "-o", output]
    assert main([*arguments, "--sample", "3"]) == 0
    assert "references to 6 images of train, validation" in capsys.readouterr().out
    assert main(arguments) == 1
    assert "exists" in capsys.readouterr().err
    output = str(tmp_path / "train.json")
    assert main(["export", str(path), "train[:4]", "--references", "-o", output]) == 0
    assert "references to 4 images of train" in capsys.readouterr().out
    assert main(["export", str(path), "-o", "s3://bucket/images"]) == 2
    assert "written to a disk" in capsys.readouterr().err
