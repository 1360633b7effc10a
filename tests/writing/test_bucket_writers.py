"""Conversion to a bucket: same bytes as on a disk, and no store before it is complete."""

from __future__ import annotations

import pickle
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from obstore.exceptions import GenericError
from obstore.store import MemoryStore

import arraystore
from arraystore.containers.zarr import writer as zarr_writer
from arraystore.errors import SourceChangedError, StorageError
from arraystore.indexing.layout import blocks
from arraystore.storage.location import Location
from arraystore.storage.objects import connection as stores
from arraystore.storage.objects.writer import MAX_PARTS, PART_NBYTES, ObjectWriter
from arraystore.writing import hdf5_bucket, store_writer
from arraystore.writing.bucket import BucketStoreWriter
from tests.support import (
    SUFFIXES,
    Bucket,
    most_in_flight,
    objects_on_disk,
    picture,
    write_folder,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

SHARD: Final = 4096

every_suffix = pytest.mark.parametrize("suffix", SUFFIXES)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """The bucket of ``memory://`` addresses."""
    bucket = Bucket()
    monkeypatch.setattr(stores, "connect_memory", lambda: bucket)
    return bucket


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two splits of pictures; the first needs several small shards."""
    files = {f"train/{'ab'[i % 2]}/{i}.jpg": picture(24, 32, seed=i) for i in range(30)}
    return write_folder(tmp_path / "photos", files | {"val/a/v.jpg": picture(seed=77)})


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zarr_writer, "SHARD_NBYTES", SHARD)
    monkeypatch.setattr(zarr_writer, "INNER_CHUNK_NBYTES", SHARD // 8)
    monkeypatch.setattr(store_writer, "blocks", partial(blocks, block_nbytes=SHARD))
    monkeypatch.setattr(hdf5_bucket, "_PIECE_NBYTES", 1_000)


def convert(photos: Path, target: Any, **options: Any) -> arraystore.ConvertReport:
    return arraystore.convert(f"folder:{photos}", target, sync=False, **options)


# Contents


@every_suffix
def test_bucket_gets_the_same_bytes_as_disk(
    suffix: str, photos: Path, tmp_path: Path, bucket: Bucket
) -> None:
    there = convert(photos, f"memory://some/folder/a{suffix}")
    here = convert(photos, tmp_path / f"a{suffix}")
    expected = objects_on_disk(tmp_path / f"a{suffix}")
    assert bucket.objects == {f"some/folder/{name}": data for name, data in expected.items()}
    assert there.splits == here.splits
    assert there.path == f"memory://some/folder/a{suffix}"


@every_suffix
def test_obstore_pair_is_target_and_source(suffix: str, photos: Path, tmp_path: Path) -> None:
    store = MemoryStore()
    report = convert(photos, (store, f"folder/a{suffix}"))
    assert report.path == f"<MemoryStore>/folder/a{suffix}"
    arraystore.copy((store, f"folder/a{suffix}"), (store, f"b{suffix}"))
    arraystore.copy((store, f"b{suffix}"), tmp_path / f"b{suffix}")
    convert(photos, tmp_path / f"a{suffix}")
    found = objects_on_disk(tmp_path / f"b{suffix}").values()
    assert list(found) == list(objects_on_disk(tmp_path / f"a{suffix}").values())


@every_suffix
def test_store_in_bucket_is_readable(suffix: str, photos: Path, bucket: Bucket) -> None:
    convert(photos, f"memory://a{suffix}")
    train = arraystore.open(f"memory://a{suffix}")["train"]
    expected = [(photos / "train" / name).read_bytes() for name in train.file_name]
    assert train.image_bytes[:] == expected


@every_suffix
def test_split_without_samples_is_written(
    suffix: str, tmp_path: Path, photos: Path, bucket: Bucket
) -> None:
    (photos / "train" / "a" / "0.jpg").write_bytes(b"no image")
    for path in photos.glob("train/*/*.jpg"):
        path.write_bytes(b"no image")
    convert(photos, f"memory://a{suffix}", on_error="skip")
    assert len(arraystore.open(f"memory://a{suffix}")["train"]) == 0
    convert(photos, tmp_path / f"a{suffix}", on_error="skip")
    assert bucket.objects == objects_on_disk(tmp_path / f"a{suffix}")


def test_each_shard_is_one_put(photos: Path, bucket: Bucket) -> None:
    report = convert(photos, "memory://a.zarr")
    payload = [key for key in bucket.keys_of("put") if "image_payload/c/" in key]
    n_shards = sum(-(-split.num_bytes // SHARD) for split in report.splits.values())
    assert len(payload) == len(set(payload)) == n_shards > 5


def test_zarr_root_is_created_last(photos: Path, bucket: Bucket) -> None:
    convert(photos, "memory://a.zarr")
    _, key, keywords = [call for call in bucket.calls if call[0] == "put"][-1]
    assert key == "a.zarr/zarr.json"
    assert keywords["mode"] == "create"
    assert bucket.keys_of("put").count(key) == 1


def test_hdf5_upload_is_visible_when_complete(photos: Path, bucket: Bucket) -> None:
    seen: list[tuple[str, bool]] = []
    bucket.before = lambda method, key: seen.append((method, "a.h5" in bucket.objects))
    convert(photos, "memory://a.h5")
    assert bucket.keys_of("put").count("a.h5") == 1
    assert [method for method, there in seen if there] == ["head", "delete"]


def test_hdf5_skeleton_is_sparse(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, int]] = []
    publish = hdf5_bucket.HDF5BucketWriter.publish

    def spy(self: Any, *args: Any) -> None:
        status = self._skeleton.stat()
        sizes.append((status.st_size, 512 * status.st_blocks))
        publish(self, *args)

    monkeypatch.setattr(hdf5_bucket.HDF5BucketWriter, "publish", spy)
    monkeypatch.setattr(hdf5_bucket, "_PIECE_NBYTES", 2**20)
    files = {f"train/a/{i}.jpg": picture(600, 800, seed=i) for i in range(6)}
    report = convert(write_folder(tmp_path / "big", files), "memory://a.h5")
    ((size, taken),) = sizes
    assert size > report.splits["train"].num_bytes > 2_000_000
    assert taken < 300_000


def test_upload_part_size_depends_on_file_size(bucket: Bucket) -> None:
    objects = ObjectWriter(Location.parse("memory://a"))
    for nbytes in (1, 300 * 10**9):
        objects.upload("key", nbytes, lambda: [b"x"])
    sizes = [keywords["chunk_size"] for method, _, keywords in bucket.calls if method == "put"]
    assert sizes == [PART_NBYTES, -(-300 * 10**9 // MAX_PARTS)]
    assert PART_NBYTES == 16 * 2**20


def test_at_most_4_shards_are_in_flight(
    photos: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = most_in_flight(monkeypatch)
    convert(photos, "memory://a.zarr")
    assert 0 < max(most) <= BucketStoreWriter.max_in_flight == 4


def test_object_writer_pickles_as_address(bucket: Bucket) -> None:
    pickle.loads(pickle.dumps(ObjectWriter(Location.parse("memory://folder/a")))).put("b", b"data")
    assert bucket.objects == {"b": b"data"}


# Existing targets


def test_existing_store_raises(photos: Path, bucket: Bucket) -> None:
    for suffix in SUFFIXES:
        convert(photos, f"memory://a{suffix}")
    before = bucket.objects
    for suffix in SUFFIXES:
        with pytest.raises(FileExistsError, match=rf"memory://a{suffix}: exists; .*--overwrite"):
            convert(photos, f"memory://a{suffix}")
    assert bucket.objects == before


@every_suffix
def test_overwrite_replaces_store(
    suffix: str, photos: Path, tmp_path: Path, bucket: Bucket
) -> None:
    convert(photos, f"memory://a{suffix}")
    other = write_folder(tmp_path / "other", {"a/1.jpg": picture(seed=5)})
    convert(other, f"memory://a{suffix}", overwrite=True)
    convert(other, tmp_path / f"a{suffix}")
    assert bucket.objects == objects_on_disk(tmp_path / f"a{suffix}")


def test_overwrite_deletes_zarr_root_first(photos: Path, bucket: Bucket) -> None:
    convert(photos, "memory://a.zarr")
    bucket.calls.clear()
    convert(photos, "memory://a.zarr", overwrite=True)
    changed = [call[:2] for call in bucket.calls if call[0] in ("put", "delete")]
    first = next(call for call in changed if call != ("put", ".a.zarr.partial"))
    assert first == ("delete", ["a.zarr/zarr.json"])


@every_suffix
def test_old_store_is_kept_if_source_is_missing(suffix: str, photos: Path, bucket: Bucket) -> None:
    convert(photos, f"memory://a{suffix}")
    before = bucket.objects
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        convert(photos / "nowhere", f"memory://a{suffix}", overwrite=True)
    assert bucket.objects == before


@every_suffix
@pytest.mark.parametrize("overwrite", [False, True])
def test_foreign_object_is_never_replaced(
    suffix: str, overwrite: bool, photos: Path, bucket: Bucket
) -> None:
    names = {".zarr": "a.zarr/zarr.json", ".h5": "a.h5"}
    bucket.inner.put(names[suffix], b"precious")
    with pytest.raises(FileExistsError, match=f"memory://a{suffix}: "):
        convert(photos, f"memory://a{suffix}", overwrite=overwrite)
    assert bucket.objects == {names[suffix]: b"precious"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_foreign_objects_below_target_are_never_deleted(
    overwrite: bool, photos: Path, bucket: Bucket
) -> None:
    bucket.inner.put("a.zarr/.zgroup", b"precious")
    with pytest.raises(FileExistsError, match=r"memory://a\.zarr: contains objects, but not"):
        convert(photos, "memory://a.zarr", overwrite=overwrite)
    assert bucket.objects == {"a.zarr/.zgroup": b"precious"}


@every_suffix
def test_objects_beside_target_are_kept(suffix: str, photos: Path, bucket: Bucket) -> None:
    neighbours = {f"a{suffix}.txt": b"1", f"a{suffix}2/zarr.json": b"2", "b": b"3"}
    for key, data in neighbours.items():
        bucket.inner.put(key, data)
    convert(photos, f"memory://a{suffix}")
    convert(photos, f"memory://a{suffix}", overwrite=True)
    assert neighbours.items() <= bucket.objects.items()


@every_suffix
def test_second_conversion_to_same_target_raises(
    suffix: str, photos: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    second: list[str] = []
    sealing = BucketStoreWriter.sealing

    def meanwhile(self: BucketStoreWriter) -> Any:
        if not second:
            second.append("begun")
            with pytest.raises(StorageError, match=r"partial: another process is writing to"):
                convert(photos, f"memory://a{suffix}")
        return sealing(self)

    monkeypatch.setattr(BucketStoreWriter, "sealing", meanwhile)
    convert(photos, f"memory://a{suffix}")
    assert second
    assert len(arraystore.open(f"memory://a{suffix}")["train"]) == 30


def test_overwrite_deletes_objects_of_killed_conversion(photos: Path, bucket: Bucket) -> None:
    convert(photos, "memory://a.zarr")
    expected = bucket.objects
    bucket.inner.delete("a.zarr/zarr.json")
    for key in (".a.zarr.partial", "a.zarr/train/image_payload/c/99"):
        bucket.inner.put(key, b"left")
    with pytest.raises(StorageError, match=r"\.a\.zarr\.partial: another process .* was killed"):
        convert(photos, "memory://a.zarr")
    convert(photos, "memory://a.zarr", overwrite=True)
    assert bucket.objects == expected


@every_suffix
def test_target_created_meanwhile_is_kept(suffix: str, photos: Path, bucket: Bucket) -> None:
    root = {".zarr": "a.zarr/zarr.json", ".h5": "a.h5"}[suffix]

    def meanwhile(method: str, key: Any) -> None:
        # The last request before the store appears.
        if (method, key) in (("put", root), ("head", root)) and len(bucket.calls) > 5:
            bucket.inner.put(root, b"theirs")

    bucket.before = meanwhile
    with pytest.raises(FileExistsError, match=rf"memory://{root}: was created by "):
        convert(photos, f"memory://a{suffix}")
    assert bucket.objects[root] == b"theirs"
    assert suffix == ".zarr" or set(bucket.objects) == {root}


# Failures


@every_suffix
def test_source_change_leaves_no_store(
    suffix: str, photos: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = photos / "train" / "a" / "4.jpg"
    # Of HDF5 the images are read again after they were compared: when they are sent.
    method = "create_arrays" if suffix == ".zarr" else "sealing"
    real = getattr(BucketStoreWriter, method)

    def meddle(*arguments: Any) -> Any:
        victim.write_bytes(victim.read_bytes()[:-1] + b"!")
        return real(*arguments)

    monkeypatch.setattr(BucketStoreWriter, method, meddle)
    with pytest.raises(SourceChangedError, match=r"4\.jpg: changed since reading began: "):
        convert(photos, f"memory://a{suffix}")
    assert not {"a.zarr/zarr.json", "a.h5", ".a.h5.partial"} & set(bucket.objects)


@every_suffix
def test_full_bucket_leaves_no_store(suffix: str, photos: Path, bucket: Bucket) -> None:
    def full(method: str, key: Any) -> None:
        if method == "put" and key in ("a.h5", "a.zarr/train/label/c/0"):
            raise GenericError("Server returned non-2xx status code: 507 Insufficient Storage:")

    bucket.before = full
    with pytest.raises(StorageError, match=rf"memory://a{suffix}.*: .* status 507"):
        convert(photos, f"memory://a{suffix}")
    assert not {"a.zarr/zarr.json", "a.h5", ".a.h5.partial"} & set(bucket.objects)


def test_error_before_a_shard_is_sent_leaves_nothing(photos: Path, bucket: Bucket) -> None:
    def fail(method: str, key: Any) -> None:
        if method == "put" and "/image_payload/c/" in key:
            raise GenericError("broken")

    bucket.before = fail
    with pytest.raises(StorageError, match=r"memory://a\.zarr/train/image_payload/c/\d+: broken"):
        convert(photos, "memory://a.zarr")
    assert bucket.objects == {}
    bucket.before = lambda method, key: None
    convert(photos, "memory://a.zarr")
    assert len(arraystore.open("memory://a.zarr")["train"]) == 30


def test_store_with_unknown_root_is_kept(photos: Path, tmp_path: Path, bucket: Bucket) -> None:
    def lose(method: str, key: Any) -> None:
        # The response to the last write is lost, and so is that to the following read.
        if key == "a.zarr/zarr.json" and bucket.keys_of("put").count(key) and len(lost) < 2:
            lost.append(method)
            raise GenericError("Server returned non-2xx status code: 500 Oh:")

    lost: list[str] = []
    bucket.after = lose
    with pytest.raises(StorageError, match=r"memory://a\.zarr/zarr\.json: .* status 500"):
        convert(photos, "memory://a.zarr")
    assert lost == ["put", "get"]
    convert(photos, tmp_path / "a.zarr")
    assert bucket.objects == objects_on_disk(tmp_path / "a.zarr")


def test_interrupted_upload_leaves_nothing(
    photos: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object) -> Iterator[bytes]:
        yield b"begun"
        raise KeyboardInterrupt

    monkeypatch.setattr(hdf5_bucket.HDF5BucketWriter, "_payload", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(photos, "memory://a.h5")
    assert bucket.objects == {}


def test_failing_delete_becomes_a_note(photos: Path, bucket: Bucket) -> None:
    def fail(method: str, key: Any) -> None:
        if (method == "put" and "/image_payload/c/" in key) or method == "delete":
            raise GenericError("broken")

    bucket.before = fail
    with pytest.raises(StorageError, match=r"image_payload/c/\d+: broken") as caught:
        convert(photos, "memory://a.zarr")
    assert "objects sent so far are left as they are: memory://a.zarr" in "".join(
        caught.value.__notes__
    )


@pytest.mark.parametrize("is_ours", [True, False])
def test_object_with_unknown_creation_is_compared(is_ours: bool, bucket: Bucket) -> None:
    def lose(method: str, key: Any) -> None:
        if method == "put":
            bucket.inner.put(key, b"ours" if is_ours else b"theirs")
            raise GenericError("no answer")

    objects = ObjectWriter(Location.parse("memory://a"))
    bucket.before = lose
    if is_ours:
        objects.create("key", b"ours")
    else:
        with pytest.raises(FileExistsError, match="memory://key: was created by "):
            objects.create("key", b"ours")


def test_failed_creation_raises(bucket: Bucket) -> None:
    def fail(method: str, key: Any) -> None:
        if method == "put":
            raise GenericError("Server returned non-2xx status code: 500 Oh:")

    bucket.before = fail
    with pytest.raises(StorageError, match="memory://key: the server responded with status 500"):
        ObjectWriter(Location.parse("memory://a")).create("key", b"ours")


def test_upload_with_lost_response_succeeds(bucket: Bucket) -> None:
    def lose(method: str, key: Any) -> None:
        if method == "put":
            raise GenericError("no answer")

    bucket.after = lose
    ObjectWriter(Location.parse("memory://a")).upload("key", 4, lambda: [b"da", b"ta"])
    assert bucket.objects == {"key": b"data"}


def test_failed_upload_over_object_of_same_size_raises(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def takes_all_and_fails(key: str, pieces: AsyncIterator[bytes], **keywords: Any) -> None:
        assert [piece async for piece in pieces] == [b"data"]
        raise GenericError("broken")

    bucket.inner.put("key", b"olds")
    monkeypatch.setattr(bucket, "put_async", takes_all_and_fails, raising=False)
    with pytest.raises(StorageError, match="memory://key: broken"):
        ObjectWriter(Location.parse("memory://a")).upload("key", 4, lambda: [b"data"])


def test_upload_that_could_not_begin_is_retried(bucket: Bucket) -> None:
    failures = [GenericError("HTTP error: error sending request") for _ in range(2)]

    def fail(method: str, key: Any) -> None:
        if method == "put" and failures:
            raise failures.pop()

    bucket.before = fail
    ObjectWriter(Location.parse("memory://a")).upload("key", 4, lambda: [b"data"])
    assert bucket.objects == {"key": b"data"}


# Invalid targets


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("http://localhost/a.zarr", {}, r"http://localhost/a\.zarr: stores can be written to a"),
        ("s3://bucket/a.tar", {}, r"^s3://bucket/a\.tar: the suffix chooses the container"),
        ("s3://bucket", {}, "^s3://bucket/: the suffix chooses the container"),
        ("ftp://bucket/a.zarr", {}, r"ftp://bucket/a\.zarr: must be a path or begin with"),
        ("s3://bucket/a.zarr", {"regoin": "x"}, "'regoin' is unknown"),
        ("a.zarr", {"region": "x"}, r"a\.zarr: is a path; storage_options need"),
    ],
)
def test_invalid_target_raises(
    target: str, options: dict[str, Any], message: str, photos: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        convert(photos, target, storage_options=options)


def test_first_difference_finds_image() -> None:
    sizes = np.full(5, 300)
    (first, second) = blocks(sizes, block_nbytes=1000)
    expected = np.arange(5, dtype=np.uint32)
    assert store_writer.first_difference(first, expected[:4], expected) == -1
    assert store_writer.first_difference(second, expected[4:], expected) == -1
    assert store_writer.first_difference(second, expected[:1], expected) == 4
