"""The place of a new store, where two renames or two processes could meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from arraystore.target import workspace

if TYPE_CHECKING:
    from pathlib import Path

OLD = b"\x89HDF, and what the old store held"


def left_by_a_kill_between_two_renames(target: Path) -> None:
    """Leave a work folder as a conversion leaves it that is killed while it publishes."""
    folder = target.parent / f".{target.name}.partial"
    folder.mkdir()
    (folder / "lock").touch()
    (folder / "store").write_bytes(b"a new store")
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
