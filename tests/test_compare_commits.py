"""The comparison of stores in ``scripts/compare_commits.py``; it is run by hand between commits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scripts.compare_commits import differences
from tests.support import write_folder

if TYPE_CHECKING:
    from pathlib import Path


def test_differences_name_changed_missing_and_new_files(tmp_path: Path) -> None:
    old = write_folder(tmp_path / "old", {"a.zarr/c/0": b"1", "a.h5": b"2", "lost": b"", "x": b""})
    new = write_folder(tmp_path / "new", {"a.zarr/c/0": b"1", "a.h5": b"3", "more": b"", "x": b""})
    assert differences(old, new) == ["a.h5", "lost", "more"]


def test_versions_of_the_package_are_not_a_difference(tmp_path: Path) -> None:
    old = write_folder(tmp_path / "old", {"zarr.json": b'{"writer": "arraystore 0.1.0"}'})
    new = write_folder(tmp_path / "new", {"zarr.json": b'{"writer": "arraystore 0.2.0"}'})
    assert differences(old, new) == ["zarr.json"]
    assert differences(old, new, ("0.1.0", "0.2.0")) == []
