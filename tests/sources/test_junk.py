"""Which paths are hidden, or belong to the system."""

from __future__ import annotations

import pytest

from arraystore.sources.junk import is_junk


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
