"""Stores written to real servers: the disk's bytes, through faults, and nothing by halves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import arraystore
from arraystore.containers.zarr import writer as zarr_writer
from arraystore.errors import SourceError, StorageError
from arraystore.indexing.layout import blocks
from arraystore.storage.objects import writer as object_writer
from arraystore.writing import hdf5_bucket, store_writer
from arraystore.writing.bucket_part import BucketPartWriter
from arraystore.writing.zarr_bucket import ZarrBucketWriter
from tests.cloud.programs import end_with_parent
from tests.cloud.proxy import FAULTS
from tests.cloud.servers import BUCKET, SeaweedFS, bucket_of
from tests.support import SUFFIXES, picture, write_folder

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cloud.servers import Server

SHARD = 2**16
PART = 5 * 2**20
"""S3 takes no smaller parts, except the last."""

IMPATIENT = {"read_timeout": 0.5, "init_backoff": 0.01, "max_backoff": 0.1}

every_suffix = pytest.mark.parametrize("suffix", SUFFIXES)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 12 MB: many small shards, or an upload of three parts."""
    files = {f"train/{'ab'[i % 2]}/{i}.jpg": picture(500, 600, seed=i) for i in range(60)}
    files["val/a/v.jpg"] = picture(seed=77)
    return write_folder(tmp_path_factory.mktemp("photos"), files)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zarr_writer, "SHARD_NBYTES", 8 * SHARD)
    monkeypatch.setattr(zarr_writer, "INNER_CHUNK_NBYTES", SHARD)
    monkeypatch.setattr(store_writer, "blocks", partial(blocks, block_nbytes=8 * SHARD))
    monkeypatch.setattr(object_writer, "PART_NBYTES", PART)
    monkeypatch.setattr(hdf5_bucket, "_PIECE_NBYTES", 2**20)


def convert(photos: Path, target: str | Path, **options: Any) -> arraystore.ConvertReport:
    return arraystore.convert(f"folder:{photos}", target, sync=False, **options)


def objects_on_disk(store: Path) -> dict[str, bytes]:
    if store.is_file():
        return {store.name: store.read_bytes()}
    files = (path for path in store.rglob("*") if path.is_file())
    return {path.relative_to(store.parent).as_posix(): path.read_bytes() for path in files}


def objects_below(server: Server, folder: str) -> dict[str, bytes]:
    bucket = bucket_of(server)
    keys = [meta["path"] for page in bucket.list(f"{folder}/") for meta in page]
    return {key.removeprefix(f"{folder}/"): bytes(bucket.get(key).bytes()) for key in keys}


@every_suffix
def test_bucket_gets_the_same_bytes_as_a_disk(
    suffix: str, writable: Server, photos: Path, tmp_path: Path
) -> None:
    address, options = writable.at(f"same/a{suffix}")
    convert(photos, address, storage_options=options, overwrite=True)
    convert(photos, tmp_path / f"a{suffix}")
    assert objects_below(writable, "same") == {
        **objects_below(writable, "same"),
        **objects_on_disk(tmp_path / f"a{suffix}"),
    }
    store = arraystore.open(address, storage_options=options)
    assert store.info == arraystore.open(tmp_path / f"a{suffix}").info


@every_suffix
def test_existing_store_is_replaced_only_with_overwrite(
    suffix: str, writable: Server, photos: Path
) -> None:
    address, options = writable.at(f"refused/a{suffix}")
    convert(photos, address, storage_options=options)
    before = objects_below(writable, "refused")
    with pytest.raises(FileExistsError, match="--overwrite"):
        convert(photos, address, storage_options=options)
    assert objects_below(writable, "refused") == before
    convert(photos, address, storage_options=options, overwrite=True)
    assert objects_below(writable, "refused") == before


@every_suffix
@pytest.mark.parametrize("seed", range(2))
def test_bytes_are_right_when_a_tenth_of_requests_fail(
    seed: int, suffix: str, writable: Server, photos: Path, tmp_path: Path
) -> None:
    convert(photos, tmp_path / f"a{suffix}")
    with writable.behind(rate=0.1, seed=seed) as proxy:
        address, options = writable.at(f"faults{seed}/a{suffix}", proxy.endpoint)
        arraystore.copy(
            tmp_path / f"a{suffix}", address, target_options=options | IMPATIENT, sync=False
        )
        assert proxy.n_faults.total() > 0 or suffix == ".h5"
    expected = objects_on_disk(tmp_path / f"a{suffix}")
    assert expected.items() <= objects_below(writable, f"faults{seed}").items()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("method", ["POST", "PUT", "GET"])
@every_suffix
def test_each_fault_of_each_request_is_retried(
    suffix: str, method: str, fault: str, writable: Server, photos: Path, tmp_path: Path
) -> None:
    source = write_folder(tmp_path / "few", {"a/1.jpg": picture(), "a/2.jpg": picture(seed=1)})
    convert(source, tmp_path / f"a{suffix}")
    folder = f"{fault}-{method}"
    with writable.behind() as proxy:
        address, options = writable.at(f"{folder}/a{suffix}", proxy.endpoint)
        proxy.fail_next(fault, method=method)
        convert(source, address, storage_options=options | IMPATIENT)
    expected = objects_on_disk(tmp_path / f"a{suffix}")
    assert expected.items() <= objects_below(writable, folder).items()
    assert not any("partial" in key for key in objects_below(writable, folder))


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_last_upload_request_are_retried(
    fault: str, start: Callable[[str], Server], photos: Path, tmp_path: Path
) -> None:
    server = start(SeaweedFS.kind)
    convert(photos, tmp_path / "a.h5")
    with server.behind() as proxy:
        address, options = server.at(f"complete-{fault}/a.h5", proxy.endpoint)
        proxy.fail_next("", fault, method="POST")  # the first begins the upload
        convert(photos, address, storage_options=options | IMPATIENT)
        assert proxy.n_faults == {fault: 1}
    assert objects_below(server, f"complete-{fault}") == objects_on_disk(tmp_path / "a.h5")


def test_failed_upload_is_aborted(
    start: Callable[[str], Server], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealing = hdf5_bucket.HDF5BucketWriter.sealing
    victim = photos / "train" / "a" / "58.jpg"
    whole = victim.read_bytes()

    def meddle(self: Any) -> Any:
        os.truncate(victim, 1000)
        return sealing(self)

    monkeypatch.setattr(hdf5_bucket.HDF5BucketWriter, "sealing", meddle)
    server = start(SeaweedFS.kind)
    with server.behind() as proxy:
        address, options = server.at("aborted/a.h5", proxy.endpoint)
        with pytest.raises(SourceError, match=r"58\.jpg"):
            convert(photos, address, storage_options=options, order="source")
        begun = [r for r in proxy.requests if r.method == "POST" and "uploads" in r.target]
        aborted = [r for r in proxy.requests if r.method == "DELETE" and "uploadId" in r.target]
        assert len(begun) == len(aborted) == 1
    victim.write_bytes(whole)
    assert objects_below(server, "aborted") == {}


def test_uploads_have_few_large_parts(start: Callable[[str], Server], photos: Path) -> None:
    server = start(SeaweedFS.kind)
    with server.behind() as proxy:
        address, options = server.at("parts/a.h5", proxy.endpoint)
        report = convert(photos, address, storage_options=options)
        sizes = [r.nbytes_up for r in proxy.requests if "partNumber" in r.target]
    assert set(sizes[:-1]) == {PART}
    assert sum(sizes) > sum(split.num_bytes for split in report.splits.values())
    assert len(sizes) >= 3


def kill(photos: Path, address: str, options: dict[str, Any], number: int, split: str = "") -> None:
    """Kill a conversion, or an append to a split, when it has recorded some shards."""
    arguments = (str(photos), address, json.dumps(options), str(8 * SHARD), str(number), split)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.cloud.killed", *arguments],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=end_with_parent if sys.platform == "linux" else None,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"kill me\n"
        process.kill()


@pytest.mark.parametrize("number", [1, 9])
def test_killed_conversion_is_resumed(
    number: int, writable: Server, photos: Path, tmp_path: Path
) -> None:
    folder = f"killed-{number}"
    address, options = writable.at(f"{folder}/a.zarr")
    kill(photos, address, options, number)
    with pytest.raises(StorageError, match=r"or was killed while it did.*pass resume=True"):
        convert(photos, address, storage_options=options)
    with writable.behind() as proxy:
        address, options = writable.at(f"{folder}/a.zarr", proxy.endpoint)
        convert(photos, address, storage_options=options, resume=True)
        sent = [r.target for r in proxy.requests if r.method == "PUT" and "_payload/c/" in r.target]
    convert(photos, tmp_path / "a.zarr")
    assert objects_below(writable, folder) == objects_on_disk(tmp_path / "a.zarr")
    n_shards = sum("_payload/c/" in key for key in objects_below(writable, folder))
    assert len(sent) == len(set(sent)) == n_shards - number > 10


def test_conversion_that_was_taken_over_stops(
    writable: Server, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, options = writable.at("taken/a.zarr")
    publish = ZarrBucketWriter.publish

    def meanwhile(self: ZarrBucketWriter, meter: Any) -> None:
        monkeypatch.setattr(ZarrBucketWriter, "publish", publish)
        convert(photos, address, storage_options=options, resume=True)
        publish(self, meter)

    monkeypatch.setattr(ZarrBucketWriter, "publish", meanwhile)
    with pytest.raises(StorageError, match="another process has begun, or taken over"):
        convert(photos, address, storage_options=options)
    convert(photos, tmp_path / "a.zarr")
    assert objects_below(writable, "taken") == objects_on_disk(tmp_path / "a.zarr")


def test_processes_fill_shards(
    start: Callable[[str], Server], photos: Path, tmp_path: Path
) -> None:
    server = start(SeaweedFS.kind)
    address, options = server.at("processes/a.zarr")
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        convert(photos, address, storage_options=options, executor=pool)
    convert(photos, tmp_path / "a.zarr")
    assert objects_below(server, "processes") == objects_on_disk(tmp_path / "a.zarr")


@every_suffix
def test_copy_between_clouds_and_containers(
    suffix: str, start: Callable[[str], Server], photos: Path, tmp_path: Path
) -> None:
    other = {".zarr": ".h5", ".h5": ".zarr"}[suffix]
    source, source_options = start("s3").at(f"from/a{suffix}")
    target, target_options = start("az").at(f"to/a{other}")
    convert(photos, source, storage_options=source_options)
    arraystore.copy(source, target, source_options=source_options, target_options=target_options)
    arraystore.copy(target, tmp_path / f"b{suffix}", source_options=target_options)
    expected = {
        key.removeprefix("from/a"): data
        for key, data in objects_below(start("s3"), "from").items()
        if suffix in key
    }
    found = objects_on_disk(tmp_path / f"b{suffix}")
    assert {key[1:]: data for key, data in found.items()} == {
        key[1:]: data for key, data in expected.items()
    }


# Appended samples


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Further pictures of several shards."""
    files = {f"train/{'ba'[i % 2]}/m{i}.jpg": picture(500, 600, seed=i) for i in range(12)}
    return write_folder(tmp_path_factory.mktemp("more") / "more", files)


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """A store on a disk that has both classes."""
    files = {f"train/{name}/1.jpg": picture() for name in "ab"}
    convert(write_folder(tmp_path / "few", files), tmp_path / "a.zarr")
    return tmp_path / "a.zarr"


def append(more: Path, store: str | Path, **options: Any) -> arraystore.AppendReport:
    return arraystore.append(store, f"folder:{more}", "train", progress=False, **options)


def test_append_makes_the_same_objects_as_on_a_disk(
    writable: Server, few: Path, more: Path
) -> None:
    address, options = writable.at("append/a.zarr")
    arraystore.copy(few, address, target_options=options)
    train = arraystore.open(address, storage_options=options)["train"]
    report = append(more, address, storage_options=options)
    assert report.num_samples == len(train) + 12
    append(more, few)
    assert objects_below(writable, "append") == objects_on_disk(few)
    assert len(train.image_bytes[:]) == 2


def test_append_is_right_when_a_tenth_of_requests_fail(
    writable: Server, few: Path, more: Path
) -> None:
    address, options = writable.at("append-faults/a.zarr")
    arraystore.copy(few, address, target_options=options)
    with writable.behind(rate=0.1) as proxy:
        address, options = writable.at("append-faults/a.zarr", proxy.endpoint)
        append(more, address, storage_options=options | IMPATIENT)
        assert proxy.n_faults.total() > 0
    append(more, few)
    assert objects_below(writable, "append-faults") == objects_on_disk(few)


@pytest.mark.parametrize("fault", FAULTS)
def test_lost_response_to_the_new_root_is_success(
    fault: str, writable: Server, few: Path, more: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = f"append-{fault}"
    address, options = writable.at(f"{folder}/a.zarr")
    arraystore.copy(few, address, target_options=options)
    with writable.behind() as proxy:
        seal = BucketPartWriter._seal

        def plan(self: BucketPartWriter, root: bytes) -> None:
            seal(self, root)
            proxy.fail_next(fault, method="PUT")

        monkeypatch.setattr(BucketPartWriter, "_seal", plan)
        address, options = writable.at(f"{folder}/a.zarr", proxy.endpoint)
        append(more, address, storage_options=options | IMPATIENT)
        assert proxy.n_faults == {fault: 1}
    append(more, few)
    assert objects_below(writable, folder) == objects_on_disk(few)


def test_root_replaced_meanwhile_is_read_again(
    writable: Server, few: Path, more: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, key = bucket_of(writable), "append-root/a.zarr/zarr.json"
    address, options = writable.at("append-root/a.zarr")
    arraystore.copy(few, address, target_options=options)
    seal, n_sealed = BucketPartWriter._seal, 0

    def meanwhile(self: BucketPartWriter, root: bytes) -> None:
        nonlocal n_sealed
        n_sealed += 1
        seal(self, root)
        if n_sealed == 1:
            bucket.put(key, bytes(bucket.get(key).bytes()) + b"\n")

    monkeypatch.setattr(BucketPartWriter, "_seal", meanwhile)
    append(more, address, storage_options=options)
    assert n_sealed == 2
    append(more, few)
    assert objects_below(writable, "append-root") == objects_on_disk(few)


def test_one_of_two_appends_at_once_fails(writable: Server, few: Path, more: Path) -> None:
    address, options = writable.at("append-two/a.zarr")
    arraystore.copy(few, address, target_options=options)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(append, more, address, storage_options=options) for _ in range(2)]
        errors = [some.exception() for some in both]
    # One was refused, or it began after the other and found the file names.
    assert sorted(map(bool, errors)) == [False, True]
    assert isinstance(errors[0] or errors[1], StorageError | SourceError)
    append(more, few)
    assert objects_below(writable, "append-two") == objects_on_disk(few)


@pytest.mark.parametrize("option", ["resume", "overwrite"])
def test_killed_append_is_resumed(option: str, writable: Server, few: Path, more: Path) -> None:
    folder = f"append-killed-{option}"
    address, options = writable.at(f"{folder}/a.zarr")
    arraystore.copy(few, address, target_options=options)
    kill(more, address, options, 2, split="train")
    assert len(arraystore.open(address, storage_options=options)["train"]) == 2
    with pytest.raises(StorageError, match=r"or was killed while it did.*pass resume=True"):
        append(more, address, storage_options=options)
    append(more, address, storage_options=options, **{option: True})
    append(more, few)
    assert objects_below(writable, folder) == objects_on_disk(few)


WRONG = [
    ("s3", {}, "no-such-bucket", "no such bucket"),
    ("az", {}, "no-such-bucket", "no such bucket"),
    ("s3", {"secret": "wrong"}, BUCKET, "the credentials are wrong"),
    ("az", {"account_key": "d3Jvbmc="}, BUCKET, "access denied"),
    (
        "s3",
        {"key": None, "secret": None, "anon": True},
        BUCKET,
        "access denied to an anonymous request",
    ),
]


@every_suffix
@pytest.mark.parametrize(("kind", "change", "bucket", "message"), WRONG)
def test_unwritable_bucket_raises_before_source_is_read(
    suffix: str,
    kind: str,
    change: dict[str, Any],
    bucket: str,
    message: str,
    start: Callable[[str], Server],
    tmp_path: Path,
) -> None:
    address, options = start(kind).at(f"a{suffix}")
    address = address.replace(BUCKET, bucket)
    with pytest.raises((StorageError, FileNotFoundError), match=message) as caught:
        convert(tmp_path / "not looked at", address, storage_options=options | change)
    assert address.rpartition("/")[0] in str(caught.value)
