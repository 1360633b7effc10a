"""Sources that change while they are read: a store of their first state, or an error."""

from __future__ import annotations

import io
import os
import tarfile
from collections import Counter
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import pytest

import arraystore
from arraystore.errors import SourceChangedError
from arraystore.sources import imagenet2012
from arraystore.sources.imagenet2012 import VALIDATION_ARCHIVE
from arraystore.storage.file_states import FileState, FileStates, state_of
from arraystore.verifying.source import SourceCheck
from arraystore.writing.local import LocalStoreWriter
from benchmarks.kills import tree
from tests.support import SUFFIXES, picture, write_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

convert_module: Final = import_module("arraystore.convert")  # not the function of the same name

PHOTOS: Final = {
    f"{split}/{name}/{number}.jpg": picture(10 + number, 20, seed=number)
    for split in ("train", "validation")
    for name in ("ant", "bee")
    for number in range(4)
}
every_suffix = pytest.mark.parametrize("suffix", SUFFIXES)


def keep_time(change: Callable[[Path], object]) -> Callable[[Path], object]:
    def changed(path: Path) -> None:
        status = path.stat()
        change(path)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    return changed


def longer(path: Path) -> None:
    replacement = path.with_name(".new")
    replacement.write_bytes(path.read_bytes() + b"more")
    replacement.replace(path)


def shorter(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def in_place(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"other bytes")


CHANGES: Final[dict[str, tuple[Callable[[Path], object], str]]] = {
    "longer": (longer, r"size was [\d,]+ and is [\d,]+ bytes, .*inode differs; start again when"),
    "longer, time kept": (keep_time(longer), r"size was [\d,]+ and is [\d,]+ bytes, status"),
    "shorter": (shorter, r"size was [\d,]+ and is [\d,]+ bytes"),
    "in place": (in_place, "modification time was .* and is .*, status change time differs"),
    "in place, time kept": (keep_time(in_place), "since reading began: status change time differs"),
    "gone": (lambda path: path.unlink(), "no longer exists, but did when reading began; start"),
}

MOMENTS: Final[dict[str, Callable[[pytest.MonkeyPatch, Callable[[], object]], None]]] = {
    "before images are probed": lambda patch, act: before(
        patch, convert_module, "plan_splits", act
    ),
    "before they are copied": lambda patch, act: before(
        patch, LocalStoreWriter, "create_arrays", act
    ),
    "when they were copied": lambda patch, act: after_filling(patch, act),
}


def before(patch: pytest.MonkeyPatch, owner: Any, name: str, act: Callable[[], object]) -> None:
    real = getattr(owner, name)

    def acting(*args: Any, **options: Any) -> Any:
        patch.setattr(owner, name, real)
        act()
        return real(*args, **options)

    patch.setattr(owner, name, acting)


def after_filling(patch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    real, n = LocalStoreWriter.fill, Counter[str]()

    def fill(*args: Any, **options: Any) -> Any:
        checksums = real(*args, **options)
        n["splits"] += 1
        if n["splits"] == 2:
            act()
        return checksums

    patch.setattr(LocalStoreWriter, "fill", fill)


@every_suffix
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("change", CHANGES)
def test_file_changed_during_conversion_raises(
    change: str, moment: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = write_folder(tmp_path / "photos", PHOTOS)
    act, message = CHANGES[change]
    victim = photos / "train" / "bee" / "2.jpg"
    MOMENTS[moment](monkeypatch, lambda: act(victim))
    with pytest.raises(SourceChangedError, match=rf"bee/2\.jpg: .*{message}"):
        arraystore.convert(f"folder:{photos}", tmp_path / f"a{suffix}", on_error="skip")
    assert not (tmp_path / f"a{suffix}").exists()


@every_suffix
@pytest.mark.parametrize("moment", MOMENTS)
def test_archive_with_swapped_members_raises(
    moment: str, suffix: str, drawn_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = drawn_copy / VALIDATION_ARCHIVE
    MOMENTS[moment](monkeypatch, lambda: keep_time(reverse_members)(archive))
    target = drawn_copy / f"a{suffix}"
    with pytest.raises(SourceChangedError, match=r"_val\.tar: changed since reading began: status"):
        arraystore.convert("imagenet2012", target, manual_dir=drawn_copy, partial=True)
    assert not target.exists()


def reverse_members(archive: Path) -> None:
    old = archive.read_bytes()
    new = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(old)) as before, tarfile.open(fileobj=new, mode="w") as to:
        for member in reversed(before.getmembers()):
            to.addfile(member, before.extractfile(member))
    assert len(new.getvalue()) == len(old)
    with archive.open("r+b") as file:
        file.write(new.getvalue())


@pytest.fixture
def drawn_copy(tmp_path: Path) -> Path:
    from arraystore.cli.synthetic_archives import write_archives

    return write_archives(tmp_path / "in", n_classes=3, per_class=1, n_validation=4).folder


def test_archive_changed_during_walk_raises(
    drawn_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = drawn_copy / VALIDATION_ARCHIVE
    before(monkeypatch, imagenet2012, "_base_names", lambda: None)
    before(
        monkeypatch, imagenet2012, "_labels_of", lambda: archive.write_bytes(archive.read_bytes())
    )
    with pytest.raises(SourceChangedError, match=r"_val\.tar: changed since reading began"):
        arraystore.convert("imagenet2012", drawn_copy / "a.h5", manual_dir=drawn_copy, partial=True)


def test_changed_subset_list_raises(drawn_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = drawn_copy / "1percent.txt"
    MOMENTS["when they were copied"](
        monkeypatch, lambda: names.write_text("n01440764_1.JPEG\n") and None
    )
    with pytest.raises(SourceChangedError, match=r"1percent\.txt: changed since reading began"):
        arraystore.convert(
            "imagenet2012_subset/1pct", drawn_copy / "a.h5", manual_dir=drawn_copy, partial=True
        )


@pytest.mark.parametrize("to", ["train/ant/9.jpg", "train/bee/9.jpg", "validation/ant/9.jpg"])
def test_file_moved_during_listing_raises(
    to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = write_folder(tmp_path / "photos", PHOTOS)
    moved = photos / "validation" / "bee" / "0.jpg"
    before(monkeypatch, FileStates, "check", lambda: moved.rename(photos / to))
    with pytest.raises(SourceChangedError, match=r"photos/\w+/\w+: changed since reading began"):
        arraystore.convert(f"folder:{photos}", tmp_path / "a.h5")


def test_file_added_after_listing_is_not_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = write_folder(tmp_path / "photos", PHOTOS)
    arraystore.convert(f"folder:{photos}", tmp_path / "whole.h5")
    added = photos / "train" / "ant" / "9.jpg"
    before(monkeypatch, LocalStoreWriter, "create_arrays", lambda: added.write_bytes(picture()))
    arraystore.convert(f"folder:{photos}", tmp_path / "a.h5")
    assert tree(tmp_path / "a.h5") == tree(tmp_path / "whole.h5")


@every_suffix
def test_store_changed_during_copy_raises(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = write_folder(tmp_path / "photos", PHOTOS)
    store = tmp_path / f"store{suffix}"
    arraystore.convert(f"folder:{photos}", store)
    labels = store if suffix == ".h5" else next((store / "train" / "label").glob("c/*"))
    act = keep_time(lambda path: path.write_bytes(path.read_bytes()))
    MOMENTS["when they were copied"](monkeypatch, lambda: act(labels))
    with pytest.raises(SourceChangedError, match="changed since reading began: status change"):
        arraystore.copy(store, tmp_path / "copy.zarr")
    assert not (tmp_path / "copy.zarr").exists()


def test_source_changed_during_verify_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = write_folder(tmp_path / "photos", PHOTOS)
    arraystore.convert(f"folder:{photos}", tmp_path / "a.h5")
    victim = photos / "train" / "ant" / "0.jpg"
    before(monkeypatch, SourceCheck, "fault", lambda: keep_time(in_place)(victim))
    with pytest.raises(SourceChangedError, match=r"ant/0\.jpg: changed since reading began"):
        arraystore.verify(tmp_path / "a.h5", source=photos)


def test_second_change_within_clock_tick_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for number in range(10):
        path.write_bytes(b"%d" % number)
        state = state_of(str(path))
        keep_time(lambda path: path.write_bytes(b"!"))(path)
        assert FileState.of(path.stat()) != state


def test_first_changed_file_is_named(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / str(number)).touch()
    states = FileStates.of([str(tmp_path / str(number)) for number in range(5)])
    states.check()
    (tmp_path / "3").write_bytes(b"more")
    (tmp_path / "4").unlink()
    with pytest.raises(SourceChangedError, match=r"/3: changed.* size was 0 and is 4 bytes"):
        states.check()
