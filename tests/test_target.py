"""The place of a new store, where two renames or two processes could meet."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from arraystore.journal import BlockKey, JournalWriter
from arraystore.target import workspace

OLD = b"\x89HDF, and what the old store held"
NEW = b"\x89HDF, and what the new one holds"
KEY = BlockKey("train", 0, 10)


def left_by_a_kill(target: Path, *, is_linked: bool = False) -> Path:
    """Leave a work folder with a store of which a block is recorded, perhaps published."""
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
    """Leave a work folder as a conversion leaves it that is killed while it publishes."""
    folder = target.parent / f".{target.name}.partial"
    folder.mkdir()
    (folder / "lock").touch()
    (folder / "store").write_bytes(NEW)
    (folder / "replaced").write_bytes(OLD)


def test_an_old_store_that_was_moved_aside_gets_its_name_again(tmp_path: Path) -> None:
    target = tmp_path / "a.h5"
    left_by_a_kill_between_two_renames(target)
    with (
        pytest.raises(FileExistsError, match=r"a\.h5: exists; choose another name"),
        workspace(target),
    ):
        pass
    assert target.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [target]


def test_an_old_store_that_was_moved_aside_can_be_replaced(tmp_path: Path) -> None:
    target = tmp_path / "a.h5"
    left_by_a_kill_between_two_renames(target)
    with workspace(target, overwrite=True) as work:
        work.store.write_bytes(b"new")
        work.publish()
    assert target.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failure_while_publishing_puts_the_old_store_back(tmp_path: Path) -> None:
    target = tmp_path / "a.h5"
    target.write_bytes(OLD)
    with workspace(target, overwrite=True) as work, pytest.raises(FileNotFoundError):
        work.publish()  # there is no new store
    assert target.read_bytes() == OLD


def test_a_new_store_is_moved_in_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        with pytest.raises(FileExistsError, match="by somebody else in the meantime"):
            work.publish()
    assert (tmp_path / "b.h5").read_bytes() == b"theirs"


def test_a_store_with_two_names_is_published_and_one_of_them_goes(tmp_path: Path) -> None:
    target = tmp_path / "a.h5"
    left_by_a_kill(target, is_linked=True)
    with pytest.raises(FileExistsError, match="exists"), workspace(target, resume=True):
        pass
    assert target.read_bytes() == NEW
    assert list(tmp_path.iterdir()) == [target]


def test_a_store_with_two_names_is_not_written_to_when_it_is_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "a.h5"
    left_by_a_kill(target, is_linked=True)
    with workspace(target, resume=True, overwrite=True) as work:
        assert not work.is_unfinished
        assert not work.store.exists()


def test_what_is_left_of_a_published_folder_goes(tmp_path: Path) -> None:
    target = tmp_path / "a.zarr"
    (left_by_a_kill(target) / "store").unlink()
    target.mkdir()
    with pytest.raises(FileExistsError, match="exists"), workspace(target):
        pass
    assert list(tmp_path.iterdir()) == [target]


def test_an_old_store_gets_its_name_again_and_the_unfinished_one_is_kept(tmp_path: Path) -> None:
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


def test_the_second_name_is_on_the_disk_before_the_first_goes(
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


def test_the_journal_goes_before_what_it_tells_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, gone = left_by_a_kill(tmp_path / "a.h5"), list[str]()
    unlink = Path.unlink

    def note(self: Path) -> None:
        gone.append(self.name)
        unlink(self)

    monkeypatch.setattr(Path, "unlink", note)
    with workspace(tmp_path / "a.h5", overwrite=True):
        assert sorted(path.name for path in folder.iterdir()) == ["lock"]
    assert gone == ["journal", "store", "lock"]
