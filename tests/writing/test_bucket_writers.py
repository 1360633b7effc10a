"""Conversion to a bucket: the bytes of a conversion to the disk, and nothing before its time."""

from __future__ import annotations

import os
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
from arraystore.storage.objects import connection as stores
from arraystore.storage.objects.writer import MAX_PARTS, PART_NBYTES, ObjectWriter
from arraystore.writing import hdf5_bucket as one_room
from arraystore.writing import store_writer as draft_room
from arraystore.writing.bucket import BucketDraft
from tests.support import SUFFIXES, Bucket, objects_on_disk, picture, write_folder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

SHARD: Final = 4096

every_suffix = pytest.mark.parametrize("suffix", SUFFIXES)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """What ``memory://`` addresses reach."""
    bucket = Bucket()
    monkeypatch.setattr(stores, "connect_memory", lambda: bucket)
    return bucket


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two splits of pictures, of which the first needs several small shards."""
    files = {f"train/{'ab'[i % 2]}/{i}.jpg": picture(24, 32, seed=i) for i in range(30)}
    return write_folder(tmp_path / "photos", files | {"val/a/v.jpg": picture(seed=77)})


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zarr_writer, "SHARD_NBYTES", SHARD)
    monkeypatch.setattr(zarr_writer, "INNER_CHUNK_NBYTES", SHARD // 8)
    monkeypatch.setattr(draft_room, "blocks", partial(blocks, block_nbytes=SHARD))
    monkeypatch.setattr(one_room, "_PIECE_NBYTES", 1_000)


def convert(photos: Path, target: Any, **options: Any) -> arraystore.ConvertReport:
    return arraystore.convert(f"folder:{photos}", target, sync=False, **options)


# What is written


@every_suffix
def test_a_bucket_gets_the_bytes_that_a_disk_gets(
    suffix: str, photos: Path, tmp_path: Path, bucket: Bucket
) -> None:
    there = convert(photos, f"memory://some/folder/a{suffix}")
    here = convert(photos, tmp_path / f"a{suffix}")
    expected = objects_on_disk(tmp_path / f"a{suffix}")
    assert bucket.objects == {f"some/folder/{name}": data for name, data in expected.items()}
    assert there.splits == here.splits
    assert there.path == f"memory://some/folder/a{suffix}"


@every_suffix
def test_a_store_of_obstore_and_a_key_are_a_target_and_a_source(
    suffix: str, photos: Path, tmp_path: Path
) -> None:
    store = MemoryStore()
    report = convert(photos, (store, f"folder/a{suffix}"))
    assert report.path == f"<MemoryStore>/folder/a{suffix}"
    arraystore.copy((store, f"folder/a{suffix}"), (store, f"b{suffix}"))
    arraystore.copy((store, f"b{suffix}"), tmp_path / f"b{suffix}")
    convert(photos, tmp_path / f"a{suffix}")
    found = objects_on_disk(tmp_path / f"b{suffix}").values()
    assert list(found) == list(objects_on_disk(tmp_path / f"a{suffix}").values())


@every_suffix
def test_a_store_in_a_bucket_is_read_again(suffix: str, photos: Path, bucket: Bucket) -> None:
    convert(photos, f"memory://a{suffix}")
    train = arraystore.open(f"memory://a{suffix}")["train"]
    expected = [(photos / "train" / name).read_bytes() for name in train.file_name]
    assert train.image_bytes[:] == expected


@every_suffix
def test_a_split_without_samples_is_written(
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


def test_the_root_of_zarr_comes_last_and_replaces_nothing(photos: Path, bucket: Bucket) -> None:
    convert(photos, "memory://a.zarr")
    _, key, keywords = [call for call in bucket.calls if call[0] == "put"][-1]
    assert key == "a.zarr/zarr.json"
    assert keywords["mode"] == "create"
    assert bucket.keys_of("put").count(key) == 1


def test_hdf5_is_one_upload_that_is_seen_when_it_is_complete(photos: Path, bucket: Bucket) -> None:
    seen: list[tuple[str, bool]] = []
    bucket.before = lambda method, key: seen.append((method, "a.h5" in bucket.objects))
    convert(photos, "memory://a.h5")
    assert bucket.keys_of("put").count("a.h5") == 1
    assert [method for method, there in seen if there] == ["head", "delete"]


def test_the_skeleton_of_hdf5_takes_no_space_for_images(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, int]] = []
    publish = one_room.OneObjectDraft.publish

    def spy(self: Any, *args: Any) -> None:
        status = self._skeleton.stat()
        sizes.append((status.st_size, 512 * status.st_blocks))
        publish(self, *args)

    monkeypatch.setattr(one_room.OneObjectDraft, "publish", spy)
    monkeypatch.setattr(one_room, "_PIECE_NBYTES", 2**20)
    files = {f"train/a/{i}.jpg": picture(600, 800, seed=i) for i in range(6)}
    report = convert(write_folder(tmp_path / "big", files), "memory://a.h5")
    ((size, taken),) = sizes
    assert size > report.splits["train"].num_bytes > 2_000_000
    assert taken < 300_000


def test_uploads_have_large_parts_and_not_too_many(bucket: Bucket) -> None:
    objects = ObjectWriter("memory://a")
    for nbytes in (1, 300 * 10**9):
        objects.upload("key", nbytes, lambda: [b"x"])
    sizes = [keywords["chunk_size"] for method, _, keywords in bucket.calls if method == "put"]
    assert sizes == [PART_NBYTES, -(-300 * 10**9 // MAX_PARTS)]
    assert PART_NBYTES == 16 * 2**20


def test_no_more_than_4_shards_are_in_memory(photos: Path, bucket: Bucket) -> None:
    from tests.test_convert import Later

    later = Later()
    convert(photos, "memory://a.zarr", executor=later)
    assert max(later.n_waiting) == BucketDraft.max_in_flight == 4 < later.n_submitted


def test_a_writer_of_objects_travels_as_its_address(bucket: Bucket) -> None:
    pickle.loads(pickle.dumps(ObjectWriter("memory://folder/a"))).put("b", b"data")
    assert bucket.objects == {"b": b"data"}


# What is there already


def test_a_store_that_is_there_is_refused_and_untouched(photos: Path, bucket: Bucket) -> None:
    for suffix in SUFFIXES:
        convert(photos, f"memory://a{suffix}")
    before = bucket.objects
    for suffix in SUFFIXES:
        with pytest.raises(FileExistsError, match=rf"memory://a{suffix}: exists; .*--overwrite"):
            convert(photos, f"memory://a{suffix}")
    assert bucket.objects == before


@every_suffix
def test_a_store_that_is_there_is_replaced_when_told(
    suffix: str, photos: Path, tmp_path: Path, bucket: Bucket
) -> None:
    convert(photos, f"memory://a{suffix}")
    other = write_folder(tmp_path / "other", {"a/1.jpg": picture(seed=5)})
    convert(other, f"memory://a{suffix}", overwrite=True)
    convert(other, tmp_path / f"a{suffix}")
    assert bucket.objects == objects_on_disk(tmp_path / f"a{suffix}")


def test_the_old_root_of_zarr_goes_first(photos: Path, bucket: Bucket) -> None:
    convert(photos, "memory://a.zarr")
    bucket.calls.clear()
    convert(photos, "memory://a.zarr", overwrite=True)
    changed = [call[:2] for call in bucket.calls if call[0] in ("put", "delete")]
    first = next(call for call in changed if call != ("put", ".a.zarr.partial"))
    assert first == ("delete", ["a.zarr/zarr.json"])


@every_suffix
def test_an_old_store_is_kept_if_the_source_is_wrong(
    suffix: str, photos: Path, bucket: Bucket
) -> None:
    convert(photos, f"memory://a{suffix}")
    before = bucket.objects
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        convert(photos / "nowhere", f"memory://a{suffix}", overwrite=True)
    assert bucket.objects == before


@every_suffix
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_store_is_never_replaced(
    suffix: str, overwrite: bool, photos: Path, bucket: Bucket
) -> None:
    names = {".zarr": "a.zarr/zarr.json", ".h5": "a.h5"}
    bucket.inner.put(names[suffix], b"precious")
    with pytest.raises(FileExistsError, match=f"memory://a{suffix}: "):
        convert(photos, f"memory://a{suffix}", overwrite=overwrite)
    assert bucket.objects == {names[suffix]: b"precious"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_objects_below_that_are_no_store_are_never_deleted(
    overwrite: bool, photos: Path, bucket: Bucket
) -> None:
    bucket.inner.put("a.zarr/.zgroup", b"precious")
    with pytest.raises(FileExistsError, match=r"memory://a\.zarr: there are objects below"):
        convert(photos, "memory://a.zarr", overwrite=overwrite)
    assert bucket.objects == {"a.zarr/.zgroup": b"precious"}


@every_suffix
def test_a_neighbour_is_left_alone(suffix: str, photos: Path, bucket: Bucket) -> None:
    neighbours = {f"a{suffix}.txt": b"1", f"a{suffix}2/zarr.json": b"2", "b": b"3"}
    for key, data in neighbours.items():
        bucket.inner.put(key, data)
    convert(photos, f"memory://a{suffix}")
    convert(photos, f"memory://a{suffix}", overwrite=True)
    assert neighbours.items() <= bucket.objects.items()


@every_suffix
def test_two_conversions_to_one_target_do_not_mix(
    suffix: str, photos: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    second: list[str] = []
    writer = BucketDraft.writer

    def meanwhile(self: BucketDraft) -> Any:
        if not second:
            second.append("begun")
            with pytest.raises(StorageError, match=r"partial: another process is writing to"):
                convert(photos, f"memory://a{suffix}")
        return writer(self)

    monkeypatch.setattr(BucketDraft, "writer", meanwhile)
    convert(photos, f"memory://a{suffix}")
    assert second
    assert len(arraystore.open(f"memory://a{suffix}")["train"]) == 30


def test_what_a_killed_conversion_left_is_cleared_when_told(photos: Path, bucket: Bucket) -> None:
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
def test_what_somebody_else_puts_there_meanwhile_stays(
    suffix: str, photos: Path, bucket: Bucket
) -> None:
    root = {".zarr": "a.zarr/zarr.json", ".h5": "a.h5"}[suffix]

    def meanwhile(method: str, key: Any) -> None:
        # The last thing asked before the store appears.
        if (method, key) in (("put", root), ("head", root)) and len(bucket.calls) > 5:
            bucket.inner.put(root, b"theirs")

    bucket.before = meanwhile
    with pytest.raises(FileExistsError, match="created by somebody else in the meantime"):
        convert(photos, f"memory://a{suffix}")
    assert bucket.objects[root] == b"theirs"
    assert suffix == ".zarr" or set(bucket.objects) == {root}


# What fails


@every_suffix
def test_a_source_that_changes_meanwhile_is_told_and_leaves_no_store(
    suffix: str, photos: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = photos / "train" / "a" / "4.jpg"
    writer = BucketDraft.writer

    def meddle(self: BucketDraft) -> Any:
        if suffix == ".zarr":
            os.truncate(victim, 100)
        elif hasattr(self, "_payloads") and self._payloads:
            victim.write_bytes(victim.read_bytes()[:-1] + b"!")
        return writer(self)

    monkeypatch.setattr(BucketDraft, "writer", meddle)
    with pytest.raises(SourceChangedError, match=r"4\.jpg: changed since reading began: "):
        convert(photos, f"memory://a{suffix}")
    assert not {"a.zarr/zarr.json", "a.h5", ".a.h5.partial"} & set(bucket.objects)


@every_suffix
def test_a_bucket_that_takes_no_more_is_told_and_there_is_no_store(
    suffix: str, photos: Path, bucket: Bucket
) -> None:
    def full(method: str, key: Any) -> None:
        if method == "put" and key in ("a.h5", "a.zarr/train/label/c/0"):
            raise GenericError("Server returned non-2xx status code: 507 Insufficient Storage:")

    bucket.before = full
    with pytest.raises(StorageError, match=rf"memory://a{suffix}.*: the server answered 507"):
        convert(photos, f"memory://a{suffix}")
    assert not {"a.zarr/zarr.json", "a.h5", ".a.h5.partial"} & set(bucket.objects)


def test_an_error_in_the_first_shard_leaves_nothing_and_the_next_conversion_works(
    photos: Path, bucket: Bucket
) -> None:
    def fail(method: str, key: Any) -> None:
        if method == "put" and key == "a.zarr/train/image_payload/c/0":
            raise GenericError("broken")

    bucket.before = fail
    with pytest.raises(StorageError, match=r"memory://a\.zarr/train/image_payload/c/0: broken"):
        convert(photos, "memory://a.zarr")
    assert bucket.objects == {}
    bucket.before = lambda method, key: None
    convert(photos, "memory://a.zarr")
    assert len(arraystore.open("memory://a.zarr")["train"]) == 30


def test_a_store_whose_root_may_be_there_is_not_emptied(
    photos: Path, tmp_path: Path, bucket: Bucket
) -> None:
    def lose(method: str, key: Any) -> None:
        # The answer to the last write is lost, and so is that to the question what came of it.
        if key == "a.zarr/zarr.json" and bucket.keys_of("put").count(key) and len(lost) < 2:
            lost.append(method)
            raise GenericError("Server returned non-2xx status code: 500 Oh:")

    lost: list[str] = []
    bucket.after = lose
    with pytest.raises(StorageError, match=r"memory://a\.zarr/zarr\.json: the server answered 500"):
        convert(photos, "memory://a.zarr")
    assert lost == ["put", "get"]
    convert(photos, tmp_path / "a.zarr")
    assert bucket.objects == objects_on_disk(tmp_path / "a.zarr")


def test_an_interrupted_upload_leaves_nothing(
    photos: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object) -> Iterator[bytes]:
        yield b"begun"
        raise KeyboardInterrupt

    monkeypatch.setattr(one_room.OneObjectDraft, "_payload", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(photos, "memory://a.h5")
    assert bucket.objects == {}


def test_what_cannot_be_deleted_does_not_hide_the_error(photos: Path, bucket: Bucket) -> None:
    def fail(method: str, key: Any) -> None:
        if key == "a.zarr/train/image_payload/c/0" or method == "delete":
            raise GenericError("broken")

    bucket.before = fail
    with pytest.raises(StorageError, match=r"image_payload/c/0: broken") as caught:
        convert(photos, "memory://a.zarr")
    assert "what was sent is left as it is: memory://a.zarr" in "".join(caught.value.__notes__)


@pytest.mark.parametrize("is_ours", [True, False])
def test_an_object_whose_creation_is_unknown_is_told_by_its_bytes(
    is_ours: bool, bucket: Bucket
) -> None:
    def lose(method: str, key: Any) -> None:
        if method == "put":
            bucket.inner.put(key, b"ours" if is_ours else b"theirs")
            raise GenericError("no answer")

    objects = ObjectWriter("memory://a")
    bucket.before = lose
    if is_ours:
        objects.create("key", b"ours")
    else:
        with pytest.raises(FileExistsError, match="memory://key: was created by somebody else"):
            objects.create("key", b"ours")


def test_an_object_that_was_not_created_is_told(bucket: Bucket) -> None:
    def fail(method: str, key: Any) -> None:
        if method == "put":
            raise GenericError("Server returned non-2xx status code: 500 Oh:")

    bucket.before = fail
    with pytest.raises(StorageError, match="memory://key: the server answered 500"):
        ObjectWriter("memory://a").create("key", b"ours")


def test_an_upload_of_which_only_the_answer_is_lost_is_done(bucket: Bucket) -> None:
    def lose(method: str, key: Any) -> None:
        if method == "put":
            raise GenericError("no answer")

    bucket.after = lose
    ObjectWriter("memory://a").upload("key", 4, lambda: [b"da", b"ta"])
    assert bucket.objects == {"key": b"data"}


def test_an_upload_is_not_taken_for_done_because_an_old_object_has_its_size(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def takes_all_and_fails(key: str, pieces: AsyncIterator[bytes], **keywords: Any) -> None:
        assert [piece async for piece in pieces] == [b"data"]
        raise GenericError("broken")

    bucket.inner.put("key", b"olds")
    monkeypatch.setattr(bucket, "put_async", takes_all_and_fails, raising=False)
    with pytest.raises(StorageError, match="memory://key: broken"):
        ObjectWriter("memory://a").upload("key", 4, lambda: [b"data"])


def test_an_upload_that_could_not_begin_is_begun_again(bucket: Bucket) -> None:
    failures = [GenericError("HTTP error: error sending request") for _ in range(2)]

    def fail(method: str, key: Any) -> None:
        if method == "put" and failures:
            raise failures.pop()

    bucket.before = fail
    ObjectWriter("memory://a").upload("key", 4, lambda: [b"data"])
    assert bucket.objects == {"key": b"data"}


# What cannot be


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("http://localhost/a.zarr", {}, r"http://localhost/a\.zarr: stores are written to a"),
        ("s3://bucket/a.tar", {}, r"a\.tar: the suffix chooses the container"),
        ("s3://bucket", {}, "the suffix chooses the container"),
        ("ftp://bucket/a.zarr", {}, r"ftp://bucket/a\.zarr: an address begins with"),
        ("s3://bucket/a.zarr", {"regoin": "x"}, "'regoin' is not known"),
        ("a.zarr", {"region": "x"}, r"a\.zarr: storage_options are for buckets"),
    ],
)
def test_targets_that_cannot_be_are_told(
    target: str, options: dict[str, Any], message: str, photos: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        convert(photos, target, storage_options=options)


def test_the_checksums_of_a_payload_are_compared_image_by_image() -> None:
    sizes = np.full(5, 300)
    (first, second) = blocks(sizes, block_nbytes=1000)
    expected = np.arange(5, dtype=np.uint32)
    assert draft_room.first_difference(first, expected[:4], expected) == -1
    assert draft_room.first_difference(second, expected[4:], expected) == -1
    assert draft_room.first_difference(second, expected[:1], expected) == 4
