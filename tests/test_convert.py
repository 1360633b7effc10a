"""Conversion: every byte in its place, reproducible bytes, nothing left after a failure.

`tests/writing/test_resume.py` tests conversions with sync, which keep blocks to be resumed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import google_crc32c
import h5py
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from typing_extensions import override

import arraystore
from arraystore.containers.zarr import writer as zarr_writer
from arraystore.errors import SourceChangedError, SourceError, StorageError
from arraystore.indexing.layout import blocks
from arraystore.schema import COLUMNS, SHARD_NBYTES
from arraystore.writing import fill as fill_module
from arraystore.writing import fill_plans, store_writer
from arraystore.writing.fill import FilePlace
from arraystore.writing.journal import JournalWriter
from arraystore.writing.local import LocalStoreWriter
from arraystore.writing.store_writer import MAX_BLOCKS_IN_FLIGHT
from arraystore.writing.workspace import Workspace
from tests.support import SUFFIXES, most_in_flight, picture, write_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from arraystore.writing.fill import Filled, FillTask

P = ParamSpec("P")
T = TypeVar("T")

every_suffix = pytest.mark.parametrize("suffix", SUFFIXES)
every_order = pytest.mark.parametrize("order", ["shuffled", "label", "source"])


def encoded(form: str, height: int, width: int) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(file, form)
    return file.getvalue()


TRAIN: Final = {
    f"{name}/{number:02d}.jpg": picture(8 + 5 * number, 60 - 3 * number, seed=10 * k + number)
    for k, name in enumerate(["ant", "bee", "cat"])
    for number in range(6)
} | {"bee/wide.png": encoded("PNG", 5, 90), "cat/tall.webp": encoded("WEBP", 70, 9)}
VALIDATION: Final = {f"{name}/{name}.jpg": picture(seed=50) for name in ["cat", "dog"]}
CLASSES: Final = ("ant", "bee", "cat", "dog")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 20 photos of 3 classes in one train split; read-only."""
    return write_folder(tmp_path_factory.mktemp("in") / "photos", TRAIN)


@pytest.fixture(scope="module")
def two_splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same photos and 2 others in validation, one of a class without train photos."""
    files = {f"train/{name}": data for name, data in TRAIN.items()}
    files |= {f"validation/{name}": data for name, data in VALIDATION.items()}
    return write_folder(tmp_path_factory.mktemp("in") / "photos", files)


@pytest.fixture(scope="module", params=SUFFIXES)
def converted(
    request: pytest.FixtureRequest, two_splits: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A store of two splits in each container; read-only."""
    target = tmp_path_factory.mktemp("out") / f"photos{request.param}"
    convert(two_splits, target)
    return target


def convert(folder: Path, target: Path, **options: Any) -> arraystore.ConvertReport:
    return arraystore.convert(f"folder:{folder}", target, **({"sync": False} | options))


def tree(path: Path) -> dict[str, bytes | None]:
    """Return the contents of a file, or of everything below a folder."""
    return {
        str(below.relative_to(path)): content(below) for below in [path, *sorted(path.rglob("*"))]
    }


def content(path: Path) -> bytes | None:
    """Return the bytes of a file, the target of a link, or None for a folder."""
    if path.is_symlink():
        return os.fsencode(path.readlink())
    return None if path.is_dir() else path.read_bytes()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def column(path: Path, name: str, split: str = "train") -> NDArray[Any]:
    return arraystore.open(path).stored(split).columns[name]


def payload(path: Path, split: str = "train") -> bytes:
    """Read the payload with zarr-python or h5py alone."""
    if path.is_dir():
        return bytes(np.asarray(zarr.open_array(path / split / "image_payload", mode="r")[:]))
    with h5py.File(path) as file:
        return bytes(file[f"{split}/image_payload"][:])


def images(path: Path, split: str = "train") -> dict[str, bytes]:
    found = arraystore.open(path)[split]
    return dict(zip(found.file_name.tolist(), found.image_bytes[:], strict=True))


def shuffled(file_names: list[str], seed: int) -> list[str]:
    """Sort names as docs/format.md specifies."""
    key = seed.to_bytes(8, "little")
    ranked = [
        (hashlib.blake2b(name.encode(), digest_size=8, key=key).digest(), name)
        for name in file_names
    ]
    return [name for _, name in sorted(ranked)]


# Reproducible bytes


@every_suffix
def test_repeated_conversion_has_same_bytes(suffix: str, two_splits: Path, tmp_path: Path) -> None:
    convert(two_splits, tmp_path / f"1{suffix}")
    convert(two_splits, tmp_path / f"2{suffix}")
    assert tree(tmp_path / f"1{suffix}") == tree(tmp_path / f"2{suffix}")


def test_hdf5_records_no_times(two_splits: Path, tmp_path: Path) -> None:
    convert(two_splits, tmp_path / "a.h5")
    times: dict[str, list[int]] = {}
    with h5py.File(tmp_path / "a.h5") as file:

        def note(name: str) -> None:
            node = file[name].id
            times[name] = [h5py.h5o.get_info(node).mtime, h5py.h5g.get_objinfo(node).mtime]

        note("/")
        file.visit(note)
    assert len(times) > len(COLUMNS)
    assert {name: both for name, both in times.items() if both != [0, 0]} == {}


@pytest.mark.parametrize("split", ["train", "validation"])
def test_containers_hold_the_same(split: str, two_splits: Path, tmp_path: Path) -> None:
    a, b = (tmp_path / f"a{suffix}" for suffix in SUFFIXES)
    reports = [convert(two_splits, path).splits for path in (a, b)]
    assert reports[0] == reports[1]
    assert arraystore.open(a).info == arraystore.open(b).info
    for name in COLUMNS:
        assert column(a, name, split).tolist() == column(b, name, split).tolist()
    assert payload(a, split) == payload(b, split)


# Orders


@every_suffix
@pytest.mark.parametrize("seed", [1, 2**63 - 1])
def test_shuffled_order_is_by_keyed_hash_of_name(
    seed: int, suffix: str, photos: Path, tmp_path: Path
) -> None:
    convert(photos, tmp_path / f"a{suffix}", seed=seed)
    store = arraystore.open(tmp_path / f"a{suffix}")
    assert store["train"].file_name.tolist() == shuffled(list(TRAIN), seed)
    assert store.info.splits["train"].order == "shuffled"
    assert store.info.splits["train"].seed == seed


def test_default_order_is_shuffled_with_seed_0(converted: Path) -> None:
    info = arraystore.open(converted).info.splits["train"]
    assert (info.order, info.seed) == ("shuffled", 0)
    assert column(converted, "file_name").tolist() == shuffled(list(TRAIN), 0)


@every_suffix
def test_label_order_is_by_label_then_name(suffix: str, tmp_path: Path) -> None:
    wanted = ["a/1.jpg", "a/10.jpg", "a/é.jpg", "a/\uff5e.jpg", "a/\U0001f41c.jpg", "b/0.jpg"]
    write_folder(tmp_path / "in", {name: picture() for name in reversed(wanted)})
    convert(tmp_path / "in", tmp_path / f"out{suffix}", order="label")
    store = arraystore.open(tmp_path / f"out{suffix}")
    assert store["train"].file_name.tolist() == wanted == sorted(wanted, key=str.encode)
    assert store.info.splits["train"].order == "label"


@every_suffix
def test_source_order_is_by_path(suffix: str, photos: Path, tmp_path: Path) -> None:
    convert(photos, tmp_path / f"a{suffix}", order="source")
    store = arraystore.open(tmp_path / f"a{suffix}")
    assert store["train"].file_name.tolist() == sorted(TRAIN, key=lambda name: name.split("/"))
    assert store.info.splits["train"].order == "source"


@every_suffix
@pytest.mark.parametrize("order", ["label", "source"])
def test_unused_seed_is_not_recorded(order: str, suffix: str, photos: Path, tmp_path: Path) -> None:
    convert(photos, tmp_path / f"a{suffix}", order=order, seed=7)
    assert arraystore.open(tmp_path / f"a{suffix}").info.splits["train"].seed == 0


def test_subset_keeps_relative_order(converted: Path, tmp_path: Path) -> None:
    few = list(TRAIN)[::3]
    write_folder(tmp_path / "few", {name: TRAIN[name] for name in few})
    target = tmp_path / converted.name
    convert(tmp_path / "few", target)
    whole = column(converted, "file_name").tolist()
    assert column(target, "file_name").tolist() == [name for name in whole if name in few]


@every_suffix
@every_order
def test_digest_is_independent_of_order(
    order: str, suffix: str, photos: Path, tmp_path: Path
) -> None:
    report = convert(photos, tmp_path / f"a{suffix}", order=order, seed=3)
    digest = hashlib.sha256()
    for name in sorted(TRAIN, key=str.encode):
        label, data = CLASSES.index(name.partition("/")[0]), TRAIN[name]
        digest.update(name.encode() + b"\0" + label.to_bytes(8, "little", signed=True))
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(google_crc32c.value(data).to_bytes(4, "little"))
    info = arraystore.open(tmp_path / f"a{suffix}").info
    assert report.splits["train"].content_digest == digest.hexdigest()
    assert info.splits["train"].content_digest == digest.hexdigest()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("order", "random", "order must be one of shuffled, label, source, got 'random'"),
        ("on_error", "ignore", "on_error must be one of raise, skip, got 'ignore'"),
        ("seed", -1, "seed must be 0 or more and below 2**63, got -1"),
        ("seed", 2**63, f"seed must be 0 or more and below 2**63, got {2**63}"),
    ],
)
def test_invalid_option_raises(
    option: str, value: Any, message: str, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        convert(photos, tmp_path / "a.h5", **{option: value})
    assert names(tmp_path) == []


@pytest.mark.parametrize("seed", [1.5, "1", None])
def test_non_integer_seed_raises(seed: Any, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        convert(photos, tmp_path / "a.h5", seed=seed)


@every_suffix
def test_numpy_seed_is_accepted(suffix: str, photos: Path, tmp_path: Path) -> None:
    convert(photos, tmp_path / f"a{suffix}", seed=np.int64(5))
    convert(photos, tmp_path / f"b{suffix}", seed=5)
    assert tree(tmp_path / f"a{suffix}") == tree(tmp_path / f"b{suffix}")


# Columns and payload


def test_payload_is_images_end_to_end(converted: Path) -> None:
    data = [TRAIN[name] for name in column(converted, "file_name").tolist()]
    assert payload(converted) == b"".join(data)
    nbytes = [len(one) for one in data]
    assert column(converted, "image_nbytes").tolist() == nbytes
    assert column(converted, "image_start").tolist() == np.cumsum([0, *nbytes[:-1]]).tolist()


def test_checksums_match_images(converted: Path) -> None:
    expected = [google_crc32c.value(TRAIN[n]) for n in column(converted, "file_name").tolist()]
    assert column(converted, "image_crc32c").tolist() == expected


def test_heights_and_widths_match_pixels(converted: Path) -> None:
    train = arraystore.open(converted)["train"]
    shapes = [image.shape for image in train.image[:]]
    sizes = zip(train.image_height.tolist(), train.image_width.tolist(), strict=True)
    assert shapes == [(height, width, 3) for height, width in sizes]
    assert len(set(shapes)) > 6


def test_labels_match_folders(converted: Path) -> None:
    store = arraystore.open(converted)
    for split in ("train", "validation"):
        folders = [name.partition("/")[0] for name in store[split].file_name]
        assert [store.label_names[label] for label in store[split].label] == folders
    assert store.label_names == CLASSES


@pytest.mark.parametrize("split", ["train", "validation"])
def test_label_index_lists_positions(split: str, converted: Path) -> None:
    label = column(converted, "label", split)
    order, indptr = (column(converted, name, split) for name in ("label_order", "label_indptr"))
    assert len(indptr) == len(CLASSES) + 1
    assert (indptr[0], indptr[-1]) == (0, len(label))
    for k in range(len(CLASSES)):
        assert order[indptr[k] : indptr[k + 1]].tolist() == np.flatnonzero(label == k).tolist()


# Blocks, buffers, executors


@every_suffix
@settings(
    deadline=None, max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    block_nbytes=st.integers(700, 30_000),
    buffer_nbytes=st.integers(10, 5_000),
    inner_nbytes=st.integers(400, 5_000),
)
@example(block_nbytes=500, buffer_nbytes=500, inner_nbytes=500)
@example(block_nbytes=1200, buffer_nbytes=1, inner_nbytes=400)
def test_bytes_with_any_block_buffer_and_shard_size(
    suffix: str,
    block_nbytes: int,
    buffer_nbytes: int,
    inner_nbytes: int,
    photos: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    target = tmp_path_factory.mktemp("small") / f"a{suffix}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_writer, "blocks", partial(blocks, block_nbytes=block_nbytes))
        patch.setattr(fill_module, "BUFFER_NBYTES", buffer_nbytes)
        patch.setattr(zarr_writer, "INNER_CHUNK_NBYTES", inner_nbytes)
        patch.setattr(zarr_writer, "SHARD_NBYTES", 3 * inner_nbytes)
        convert(photos, target)
    assert images(target) == TRAIN
    assert payload(target) == b"".join(TRAIN[name] for name in column(target, "file_name"))
    expected = [google_crc32c.value(TRAIN[name]) for name in column(target, "file_name")]
    assert column(target, "image_crc32c").tolist() == expected


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Make fill blocks 2,000 bytes long; return the number of blocks of the photos."""
    monkeypatch.setattr(store_writer, "blocks", partial(blocks, block_nbytes=2_000))
    return -(-sum(map(len, TRAIN.values())) // 2_000)


@every_suffix
@pytest.mark.parametrize("n_images", [1, 2, 3, 6])
def test_image_may_end_at_block_end(
    n_images: int, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bitmap, target = encoded("BMP", 10, 10), tmp_path / f"out{suffix}"
    files = {f"a/{k}.bmp": bitmap[:-1] + bytes([k]) for k in range(6)}
    block_nbytes = n_images * len(bitmap)
    monkeypatch.setattr(store_writer, "blocks", partial(blocks, block_nbytes=block_nbytes))
    convert(write_folder(tmp_path / "in", files), target)
    assert images(target) == files
    expected = [google_crc32c.value(files[name]) for name in column(target, "file_name")]
    assert column(target, "image_crc32c").tolist() == expected


@every_suffix
def test_image_larger_than_block_is_stored(suffix: str, tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (5000, 5000)).save(file, "BMP")
    data = bytearray(file.getvalue())
    data[-3 * 2**24 :: 4096] = bytes(range(256)) * 48  # so that no two places look alike
    assert len(data) > SHARD_NBYTES
    files = {"a/1.jpg": picture(), "a/2.bmp": bytes(data), "a/3.jpg": picture(seed=1)}
    write_folder(tmp_path / "in", files)
    convert(tmp_path / "in", tmp_path / f"out{suffix}", order="source")
    assert images(tmp_path / f"out{suffix}") == files
    expected = [google_crc32c.value(data) for data in files.values()]
    assert column(tmp_path / f"out{suffix}", "image_crc32c").tolist() == expected
    assert column(tmp_path / f"out{suffix}", "image_height").tolist() == [12, 5000, 12]


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@every_suffix
def test_processes_write_same_bytes_as_threads(
    suffix: str, processes: ProcessPoolExecutor, small_blocks: int, photos: Path, tmp_path: Path
) -> None:
    convert(photos, tmp_path / f"threads{suffix}")
    convert(photos, tmp_path / f"processes{suffix}", executor=processes)
    assert tree(tmp_path / f"processes{suffix}") == tree(tmp_path / f"threads{suffix}")


class Later(Executor):
    """Fill blocks when the caller has submitted as many as it does at a time, the last one first.

    Parameters
    ----------
    n : int
        Blocks in all.
    num_workers : int, default 4
        What the caller learns of the number of workers.
    """

    def __init__(self, n: int, num_workers: int = 4) -> None:
        self.num_workers = num_workers
        self.n_submitted = 0
        self.most_waiting = 0
        self._n = n
        self._waiting: list[Callable[[], None]] = []

    @override
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        if not isinstance(args[-1], fill_module.FillTask):
            future.set_result(fn(*args, **kwargs))
            return future
        self._waiting.append(lambda: future.set_result(fn(*args, **kwargs)))
        self.n_submitted += 1
        self.most_waiting = max(self.most_waiting, len(self._waiting))
        if len(self._waiting) == 2 * self.num_workers or self.n_submitted == self._n:
            while self._waiting:
                self._waiting.pop()()
        return future


@every_suffix
def test_blocks_are_filled_in_any_order(
    suffix: str, small_blocks: int, photos: Path, tmp_path: Path
) -> None:
    later = Later(small_blocks)
    convert(photos, tmp_path / f"later{suffix}", executor=later)
    convert(photos, tmp_path / f"threads{suffix}")
    assert later.n_submitted == small_blocks > 2 * later.num_workers == later.most_waiting
    assert tree(tmp_path / f"later{suffix}") == tree(tmp_path / f"threads{suffix}")


@every_suffix
def test_at_most_8_blocks_are_in_flight_in_threads(
    suffix: str, small_blocks: int, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = most_in_flight(monkeypatch)
    convert(photos, tmp_path / f"a{suffix}")
    assert 0 < max(most) <= MAX_BLOCKS_IN_FLIGHT == 8 < small_blocks


@every_suffix
def test_passed_executor_stays_usable(suffix: str, photos: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        convert(photos, tmp_path / f"a{suffix}", executor=pool)
        assert pool.submit(len, "abc").result() == 3


@every_suffix
def test_libraries_are_imported_before_an_executor_is_used(
    suffix: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    class Importing:
        def join(self) -> None:
            events.append("join")

    class Noting(ThreadPoolExecutor):
        @override
        def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
            if isinstance(args[-1], fill_module.FillTask):
                events.append("submit")
            return super().submit(fn, *args, **kwargs)

    monkeypatch.setattr(fill_plans, "alongside", lambda _: nullcontext(Importing()))
    with Noting(1) as pool:
        convert(photos, tmp_path / f"a{suffix}", executor=pool)
    assert events == ["join", "submit"]


@every_suffix
def test_failed_conversion_waits_for_running_tasks(
    suffix: str,
    small_blocks: int,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A late block could be written into the files of the next conversion.
    has_begun, has_returned = threading.Event(), threading.Event()
    late: list[bool] = []

    def fails_while_the_next_is_slow(task: FillTask) -> Filled:
        if not task.skip:
            has_begun.wait()
            raise SourceError("broken")
        has_begun.set()
        late.append(has_returned.wait(0.2))
        return fill_module.fill(task)

    monkeypatch.setattr(store_writer, "fill", fails_while_the_next_is_slow)
    with ThreadPoolExecutor(2) as pool:
        with pytest.raises(SourceError, match="broken"):
            convert(photos, tmp_path / f"a{suffix}", executor=pool)
        has_returned.set()
    assert not any(late)


# The target


def put(kind: str, target: Path, photos: Path) -> None:
    """Create something at the target."""
    if kind == "file":
        target.write_bytes(b"precious")
    elif kind == "empty file":
        target.touch()
    elif kind == "folder":
        write_folder(target, {"notes/1.txt": b"precious"})
    elif kind == "empty folder":
        target.mkdir()
    elif kind == "store":
        convert(photos, target, seed=99)
    else:
        target.symlink_to("nowhere" if kind == "dangling link" else photos)


THINGS: Final = ("file", "empty file", "folder", "empty folder", "dangling link", "link to folder")


@every_suffix
@pytest.mark.parametrize("kind", [*THINGS, "store"])
def test_existing_target_is_not_touched(
    kind: str, suffix: str, photos: Path, tmp_path: Path
) -> None:
    target = tmp_path / f"a{suffix}"
    put(kind, target, photos)
    status, before = target.lstat(), tree(tmp_path)
    message = f"{target}: exists; choose another name, or pass overwrite=True (--overwrite)"
    with pytest.raises(FileExistsError, match=f"^{re.escape(message)}$"):
        convert(photos, target)
    assert tree(tmp_path) == before
    assert os.path.samestat(target.lstat(), status)


@every_suffix
@pytest.mark.parametrize("kind", THINGS)
def test_foreign_target_is_not_overwritten(
    kind: str, suffix: str, photos: Path, tmp_path: Path
) -> None:
    target = tmp_path / f"a{suffix}"
    put(kind, target, photos)
    before = tree(tmp_path)
    with pytest.raises(FileExistsError, match=rf"^{re.escape(str(target))}: .* not overwritten$"):
        convert(photos, target, overwrite=True)
    assert tree(tmp_path) == before


@every_suffix
def test_overwrite_replaces_store(suffix: str, photos: Path, tmp_path: Path) -> None:
    target, fresh = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    write_folder(tmp_path / "old", {"old/1.jpg": picture(), "older/2.jpg": picture()})
    convert(tmp_path / "old", target)
    convert(photos, target, overwrite=True)
    convert(photos, fresh)
    assert tree(target) == tree(fresh)
    assert names(tmp_path) == sorted(["old", target.name, fresh.name])


@every_suffix
def test_overwrite_without_existing_target(suffix: str, photos: Path, tmp_path: Path) -> None:
    convert(photos, tmp_path / f"a{suffix}", overwrite=True)
    assert images(tmp_path / f"a{suffix}") == TRAIN


@every_suffix
def test_overwriting_link_keeps_store_behind_it(suffix: str, photos: Path, tmp_path: Path) -> None:
    there, link = tmp_path / f"there{suffix}", tmp_path / f"link{suffix}"
    convert(photos, there)
    before = tree(there)
    link.symlink_to(there)
    report = convert(photos, link, order="label", overwrite=True)
    note = f"replaced the symbolic link {link}; {there} behind it is unchanged"
    assert report.notes == (note,)
    assert tree(there) == before
    assert not link.is_symlink()
    assert arraystore.open(link).info.splits["train"].order == "label"


def broken_photo(folder: Path) -> Path:
    return write_folder(folder, {"cat/1.jpg": picture(), "cat/2.jpg": b"broken"})


@every_suffix
def test_failed_overwriting_keeps_old_store(suffix: str, photos: Path, tmp_path: Path) -> None:
    target = tmp_path / f"a{suffix}"
    convert(photos, target)
    before = tree(target)
    with pytest.raises(SourceError, match=re.escape("2.jpg: is not an image")):
        convert(broken_photo(tmp_path / "in"), target, overwrite=True)
    assert tree(target) == before
    assert names(tmp_path) == sorted(["in", target.name])


@every_suffix
def test_interrupt_between_renames_keeps_old_store(
    suffix: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / f"a{suffix}"
    convert(photos, tmp_path / "old.zarr")  # a folder, because a file needs only one rename
    (tmp_path / "old.zarr").rename(target)
    before, rename = tree(target), Path.rename

    def interrupted(self: Path, other: Path) -> Path:
        there = rename(self, other)
        if self == target:
            raise KeyboardInterrupt
        return there

    monkeypatch.setattr("arraystore.writing.workspace.exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(photos, target, overwrite=True)
    assert target.exists()
    assert tree(target) == before


@every_suffix
@pytest.mark.parametrize("kind", ["absent", "file"])
def test_missing_parent_folder_raises(kind: str, suffix: str, photos: Path, tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    if kind == "file":
        parent.touch()
    error = {"absent": FileNotFoundError, "file": NotADirectoryError}[kind]
    with pytest.raises(error, match=re.escape(f"{parent}: is not a folder; create it first")):
        convert(photos, parent / f"a{suffix}")
    assert parent.exists() == (kind == "file")


@every_suffix
@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not stop the superuser")
def test_read_only_parent_folder_raises(suffix: str, photos: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(PermissionError, match=f"{re.escape(str(tmp_path))}: cannot be written to"):
        convert(photos, tmp_path / f"a{suffix}")


@every_suffix
def test_workspace_without_permission_names_parent_folder(
    suffix: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        where = re.escape(str(tmp_path))
        with pytest.raises(PermissionError, match=f"^{where}: cannot be written to$"):
            convert(photos, tmp_path / f"a{suffix}")
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["a", "a.zip", "a.zarr.tmp", ".zarr"])
def test_unknown_suffix_raises(name: str, photos: Path, tmp_path: Path) -> None:
    message = f"{tmp_path / name}: the suffix chooses the container and must be one of .zarr, .h5"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        convert(photos, tmp_path / name)
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["a.hdf5", "A.H5", "a.b.ZARR"])
def test_suffix_spellings_are_accepted(name: str, photos: Path, tmp_path: Path) -> None:
    convert(photos, tmp_path / name)
    assert images(tmp_path / name) == TRAIN


@every_suffix
def test_workspace_of_killed_conversion_is_cleared(
    suffix: str, photos: Path, tmp_path: Path
) -> None:
    target = tmp_path / f"a{suffix}"
    left = {"lock": b"", "spool": b"x" * 99, "store/train/image_payload/c/0": b"x"}
    write_folder(tmp_path / f".{target.name}.partial", left)
    convert(photos, target)
    convert(photos, tmp_path / f"b{suffix}")
    assert tree(target) == tree(tmp_path / f"b{suffix}")
    assert names(tmp_path) == sorted([target.name, f"b{suffix}"])


@every_suffix
@pytest.mark.parametrize("overwrite", [False, True])
def test_locked_workspace_raises(
    overwrite: bool, suffix: str, photos: Path, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / f".a{suffix}.partial", {"lock": b"", "store/x": b"theirs"})
    with (folder / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = tree(tmp_path)
        with pytest.raises(StorageError, match=r"partial: another process is converting to the"):
            convert(photos, tmp_path / f"a{suffix}", overwrite=overwrite)
        assert tree(tmp_path) == before


@every_suffix
def test_lock_is_held_while_filling(
    suffix: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second: list[str] = []

    def fill(task: FillTask) -> Filled:
        with pytest.raises(StorageError, match="another process"):
            convert(photos, tmp_path / f"a{suffix}")
        second.append("refused")
        return fill_module.fill(task)

    monkeypatch.setattr(store_writer, "fill", fill)
    convert(photos, tmp_path / f"a{suffix}")
    assert second == ["refused"]
    assert images(tmp_path / f"a{suffix}") == TRAIN


@every_suffix
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_target_created_meanwhile_is_not_touched(
    kind: str,
    overwrite: bool,
    suffix: str,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target, publish = tmp_path / f"a{suffix}", Workspace.publish
    before: dict[str, bytes | None] = {}

    def meanwhile(self: Workspace) -> None:
        put(kind, target, photos)
        before.update({name: data for name, data in tree(tmp_path).items() if name[:2] != ".a"})
        publish(self)

    monkeypatch.setattr(Workspace, "publish", meanwhile)
    with pytest.raises(FileExistsError, match=re.escape(str(target))):
        convert(photos, target, overwrite=overwrite)
    assert before
    assert tree(tmp_path) == before


@every_suffix
def test_store_is_synced_before_publishing(
    suffix: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    missing: list[str] = []
    fsync, publish, close = os.fsync, Workspace.publish, JournalWriter.close

    def note(fd: int) -> None:
        synced.add(os.fstat(fd).st_ino)
        fsync(fd)

    def forget(self: JournalWriter) -> None:
        close(self)
        synced.clear()  # what counts is the sync after sealing

    def check(self: Workspace) -> None:
        parts = [self.store, *self.store.rglob("*")]
        missing.extend(str(path) for path in parts if path.stat().st_ino not in synced)
        synced.clear()
        publish(self)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(JournalWriter, "close", forget)
    monkeypatch.setattr(Workspace, "publish", check)
    convert(photos, tmp_path / f"a{suffix}", sync=True)
    assert missing == []
    assert tmp_path.stat().st_ino in synced


# Failures


@every_suffix
@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite"])
def test_full_disk_raises_with_numbers(
    call: str, suffix: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    numbers = r"No space left on device: [1-9][\d,]* more bytes are needed, [\d,]+ bytes are free; "
    with pytest.raises(StorageError, match=f"^{re.escape(str(tmp_path))}/.*: {numbers}"):
        convert(photos, tmp_path / f"a{suffix}")
    assert names(tmp_path) == []


@every_suffix
@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot reserve space")
def test_space_is_reserved_before_filling(
    suffix: str, small_blocks: int, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve, reserved = os.posix_fallocate, dict[int, int]()
    places: list[tuple[int, int]] = []

    def note(fd: int, start: int, nbytes: int) -> None:
        reserve(fd, start, nbytes)
        reserved[os.fstat(fd).st_ino] = start + nbytes

    def fill(task: FillTask) -> Filled:
        assert isinstance(task.place, FilePlace)
        for path, start, nbytes in task.place.parts:
            there = Path(path).stat()
            assert start + nbytes <= min(reserved[there.st_ino], there.st_size)
            places.append((start, nbytes))
        return fill_module.fill(task)

    monkeypatch.setattr(os, "posix_fallocate", note)
    monkeypatch.setattr(store_writer, "fill", fill)
    convert(photos, tmp_path / f"a{suffix}")
    assert sum(nbytes for _, nbytes in places) == sum(map(len, TRAIN.values()))


@every_suffix
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_full_disk_while_reencoding_raises(
    suffix: str, drawn: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Workspace, "spool", property(lambda self: Path("/dev/full")))
    with pytest.raises(StorageError, match="No space left on device"):
        arraystore.convert(
            "imagenet2012", tmp_path / f"a{suffix}", manual_dir=drawn.folder, partial=True
        )
    assert names(tmp_path) == []


FILL_UP: Final = """
import resource, sys
from pathlib import Path
import arraystore

folder, target = map(Path, sys.argv[1:3])
for limit in range(*map(int, sys.argv[3:])):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        arraystore.convert(f"folder:{folder}", target, on_error="skip", sync=False)
    except Exception as error:
        print(type(error).__name__)
        assert not list(target.parent.iterdir())
    else:
        print("done")
        break
"""


@every_suffix
@pytest.mark.parametrize(
    ("limits", "outcomes"),
    [
        (range(2_000, 130_000, 30_000), {"StorageError"}),
        (range(180_000, 4_000_000, 400_000), {"StorageError", "done"}),
    ],
    ids=["creating arrays", "sealing"],
)
def test_file_size_limit_raises(
    limits: range, outcomes: set[str], suffix: str, tmp_path: Path
) -> None:
    # A limit on the size of files simulates a full disk. Long names and skipped images make
    # columns and attributes that need more space than the payload.
    whole = {f"a/{'n' * 150}{number}.jpg": picture(8, 8, number) for number in range(200)}
    broken = {f"a/{'n' * 150}{number}.jpg": b"" for number in range(1000, 2500)}
    folder = write_folder(tmp_path / "in", whole | broken)
    assert 130_000 < sum(map(len, whole.values())) < 180_000
    (tmp_path / "out").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", FILL_UP, str(folder), str(tmp_path / "out" / f"a{suffix}")]
        + [str(bound) for bound in (limits.start, limits.stop, limits.step)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert set(done.stdout.split()) == outcomes
    assert done.returncode == 0


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Let SIGINT raise `KeyboardInterrupt` even if the shell ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@every_suffix
@pytest.mark.usefixtures("interrupts")
def test_interrupt_while_filling_leaves_nothing(
    suffix: str, small_blocks: int, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main_thread = threading.main_thread().ident
    assert main_thread is not None
    filled: list[FillTask] = []

    def interrupted(task: FillTask) -> Filled:
        filled.append(task)
        if len(filled) == 3:
            signal.pthread_kill(main_thread, signal.SIGINT)
        return fill_module.fill(task)

    monkeypatch.setattr(store_writer, "fill", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(photos, tmp_path / f"a{suffix}")
    assert 3 <= len(filled) < small_blocks
    assert names(tmp_path) == []


@every_suffix
def test_error_while_filling_leaves_nothing(
    suffix: str, small_blocks: int, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[FillTask] = []

    def fails_once(task: FillTask) -> Filled:
        calls.append(task)
        if len(calls) == 3:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return fill_module.fill(task)

    monkeypatch.setattr(store_writer, "fill", fails_once)
    with pytest.raises(OSError, match="Input/output error"):
        convert(photos, tmp_path / f"a{suffix}")
    assert names(tmp_path) == []
    convert(photos, tmp_path / f"a{suffix}")
    assert images(tmp_path / f"a{suffix}") == TRAIN


@every_suffix
def test_truncated_source_file_raises(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "in", {"cat/1.jpg": picture(), "cat/2.jpg": picture(seed=1)})
    shrinking, create_arrays = folder / "cat" / "2.jpg", LocalStoreWriter.create_arrays

    def shrink(*args: Any) -> None:
        os.truncate(shrinking, 100)
        create_arrays(*args)

    monkeypatch.setattr(LocalStoreWriter, "create_arrays", shrink)
    nbytes = len(picture(seed=1))
    message = f"{shrinking}: changed since reading began: size was {nbytes:,} and is 100 bytes, "
    with pytest.raises(SourceChangedError, match=f"^{re.escape(message)}"):
        convert(folder, tmp_path / f"a{suffix}")
    assert names(tmp_path) == ["in"]


BROKEN: Final = {
    "cat/cut.jpg": (picture()[:60], "is a truncated JPEG: no frame header in its 60 bytes"),
    "cat/cut.png": (encoded("PNG", 9, 9)[:20], "cannot be decoded: "),
    "cat/empty.jpg": (b"", "is empty (0 bytes)"),
    "cat/text.jpg": (b"Hello, this is a text", "is not an image that can be decoded; it begins"),
}


@every_suffix
@pytest.mark.parametrize("name", BROKEN)
def test_unreadable_image_is_named(name: str, suffix: str, tmp_path: Path) -> None:
    data, reason = BROKEN[name]
    folder = write_folder(tmp_path / "in", {"cat/1.jpg": picture(), name: data})
    remedy = re.escape("; pass on_error='skip' (--on-error skip) to leave such images out")
    message = f"^{re.escape(f'{folder / name}: {reason}')}[^;]*(; it begins [^;]*)?{remedy}$"
    with pytest.raises(SourceError, match=message):
        convert(folder, tmp_path / f"a{suffix}")
    assert names(tmp_path) == ["in"]


@every_suffix
def test_further_unreadable_images_are_counted(suffix: str, tmp_path: Path) -> None:
    files = {name: data for name, (data, _) in BROKEN.items()}
    folder = write_folder(tmp_path / "in", {"cat/1.jpg": picture()} | files)
    message = r"cat/cut\.jpg: is a truncated.*; 3 more in train: 3 names \(.*\); pass"
    with pytest.raises(SourceError, match=message):
        convert(folder, tmp_path / f"a{suffix}")


@every_suffix
def test_skipped_images_are_recorded(suffix: str, tmp_path: Path) -> None:
    whole = {f"{of}/{n}.jpg": picture(seed=n) for of in ("ant", "cat") for n in range(3)}
    files = whole | {name: data for name, (data, _) in BROKEN.items()}
    folder = write_folder(tmp_path / "in", files)
    target = tmp_path / f"a{suffix}"
    report = convert(folder, target, on_error="skip")
    assert images(target) == whole
    skipped = report.splits["train"].skipped
    assert [name for name, _ in skipped] == list(BROKEN)
    for (_, reason), (_, expected) in zip(skipped, BROKEN.values(), strict=True):
        assert reason.startswith(expected)
    assert arraystore.open(target).info.skipped == tuple(
        {"split": "train", "file_name": name, "reason": reason} for name, reason in skipped
    )
    store = arraystore.open(target)
    assert [store.label_names[label] for label in store["train"].label] == [
        name.partition("/")[0] for name in store["train"].file_name
    ]


@every_suffix
def test_many_skipped_images_are_recorded(suffix: str, tmp_path: Path) -> None:
    broken = {f"a/{'n' * 100}{number}.jpg": b"" for number in range(700)}
    write_folder(tmp_path / "in", {"a/1.jpg": picture()} | broken)
    convert(tmp_path / "in", tmp_path / f"a{suffix}", on_error="skip")
    info = arraystore.open(tmp_path / f"a{suffix}").info
    assert sorted(row["file_name"] for row in info.skipped) == sorted(broken)


@every_suffix
def test_split_with_all_images_skipped_is_empty(suffix: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", {"test/cat/1.jpg": b"", "val/cat/1.jpg": picture()})
    report = convert(folder, tmp_path / f"a{suffix}", on_error="skip")
    store = arraystore.open(tmp_path / f"a{suffix}")
    assert (len(store["test"]), len(store["val"])) == (0, 1)
    assert report.splits["test"].content_digest == hashlib.sha256().hexdigest()


# Small splits


@every_suffix
@pytest.mark.parametrize("n_images", [0, 1, 2])
def test_small_split_is_converted(n_images: int, suffix: str, tmp_path: Path) -> None:
    few = {f"few/cat/{number}.jpg": picture(seed=number) for number in range(n_images)}
    unreadable = {"few/cat/none.jpg": b"", "train/cat/1.jpg": picture()}
    folder = write_folder(tmp_path / "in", few | unreadable)
    report = convert(folder, tmp_path / f"a{suffix}", on_error="skip")
    store = arraystore.open(tmp_path / f"a{suffix}")
    split = store["few"]
    assert len(split) == report.splits["few"].num_samples == n_images
    assert len(list(split)) == len(split[:].image) == n_images
    assert {f"few/{name}": data for name, data in images(store_path(store), "few").items()} == few
    assert column(store_path(store), "label_indptr", "few").tolist() == [0, n_images]
    assert payload(store_path(store), "few") == b"".join(split.image_bytes[:])


def store_path(store: arraystore.Store) -> Path:
    return Path(store.address)


# Report and progress


@every_suffix
def test_report_counts_splits(suffix: str, two_splits: Path, tmp_path: Path) -> None:
    report = convert(two_splits, tmp_path / f"a{suffix}")
    assert (report.dataset, report.path) == ("photos", str(tmp_path / f"a{suffix}"))
    assert (report.partial, report.notes) == (False, ())
    assert report.seconds > 0
    assert {name: split.num_samples for name, split in report.splits.items()} == {
        "train": len(TRAIN),
        "validation": len(VALIDATION),
    }
    for name, data in (("train", TRAIN), ("validation", VALIDATION)):
        assert report.splits[name].num_bytes == sum(map(len, data.values()))
        assert (report.splits[name].skipped, report.splits[name].reencoded) == ((), ())
        assert len(report.splits[name].content_digest) == 64


def test_report_as_json(photos: Path, tmp_path: Path) -> None:
    report = convert(photos, tmp_path / "a.h5")
    plain = json.loads(json.dumps(report.as_dict()))
    assert plain["splits"]["train"]["num_samples"] == len(TRAIN)
    keys = {"dataset", "path", "splits", "partial", "notes", "seconds", "was_complete"}
    assert plain.keys() == keys


@pytest.mark.parametrize("progress", [None, False])
def test_nothing_is_printed_without_terminal(
    progress: bool | None,
    photos: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    convert(photos, tmp_path / "a.h5", progress=progress)
    assert capfd.readouterr() == ("", "")


def test_progress_is_drawn_on_standard_error(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    convert(photos, tmp_path / "a.h5", progress=True)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.strip() != ""


@pytest.mark.parametrize("progress", [None, True, False])
def test_progress_is_drawn_on_terminal(
    progress: bool | None,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    convert(photos, tmp_path / "a.h5", progress=progress)
    assert ("sealing" in terminal.getvalue()) == (progress is not False)


class Terminal(io.StringIO):
    """A text stream that claims to be a terminal."""

    @override
    def isatty(self) -> bool:
        return True
