"""The files below a folder, by what they are."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from arraystore.sources.folder_listing import list_folder, listing_of
from arraystore.storage.file_states import NO_FILES
from tests.support import write_folder

if TYPE_CHECKING:
    from pathlib import Path

PATHS = [
    *("cat/2.jpg", "cat/10.JPG", "cat/sub/1.png", "cat/notes.txt", "README", "a b/x.jpg"),
    *("cat-x/1.jpg", ".git/1.jpg", "cat/._2.jpg", "dog/empty/"),
]


def test_listing_of_paths() -> None:
    found = listing_of(PATHS)
    assert found.images == {
        "a b": ["x.jpg"],
        "cat": ["10.JPG", "2.jpg"],
        "cat/sub": ["1.png"],
        "cat-x": ["1.jpg"],
    }
    # By the parts of paths: "cat/sub" before "cat-x", though "-" sorts before "/".
    assert list(found.images) == ["a b", "cat", "cat/sub", "cat-x"]
    assert found.folders == ["a b", "cat", "cat/sub", "cat-x", "dog", "dog/empty"]
    assert (found.others, found.junk) == (
        ["cat/notes.txt", "README"],
        [".git/1.jpg", "cat/._2.jpg"],
    )


def test_listing_of_a_disk_is_that_of_its_paths(tmp_path: Path) -> None:
    write_folder(tmp_path, {path: b"" for path in PATHS if path[-1] != "/"})
    (tmp_path / "dog" / "empty").mkdir(parents=True)
    found = list_folder(str(tmp_path))
    assert sorted(found.junk) == [".git/", "cat/._2.jpg"]  # hidden folders are not entered
    assert len(found.states) == 7
    expected = listing_of(PATHS)
    found = replace(found, junk=expected.junk, states=NO_FILES, others=sorted(found.others))
    assert found == replace(expected, others=sorted(expected.others))
    assert list(found.images) == list(expected.images)


def test_links_to_folders_are_followed_at_any_depth(tmp_path: Path) -> None:
    write_folder(tmp_path, {"in/a/b/c/d/1.jpg": b"", "there/2.jpg": b""})
    (tmp_path / "in/a/b/c/d/more").symlink_to(tmp_path / "there")
    (tmp_path / "in/twice").symlink_to(tmp_path / "there")
    found = list_folder(str(tmp_path / "in"))
    assert found.images == {
        "a/b/c/d": ["1.jpg"],
        "a/b/c/d/more": ["2.jpg"],
        "twice": ["2.jpg"],
    }
    assert found.unclear == {}
