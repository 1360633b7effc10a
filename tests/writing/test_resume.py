"""Stopped conversions to a disk that are resumed: from recorded blocks to the same bytes."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import threading
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from click.testing import CliRunner
from typing_extensions import override

import arraystore
from arraystore.cli.commands import cli, main
from arraystore.containers.zarr import writer as zarr_writer
from arraystore.errors import SourceChangedError, SourceError, StorageError
from arraystore.indexing.layout import blocks
from arraystore.storage.file_states import FileState
from arraystore.writing import fill as fill_module
from arraystore.writing import fingerprint as fingerprint_module
from arraystore.writing import journal as journal_module
from arraystore.writing import store_writer
from arraystore.writing.fill import FilePlace
from arraystore.writing.journal import BlockKey, JournalWriter, as_text, read_journal
from arraystore.writing.local import LocalStoreWriter
from arraystore.writing.progress import Meter
from benchmarks.kills import tree
from tests.sources.forms import write_tar
from tests.support import HOSTILE_LINES, SUFFIXES, checked, picture, write_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from arraystore.cli.synthetic_archives import DrawnArchives
    from arraystore.writing.fill import Filled, FillTask

convert_module: Final = import_module("arraystore.convert")  # not the function of the same name

BLOCK_NBYTES: Final = 2_000
GROUP_NBYTES: Final = 2 * BLOCK_NBYTES
PHOTOS: Final = {
    f"{split}/{name}/{number}.jpg": picture(10 + number, 20, seed=number)
    for split in ("train", "validation")
    for name in ("ant", "bee")
    for number in range(8)
}
N_BLOCKS: Final = sum(
    -(-sum(len(data) for name, data in PHOTOS.items() if name.startswith(split)) // BLOCK_NBYTES)
    for split in ("train", "validation")
)
UNFINISHED: Final = (
    "holds an unfinished conversion to {name}; pass resume=True (--resume) to finish it, or "
    "overwrite=True (--overwrite) to start again"
)

every_suffix = pytest.mark.parametrize("suffix", SUFFIXES)


class BoomError(Exception):
    """Stops a conversion."""


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make blocks, shards and groups so small that the photos need many."""
    set_block_nbytes(monkeypatch, BLOCK_NBYTES)
    monkeypatch.setattr(journal_module, "GROUP_NBYTES", GROUP_NBYTES)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "photos", PHOTOS)


@pytest.fixture(params=SUFFIXES)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / f"a{request.param}"


def set_block_nbytes(monkeypatch: pytest.MonkeyPatch, nbytes: int) -> None:
    monkeypatch.setattr(store_writer, "blocks", partial(blocks, block_nbytes=nbytes))
    monkeypatch.setattr(zarr_writer, "SHARD_NBYTES", nbytes)
    monkeypatch.setattr(zarr_writer, "INNER_CHUNK_NBYTES", nbytes // 4)


def convert(folder: Path, target: Path, **options: Any) -> arraystore.ConvertReport:
    return arraystore.convert(f"folder:{folder}", target, **options)


def work_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial")


_undisturbed: dict[str, dict[str, bytes | None]] = {}


def undisturbed(folder: Path, target: Path, **options: Any) -> dict[str, bytes | None]:
    """Return the store of a conversion that is not stopped; equal photos are converted once."""
    key = repr((target.suffix, options, sorted(tree(folder).items())))
    if key not in _undisturbed:
        whole = target.parent.parent / f"whole{target.suffix}"
        convert(folder, whole, **options)
        _undisturbed[key] = tree(whole)
    return _undisturbed[key]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Filling:
    """Count the blocks that are filled, and fail at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.n_filled = 0
        self.fails_at = 0
        self._lock = threading.Lock()
        monkeypatch.setattr(store_writer, "fill", self.fill)

    def fill(self, task: FillTask) -> Filled:
        if task.place == FilePlace():  # compared with the source, but not filled
            return fill_module.fill(task)
        with self._lock:
            self.n_filled += 1
            if self.n_filled == self.fails_at:
                raise BoomError
        return fill_module.fill(task)


@pytest.fixture
def filling(monkeypatch: pytest.MonkeyPatch) -> Filling:
    return Filling(monkeypatch)


@pytest.fixture
def unfinished(photos: Path, target: Path, filling: Filling) -> Path:
    """The workspace of a conversion that failed after two thirds of its blocks."""
    filling.fails_at = 2 * N_BLOCKS // 3
    with pytest.raises(BoomError):
        convert(photos, target)
    filling.n_filled = filling.fails_at = 0
    return work_of(target)


def recorded(work: Path) -> dict[BlockKey, NDArray[np.uint32]]:
    found = read_journal(work / "journal")
    assert found is not None
    return found.blocks


# Resuming


@pytest.mark.parametrize("checksums", [False, True])
def test_images_left_in_place_are_resumed(
    checksums: bool, photos: Path, target: Path, filling: Filling
) -> None:
    shards = photos.parent / "shards"
    shards.mkdir()
    for number, (name, mode) in enumerate((("0.tar", "w"), ("1.tar.gz", "w:gz"))):
        members = [
            (f"{number}{i}.{kind}", data if kind == "jpg" else b"cat")
            for i, data in enumerate(PHOTOS.values())
            for kind in ("jpg", "cls")
        ]
        write_tar(shards / f"train-{name}", members, mode=mode)
    options: Any = {"copy_images": False, "checksums": checksums, "split": "train"}
    source, whole = f"wds:{shards}/*", target.with_name(f"whole{target.suffix}")
    arraystore.convert(source, whole, **options)
    n_blocks, filling.n_filled, filling.fails_at = filling.n_filled, 0, filling.n_filled * 2 // 3
    with pytest.raises(BoomError):
        arraystore.convert(source, target, **options)
    n_recorded = len(recorded(work_of(target)))
    assert n_recorded > 3
    filling.n_filled = filling.fails_at = 0
    with pytest.raises(ValueError, match="option copy_images"):
        arraystore.convert(source, target, split="train", resume=True)
    arraystore.convert(source, target, resume=True, **options)
    assert filling.n_filled == n_blocks - n_recorded
    assert tree(target) == tree(whole)


def test_resumed_store_has_the_same_bytes(photos: Path, target: Path, unfinished: Path) -> None:
    report = convert(photos, target, resume=True)
    assert tree(target) == undisturbed(photos, target)
    assert report.splits["train"].num_samples == 16
    assert names(target.parent) == [target.name]
    assert unfinished.name not in names(target.parent)


def test_resume_fills_only_unrecorded_blocks(
    photos: Path, target: Path, unfinished: Path, filling: Filling
) -> None:
    n_recorded = len(recorded(unfinished))
    assert n_recorded > N_BLOCKS // 3
    convert(photos, target, resume=True)
    assert filling.n_filled == N_BLOCKS - n_recorded


def test_all_blocks_are_recorded_before_sealing(
    photos: Path, target: Path, filling: Filling, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, target, "set_attributes")
    with pytest.raises(BoomError):
        convert(photos, target)
    assert len(recorded(work_of(target))) == N_BLOCKS
    monkeypatch.undo()


def fail_at(monkeypatch: pytest.MonkeyPatch, target: Path, method: str) -> None:
    """Let a method of the target's writer fail."""
    from arraystore.containers import writer_for

    def fail(*args: object, **options: object) -> None:
        raise BoomError

    monkeypatch.setattr(writer_for(target), method, fail)


@pytest.mark.parametrize(
    ("destroy", "method"), [(True, "write_column"), (False, "set_attributes"), (True, "close")]
)
def test_interrupted_sealing_is_resumed(
    destroy: bool, method: str, photos: Path, target: Path, unfinished: Path
) -> None:
    create_arrays = LocalStoreWriter.create_arrays
    with pytest.MonkeyPatch.context() as patch:

        def fails_later(*args: Any) -> None:
            create_arrays(*args)
            fail_at(patch, target, method)

        patch.setattr(LocalStoreWriter, "create_arrays", fails_later)
        with pytest.raises(BoomError):
            convert(photos, target, resume=True)
    if destroy:
        destroy_what_was_not_synced(unfinished / "store")
    convert(photos, target, resume=True)
    assert tree(target) == undisturbed(photos, target)


def destroy_what_was_not_synced(store: Path) -> None:
    if store.is_dir():
        for path in store.rglob("*"):
            if path.is_file() and path.parent.parent.name != "image_payload":
                path.write_bytes(b"lost")
    else:
        with store.open("r+b") as file:
            file.write(b"lost" * 20)
            file.seek(0, os.SEEK_END)
            file.write(b"more" * 5000)


def test_conversion_stopped_many_times_is_resumed(
    photos: Path, target: Path, filling: Filling
) -> None:
    filling.fails_at = 5
    for _ in range(N_BLOCKS):
        filling.n_filled = 0
        try:
            convert(photos, target, resume=True)
        except BoomError:
            continue
        break
    filling.fails_at = 0
    assert tree(target) == undisturbed(photos, target)


def test_resume_without_workspace_converts(photos: Path, target: Path) -> None:
    convert(photos, target, resume=True)
    assert tree(target) == undisturbed(photos, target)


def test_reencoded_images_are_resumed(
    drawn: DrawnArchives, target: Path, filling: Filling, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_block_nbytes(monkeypatch, 50_000)
    whole = target.with_name(f"whole{target.suffix}")
    options: dict[str, Any] = {"manual_dir": drawn.folder, "partial": True}
    arraystore.convert("imagenet2012", whole, **options)
    filling.n_filled, filling.fails_at = 0, 10
    with pytest.raises(BoomError):
        arraystore.convert("imagenet2012", target, **options)
    filling.fails_at = 0
    report = arraystore.convert("imagenet2012", target, resume=True, **options)
    assert report.splits["train"].reencoded
    assert tree(target) == tree(whole)


@pytest.fixture
def interrupts() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_interrupt_keeps_recorded_blocks(
    photos: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, added = JournalWriter.add, list[BlockKey]()

    def interrupted(self: JournalWriter, key: BlockKey, *args: Any) -> None:
        add(self, key, *args)
        added.append(key)
        if len(added) == 5:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(JournalWriter, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert(photos, target)
    assert list(recorded(work_of(target))) == added
    convert(photos, target, resume=True)
    assert tree(target) == undisturbed(photos, target)


class CopyMeter(Meter):
    """Record the progress of copying."""

    def __init__(self) -> None:
        self.at_first: list[tuple[int, int]] = []
        self.now = self.total = 0

    @override
    def start(
        self, message: str, n_images: int, n_bytes: int = 0, *, done: tuple[int, int] = (0, 0)
    ) -> None:
        if "copying" in message:
            self.at_first.append(done)
            self.total += n_bytes

    @override
    def advance(self, n_images: int, n_bytes: int = 0) -> None:
        self.now += n_bytes


def test_progress_counts_recorded_blocks_as_done(
    photos: Path, target: Path, unfinished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copying, before = CopyMeter(), recorded(unfinished)
    monkeypatch.setattr(convert_module, "meter", lambda _: nullcontext(copying))
    convert(photos, target, resume=True)
    nbytes = sum(block.stop - block.start for block in before)
    assert sum(images for images, _ in copying.at_first) == sum(map(len, before.values())) > 0
    assert sum(done for _, done in copying.at_first) == nbytes
    assert copying.now == copying.total - nbytes > 0


# Refusals


@pytest.mark.usefixtures("unfinished")
def test_unfinished_store_raises(photos: Path, target: Path) -> None:
    before = tree(target.parent)
    with pytest.raises(FileExistsError) as caught:
        convert(photos, target)
    assert str(caught.value) == f"{work_of(target)}: " + UNFINISHED.format(name=target.name)
    assert tree(target.parent) == before


@pytest.mark.usefixtures("unfinished")
def test_overwrite_starts_again(photos: Path, target: Path, filling: Filling) -> None:
    convert(photos, target, order="label", overwrite=True)
    assert filling.n_filled == N_BLOCKS
    assert tree(target) == undisturbed(photos, target, order="label")
    assert names(target.parent) == [target.name]


def test_interrupted_overwriting_is_resumed(photos: Path, target: Path, filling: Filling) -> None:
    convert(photos, target, order="label")
    old = tree(target)
    filling.n_filled, filling.fails_at = 0, N_BLOCKS
    with pytest.raises(BoomError):
        convert(photos, target, overwrite=True)
    assert tree(target) == old
    with pytest.raises(FileExistsError, match="exists; choose another name"):
        convert(photos, target, resume=True)
    filling.n_filled = filling.fails_at = 0
    convert(photos, target, overwrite=True, resume=True)
    assert 0 < filling.n_filled < N_BLOCKS
    assert tree(target) == undisturbed(photos, target)


def test_failure_before_first_block_leaves_nothing(
    photos: Path, target: Path, filling: Filling
) -> None:
    filling.fails_at = 1
    with pytest.raises(BoomError):
        convert(photos, target)
    assert names(target.parent) == []


def test_failure_without_sync_leaves_nothing(photos: Path, target: Path, filling: Filling) -> None:
    filling.fails_at = N_BLOCKS
    with pytest.raises(BoomError):
        convert(photos, target, sync=False)
    assert names(target.parent) == []


def test_resume_without_sync_raises(photos: Path, target: Path) -> None:
    message = rf"{target.name}: resume=True \(--resume\) needs sync=True \(--sync\)"
    with pytest.raises(ValueError, match=message):
        convert(photos, target, resume=True, sync=False)


def test_resume_of_running_conversion_raises(
    photos: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second: list[str] = []

    def fill(task: FillTask) -> Filled:
        with pytest.raises(StorageError, match="another process is converting"):
            convert(photos, target, resume=True)
        second.append("refused")
        return fill_module.fill(task)

    monkeypatch.setattr(store_writer, "fill", fill)
    convert(photos, target)
    assert len(second) == N_BLOCKS


def test_target_created_meanwhile_is_kept(
    photos: Path, target: Path, unfinished: Path, filling: Filling
) -> None:
    create_arrays = LocalStoreWriter.create_arrays
    with pytest.MonkeyPatch.context() as patch:

        def meanwhile(*args: Any) -> None:
            create_arrays(*args)
            write_folder(target, {"theirs": b"precious"})

        patch.setattr(LocalStoreWriter, "create_arrays", meanwhile)
        with pytest.raises(FileExistsError, match="by another process meanwhile"):
            convert(photos, target, resume=True)
    assert tree(target) == {".": None, "theirs": b"precious"}
    target.rename(target.with_name("theirs"))
    filling.n_filled = 0
    convert(photos, target, resume=True)
    assert filling.n_filled == 0
    assert tree(target) == undisturbed(photos, target)
    assert not unfinished.exists()


# Changes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1}, "option seed is 1, but was 0"),
        ({"order": "label"}, "option order is label, but was shuffled"),
        ({"on_error": "skip"}, "option on_error is skip, but was raise"),
        ({"seed": 1, "order": "source"}, "option order .*; option seed is 1, but was 0"),
    ],
)
def test_changed_option_is_refused_before_loading(
    options: dict[str, Any], message: str, photos: Path, target: Path, unfinished: Path
) -> None:
    before = without_spool(target)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert_module, "load_source", None)
        expected = f"cannot resume: {message}; use the same option"
        with pytest.raises(ValueError, match=expected) as caught:
            convert(photos, target, resume=True, **options)
    assert not hasattr(caught.value, "__notes__")  # none suggests to resume
    assert without_spool(target) == before
    convert(photos, target, resume=True)
    assert not unfinished.exists()


def without_spool(target: Path) -> dict[str, bytes | None]:
    return {name: data for name, data in tree(target.parent).items() if "/spool" not in name}


def touch(photo: Path) -> None:
    os.utime(photo, ns=(0, photo.stat().st_mtime_ns + 1))


def grow(photo: Path) -> None:
    photo.write_bytes(photo.read_bytes() + b"\0")


def rename(photo: Path) -> None:
    photo.rename(photo.with_name("other.jpg"))


CHANGES: Final[dict[str, Callable[[Path], None]]] = {
    "its time": touch,
    "its size": grow,
    "gone": Path.unlink,
    "renamed": rename,
}


@pytest.mark.parametrize(
    ("change", "max_files"), [("its time", 1), *((change, 1000) for change in CHANGES)]
)
def test_changed_source_is_refused_before_probing(
    max_files: int,
    change: str,
    photos: Path,
    target: Path,
    filling: Filling,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fingerprint_module, "_MAX_FILES", max_files)
    filling.fails_at = N_BLOCKS
    with pytest.raises(BoomError):
        convert(photos, target)
    before = without_spool(target)
    CHANGES[change](photos / "train" / "ant" / "3.jpg")
    where = "train/ant" if max_files == 1 else r"train/ant/3\.jpg"
    monkeypatch.setattr(convert_module, "plan_splits", None)
    with pytest.raises(SourceError, match=rf"cannot resume: .*source {where} is .*, but was .*"):
        convert(photos, target, resume=True)
    assert without_spool(target) == before


def test_changed_data_set_is_refused(photos: Path, target: Path, unfinished: Path) -> None:
    assert unfinished.exists()
    other = write_folder(target.parent.parent / "others", PHOTOS)
    with pytest.raises(ValueError, match="data set name is others, but was photos"):
        convert(other, target, resume=True)
    assert photos.exists()


def test_changed_version_is_refused(
    photos: Path, target: Path, unfinished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert unfinished.exists()
    monkeypatch.setattr(fingerprint_module, "__version__", "9.9")
    with pytest.raises(ValueError, match=r"version arraystore is 9\.9, but was "):
        convert(photos, target, resume=True)


@pytest.mark.parametrize("nbytes", [None, 100])
def test_truncated_unfinished_store_is_refused(
    nbytes: int | None, photos: Path, target: Path, unfinished: Path
) -> None:
    store = unfinished / "store"
    path = store / "train" / "image_payload" / "c" / "0" if store.is_dir() else store
    if nbytes is None and path != store:
        path.unlink()
    else:
        os.truncate(path, nbytes or 100)
    with pytest.raises(StorageError, match="it was changed since the conversion was stopped; pass"):
        convert(photos, target, resume=True)


# The journal


def test_torn_line_is_ignored(photos: Path, target: Path, unfinished: Path) -> None:
    journal = unfinished / "journal"
    data, n_blocks = journal.read_bytes(), len(recorded(unfinished))
    last = data.rstrip(b"\n").rindex(b"\n") + 1
    counts = set()
    for length in range(last, len(data)):
        journal.write_bytes(data[:length])
        counts.add(len(recorded(unfinished)))
    assert len(counts) == 1
    assert counts.pop() < n_blocks
    convert(photos, target, resume=True)
    assert tree(target) == undisturbed(photos, target)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_journal_is_used_up_to_the_damage(
    seed: int, photos: Path, target: Path, unfinished: Path, filling: Filling
) -> None:
    journal = unfinished / "journal"
    data = bytearray(journal.read_bytes())
    at = random.Random(seed).randrange(len(data))
    data[at] ^= 1 << seed
    journal.write_bytes(data)
    right = bytes(data[: bytes(data[:at]).rfind(b"\n") + 1])
    found = read_journal(journal)
    (journal.parent / "right").write_bytes(right)
    expected = read_journal(journal.parent / "right")
    (journal.parent / "right").unlink()
    assert (found and [*found.blocks]) == (expected and [*expected.blocks])
    convert(photos, target, resume=True)
    n_recorded = 0 if found is None else len(found.blocks)
    assert filling.n_filled == N_BLOCKS - n_recorded
    assert tree(target) == undisturbed(photos, target)


def test_torn_journal_is_continued(
    photos: Path, target: Path, unfinished: Path, filling: Filling
) -> None:
    with (unfinished / "journal").open("ab") as file:
        file.write(b"0123")
    n_recorded = len(recorded(unfinished))
    filling.fails_at = (N_BLOCKS - n_recorded) // 2 + 1
    with pytest.raises(BoomError):
        convert(photos, target, resume=True)
    assert len(recorded(unfinished)) > n_recorded


def assert_refused(photos: Path, target: Path, problem: str) -> None:
    """Resume an unfinished store that cannot be resumed."""
    work, before = work_of(target), tree(work_of(target) / "store")
    with pytest.raises(FileExistsError, match="holds an unfinished conversion"):
        convert(photos, target)
    with pytest.raises(
        StorageError, match=rf"^{work}/journal: {problem}.*; pass overwrite=True"
    ) as e:
        convert(photos, target, resume=True)
    assert not hasattr(e.value, "__notes__")
    assert tree(work / "store") == before


def test_refused_store_is_converted_again(photos: Path, target: Path, unfinished: Path) -> None:
    (unfinished / "journal").write_bytes(checked(HOSTILE_LINES["nested deeply"]))
    assert_refused(photos, target, "(line [0-9]+ |)must ")
    convert(photos, target, overwrite=True)
    assert tree(target) == undisturbed(photos, target)
    assert names(target.parent) == [target.name]


@pytest.mark.parametrize("hostile", HOSTILE_LINES)
@pytest.mark.parametrize("place", ["first", "last"])
def test_hostile_line_is_refused(
    hostile: str, place: str, photos: Path, target: Path, unfinished: Path
) -> None:
    journal, line = unfinished / "journal", checked(HOSTILE_LINES[hostile])
    journal.write_bytes(line if place == "first" else journal.read_bytes() + line)
    assert_refused(photos, target, "(line [0-9]+ |)must ")


@pytest.mark.parametrize("target", [".h5"], indirect=True)  # the journal is the same for both
def test_giant_line_is_refused(photos: Path, target: Path, unfinished: Path) -> None:
    os.truncate(unfinished / "journal", 2**40)
    assert_refused(photos, target, "line [0-9]+ has more than 67108864 bytes")


def test_block_with_missing_checksums_is_copied_again(
    photos: Path, target: Path, unfinished: Path
) -> None:
    journal = unfinished / "journal"
    data, blocks_there = journal.read_bytes(), recorded(unfinished)
    key = next(key for key, checksums in blocks_there.items() if len(checksums) > 1)
    cut = [[*key, as_text(blocks_there[key][1:])]]
    journal.write_bytes(data + checked(json.dumps(cut).encode()))
    convert(photos, target, resume=True)
    assert tree(target) == undisturbed(photos, target)


def test_block_is_synced_before_it_is_recorded(
    photos: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsynced: set[int] = set()
    blocks_of: dict[tuple[str, int], int] = {}
    pwrite, fsync, write = os.pwrite, os.fsync, os.write
    named: list[BlockKey] = []
    lock = threading.Lock()

    def note_write(fd: int, data: Any, offset: int) -> int:
        with lock:
            unsynced.add(len(blocks_of))
            blocks_of[str(os.fstat(fd).st_ino), offset] = len(blocks_of)
        return pwrite(fd, data, offset)

    def note_sync(fd: int) -> None:
        with lock:
            mine = {n for (inode, _), n in blocks_of.items() if inode == str(os.fstat(fd).st_ino)}
        fsync(fd)
        with lock:
            unsynced.difference_update(mine)

    def note_line(fd: int, data: memoryview) -> int:
        text = bytes(data)[9:]
        if text.startswith(b"[") and not named:
            # Only the first group: later ones are written while other blocks are filled.
            named.extend(BlockKey(*key[:3]) for key in json.loads(text))
            for key in named:
                for path, offset, _ in places[key]:
                    place = str(Path(path).stat().st_ino), offset
                    assert blocks_of[place] not in unsynced
        return write(fd, data)

    places: dict[BlockKey, tuple[tuple[str, int, int], ...]] = {}
    record = LocalStoreWriter.record

    def note_places(self: Any, split: str, block: Any, place: Any, filled: Any) -> None:
        places[BlockKey(split, block.start, block.stop)] = place.parts
        record(self, split, block, place, filled)

    monkeypatch.setattr(os, "pwrite", note_write)
    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "write", note_line)
    monkeypatch.setattr(LocalStoreWriter, "record", note_places)
    convert(photos, target)
    assert named


def test_layout_is_synced_before_journal_begins(
    photos: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    missing: list[str] = []
    fsync, begin = os.fsync, JournalWriter.begin

    def note(fd: int) -> None:
        synced.add(os.fstat(fd).st_ino)
        fsync(fd)

    def check(path: Path, plan: Any) -> JournalWriter:
        store = path.parent / "store"
        parts = [store, *store.rglob("*"), target.parent]
        missing.extend(str(part) for part in parts if part.stat().st_ino not in synced)
        synced.clear()
        journal = begin(path, plan)
        assert {path.stat().st_ino, path.parent.stat().st_ino} <= synced
        return journal

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(JournalWriter, "begin", check)
    convert(photos, target)
    assert synced
    assert missing == []


# Full disks


class FullDisk:
    """Let calls that need disk space fail, from a certain one on."""

    CALLS: Final = ("pwrite", "write", "posix_fallocate", "fsync", "mkdir")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.n_calls = 0
        self._at, self._lock = at, threading.Lock()
        for name in self.CALLS:
            monkeypatch.setattr(os, name, partial(self._call, getattr(os, name)))

    def _call(self, real: Callable[..., Any], *args: Any, **options: Any) -> Any:
        with self._lock:
            self.n_calls += 1
            is_full = self._at and self.n_calls >= self._at
        if is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args, **options)


@every_suffix
def test_full_disk_raises_and_is_resumed(suffix: str, tmp_path: Path) -> None:
    photos = write_folder(tmp_path / "photos", PHOTOS)
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / f"a{suffix}"
    with pytest.MonkeyPatch.context() as patch:
        counter = FullDisk(patch, 0)
        convert(photos, tmp_path / f"whole{suffix}")
    whole, points = tree(tmp_path / f"whole{suffix}"), random.Random(0)
    n_kept = 0
    for at in sorted(points.sample(range(1, counter.n_calls), 5)):
        with pytest.MonkeyPatch.context() as patch:
            FullDisk(patch, at)
            with pytest.raises(StorageError, match="No space left on device"):
                convert(photos, target)
        assert not target.exists()
        n_kept += work_of(target).exists()
        convert(photos, target, resume=True)
        assert tree(target) == whole
        remove(target)
        assert names(target.parent) == []
    assert n_kept > 2


def remove(target: Path) -> None:
    for path in [*sorted(target.rglob("*"), reverse=True), target]:
        path.rmdir() if path.is_dir() else path.unlink()


# Sources touched or changed in place


def in_place(photo: Path) -> None:
    """Change the end of an image, but neither its size nor its modification time."""
    status = photo.stat()
    with photo.open("r+b") as file:
        file.seek(-3, os.SEEK_END)
        file.write(b"!")
    os.utime(photo, ns=(status.st_atime_ns, status.st_mtime_ns))


def chmod(photo: Path) -> None:
    photo.chmod(0o600)


def link(photo: Path) -> None:
    photo.with_name(f".{photo.name}").hardlink_to(photo)


def restore(photo: Path) -> None:
    """Replace a file by an identical copy, as a restored backup does."""
    copy = photo.with_name(".copy")
    shutil.copy2(photo, copy)
    copy.replace(photo)


@pytest.mark.parametrize(
    ("touch", "max_files"), [(chmod, 1), (chmod, 1000), (link, 1000), (restore, 1)]
)
def test_touched_source_is_compared_and_resumed(
    max_files: int,
    touch: Callable[[Path], None],
    photos: Path,
    target: Path,
    filling: Filling,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fingerprint_module, "_MAX_FILES", max_files)
    filling.fails_at = N_BLOCKS
    with pytest.raises(BoomError):
        convert(photos, target)
    for photo in [*photos.rglob("*.jpg")]:
        touch(photo)
    filling.n_filled = filling.fails_at = 0
    convert(photos, target, resume=True)
    assert 0 < filling.n_filled < N_BLOCKS
    assert tree(target) == undisturbed(photos, target)


@pytest.mark.parametrize("max_files", [1, 1000])
def test_source_changed_in_place_is_refused(
    max_files: int,
    photos: Path,
    target: Path,
    filling: Filling,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fingerprint_module, "_MAX_FILES", max_files)
    filling.fails_at = N_BLOCKS
    with pytest.raises(BoomError):
        convert(photos, target)
    filling.n_filled = filling.fails_at = 0
    for photo in photos.rglob("*.jpg"):
        in_place(photo)
    for _ in range(2):
        with pytest.raises(SourceChangedError, match="other bytes than when they were copied; "):
            convert(photos, target, resume=True)
    assert filling.n_filled == 0
    assert not target.exists()


def test_change_of_uncopied_images_is_converted(
    photos: Path, target: Path, filling: Filling
) -> None:
    filling.fails_at = 5
    with pytest.raises(BoomError):
        convert(photos, target)
    filling.fails_at = 0
    for photo in (photos / "validation").rglob("*.jpg"):
        in_place(photo)
    convert(photos, target, resume=True)
    assert tree(target) == undisturbed(photos, target)


def test_sample_of_blocks_is_compared(
    photos: Path, target: Path, unfinished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for photo in photos.rglob("*.jpg"):
        in_place(photo)
    # As on a file system that keeps no status change times.
    monkeypatch.setattr(
        LocalStoreWriter, "is_source_touched", property(lambda _: False, lambda *_: None)
    )
    with pytest.raises(SourceChangedError, match="other bytes than when they were copied"):
        convert(photos, target, resume=True)
    assert unfinished.exists()


# Complete stores


def test_resume_of_complete_store_reports_it(photos: Path, target: Path, filling: Filling) -> None:
    first = convert(photos, target)
    before, filling.n_filled = tree(target), 0
    report = convert(photos, target, resume=True)
    assert (first.was_complete, report.was_complete, filling.n_filled) == (False, True, 0)
    assert (report.splits, report.dataset) == (first.splits, first.dataset)
    assert names(target.parent) == [target.name]
    assert tree(target) == before


def test_resume_of_complete_imagenet_store_reports_it(drawn: DrawnArchives, target: Path) -> None:
    options: dict[str, Any] = {"manual_dir": drawn.folder, "partial": True}
    first = arraystore.convert("imagenet2012", target, order="label", **options)
    options |= {"order": "label", "seed": 3}  # this order does not use the seed
    report = arraystore.convert("imagenet2012", target, resume=True, **options)
    assert report.was_complete
    assert report.splits == first.splits
    assert report.splits["train"].reencoded
    with pytest.raises(ValueError, match="option partial is False, but was True"):
        arraystore.convert(
            "imagenet2012", target, resume=True, manual_dir=drawn.folder, order="label"
        )
    with pytest.raises(ValueError, match=r"data set version is 2\.0\.0, but was 5\.0\.0"):
        arraystore.convert("imagenet2012:2.0.0", target, resume=True, **options)


@pytest.mark.parametrize("options", [{"seed": 1}, {"order": "label"}])
def test_resume_of_complete_store_with_other_options_raises(
    options: dict[str, Any], photos: Path, target: Path
) -> None:
    convert(photos, target)
    before = tree(target)
    (name,) = options
    with pytest.raises(ValueError, match=f"cannot resume: option {name} is "):
        convert(photos, target, resume=True, **options)
    assert tree(target) == before


def test_resume_of_foreign_folder_raises(photos: Path, target: Path) -> None:
    write_folder(target, {"theirs": b"precious"})
    with pytest.raises(
        FileExistsError, match=rf"{target.name}: exists; .* \(.*is not an arraystore"
    ):
        convert(photos, target, resume=True)


def test_resume_of_unfinished_overwriting_needs_overwrite(
    photos: Path, target: Path, filling: Filling
) -> None:
    convert(photos, target)
    filling.n_filled, filling.fails_at = 0, N_BLOCKS
    with pytest.raises(BoomError):
        convert(photos, target, overwrite=True)
    filling.fails_at = 0
    with pytest.raises(FileExistsError, match="exists; choose another name, or pass overwrite"):
        convert(photos, target, resume=True)
    assert not convert(photos, target, resume=True, overwrite=True).was_complete


def test_resume_of_published_store_deletes_workspace(photos: Path, target: Path) -> None:
    convert(photos, target)
    work_of(target).mkdir()
    (work_of(target) / "lock").touch()
    assert convert(photos, target, resume=True).was_complete
    assert names(target.parent) == [target.name]


def test_command_exits_0_for_complete_store(photos: Path, target: Path) -> None:
    arguments = ["convert", f"folder:{photos}", str(target), "--resume"]
    for message in ("", "The store was already complete; nothing was converted."):
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == 0
        assert message in done.stdout


# Times beyond 64 bits of nanoseconds


def test_file_state_holds_any_date() -> None:
    for year in (1800, 2262, 2300, 9000):
        seconds = (year - 1970) * 31_556_952 + 40_000_000
        ns = seconds * 10**9 + 7
        status = os.stat_result(
            (0o100644, 2**64 - 1, 1, 1, 0, 0, 5, 0, seconds, seconds),
            {"st_mtime_ns": ns, "st_ctime_ns": ns},
        )
        state = FileState.of(status)
        assert state.date.startswith(str(year + 1))
        assert state.date.endswith(".000000007")
        assert max(map(abs, state)) <= 2**63


def test_source_with_far_future_date_is_resumed(
    photos: Path, target: Path, filling: Filling
) -> None:
    for photo in photos.rglob("*.jpg"):
        os.utime(photo, (0, 10**10))  # in 2286
    filling.fails_at = N_BLOCKS
    with pytest.raises(BoomError):
        convert(photos, target)
    filling.fails_at = 0
    convert(photos, target, resume=True)
    assert tree(target) == undisturbed(photos, target)


# The command


def test_command_resumes(photos: Path, target: Path, unfinished: Path) -> None:
    arguments = ["convert", f"folder:{photos}", str(target)]
    refused = CliRunner().invoke(cli, arguments)
    assert isinstance(refused.exception, FileExistsError)
    assert unfinished.exists()
    done = CliRunner().invoke(cli, [*arguments, "--resume"])
    assert (done.exit_code, unfinished.exists()) == (0, False)
    assert tree(target) == undisturbed(photos, target)


@pytest.mark.parametrize("kind", [StorageError, KeyboardInterrupt])
def test_command_reports_kept_blocks(
    kind: type[BaseException],
    photos: Path,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*args: object) -> None:
        raise kind("the disk is full")

    monkeypatch.setattr(LocalStoreWriter, "publish", fail)
    is_interrupt = kind is KeyboardInterrupt
    assert main(["convert", f"folder:{photos}", str(target)]) == (130 if is_interrupt else 1)
    what = "interrupted" if is_interrupt else "the disk is full"
    kept = (
        f"{work_of(target)} keeps the blocks copied so far; pass resume=True (--resume) to continue"
    )
    assert capsys.readouterr().err.strip().endswith(f"arraystore: {what}; {kept}")
