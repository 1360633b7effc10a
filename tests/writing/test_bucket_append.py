"""Samples appended to Zarr stores in buckets: as on a disk, and nothing by halves."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from obstore.exceptions import GenericError, PreconditionError

import arraystore
from arraystore.cli.commands import main
from arraystore.containers.zarr import writer as zarr_writer
from arraystore.errors import StorageError
from arraystore.indexing.layout import blocks
from arraystore.storage.location import Location
from arraystore.storage.objects import connection as stores
from arraystore.storage.objects.writer import ObjectWriter
from arraystore.writing import lock_object, store_writer
from arraystore.writing.lock_object import LockObject
from arraystore.writing.zarr_bucket import ZarrBucketWriter
from tests.support import Bucket, copied, objects_on_disk, picture, write_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SHARD: Final = 2048
CLASSES: Final = ("dog", "cat")
ADDRESS: Final = "memory://some/a.zarr"
BELOW: Final = "some/"
STORE: Final = "some/a.zarr/"
LOCK: Final = "some/.a.zarr.partial"
ROOT: Final = f"{STORE}zarr.json"
PART: Final = f"{STORE}train.1/"
SHARDS: Final = f"{PART}image_payload/c/"
PUT_ROOT: Final = ("put", ROOT)


class KilledError(BaseException):
    """Raised by a bucket after the simulated kill of a process."""


@pytest.fixture(autouse=True, scope="module")
def _small_shards() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zarr_writer, "SHARD_NBYTES", SHARD)
        patch.setattr(zarr_writer, "INNER_CHUNK_NBYTES", SHARD // 8)
        patch.setattr(store_writer, "blocks", partial(blocks, block_nbytes=SHARD))
        patch.setattr(lock_object, "_WORTH", 0)
        patch.setattr(ZarrBucketWriter, "max_in_flight", 1)  # one shard after another
        yield


def records(letter: str, n: int) -> list[dict[str, Any]]:
    return [
        {"image": picture(10, 20, seed=i), "label": CLASSES[i % 2], "file_name": f"{letter}{i}.jpg"}
        for i in range(n)
    ]


NEW: Final = [*records("b", 3), records("a", 1)[0]]
"""Samples of two shards; the last one takes the place of one in the store."""


def append(store: Any = ADDRESS, samples: Any = NEW, **options: Any) -> arraystore.AppendReport:
    usual: dict[str, Any] = {"split": "train", "on_existing": "replace", "progress": False}
    return arraystore.append(store, samples, **usual | options)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without parts."""
    path = tmp_path_factory.mktemp("append") / "a.zarr"
    samples = {"train": records("a", 3), "test": records("t", 2)}
    arraystore.write(path, samples, classes=CLASSES, sync=False, progress=False)
    return path


@pytest.fixture(scope="module")
def before(plain: Path) -> dict[str, bytes]:
    """The objects of the store."""
    return {f"{BELOW}{name}": data for name, data in objects_on_disk(plain).items()}


@pytest.fixture(scope="module")
def after(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The objects that they are when `NEW` was appended on a disk."""
    path = copied(plain, tmp_path_factory.mktemp("after") / "a.zarr")
    append(path, sync=False)
    return {f"{BELOW}{name}": data for name, data in objects_on_disk(path).items()}


@pytest.fixture
def bucket(before: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """The bucket of ``memory://`` addresses, with the store."""
    bucket = Bucket()
    monkeypatch.setattr(stores, "connect_memory", lambda: bucket)
    put(bucket, before)
    return bucket


def put(bucket: Bucket, objects: dict[str, bytes]) -> None:
    for key, data in objects.items():
        bucket.inner.put(key, data)


def reset(bucket: Bucket, objects: dict[str, bytes]) -> None:
    """Let a bucket have just these objects, and forget the requests."""
    for key in bucket.objects:
        bucket.inner.delete(key)
    put(bucket, objects)
    bucket.calls.clear()


def lock_of(bucket: Bucket) -> LockObject:
    return LockObject(ObjectWriter(Location.parse((bucket.inner, "some/a.zarr"))), LOCK)


def changes_of(bucket: Bucket) -> list[tuple[str, Any]]:
    """Return the requests that changed the bucket."""
    return [call[:2] for call in bucket.calls if call[0] in ("put", "delete")]


def at_request(
    number: int, raised: Callable[[], BaseException], bucket: Bucket, *, once: bool
) -> Callable[[str, Any], None]:
    """Fail a request by its number among those that change the bucket, or all from it on."""
    n_left = 1 if once else 10**6

    def fail(method: str, key: Any) -> None:
        nonlocal n_left
        if len(changes_of(bucket)) > number and n_left:
            n_left -= 1
            raise raised()

    return fail


def stop(bucket: Bucket, fail: Callable[[str, Any], None], **options: Any) -> BaseException:
    """Append until an error, and forget the requests."""
    bucket.before = fail
    with pytest.raises((KilledError, StorageError)) as caught:
        append(**options)
    bucket.before = lambda method, key: None
    bucket.calls.clear()
    return caught.value


def kill_at(key: str) -> Callable[[str, Any], None]:
    """Kill the process at the first request that writes an object."""
    is_dead = False

    def kill(method: str, which: Any) -> None:
        nonlocal is_dead
        is_dead |= (method, which) == ("put", key)
        if is_dead:
            raise KilledError

    return kill


# Contents


def test_append_makes_the_same_objects_as_on_a_disk(
    bucket: Bucket, plain: Path, tmp_path: Path, after: dict[str, bytes]
) -> None:
    there = append()
    assert bucket.objects == after
    path = copied(plain, tmp_path / "a.zarr")
    here = append(path, sync=False)
    assert (there.part, there.added, there.content_digest) == (
        *("train.1", here.added),
        here.content_digest,
    )
    assert there.path == ADDRESS
    for store in (ADDRESS, path):
        append(store, records("c", 1), split="test", sync=False)
    assert bucket.objects == {f"{BELOW}{k}": data for k, data in objects_on_disk(path).items()}


def test_append_sends_each_object_once_and_the_root_last(bucket: Bucket) -> None:
    append()
    written = [key for key in bucket.keys_of("put") if key != LOCK]
    part = [key for key in bucket.objects if key.startswith(PART)]
    assert sorted(written) == sorted([*part, ROOT])
    assert written[-1] == ROOT
    conditions = [keywords for method, key, keywords in bucket.calls if (method, key) == PUT_ROOT]
    assert [list(keywords["mode"]) for keywords in conditions] == [["e_tag"]]
    # Acquired, begun, after each shard, before the root.
    assert bucket.keys_of("put").count(LOCK) == 3 + len(shards_in(bucket))
    assert bucket.keys_of("delete") == [[LOCK]]
    # Whether the name of the part is free, and whether its objects are those that were sent.
    assert bucket.keys_of("list") == [PART, PART]
    assert not [key for key in bucket.keys_of("get") if "image_payload" in key]


def shards_in(bucket: Bucket) -> list[str]:
    return [key for key in bucket.objects if key.startswith(SHARDS)]


def test_open_store_keeps_what_it_had(bucket: Bucket) -> None:
    store = arraystore.open(ADDRESS)
    train = store["train"]
    append()
    assert len(train) == len(store["train"]) == 3
    assert "a0.jpg" in train.file_name.tolist()
    assert len(train.image_bytes[:]) == 3
    now = arraystore.open(ADDRESS)["train"]
    assert len(now) == len(now.image_bytes[:]) == 6


def test_nothing_new_leaves_nothing(bucket: Bucket, before: dict[str, bytes]) -> None:
    report = append(samples=records("a", 2), on_existing="skip")
    assert (report.part, report.num_existing, report.num_samples) == ("", 2, 3)
    assert bucket.objects == before


def test_hdf5_in_a_bucket_is_refused(bucket: Bucket, plain: Path) -> None:
    for target in ("memory://b.h5", "memory://c.zarr"):
        arraystore.copy(plain, "memory://b.h5", overwrite=True)
        put(bucket, {"c.zarr": bucket.objects["b.h5"]})
        objects = bucket.objects
        with pytest.raises(ValueError, match="HDF5 file in a bucket, which cannot be changed in"):
            append(target)
        assert bucket.objects == objects


def test_command_appends_and_resumes(
    bucket: Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = {f"{CLASSES[i % 2]}/{i}.jpg": picture(10, 20, seed=i) for i in range(6)}
    folder = write_folder(tmp_path / "more", images)
    command = ["append", ADDRESS, f"folder:{folder}", "--split", "train", "--json"]
    bucket.before = at_request(4, lambda: GenericError("broken"), bucket, once=True)
    assert main(command) == 1
    assert "kept; pass resume=True (--resume) to continue" in capsys.readouterr().err
    assert main(command) == 1
    assert "holds an unfinished append to a.zarr; pass resume=True" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert '"num_samples": 9' in capsys.readouterr().out
    assert LOCK not in bucket.objects


# Interruptions


@pytest.fixture(scope="module")
def requests(before: dict[str, bytes]) -> list[int]:
    """Numbers of requests that change the bucket; of those that send columns, only one."""
    bucket = Bucket()
    put(bucket, before)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stores, "connect_memory", lambda: bucket)
        append()
    keys = [key for _, key in changes_of(bucket)]
    few = [LOCK, [LOCK], ROOT, *shards_in(bucket), f"{PART}label/c/0"]
    return [i for i, key in enumerate(keys) if key in few]


def test_killed_append_leaves_the_old_state_and_is_resumed(
    bucket: Bucket, requests: list[int], before: dict[str, bytes], after: dict[str, bytes]
) -> None:
    for number in (*requests[::2], requests[-1]):
        reset(bucket, before)
        stop(bucket, at_request(number, KilledError, bucket, once=False))
        found = bucket.objects
        is_published = found[ROOT] == after[ROOT]
        assert (after if is_published else before).items() <= found.items(), number
        assert len(arraystore.open(ADDRESS)["train"]) == (6 if is_published else 3)
        assert append(resume=True).was_complete == is_published
        assert bucket.objects == after, number


def test_failed_append_is_resumed_or_leaves_nothing(
    bucket: Bucket, requests: list[int], before: dict[str, bytes], after: dict[str, bytes]
) -> None:
    n_resumed = 0
    for number in requests[1::2]:
        reset(bucket, before)
        stop(bucket, at_request(number, lambda: GenericError("broken"), bucket, once=True))
        if bucket.objects in (before, after):
            continue
        n_resumed += 1
        append(resume=True)
        assert bucket.objects == after, number
    assert 1 < n_resumed < len(requests) // 2


def test_resume_sends_only_missing_shards(bucket: Bucket, after: dict[str, bytes]) -> None:
    error = stop(bucket, kill_at(f"{SHARDS}1"))
    assert isinstance(error, KilledError)
    with pytest.raises(StorageError, match=r"is writing to the same target, or was killed.*resume"):
        append()
    assert append(resume=True).part == "train.1"
    assert shards_in(bucket) == [f"{SHARDS}0", f"{SHARDS}1"]
    assert [key for key in bucket.keys_of("put") if key in shards_in(bucket)] == [f"{SHARDS}1"]
    assert bucket.objects == after


def test_append_with_other_options_is_not_resumed(bucket: Bucket, after: dict[str, bytes]) -> None:
    stop(bucket, kill_at(f"{SHARDS}1"))
    sent = {key: data for key, data in bucket.objects.items() if key != LOCK}
    with pytest.raises(ValueError, match="cannot resume: option on_existing is skip"):
        append(on_existing="skip", resume=True)
    with pytest.raises(StorageError, match=r"unfinished append.*resume=True.*--overwrite"):
        arraystore.add_column(ADDRESS, "test", "score", np.zeros(2))
    assert sent.items() <= bucket.objects.items()
    append(resume=True)
    assert bucket.objects == after


def test_overwrite_deletes_what_a_dead_append_sent(
    bucket: Bucket, before: dict[str, bytes], after: dict[str, bytes]
) -> None:
    foreign = {f"{STORE}test.2/mine": b"x", f"{STORE}train.10/mine": b"x"}
    put(bucket, foreign)
    stop(bucket, kill_at(f"{STORE}test.1/label/c/0"), samples=records("c", 4), split="test")
    assert f"{STORE}test.1/image_payload/c/0" in bucket.objects
    deleted = {key for key in bucket.objects if key.startswith(f"{STORE}test.1/")} | {LOCK}
    append(overwrite=True)
    assert bucket.objects == after | foreign
    assert {key for keys in bucket.keys_of("delete") for key in keys} == deleted
    assert before.keys() < bucket.objects.keys()


@pytest.mark.parametrize("options", [{"overwrite": True}, {"resume": True}])
def test_unfinished_append_is_dropped_if_nothing_is_new(
    options: dict[str, Any], bucket: Bucket, before: dict[str, bytes]
) -> None:
    stop(bucket, kill_at(f"{SHARDS}1" if "overwrite" in options else LOCK))
    append(samples=records("a", 1), on_existing="skip", **options)
    assert bucket.objects == before


@pytest.mark.parametrize(
    "name", ["train", "test", "label_name", "train/label", "../b.1", "train.x", "", "b.1"]
)
def test_lock_object_cannot_make_an_append_delete_other_objects(
    name: str, bucket: Bucket, before: dict[str, bytes]
) -> None:
    foreign = {"some/b.1/mine": b"x", f"{STORE}b.1/mine": b"x", f"{STORE}train.x/mine": b"x"}
    put(bucket, foreign)
    lock_of(bucket).begin({"part": {"name": name}}, {})
    append(samples=records("a", 1), on_existing="skip", overwrite=True)
    assert bucket.objects == before | foreign


def test_part_that_was_published_is_not_deleted(bucket: Bucket, after: dict[str, bytes]) -> None:
    """The process was killed before it deleted the lock; then a program rewrote the root."""
    append()
    lock_of(bucket).begin({"part": {"name": "train.1"}}, {})
    put(bucket, {ROOT: after[ROOT] + b"\n"})
    assert append(resume=True).was_complete
    assert bucket.objects == after | {ROOT: after[ROOT] + b"\n"}


def test_append_follows_one_that_was_killed_after_the_root(bucket: Bucket) -> None:
    bucket.after = kill_at(ROOT)
    with pytest.raises(KilledError):
        append()
    bucket.after = lambda method, key: None
    assert LOCK in bucket.objects
    assert append(samples=records("c", 1)).part == "train.2"
    assert LOCK not in bucket.objects


def test_copy_has_nothing_of_an_unfinished_append(
    bucket: Bucket, tmp_path: Path, before: dict[str, bytes]
) -> None:
    stop(bucket, kill_at(ROOT))
    bucket.inner.delete(f"{PART}label/c/0")
    report = arraystore.copy(ADDRESS, tmp_path / "a.zarr", sync=False)
    found = {f"{BELOW}{k}": data for k, data in objects_on_disk(tmp_path / "a.zarr").items()}
    assert (report.left_out, found) == ((), before)


# Other writers


def test_group_that_is_not_in_the_root_is_not_used(bucket: Bucket) -> None:
    put(bucket, {f"{PART}mine": b"x"})
    assert append().part == "train.2"
    assert bucket.objects[f"{PART}mine"] == b"x"


def test_second_writer_is_refused(bucket: Bucket, after: dict[str, bytes], plain: Path) -> None:
    def samples() -> Iterator[dict[str, Any]]:
        with pytest.raises(StorageError, match="another process is writing"):
            append(samples=records("c", 1))
        with pytest.raises(StorageError, match="another process is writing"):
            arraystore.add_column(ADDRESS, "test", "score", np.zeros(2))
        with pytest.raises(FileExistsError, match="exists"):
            arraystore.copy(plain, ADDRESS)
        yield from NEW

    append(samples=samples())
    assert bucket.objects == after


def test_append_that_was_taken_over_stops(bucket: Bucket, after: dict[str, bytes]) -> None:
    def meanwhile(method: str, key: Any) -> None:
        if (method, key) == ("put", f"{SHARDS}1"):
            bucket.before = lambda method, key: None
            append(resume=True)

    error = stop(bucket, meanwhile)
    assert "another process has begun, or taken over" in str(error)
    assert bucket.objects == after


def before_root(bucket: Bucket, change: dict[str, bytes]) -> None:
    """Let another program change objects when the root is about to be replaced."""

    def meddle(method: str, key: Any) -> None:
        if (method, key) == PUT_ROOT:
            bucket.before = lambda method, key: None
            put(bucket, change)

    bucket.before = meddle


@pytest.fixture(scope="module")
def other_append(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The objects after other samples were appended to another split."""
    path = copied(plain, tmp_path_factory.mktemp("other") / "a.zarr")
    append(path, records("z", 1), split="test", sync=False)
    return {f"{BELOW}{name}": data for name, data in objects_on_disk(path).items()}


def test_other_samples_that_were_added_meanwhile_are_kept(
    bucket: Bucket, other_append: dict[str, bytes]
) -> None:
    stop(bucket, kill_at(f"{SHARDS}1"))  # the shard that was sent is deleted, too
    before_root(bucket, other_append)
    with pytest.raises(StorageError, match=r"zarr\.json: another program has changed the store"):
        append(resume=True)
    assert bucket.objects == other_append
    assert append().num_samples == 6
    assert len(arraystore.open(ADDRESS)["test"]) == 3


def test_column_that_was_added_meanwhile_is_kept(
    bucket: Bucket, plain: Path, tmp_path: Path, after: dict[str, bytes]
) -> None:
    path = copied(plain, tmp_path / "a.zarr")
    arraystore.add_column(path, "test", "score", np.arange(2), sync=False)
    before_root(bucket, {f"{BELOW}{k}": data for k, data in objects_on_disk(path).items()})
    assert append().num_samples == 6
    store = arraystore.open(ADDRESS)
    assert store["test"].columns["score"][:].tolist() == [0, 1]
    append(path, sync=False)
    assert bucket.objects == {f"{BELOW}{k}": data for k, data in objects_on_disk(path).items()}


def test_deleted_store_does_not_come_back(bucket: Bucket) -> None:
    def gone(method: str, key: Any) -> None:
        if method == "list" and ROOT in bucket.objects and shards_in(bucket):
            bucket.inner.delete(ROOT)

    assert "another program has changed the store" in str(stop(bucket, gone))
    assert not [key for key in bucket.objects if key.startswith(PART) or key in (ROOT, LOCK)]


@pytest.mark.parametrize(
    "error", [PreconditionError("changed"), GenericError("HTTP error: error sending request")]
)
def test_lost_response_to_the_new_root_is_success(
    error: Exception, bucket: Bucket, after: dict[str, bytes]
) -> None:
    def lose(method: str, key: Any) -> None:
        if (method, key) == PUT_ROOT:
            bucket.after = lambda method, key: None
            raise error

    bucket.after = lose
    assert append().num_samples == 6
    assert bucket.objects == after


def test_shard_replaced_by_another_process_is_reported(
    bucket: Bucket, after: dict[str, bytes]
) -> None:
    def meddle(method: str, key: Any) -> None:
        if key == f"{PART}label/c/0":
            put(bucket, {f"{SHARDS}0": b"theirs"})

    assert "c/0: is not the object that was sent" in str(stop(bucket, meddle))
    append(resume=True)
    assert bucket.objects == after
