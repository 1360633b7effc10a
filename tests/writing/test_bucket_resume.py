"""Conversions to a bucket that were stopped, and go on: nothing sent twice, the same bytes."""

from __future__ import annotations

import os
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
from arraystore.storage.objects import connection as stores
from arraystore.storage.objects import writer as writer_room
from arraystore.storage.objects.writer import ObjectWriter
from arraystore.writing import fill as fill_room
from arraystore.writing import lock_object as claim_room
from arraystore.writing import resuming
from arraystore.writing import store_writer as draft_room
from arraystore.writing.fill import FilePlaces
from arraystore.writing.hdf5_bucket import OneObjectDraft
from arraystore.writing.journal import as_line
from arraystore.writing.lock_object import Claim
from arraystore.writing.zarr_bucket import ManyObjectsDraft
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

    from arraystore.writing.bucket import BucketDraft
    from arraystore.writing.fill import Filled, FillTask

convert_room: Final = import_module("arraystore.convert")  # not the function of the same name
SHARD: Final = 2048
CLAIM: Final = ".a.zarr.partial"
TARGET: Final = "memory://a.zarr"
PHOTOS: Final = {f"train/{'ab'[i % 2]}/{i}.jpg": picture(10 + i, 20, seed=i) for i in range(16)}
N_SHARDS: Final = -(-sum(map(len, PHOTOS.values())) // SHARD)


class BoomError(Exception):
    """What stops a conversion here."""


class KilledError(BaseException):
    """What a bucket raises from the moment on at which a process is thought to be killed."""


@pytest.fixture(autouse=True, scope="module")
def _small_shards() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zarr_writer, "SHARD_NBYTES", SHARD)
        patch.setattr(zarr_writer, "INNER_CHUNK_NBYTES", SHARD // 8)
        patch.setattr(draft_room, "blocks", partial(blocks, block_nbytes=SHARD))
        patch.setattr(claim_room, "_WORTH", 0)
        patch.setattr(ManyObjectsDraft, "n_threads", 1)  # one shard after another
        yield


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """What ``memory://`` addresses reach."""
    bucket = Bucket()
    monkeypatch.setattr(stores, "connect_memory", lambda: bucket)
    return bucket


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("source") / "photos", PHOTOS)


@pytest.fixture(scope="module")
def n_calls(photos: Path) -> int:
    """How often a conversion asks the bucket."""
    bucket = Bucket()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stores, "connect_memory", lambda: bucket)
        convert(photos)
    return len(bucket.calls)


@pytest.fixture
def unfinished(photos: Path, bucket: Bucket) -> dict[str, bytes]:
    """Objects of a conversion that failed when most of its shards were sent."""
    stop(photos, bucket, fail_at_shard(bucket, N_SHARDS - 2))
    assert 0 < len(shards_in(bucket)) < N_SHARDS
    return bucket.objects


def convert(photos: Path, target: Any = TARGET, **options: Any) -> arraystore.ConvertReport:
    return arraystore.convert(f"folder:{photos}", target, **options)


def stop(
    photos: Path, bucket: Bucket, before: Callable[[str, Any], None], **options: Any
) -> BaseException:
    """Convert until something goes wrong, and forget what the bucket was asked."""
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


def is_shard(key: Any) -> bool:
    return "image_payload/c/" in key


def shards_in(bucket: Bucket) -> list[str]:
    return [key for key in bucket.objects if is_shard(key)]


def shards_sent(bucket: Bucket) -> list[str]:
    return [key for key in bucket.keys_of("put") if is_shard(key)]


def claim_of(bucket: Bucket) -> Claim:
    """What the claim tells that is in the bucket."""
    return Claim(ObjectWriter((bucket.inner, "a.zarr")), CLAIM)


@cache
def undisturbed(photos: Path, **options: Any) -> dict[str, bytes]:
    """What a conversion writes that nothing disturbs."""
    convert(photos, photos.with_name("a.zarr"), sync=False, overwrite=True, **options)
    return objects_on_disk(photos.with_name("a.zarr"))


# Going on


@pytest.mark.parametrize("number", [1, N_SHARDS - 1])
def test_what_was_sent_is_not_sent_again_and_all_has_the_bytes_of_an_undisturbed_conversion(
    number: int, photos: Path, bucket: Bucket
) -> None:
    stop(photos, bucket, fail_at_shard(bucket, number))
    n_recorded = len(claim_of(bucket).blocks)
    assert n_recorded == number
    convert(photos, resume=True)
    assert len(shards_sent(bucket)) == N_SHARDS - n_recorded
    assert bucket.objects == undisturbed(photos)


@pytest.mark.parametrize("key", ["a.zarr/train/label/c/0", "a.zarr/zarr.json"])
def test_no_shard_is_sent_again_if_all_were(key: str, photos: Path, bucket: Bucket) -> None:
    def fail(method: str, which: Any) -> None:
        if (method, which) == ("put", key):
            raise GenericError("broken")

    stop(photos, bucket, fail)
    convert(photos, resume=True)
    assert shards_sent(bucket) == []
    assert bucket.objects == undisturbed(photos)


def test_images_that_were_sent_are_not_read_again_except_for_a_sample(
    photos: Path, bucket: Bucket, unfinished: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    filled: list[FillTask] = []

    def fill(task: FillTask) -> Filled:
        (compared if task.target == FilePlaces() else filled).append(task)
        return fill_room.fill(task)

    compared: list[FillTask] = []
    n_recorded = len(claim_of(bucket).blocks)
    monkeypatch.setattr(draft_room, "fill", fill)
    monkeypatch.setattr(resuming, "_SAMPLE", 1)
    convert(photos, resume=True)
    assert len(compared) == 1 < n_recorded
    assert len(filled) == N_SHARDS - n_recorded < len(unfinished)


def test_a_conversion_may_be_stopped_many_times(photos: Path, bucket: Bucket) -> None:
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
def test_it_does_not_matter_when_a_process_is_killed(
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
            raise KilledError  # whatever it does after, does not reach the bucket any more

    monkeypatch.setattr(ManyObjectsDraft, "n_threads", 4)
    setattr(bucket, moment, kill)
    with pytest.raises(KilledError):
        convert(photos)
    setattr(bucket, moment, lambda method, key: None)
    is_published = "a.zarr/zarr.json" in bucket.objects
    assert convert(photos, resume=True).was_complete == is_published
    assert bucket.objects == undisturbed(photos)


def test_where_nothing_is_resume_begins(photos: Path, bucket: Bucket) -> None:
    convert(photos, resume=True)
    assert bucket.objects == undisturbed(photos)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_resume_of_a_complete_store_reports_it(suffix: str, photos: Path, bucket: Bucket) -> None:
    first = convert(photos, f"memory://a{suffix}")
    before = bucket.objects
    report = convert(photos, f"memory://a{suffix}", resume=True)
    assert (first.was_complete, report.was_complete) == (False, True)
    assert report.splits == first.splits
    with pytest.raises(ValueError, match=rf"a{suffix}: cannot be resumed, because option seed was"):
        convert(photos, f"memory://a{suffix}", resume=True, seed=1)
    assert bucket.objects == before


def test_the_claim_is_not_written_for_less_than_it_is_worth(
    photos: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_written = []
    for worth in (0, 50):
        monkeypatch.setattr(claim_room, "_WORTH", worth)
        bucket.calls.clear()
        convert(photos, overwrite=True)
        n_written.append(bucket.keys_of("put").count(CLAIM))
    # When it is taken, when the plan is known, and when only the root is missing.
    assert n_written == [3 + N_SHARDS, 3]


def test_an_interrupted_conversion_records_all_that_it_knows_to_be_sent(
    photos: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(claim_room, "_WORTH", 10**9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ManyObjectsDraft, "publish", interrupted)
        with pytest.raises(KeyboardInterrupt) as caught:
            convert(photos)
    assert caught.value.__notes__ == [
        "what was sent is kept; resume=True (--resume) goes on from there"
    ]
    assert len(claim_of(bucket).blocks) == N_SHARDS


def test_a_store_on_a_service_that_knows_no_conditions_is_resumed(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bucket").mkdir()
    target = LocalStore(tmp_path / "bucket"), "a.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ManyObjectsDraft, "writer", Claim.leave)
        with pytest.raises(AttributeError):
            convert(photos, target)
    convert(photos, target, resume=True)
    assert objects_on_disk(tmp_path / "bucket" / "a.zarr") == undisturbed(photos)


# What counts as sent


def other(photos: Path, bucket: Bucket, key: str) -> None:
    bucket.inner.put(key, bytes(len(bucket.objects[key])))


def shorter(photos: Path, bucket: Bucket, key: str) -> None:
    bucket.inner.put(key, bucket.objects[key][:-1])


def gone(photos: Path, bucket: Bucket, key: str) -> None:
    bucket.inner.delete(key)


@pytest.mark.parametrize("change", [other, shorter, gone])
def test_a_shard_that_is_not_as_it_was_sent_is_sent_again(
    change: Callable[[Path, Bucket, str], None],
    photos: Path,
    bucket: Bucket,
    unfinished: dict[str, bytes],
) -> None:
    n_recorded = len(claim_of(bucket).blocks)
    change(photos, bucket, "a.zarr/train/image_payload/c/0")
    assert bucket.objects != unfinished
    convert(photos, resume=True)
    assert len(shards_sent(bucket)) == N_SHARDS - n_recorded + 1
    assert bucket.objects == undisturbed(photos)


@pytest.mark.parametrize("n_deleted", [0, 1, 2])
def test_shards_of_a_store_that_was_there_before_never_count(
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
def test_nothing_of_a_larger_plan_is_left(photos: Path, bucket: Bucket, tmp_path: Path) -> None:
    few = write_folder(tmp_path / "few", {"train/a/0.jpg": PHOTOS["train/a/0.jpg"]})
    convert(few, overwrite=True)
    assert bucket.objects == undisturbed(few)
    assert len(shards_sent(bucket)) == 1


def test_what_somebody_else_writes_meanwhile_is_noticed_and_sent_again(
    photos: Path, bucket: Bucket
) -> None:
    key = "a.zarr/train/image_payload/c/1"

    def meddle(method: str, which: Any) -> None:
        if which == "a.zarr/train/label/c/0":
            bucket.inner.put(key, bucket.objects[key])

    error = stop(photos, bucket, meddle)
    assert f"memory://{key}: is not what was sent; something else has written" in str(error)
    assert "a.zarr/zarr.json" not in bucket.objects
    convert(photos, resume=True)
    assert shards_sent(bucket) == [key]
    assert bucket.objects == undisturbed(photos)


# What is refused


def test_an_unfinished_store_is_reported_and_left_alone(
    photos: Path, bucket: Bucket, unfinished: dict[str, bytes]
) -> None:
    with pytest.raises(FileExistsError) as caught:
        convert(photos)
    assert str(caught.value) == (
        "memory://.a.zarr.partial: holds an unfinished conversion to a.zarr; give resume=True "
        "(--resume) to finish it, or overwrite=True (--overwrite) to start again"
    )
    assert bucket.objects == unfinished


def test_of_a_killed_conversion_it_is_told_when_it_was_heard_of_last(
    photos: Path, bucket: Bucket
) -> None:
    def kill(method: str, key: Any) -> None:
        if len(shards_sent(bucket)) > N_SHARDS // 2:
            raise KilledError

    stop(photos, bucket, kill)
    before = bucket.objects
    time = f"{bucket.inner.head(CLAIM)['last_modified']:%Y-%m-%d %H:%M:%S} UTC"
    message = (
        rf"^memory://\.a\.zarr\.partial: another process is writing .* \(.* {time}\); wait for it, "
        r"or, if it is no more, give resume=True \(--resume\) to finish it, or overwrite=True"
    )
    with pytest.raises(StorageError, match=message):
        convert(photos)
    assert bucket.objects == before


@pytest.mark.usefixtures("unfinished")
def test_overwrite_starts_anew(photos: Path, bucket: Bucket) -> None:
    convert(photos, order="label", overwrite=True)
    assert len(shards_sent(bucket)) == N_SHARDS
    assert bucket.objects == undisturbed(photos, order="label")


@pytest.mark.parametrize("options", [{"overwrite": True}, {"resume": True}])
def test_an_unfinished_store_is_kept_if_the_source_is_wrong(
    options: dict[str, Any], photos: Path, bucket: Bucket, unfinished: dict[str, bytes]
) -> None:
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        convert(photos / "nowhere", **options)
    assert without_claim(bucket) == {k: data for k, data in unfinished.items() if k != CLAIM}
    convert(photos, resume=True)
    assert 0 < len(shards_sent(bucket)) < N_SHARDS


def test_shards_that_nothing_tells_of_are_still_ours_if_the_source_is_wrong(
    photos: Path, bucket: Bucket
) -> None:
    def kill(method: str, key: Any) -> None:
        if shards_in(bucket):
            raise KilledError

    stop(photos, bucket, kill)
    assert len(shards_in(bucket)) == 1
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        convert(photos / "nowhere", resume=True)
    convert(photos, resume=True)
    assert bucket.objects == undisturbed(photos)


def without_claim(bucket: Bucket) -> dict[str, bytes]:
    return {key: data for key, data in bucket.objects.items() if key != CLAIM}


def test_another_option_is_told_before_the_source_is_looked_at(
    photos: Path, bucket: Bucket, unfinished: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert_room, "load_source", None)
    told = "option order was shuffled and is label now; option seed was 0 and is 1 now; go back"
    with pytest.raises(ValueError, match=rf"^memory://{CLAIM}: cannot be resumed, because {told}"):
        convert(photos, resume=True, order="label", seed=1)
    assert without_claim(bucket) == {k: data for k, data in unfinished.items() if k != CLAIM}
    with pytest.raises(FileExistsError, match="holds an unfinished conversion"):
        convert(photos)


@pytest.mark.usefixtures("unfinished")
def test_another_source_is_told_before_its_images_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = write_folder(tmp_path / "photos", PHOTOS)  # later than the first time
    monkeypatch.setattr(convert_room, "_plans", None)
    with pytest.raises(SourceError, match=r"because source a/0\.jpg was .* of .* and is .* now"):
        convert(again, resume=True)


@pytest.mark.usefixtures("unfinished")
def test_another_library_is_told(
    photos: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    from arraystore.containers.zarr.writer import ZarrWriter

    monkeypatch.setattr(ZarrWriter, "libraries", staticmethod(lambda: {"numcodecs": "9.9"}))
    with pytest.raises(ValueError, match=r"library numcodecs was .* and is 9\.9 now"):
        convert(photos, resume=True)
    assert bucket.keys_of("delete") == []


@pytest.mark.parametrize("data", [b"", b"00000000 {}\n", *map(checked, HOSTILE_LINES.values())])
def test_a_claim_that_is_not_understood_tells_nothing(
    data: bytes, photos: Path, bucket: Bucket
) -> None:
    bucket.inner.put(CLAIM, data)
    with pytest.raises(StorageError, match="if it is no more, give overwrite=True"):
        convert(photos)
    convert(photos, resume=True)
    assert bucket.objects == undisturbed(photos)


@pytest.mark.parametrize("hostile", HOSTILE_LINES)
@pytest.mark.usefixtures("unfinished")
def test_claim_with_a_hostile_line_is_not_resumed(
    hostile: str, photos: Path, bucket: Bucket
) -> None:
    data = bucket.objects[CLAIM] + checked(HOSTILE_LINES[hostile])
    bucket.inner.put(CLAIM, data)
    assert claim_of(bucket).plan is None
    convert(photos, resume=True)
    assert len(shards_sent(bucket)) == N_SHARDS
    assert bucket.objects == undisturbed(photos)


def test_claim_of_any_size_is_not_read_whole(
    photos: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_room, "MAX_READ_NBYTES", 2**20)
    bucket.inner.put(CLAIM, as_line({"plan": {}}) + bytes(2**20))
    assert not claim_of(bucket).blocks
    convert(photos, overwrite=True)
    assert bucket.objects == undisturbed(photos)


@pytest.mark.parametrize("suffix", [".h5", ".hdf5"])
def test_one_file_is_not_resumed_in_a_bucket(suffix: str, photos: Path, bucket: Bucket) -> None:
    with pytest.raises(ValueError, match=rf"^memory://a{suffix}: .* its upload begins again; a "):
        convert(photos, f"memory://a{suffix}", resume=True)
    assert bucket.objects == {}


def test_a_copy_that_fails_leaves_nothing(photos: Path, tmp_path: Path, bucket: Bucket) -> None:
    convert(photos, tmp_path / "a.h5")
    bucket.before = fail_at_shard(bucket, N_SHARDS - 2)
    with pytest.raises(StorageError, match="broken"):
        arraystore.copy(tmp_path / "a.h5", TARGET)
    assert bucket.objects == {}


# Two at once


def test_who_is_taken_over_while_it_fills_stops_and_leaves_all_to_the_other(
    photos: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, n_sent = ManyObjectsDraft.record, 0

    def meanwhile(self: ManyObjectsDraft, *args: Any) -> None:
        nonlocal n_sent
        n_sent += 1
        if n_sent == N_SHARDS // 2:
            convert(photos, resume=True)
        record(self, *args)

    monkeypatch.setattr(ManyObjectsDraft, "max_in_flight", 1)
    monkeypatch.setattr(ManyObjectsDraft, "record", meanwhile)
    with pytest.raises(StorageError) as caught:
        convert(photos)
    assert str(caught.value) == (
        "memory://.a.zarr.partial: another process has begun, or taken over, a conversion to the "
        "same target; this one leaves all to it"
    )
    assert not hasattr(caught.value, "__notes__")
    assert n_sent == N_SHARDS + 1  # one that both had sent
    assert bucket.objects == undisturbed(photos)


@pytest.mark.parametrize("kind", [ManyObjectsDraft, OneObjectDraft])
def test_who_is_taken_over_does_not_publish(
    kind: type[BucketDraft], photos: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = TARGET if kind is ManyObjectsDraft else "memory://a.h5"
    publish = kind.publish

    def taken_over(self: Any, meter: Any) -> None:
        Claim(ObjectWriter((bucket.inner, "a.zarr")), self._claim.key).take()
        publish(self, meter)

    monkeypatch.setattr(kind, "publish", taken_over)
    with pytest.raises(StorageError, match="another process has begun, or taken over"):
        convert(photos, target)
    assert not {"a.zarr/zarr.json", "a.h5"} & set(bucket.objects)
    assert len(shards_in(bucket)) == (N_SHARDS if kind is ManyObjectsDraft else 0)


@pytest.mark.usefixtures("unfinished")
@pytest.mark.parametrize("options", [{"resume": True}, {"overwrite": True}])
def test_of_two_that_resume_at_once_one_wins(
    options: dict[str, Any], photos: Path, bucket: Bucket
) -> None:
    take = Claim.take

    def second_is_faster(self: Claim) -> None:
        take(claim_of(bucket))
        take(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Claim, "take", second_is_faster)
        with pytest.raises(StorageError, match="another process has begun, or taken over"):
            convert(photos, **options)
    assert bucket.keys_of("delete") == []
    convert(photos, resume=True)
    assert 0 < len(shards_sent(bucket)) < N_SHARDS


def test_who_loses_its_claim_while_it_looks_at_the_source_deletes_nothing(
    photos: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(photos)
    before = bucket.objects
    load = convert_room.load_source

    def taken_over(*args: Any, **options: Any) -> Any:
        claim_of(bucket).take()
        return load(*args, **options)

    monkeypatch.setattr(convert_room, "load_source", taken_over)
    with pytest.raises(StorageError, match="another process has begun, or taken over"):
        convert(photos, overwrite=True)
    assert without_claim(bucket) == before


def test_who_is_taken_over_and_fails_deletes_nothing(
    photos: Path, tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        claim_of(bucket).take()
        raise BoomError

    convert(photos, tmp_path / "a.h5")
    monkeypatch.setattr(ManyObjectsDraft, "publish", fail)
    with pytest.raises(BoomError) as caught:
        arraystore.copy(tmp_path / "a.h5", TARGET)
    assert len(shards_in(bucket)) == N_SHARDS
    (note,) = caught.value.__notes__
    assert note.startswith(f"what was sent is left as it is: memory://{CLAIM}: another process")


def test_a_claim_that_was_taken_over_when_all_was_done_is_left_to_the_other(
    photos: Path, bucket: Bucket
) -> None:
    def taken_over(method: str, key: Any) -> None:
        if (method, key) == ("put", "a.zarr/zarr.json"):
            claim_of(bucket).take()

    bucket.after = taken_over
    convert(photos)
    assert without_claim(bucket) == undisturbed(photos)
    assert CLAIM in bucket.objects


def test_a_root_that_appears_before_anything_is_deleted_is_left_alone_with_what_is_below(
    photos: Path, bucket: Bucket, unfinished: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    load = convert_room.load_source
    theirs = {"a.zarr/zarr.json": b"theirs", "a.zarr/c/0": b"theirs"}

    def meanwhile(*args: Any, **options: Any) -> Any:
        for key, data in theirs.items():
            bucket.inner.put(key, data)
        return load(*args, **options)

    monkeypatch.setattr(convert_room, "load_source", meanwhile)
    with pytest.raises(FileExistsError, match="created by somebody else in the meantime"):
        convert(photos, resume=True)
    assert theirs.items() <= bucket.objects.items()
    assert len(without_claim(bucket)) == len(unfinished) + 1


def test_a_claim_whose_answer_was_lost_is_still_ours(photos: Path, bucket: Bucket) -> None:
    n_lost = 0

    def lose(method: str, key: Any) -> None:
        nonlocal n_lost
        if (method, key) == ("put", CLAIM):
            n_lost += 1
            if n_lost % 2:  # what obstore gets, when it asks again what was done the first time
                raise PreconditionError("not the one that it was")

    bucket.after = lose
    convert(photos)
    assert n_lost > N_SHARDS
    assert bucket.objects == undisturbed(photos)


# The command


def test_the_command_resumes(
    photos: Path, bucket: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket.before = fail_at_shard(bucket, N_SHARDS // 2)
    arguments = ["convert", f"folder:{photos}", TARGET]
    assert main(arguments) == 1
    kept = "broken; what was sent is kept; resume=True (--resume) goes on from there"
    assert capsys.readouterr().err.strip().endswith(kept)
    bucket.before = lambda method, key: None
    assert main(arguments) == 1
    assert "holds an unfinished conversion to a.zarr; give" in capsys.readouterr().err
    assert main([*arguments, "--resume"]) == 0
    assert bucket.objects == undisturbed(photos)


# A source that was touched or changed


def test_a_touched_source_is_compared_with_what_was_sent(
    photos: Path, bucket: Bucket, unfinished: dict[str, bytes]
) -> None:
    for photo in photos.rglob("*.jpg"):
        photo.chmod(0o600)
    convert(photos, resume=True)
    assert bucket.objects == undisturbed(photos)
    assert unfinished


@pytest.mark.usefixtures("unfinished")
def test_a_source_changed_in_place_is_refused_each_time(photos: Path, bucket: Bucket) -> None:
    for photo in photos.rglob("*.jpg"):
        status = photo.stat()
        photo.write_bytes(photo.read_bytes()[:-3] + b"!\xff\xd9")
        os.utime(photo, ns=(status.st_atime_ns, status.st_mtime_ns))
    for _ in range(2):
        with pytest.raises(SourceChangedError, match="have other bytes than when they were copied"):
            convert(photos, resume=True)
    assert "a.zarr/zarr.json" not in bucket.objects
