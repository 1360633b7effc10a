"""Files that systems and programs leave behind in folders and archives."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from arraystore.sources.sample_table import first_few

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAMES: Final = (
    *("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"),
    *("Thumbs.db", "ehthumbs.db", "desktop.ini", "Icon\r"),
)
"""Folders and files of macOS, Windows, Linux and network disks."""

_LOWER_NAMES: Final = tuple(map(str.lower, _NAMES))

_JUNK: Final = re.compile(
    # A part that begins with a dot, except . and .., or one of these names.
    rf"(?:^|/)(?:\.(?!\.?(?:/|$))|(?:{'|'.join(map(re.escape, _NAMES))})(?:/|$))",
    re.IGNORECASE,
)


def is_junk(path: str) -> bool:
    """Whether a path below a data set is hidden, or belongs to the system and not to the data set.

    Parameters
    ----------
    path : str
        With ``/`` between its parts.

    Examples
    --------
    >>> [is_junk(path) for path in ("cat/._1.jpg", "__MACOSX/cat/1.jpg", "cat/THUMBS.DB")]
    [True, True, True]
    >>> is_junk("cat/1.jpg"), is_junk("./cat/1.jpg"), is_junk("cat/x.thumbs.db.jpg")
    (False, False, False)
    """
    return _JUNK.search(path) is not None


def has_junk(paths: Sequence[str]) -> bool:
    """Whether `is_junk` holds for any path; all are searched at once.

    Examples
    --------
    >>> has_junk(["cat/1.jpg", "2.jpg"]), has_junk(["cat/1.jpg", ".2.jpg"])
    (False, True)
    """
    text = "/" + "/".join(paths)
    if text.isascii() and "/." not in text:
        lower = text.lower()
        if not any(name in lower for name in _LOWER_NAMES):  # faster than the expression
            return False
    return ("\n" in text or is_junk(text)) and any(map(is_junk, paths))


def junk_note(paths: Sequence[str], split: str = "") -> tuple[str, ...]:
    """Return a note on paths that were left out as hidden or of the system, if there are any."""
    if not paths:
        return ()
    where = f"{split}: " if split else ""
    return (f"{where}{first_few(sorted(paths))} hidden or of the system, left out",)


def others_note(paths: Sequence[str], split: str = "") -> tuple[str, ...]:
    """Return a note on files that were left out because they are not images, if there are any."""
    if not paths:
        return ()
    where = f"{split}: " if split else ""
    return (f"{where}{first_few(sorted(paths))} without the suffix of an image, left out",)
