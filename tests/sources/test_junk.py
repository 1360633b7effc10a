"""Which paths are hidden, or belong to the system."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arraystore.schema import are_file_names, file_name_fault
from arraystore.sources.junk import has_junk, is_junk

paths = st.lists(st.from_regex(r"(Icon\r|[./a\n]|Thumbs\.db|é){0,4}", fullmatch=True), max_size=4)


@pytest.mark.parametrize(
    "path",
    [
        *(".DS_Store", "a/.DS_Store", "a/._1.jpg", ".git/a/1.jpg", "a/.thumbs/1.jpg", "...jpg"),
        *("__MACOSX/a/1.jpg", "a/__MACOSX/1.jpg", "__macosx", "@eaDir/1.jpg/THUMB.jpg"),
        *("Thumbs.db", "a/thumbs.DB", "a/desktop.ini", "a/Icon\r", "$RECYCLE.BIN/x"),
        *("System Volume Information/x", "lost+found"),
    ],
)
def test_path_of_the_system_is_junk(path: str) -> None:
    assert is_junk(path)


@pytest.mark.parametrize(
    "path",
    [
        *("a/1.jpg", "./a/1.jpg", "a/./1.jpg", "../a/1.jpg", "a..b/1.jpg", "a./1.jpg"),
        *("__MACOSX2/1.jpg", "my__MACOSX/1.jpg", "thumbs.db.jpg", "xThumbs.db", "lost/found"),
    ],
)
def test_path_of_an_image_is_kept(path: str) -> None:
    assert not is_junk(path)


@given(some=paths)
def test_junk_among_many_paths_is_found(some: list[str]) -> None:
    assert has_junk(some) == any(map(is_junk, some))


@given(some=paths)
def test_file_names_with_a_fault_are_never_passed_together(some: list[str]) -> None:
    if any(map(file_name_fault, some)):
        assert not are_file_names(some)
    elif some and not any("\n" in name for name in some):
        assert are_file_names(some)
