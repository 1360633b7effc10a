"""The workspace of a new store: publishing, kills between two renames, concurrent processes."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from arraystore.errors import StorageError
from arraystore.storage.exchange import exchange
from arraystore.storage.workspace_folder import restore
from arraystore.writing.journal import BlockKey, JournalWriter
from arraystore.writing.workspace import workspace

if TYPE_CHECKING:
    from collections.abc import Callable

OLD = b"\x89HDF of the old store"
NEW = b"\x89HDF of the new store"
KEY = BlockKey("train", 0, 10)


def left_by_a_kill(target: Path, *, is_linked: bool = False) -> Path:
    """Leave a workspace with a store of one recorded block, perhaps published."""
    folder = target.parent / f".{target.name}.partial"
    folder.mkdir()
    (folder / "lock").touch()
    (folder / "store").write_bytes(NEW)
    journal = JournalWriter.begin(folder / "journal", {})
    journal.add(KEY, np.zeros(1, np.uint32), [folder / "store"])
    journal.close()
    if is_linked:
        target.hardlink_to(folder / "store")
    return folder


def left_by_a_kill_between_two_renames(target: Path) -> None:
    """Leave a workspace as a conversion does that is killed while it publishes."""
    folder = target.parent / f".{target.name}.partial"
    folder.mkdir()
    (folder / "lock").touch()
    (folder / "store").write_bytes(NEW)
    (folder / "replaced").write_bytes(OLD)


def test_moved_old_store_is_restored(tmp_path: Path) -> None:
    target = tmp_path / "a.h5"
    left_by_a_kill_between_two_renames(target)
    with (
        pytest.raises(FileExistsError, match=r"a\.h5: exists; choose another name"),
        workspace(target),
    ):
        pass
    assert target.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [target]


def test_moved_old_store_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "a.h5"
    left_by_a_kill_between_two_renames(target)
    with workspace(target, overwrite=True) as work:
        work.store.write_bytes(b"new")
        work.publish()
    assert target.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [target]


def test_failed_publishing_restores_old_store(tmp_path: Path) -> None:
    target = tmp_path / "a.h5"
    target.write_bytes(OLD)
    with workspace(target, overwrite=True) as work, pytest.raises(FileNotFoundError):
        work.publish()  # there is no new store
    assert target.read_bytes() == OLD


def test_publish_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("pathlib.Path.hardlink_to", refuse)
    target = tmp_path / "a.h5"
    with workspace(target) as work:
        work.store.write_bytes(b"new")
        work.publish()
    assert target.read_bytes() == b"new"
    with workspace(tmp_path / "b.h5") as work:
        work.store.write_bytes(b"new")
        work.target.write_bytes(b"theirs")
        with pytest.raises(FileExistsError, match="by another process meanwhile"):
            work.publish()
    assert (tmp_path / "b.h5").read_bytes() == b"theirs"


def test_store_with_two_names_is_published(tmp_path: Path) -> None:
    target = tmp_path / "a.h5"
    left_by_a_kill(target, is_linked=True)
    with pytest.raises(FileExistsError, match="exists"), workspace(target, resume=True):
        pass
    assert target.read_bytes() == NEW
    assert list(tmp_path.iterdir()) == [target]


def test_store_with_two_names_is_not_modified(tmp_path: Path) -> None:
    target = tmp_path / "a.h5"
    left_by_a_kill(target, is_linked=True)
    with workspace(target, resume=True, overwrite=True) as work:
        assert not work.is_unfinished
        assert not work.store.exists()


def test_workspace_of_published_folder_is_deleted(tmp_path: Path) -> None:
    target = tmp_path / "a.zarr"
    (left_by_a_kill(target) / "store").unlink()
    target.mkdir()
    with pytest.raises(FileExistsError, match="exists"), workspace(target):
        pass
    assert list(tmp_path.iterdir()) == [target]


def test_restore_keeps_unfinished_store(tmp_path: Path) -> None:
    target = tmp_path / "a.h5"
    folder = left_by_a_kill(target)
    (folder / "replaced").write_bytes(OLD)
    with pytest.raises(FileExistsError, match="exists"), workspace(target, resume=True):
        pass
    assert target.read_bytes() == OLD
    with workspace(target, resume=True, overwrite=True) as work:
        assert work.is_unfinished
        work.publish()
    assert target.read_bytes() == NEW
    assert list(tmp_path.iterdir()) == [target]


def test_second_name_is_synced_before_first_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, unlink = os.fsync, Path.unlink

    def note_sync(fd: int) -> None:
        if os.fstat(fd).st_ino == tmp_path.stat().st_ino:
            events.append(f"synced with {max(path.name for path in tmp_path.iterdir())}")
        fsync(fd)

    def note_unlink(self: Path) -> None:
        events.append(f"{self.name} goes")
        unlink(self)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "unlink", note_unlink)
    with workspace(tmp_path / "a.h5") as work:
        work.store.write_bytes(b"new")
        work.publish()
    assert events[:2] == ["synced with a.h5", "store goes"]


def test_journal_is_deleted_before_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, gone = left_by_a_kill(tmp_path / "a.h5"), list[str]()
    unlink = Path.unlink

    def note(self: Path) -> None:
        gone.append(self.name)
        unlink(self)

    monkeypatch.setattr(Path, "unlink", note)
    with workspace(tmp_path / "a.h5", overwrite=True):
        assert sorted(path.name for path in folder.iterdir()) == ["lock"]
    assert gone == ["journal", "store", "lock"]


# Overwriting

KINDS = [("file", "file"), ("folder", "folder"), ("file", "folder"), ("folder", "file")]


def put(kind: str, path: Path, data: bytes) -> None:
    if kind == "folder":
        path.mkdir()
        path /= "zarr.json"
    path.write_bytes(data)


def content(path: Path) -> bytes:
    return (path / "zarr.json" if path.is_dir() else path).read_bytes()


@pytest.mark.parametrize(("old", "new"), KINDS)
@pytest.mark.parametrize("is_link", [False, True])
def test_overwriting_never_leaves_name_absent(
    old: str, new: str, is_link: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange_works(tmp_path):
        pytest.skip("this system cannot exchange two names")
    target, there = tmp_path / "a.zarr", tmp_path / "there"
    put(old, there if is_link else target, OLD)
    if is_link:
        target.symlink_to(there)
    seen: list[bytes] = []

    def noted(call: Callable[..., Any]) -> Callable[..., Any]:
        def act(*arguments: Any) -> Any:
            result = call(*arguments)
            seen.append(content(target))
            return result

        return act

    for name in ("rename", "replace", "hardlink_to", "unlink"):
        monkeypatch.setattr(Path, name, noted(getattr(Path, name)))
    monkeypatch.setattr("arraystore.writing.workspace.exchange", noted(exchange))
    with workspace(target, overwrite=True) as work:
        put(new, work.store, NEW)
        work.publish()
    assert set(seen) == {NEW}
    assert content(target) == NEW
    assert not target.is_symlink()
    assert not is_link or content(there) == OLD
    assert {path.name for path in tmp_path.iterdir()} == {"a.zarr", *(["there"] if is_link else [])}


def exchange_works(folder: Path) -> bool:
    one, other = folder / "one", folder / "other"
    one.touch()
    other.mkdir()
    works = exchange(one, other)
    (other if works else one).unlink()
    (one if works else other).rmdir()
    return works


@pytest.mark.parametrize("reason", [errno.ENOSYS, errno.EINVAL])
@pytest.mark.parametrize(("old", "new"), KINDS)
def test_overwriting_without_exchange(
    old: str, new: str, reason: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        ctypes.set_errno(reason)
        return -1

    monkeypatch.setattr("arraystore.storage.exchange._renameat2", lambda: refuse)
    target = tmp_path / "a.zarr"
    put(old, target, OLD)
    with workspace(target, overwrite=True) as work:
        put(new, work.store, NEW)
        work.publish()
    assert content(target) == NEW
    assert list(tmp_path.iterdir()) == [target]


def test_exchange_with_absent_file_raises(tmp_path: Path) -> None:
    if not exchange_works(tmp_path):
        pytest.skip("this system cannot exchange two names")
    with pytest.raises(FileNotFoundError, match="one"):
        exchange(tmp_path / "one", tmp_path / "other")


def test_old_store_left_after_exchange_is_deleted(tmp_path: Path) -> None:
    target = tmp_path / "a.zarr"
    put("folder", target, NEW)
    folder = tmp_path / ".a.zarr.partial"
    put("folder", folder, b"")
    (folder / "zarr.json").rename(folder / "lock")
    put("folder", folder / "store", OLD)
    with pytest.raises(FileExistsError, match="exists"), workspace(target):
        pass
    assert content(target) == NEW
    assert list(tmp_path.iterdir()) == [target]


def test_journal_is_deleted_before_exchange(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, there = tmp_path / "a.zarr", list[bool]()
    put("folder", target, OLD)

    def note(one: Path, other: Path) -> bool:
        there.append((one.parent / "journal").exists())
        return False

    monkeypatch.setattr("arraystore.writing.workspace.exchange", note)
    with workspace(target, overwrite=True) as work:
        put("folder", work.store, NEW)
        JournalWriter.begin(work.journal, {}).close()
        work.publish()
    assert there == [False]


def test_restore_after_killed_conversion(tmp_path: Path) -> None:
    target = tmp_path / "a.h5"
    left_by_a_kill_between_two_renames(target)
    restore(target)
    assert target.read_bytes() == OLD
    (tmp_path / "link").symlink_to(target)
    restore(tmp_path / "link")
    restore(tmp_path / "nothing")
    assert target.read_bytes() == OLD


def test_restore_waits_for_running_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.h5"
    pauses: list[float] = []
    monkeypatch.setattr("arraystore.storage.workspace_folder.time.sleep", pauses.append)
    with workspace(target) as work:
        (work.folder / "replaced").write_bytes(OLD)
        with pytest.raises(StorageError, match=r"a\.h5: a running conversion is replacing it"):
            restore(target)
        assert 0.9 < sum(pauses) < 2
        monkeypatch.setattr(
            "arraystore.storage.workspace_folder.time.sleep", lambda _: target.write_bytes(NEW)
        )
        restore(target)
    assert target.read_bytes() == NEW


def test_failed_restore_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.h5"
    left_by_a_kill_between_two_renames(target)

    def refuse(self: Path, target: Path) -> Path:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "rename", refuse)
    message = (
        r"left the old store in .*replaced, and it cannot be moved back \(Read-only file system\)"
    )
    with pytest.raises(StorageError, match=message):
        restore(target)
    assert not target.exists()
