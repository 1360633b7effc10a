"""Stopped conversions to a bucket that are resumed: nothing is sent twice, and the same bytes."""

from __future__ import annotations

import os
import resource
from functools import cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import pytest
from obstore.exceptions import GenericError, PreconditionError
from obstore.store import LocalStore

import arraystore
from arraystore.cli.commands import main
from arraystore.containers.zarr import writer as zarr_writer
from arraystore.errors import SourceChangedError, SourceError, StorageError
from arraystore.indexing.layout import blocks
from arraystore.storage.location import Location
from arraystore.storage.objects import connection as stores
from arraystore.storage.objects import writer as object_writer
from arraystore.storage.objects.writer import ObjectWriter
from arraystore.writing import fill as fill_module
from arraystore.writing import hdf5_bucket, lock_object, resuming, store_writer
from arraystore.writing.fill import FilePlace
from arraystore.writing.hdf5_bucket import HDF5BucketWriter
from arraystore.writing.journal import as_line
from arraystore.writing.lock_object import LockObject
from arraystore.writing.zarr_bucket import ZarrBucketWriter
from tests.support import (
    HOSTILE_LINES,
    SUFFIXES,
    Bucket,
    checked,
    objects_on_disk,
    picture,
    write_folder,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from arraystore.writing.bucket import BucketStoreWriter
    from arraystore.writing.fill import Filled, FillTask

convert_module: Final = import_module("arraystore.convert")  # not the function of the same name
SHARD: Final = 2048
LOCK: Final = ".a.zarr.partial"
TARGET: Final = "memory://a.zarr"
PHOTOS: Final = {f"train/{'ab'[i % 2]}/{i}.jpg": picture(10 + i, 20, seed=i) for i in range(16)}
N_SHARDS: Final = -(-sum(map(len, PHOTOS.values())) // SHARD)


class BoomError(Exception):
    """Stops a conversion."""


class KilledError(BaseException):
    """Raised by a bucket after the simulated kill of a process."""


@pytest.fixture(autouse=True, scope="module")
def _small_shards() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zarr_writer, "SHARD_NBYTES", SHARD)
        patch.setattr(zarr_writer, "INNER_CHUNK_NBYTES", SHARD // 8)
        patch.setattr(store_writer, "blocks", partial(blocks, block_nbytes=SHARD))
        patch.setattr(lock_object, "_WORTH", 0)
        patch.setattr(ZarrBucketWriter, "n_threads", 1)  # one shard after another
        yield


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """The bucket of ``memory://`` addresses."""
    bucket = Bucket()
    monkeypatch.setattr(stores, "connect_memory", lambda: bucket)
    return bucket


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("source") / "photos", PHOTOS)


@pytest.fixture(scope="module")
def n_calls(photos: Path) -> int:
    """Number of requests of a conversion."""
    bucket = Bucket()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stores, "connect_memory", lambda: bucket)
        convert(photos)
    return len(bucket.calls)


@pytest.fixture
def unfinished(photos: Path, bucket: Bucket) -> dict[str, bytes]:
    """Objects of a conversion that failed after most of its shards were sent."""
    stop(photos, bucket, fail_at_shard(bucket, N_SHARDS - 2))
    assert 0 < len(shards_in(bucket)) < N_SHARDS
    return bucket.objects


def convert(photos: Path, target: Any = TARGET, **options: Any) -> arraystore.ConvertReport:
    return arraystore.convert(f"folder:{photos}", target, **options)


def stop(
    photos: Path, bucket: Bucket, before: Callable[[str, Any], None], **options: Any
) -> BaseException:
    """Convert until an error, and forget the requests."""
    bucket.before = before
    with pytest.raises((BoomError, KilledError, StorageError)) as caught:
        convert(photos, **options)
    bucket.before = lambda method, key: None
    bucket.calls.clear()
    return caught.value


def fail_at_shard(bucket: Bucket, number: int) -> Callable[[str, Any], None]:
    def fail(method: str, key: Any) -> None:
        if method == "put" and "/c/" in key and len(shards_sent(bucket)) > number:
            raise GenericError("broken")

    return fail


def raise_boom(*args: object) -> None:
    raise BoomError


def is_shard(key: Any) -> bool:
    return "image_payload/c/" in key


def shards_in(bucket: Bucket) -> list[str]:
    return [key for key in bucket.objects if is_shard(key)]


def shards_sent(bucket: Bucket) -> list[str]:
    return [key for key in bucket.keys_of("put") if is_shard(key)]


def lock_of(bucket: Bucket) -> LockObject:
    """Return the lock object in the bucket."""
    return LockObject(ObjectWriter(Location.parse((bucket.inner, "a.zarr"))), LOCK)


@cache
def undisturbed(photos: Path, **options: Any) -> dict[str, bytes]:
    """Return the objects of an uninterrupted conversion."""
    convert(photos, photos.with_name("a.zarr"), sync=False, overwrite=True, **options)
    return objects_on_disk(photos.with_name("a.zarr"))


# Resuming


@pytest.mark.parametrize("number", [1, N_SHARDS - 1])
def test_resume_sends_only_missing_shards(number: int, photos: Path, bucket: Bucket) -> None:
    stop(photos, bucket, fail_at_shard(bucket, number))
    n_recorded = len(lock_of(bucket).blocks)
    assert n_recorded == number
    convert(photos, resume=True)
    assert len(shards_sent(bucket)) == N_SHARDS - n_recorded
    assert bucket.objects == undisturbed(photos)


@pytest.mark.parametrize("key", ["a.zarr/train/label/c/0", "a.zarr/zarr.json"])
def test_resume_after_all_shards_sends_none(key: str, photos: Path, bucket: Bucket) -> None:
    def fail(method: str, which: Any) -> None:
        if (method, which) == ("put", key):
            raise GenericError("broken")

    stop(photos, bucket, fail)
    convert(photos, resume=True)
    assert shards_sent(bucket) == []
    assert bucket.objects == undisturbed(photos)


def test_resume_compares_a_sample_of_sent_blocks(
    photos: Path, bucket: Bucket, unfinished: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    filled: list[FillTask] = []

    def fill(task: FillTask) -> Filled:
        (compared if task.place == FilePlace() else filled).append(task)
        return fill_module.fill(task)

    compared: list[FillTask] = []
    n_recorded = len(lock_of(bucket).blocks)
    monkeypatch.setattr(store_writer, "fill", fill)
    monkeypatch.setattr(resuming, "_SAMPLE", 1)
    convert(photos, resume=True)
    assert len(compared) == 1 < n_recorded
    assert len(filled) == N_SHARDS - n_recorded < len(unfinished)


def test_conversion_stopped_many_times_is_resumed(photos: Path, bucket: Bucket) -> None:
    n_stopped = 0
    while "a.zarr/zarr.json" not in bucket.objects:
        bucket.calls.clear()
        bucket.before = fail_at_shard(bucket, 2)
        try:
            convert(photos, resume=True)
        except StorageError:
            n_stopped += 1
    assert N_SHARDS // 8 < n_stopped < N_SHARDS
    assert bucket.objects == undisturbed(photos)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("share", [0.1, 0.4, 0.95, 1.0])
def test_killed_conversion_is_resumed(
    share: float,
    moment: str,
    photos: Path,
    bucket: Bucket,
    n_calls: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at = round(share * (n_calls - 1))

    def kill(method: str, key: Any) -> None:
        if len(bucket.calls) > at:
            raise KilledError

    monkeypatch.setattr(ZarrBucketWriter, "n_threads", 4)
    setattr(bucket, moment, kill)
    with pytest.raises(KilledError):
        convert(photos)
    setattr(bucket, moment, lambda method, key: None)
    is_published = "a.zarr/zarr.json" in bucket.objects
    assert convert(photos, resume=True).was_complete == is_published
    assert bucket.objects == undisturbed(photos)


def test_resume_without_lock_object_converts(photos: Path, bucket: Bucket) -> None:
    convert(photos, resume=True)
    assert bucket.objects == undisturbed(photos)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_resume_of_complete_store_reports_it(suffix: str, photos: Path, bucket: Bucket) -> None:
    first = convert(photos, f"memory://a{suffix}")
    before = bucket.objects
    report = convert(photos, f"memory://a{suffix}", resume=True)
    assert (first.was_complete, report.was_complete) == (False, True)
    assert report.splits == first.splits
    with pytest.raises(ValueError, match=rf"a{suffix}: cannot resume: option seed is"):
        convert(photos, f"memory://a{suffix}", resume=True, seed=1)
    assert bucket.objects == before


def test_lock_object_is_rewritten_for_enough_blocks(
    photos: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_written = []
    for worth in (0, 50):
        monkeypatch.setattr(lock_object, "_WORTH", worth)
        bucket.calls.clear()
        convert(photos, overwrite=True)
        n_written.append(bucket.keys_of("put").count(LOCK))
    # When it is acquired, when the fingerprint is known, and when only the root is missing.
    assert n_written == [3 + N_SHARDS, 3]


def test_interrupted_conversion_records_all_sent_blocks(
    photos: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lock_object, "_WORTH", 10**9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ZarrBucketWriter, "publish", interrupted)
        with pytest.raises(KeyboardInterrupt) as caught:
            convert(photos)
    assert caught.value.__notes__ == [
        "the shards sent so far are kept; pass resume=True (--resume) to continue"
    ]
    assert len(lock_of(bucket).blocks) == N_SHARDS


def test_service_without_conditional_writes_is_resumed(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bucket").mkdir()
    target = LocalStore(tmp_path / "bucket"), "a.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ZarrBucketWriter, "publish", raise_boom)
        with pytest.raises(BoomError):
            convert(photos, target)
    convert(photos, target, resume=True)
    assert objects_on_disk(tmp_path / "bucket" / "a.zarr") == undisturbed(photos)


# Recorded shards


def other(photos: Path, bucket: Bucket, key: str) -> None:
    bucket.inner.put(key, bytes(len(bucket.objects[key])))


def shorter(photos: Path, bucket: Bucket, key: str) -> None:
    bucket.inner.put(key, bucket.objects[key][:-1])


def gone(photos: Path, bucket: Bucket, key: str) -> None:
    bucket.inner.delete(key)


@pytest.mark.parametrize("change", [other, shorter, gone])
def test_changed_shard_is_sent_again(
    change: Callable[[Path, Bucket, str], None],
    photos: Path,
    bucket: Bucket,
    unfinished: dict[str, bytes],
) -> None:
    n_recorded = len(lock_of(bucket).blocks)
    change(photos, bucket, "a.zarr/train/image_payload/c/0")
    assert bucket.objects != unfinished
    convert(photos, resume=True)
    assert len(shards_sent(bucket)) == N_SHARDS - n_recorded + 1
    assert bucket.objects == undisturbed(photos)


@pytest.mark.parametrize("n_deleted", [0, 1, 2])
def test_shards_of_an_older_store_are_sent_again(
    n_deleted: int, photos: Path, bucket: Bucket
) -> None:
    convert(photos, order="label")
    bucket.calls.clear()
    deleted: list[Any] = []

    def kill(method: str, key: Any) -> None:
        deleted.extend([key] if method == "delete" else [])
        if deleted and (method == "put" or len(deleted) > n_deleted):
            raise KilledError

    stop(photos, bucket, kill, overwrite=True)
    assert len(shards_in(bucket)) == (0 if n_deleted == 2 else N_SHARDS)
    convert(photos, resume=True, overwrite=not n_deleted)
    assert len(shards_sent(bucket)) == N_SHARDS
    assert bucket.objects == undisturbed(photos)


@pytest.mark.usefixtures("unfinished")
def test_shards_of_a_larger_source_are_deleted(
    photos: Path, bucket: Bucket, tmp_path: Path
) -> None:
    few = write_folder(tmp_path / "few", {"train/a/0.jpg": PHOTOS["train/a/0.jpg"]})
    convert(few, overwrite=True)
    assert bucket.objects == undisturbed(few)
    assert len(shards_sent(bucket)) == 1


def test_shard_replaced_by_another_process_is_reported(photos: Path, bucket: Bucket) -> None:
    key = "a.zarr/train/image_payload/c/1"

    def meddle(method: str, which: Any) -> None:
        if which == "a.zarr/train/label/c/0":
            bucket.inner.put(key, bucket.objects[key])

    error = stop(photos, bucket, meddle)
    assert f"memory://{key}: is not the object that was sent; another process has" in str(error)
    assert "a.zarr/zarr.json" not in bucket.objects
    convert(photos, resume=True)
    assert shards_sent(bucket) == [key]
    assert bucket.objects == undisturbed(photos)


# Refusals


def test_unfinished_store_raises(
    photos: Path, bucket: Bucket, unfinished: dict[str, bytes]
) -> None:
    with pytest.raises(FileExistsError) as caught:
        convert(photos)
    assert str(caught.value) == (
        "memory://.a.zarr.partial: holds an unfinished conversion to a.zarr; pass resume=True "
        "(--resume) to finish it, or overwrite=True (--overwrite) to start again"
    )
    assert bucket.objects == unfinished


def test_killed_conversion_reports_time_of_last_update(photos: Path, bucket: Bucket) -> None:
    def kill(method: str, key: Any) -> None:
        if len(shards_sent(bucket)) > N_SHARDS // 2:
            raise KilledError

    stop(photos, bucket, kill)
    before = bucket.objects
    time = f"{bucket.inner.head(LOCK)['last_modified']:%Y-%m-%d %H:%M:%S} UTC"
    message = (
        rf"^memory://\.a\.zarr\.partial: another process is writing .* \(.* {time}\); wait for it, "
        r"or, if it no longer runs, pass resume=True \(--resume\) to finish it, or overwrite=True"
    )
    with pytest.raises(StorageError, match=message):
        convert(photos)
    assert bucket.objects == before


@pytest.mark.usefixtures("unfinished")
def test_overwrite_starts_again(photos: Path, bucket: Bucket) -> None:
    convert(photos, order="label", overwrite=True)
    assert len(shards_sent(bucket)) == N_SHARDS
    assert bucket.objects == undisturbed(photos, order="label")


@pytest.mark.parametrize("options", [{"overwrite": True}, {"resume": True}])
def test_unfinished_store_is_kept_if_source_is_missing(
    options: dict[str, Any], photos: Path, bucket: Bucket, unfinished: dict[str, bytes]
) -> None:
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        convert(photos / "nowhere", **options)
    assert without_lock(bucket) == {k: data for k, data in unfinished.items() if k != LOCK}
    convert(photos, resume=True)
    assert 0 < len(shards_sent(bucket)) < N_SHARDS


def test_unrecorded_shards_are_kept_if_source_is_missing(photos: Path, bucket: Bucket) -> None:
    def kill(method: str, key: Any) -> None:
        if shards_in(bucket):
            raise KilledError

    stop(photos, bucket, kill)
    assert len(shards_in(bucket)) == 1
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        convert(photos / "nowhere", resume=True)
    convert(photos, resume=True)
    assert bucket.objects == undisturbed(photos)


def without_lock(bucket: Bucket) -> dict[str, bytes]:
    return {key: data for key, data in bucket.objects.items() if key != LOCK}


def test_changed_option_is_refused_before_loading(
    photos: Path, bucket: Bucket, unfinished: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert_module, "load_source", None)
    told = (
        "option order is label, but was shuffled; option seed is 1, but was 0; use the same option"
    )
    with pytest.raises(ValueError, match=rf"^memory://{LOCK}: cannot resume: {told}"):
        convert(photos, resume=True, order="label", seed=1)
    assert without_lock(bucket) == {k: data for k, data in unfinished.items() if k != LOCK}
    with pytest.raises(FileExistsError, match="holds an unfinished conversion"):
        convert(photos)


@pytest.mark.usefixtures("unfinished")
def test_changed_source_is_refused_before_probing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = write_folder(tmp_path / "photos", PHOTOS)  # with a later modification time
    monkeypatch.setattr(convert_module, "plan_splits", None)
    with pytest.raises(SourceError, match=r"cannot resume: source a/0\.jpg is .*, but was .* of "):
        convert(again, resume=True)


@pytest.mark.usefixtures("unfinished")
def test_changed_library_is_refused(
    photos: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    from arraystore.containers.zarr.writer import ZarrWriter

    monkeypatch.setattr(ZarrWriter, "libraries", staticmethod(lambda: {"numcodecs": "9.9"}))
    with pytest.raises(ValueError, match=r"library numcodecs is 9\.9, but was "):
        convert(photos, resume=True)
    assert bucket.keys_of("delete") == []


@pytest.mark.parametrize("data", [b"", b"00000000 {}\n", *map(checked, HOSTILE_LINES.values())])
def test_invalid_lock_object_records_nothing(data: bytes, photos: Path, bucket: Bucket) -> None:
    bucket.inner.put(LOCK, data)
    with pytest.raises(StorageError, match="if it no longer runs, pass overwrite=True"):
        convert(photos)
    convert(photos, resume=True)
    assert bucket.objects == undisturbed(photos)


@pytest.mark.parametrize("hostile", HOSTILE_LINES)
@pytest.mark.usefixtures("unfinished")
def test_lock_object_with_hostile_line_records_nothing(
    hostile: str, photos: Path, bucket: Bucket
) -> None:
    data = bucket.objects[LOCK] + checked(HOSTILE_LINES[hostile])
    bucket.inner.put(LOCK, data)
    assert lock_of(bucket).fingerprint is None
    convert(photos, resume=True)
    assert len(shards_sent(bucket)) == N_SHARDS
    assert bucket.objects == undisturbed(photos)


def test_huge_lock_object_is_not_read_whole(
    photos: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_writer, "MAX_READ_NBYTES", 2**20)
    bucket.inner.put(LOCK, as_line({"plan": {}}) + bytes(2**20))
    assert not lock_of(bucket).blocks
    convert(photos, overwrite=True)
    assert bucket.objects == undisturbed(photos)


def test_lock_object_is_never_larger_than_is_read(
    photos: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ZarrBucketWriter, "publish", raise_boom)
        stop(photos, bucket, lambda method, key: None)
        most = len(bucket.objects[LOCK]) - 1
        for module in (lock_object, object_writer):
            monkeypatch.setattr(module, "MAX_READ_NBYTES", most)
        stop(photos, bucket, lambda method, key: None, overwrite=True)
    assert len(bucket.objects[LOCK]) <= most
    n_recorded = len(lock_of(bucket).blocks)
    assert 0 < n_recorded < N_SHARDS
    convert(photos, resume=True)
    assert len(shards_sent(bucket)) == N_SHARDS - n_recorded
    assert bucket.objects == undisturbed(photos)


@pytest.mark.parametrize("suffix", [".h5", ".hdf5"])
def test_resume_of_hdf5_in_bucket_raises(suffix: str, photos: Path, bucket: Bucket) -> None:
    with pytest.raises(ValueError, match=rf"^memory://a{suffix}: .* its upload must start again; "):
        convert(photos, f"memory://a{suffix}", resume=True)
    assert bucket.objects == {}


def test_hdf5_file_of_too_large_parts_raises(
    photos: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hdf5_bucket, "MAX_PARTS", 0)
    with pytest.raises(
        ValueError, match=r"^memory://a\.h5: an HDF5 file of .* write a \.zarr store"
    ):
        convert(photos, "memory://a.h5")
    assert bucket.objects == {}


def test_hdf5_file_that_the_temporary_disk_cannot_hold_raises(photos: Path, bucket: Bucket) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, hard))
    try:
        with pytest.raises(StorageError, match="File too large"):
            convert(photos, "memory://a.h5")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert bucket.objects == {}


def test_failed_copy_leaves_nothing(photos: Path, tmp_path: Path, bucket: Bucket) -> None:
    convert(photos, tmp_path / "a.h5")
    bucket.before = fail_at_shard(bucket, N_SHARDS - 2)
    with pytest.raises(StorageError, match="broken"):
        arraystore.copy(tmp_path / "a.h5", TARGET)
    assert bucket.objects == {}


# Two processes


def test_conversion_taken_over_while_filling_stops(
    photos: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, n_sent = ZarrBucketWriter.record, 0

    def meanwhile(self: ZarrBucketWriter, *args: Any) -> None:
        nonlocal n_sent
        n_sent += 1
        if n_sent == N_SHARDS // 2:
            convert(photos, resume=True)
        record(self, *args)

    monkeypatch.setattr(ZarrBucketWriter, "max_in_flight", 1)
    monkeypatch.setattr(ZarrBucketWriter, "record", meanwhile)
    with pytest.raises(StorageError) as caught:
        convert(photos)
    assert str(caught.value) == (
        "memory://.a.zarr.partial: another process has begun, or taken over, a conversion to the "
        "same target; this one stops and leaves the target to it"
    )
    assert not hasattr(caught.value, "__notes__")
    assert n_sent == N_SHARDS + 1  # both processes sent one of them
    assert bucket.objects == undisturbed(photos)


@pytest.mark.parametrize("kind", [ZarrBucketWriter, HDF5BucketWriter])
def test_conversion_taken_over_does_not_publish(
    kind: type[BucketStoreWriter], photos: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = TARGET if kind is ZarrBucketWriter else "memory://a.h5"
    publish = kind.publish

    def taken_over(self: Any, meter: Any) -> None:
        LockObject(ObjectWriter(Location.parse((bucket.inner, "a.zarr"))), self._lock.key).acquire()
        publish(self, meter)

    monkeypatch.setattr(kind, "publish", taken_over)
    with pytest.raises(StorageError, match="another process has begun, or taken over"):
        convert(photos, target)
    assert not {"a.zarr/zarr.json", "a.h5"} & set(bucket.objects)
    assert len(shards_in(bucket)) == (N_SHARDS if kind is ZarrBucketWriter else 0)


@pytest.mark.usefixtures("unfinished")
@pytest.mark.parametrize("options", [{"resume": True}, {"overwrite": True}])
def test_concurrent_resumes_have_one_winner(
    options: dict[str, Any], photos: Path, bucket: Bucket
) -> None:
    acquire = LockObject.acquire

    def second_is_faster(self: LockObject) -> None:
        acquire(lock_of(bucket))
        acquire(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LockObject, "acquire", second_is_faster)
        with pytest.raises(StorageError, match="another process has begun, or taken over"):
            convert(photos, **options)
    assert bucket.keys_of("delete") == []
    convert(photos, resume=True)
    assert 0 < len(shards_sent(bucket)) < N_SHARDS


def test_conversion_taken_over_while_planning_deletes_nothing(
    photos: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(photos)
    before = bucket.objects
    load = convert_module.load_source

    def taken_over(*args: Any, **options: Any) -> Any:
        lock_of(bucket).acquire()
        return load(*args, **options)

    monkeypatch.setattr(convert_module, "load_source", taken_over)
    with pytest.raises(StorageError, match="another process has begun, or taken over"):
        convert(photos, overwrite=True)
    assert without_lock(bucket) == before


def test_failed_conversion_taken_over_deletes_nothing(
    photos: Path, tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        lock_of(bucket).acquire()
        raise BoomError

    convert(photos, tmp_path / "a.h5")
    monkeypatch.setattr(ZarrBucketWriter, "publish", fail)
    with pytest.raises(BoomError) as caught:
        arraystore.copy(tmp_path / "a.h5", TARGET)
    assert len(shards_in(bucket)) == N_SHARDS
    (note,) = caught.value.__notes__
    assert note.startswith(
        f"objects sent so far are left as they are: memory://{LOCK}: another process"
    )


def test_lock_object_taken_over_after_publishing_is_kept(photos: Path, bucket: Bucket) -> None:
    def taken_over(method: str, key: Any) -> None:
        if (method, key) == ("put", "a.zarr/zarr.json"):
            lock_of(bucket).acquire()

    bucket.after = taken_over
    convert(photos)
    assert without_lock(bucket) == undisturbed(photos)
    assert LOCK in bucket.objects


def test_root_created_meanwhile_is_kept(
    photos: Path, bucket: Bucket, unfinished: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    load = convert_module.load_source
    theirs = {"a.zarr/zarr.json": b"theirs", "a.zarr/c/0": b"theirs"}

    def meanwhile(*args: Any, **options: Any) -> Any:
        for key, data in theirs.items():
            bucket.inner.put(key, data)
        return load(*args, **options)

    monkeypatch.setattr(convert_module, "load_source", meanwhile)
    with pytest.raises(FileExistsError, match="created by another process meanwhile"):
        convert(photos, resume=True)
    assert theirs.items() <= bucket.objects.items()
    assert len(without_lock(bucket)) == len(unfinished) + 1


def test_lock_object_is_ours_after_lost_response(photos: Path, bucket: Bucket) -> None:
    n_lost = 0

    def lose(method: str, key: Any) -> None:
        nonlocal n_lost
        if (method, key) == ("put", LOCK):
            n_lost += 1
            if n_lost % 2:  # obstore repeated a request whose response was lost
                raise PreconditionError("another version")

    bucket.after = lose
    convert(photos)
    assert n_lost > N_SHARDS
    assert bucket.objects == undisturbed(photos)


# The command


def test_command_resumes(photos: Path, bucket: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    bucket.before = fail_at_shard(bucket, N_SHARDS // 2)
    arguments = ["convert", f"folder:{photos}", TARGET]
    assert main(arguments) == 1
    kept = "broken; the shards sent so far are kept; pass resume=True (--resume) to continue"
    assert capsys.readouterr().err.strip().endswith(kept)
    bucket.before = lambda method, key: None
    assert main(arguments) == 1
    assert "holds an unfinished conversion to a.zarr; pass" in capsys.readouterr().err
    assert main([*arguments, "--resume"]) == 0
    assert bucket.objects == undisturbed(photos)


# A source that was touched or changed


def test_touched_source_is_compared_with_sent_shards(
    photos: Path, bucket: Bucket, unfinished: dict[str, bytes]
) -> None:
    for photo in photos.rglob("*.jpg"):
        photo.chmod(0o600)
    convert(photos, resume=True)
    assert bucket.objects == undisturbed(photos)
    assert unfinished


@pytest.mark.usefixtures("unfinished")
def test_source_changed_in_place_is_refused(photos: Path, bucket: Bucket) -> None:
    for photo in photos.rglob("*.jpg"):
        status = photo.stat()
        photo.write_bytes(photo.read_bytes()[:-3] + b"!\xff\xd9")
        os.utime(photo, ns=(status.st_atime_ns, status.st_mtime_ns))
    for _ in range(2):
        with pytest.raises(SourceChangedError, match="have other bytes than when they were copied"):
            convert(photos, resume=True)
    assert "a.zarr/zarr.json" not in bucket.objects
