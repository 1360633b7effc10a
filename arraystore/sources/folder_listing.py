"""The files below a folder, sorted out by what they are; nothing here decides on splits or classes.

`list_folder` lists a folder of a disk, `listing_of` takes paths that were listed elsewhere.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from arraystore.images.probe import IMAGE_SUFFIXES
from arraystore.sources.junk import is_junk
from arraystore.storage.file_states import NO_FILES, FileState, FileStates, state_of

if TYPE_CHECKING:
    from collections.abc import Iterable

_SUFFIXES: Final = tuple(IMAGE_SUFFIXES)
_NOT_UTF_8: Final = "file names must be UTF-8; rename it"


@dataclass
class FolderListing:
    """What lies below a folder.

    All paths are relative to the folder, with ``/`` between their parts. The path of the folder
    itself is empty.

    Attributes
    ----------
    images : dict of str to list of str
        The sorted base names of the images in each folder that has some; folders are sorted by
        the parts of their paths.
    folders : list of str
        All folders below, also empty ones, except hidden ones and those of the system.
    others : list of str
        Files without the suffix of an image.
    junk : list of str
        What is hidden or of the system; of folders, their path and ``/``.
    faults : dict of str to str
        Images that cannot be read, and the reason: broken links, pipes, names that are not UTF-8.
    unclear : dict of str to str
        Names that may be those of folders but cannot be listed, and the reason.
    states : FileStates
        Of all folders, taken before each was listed.
    """

    images: dict[str, list[str]] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    junk: list[str] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)
    unclear: dict[str, str] = field(default_factory=dict)
    states: FileStates = NO_FILES

    def add_file(self, folder: str, name: str) -> None:
        """Add a file that is not junk, as an image or not."""
        if name.lower().endswith(_SUFFIXES):
            self.images.setdefault(folder, []).append(name)
        else:
            self.others.append(joined(folder, name))

    def sort(self) -> None:
        """Put everything in order."""
        for names in self.images.values():
            names.sort()
        self.images = {
            folder: self.images[folder]
            for folder in sorted(self.images, key=lambda path: path.split("/"))
        }
        self.folders.sort(key=lambda path: path.split("/"))


def joined(folder: str, name: str) -> str:
    """Return the path of a name in a folder, whose own path may be empty."""
    return f"{folder}/{name}" if folder else name


def listing_of(paths: Iterable[str]) -> FolderListing:
    """Sort out paths below a folder; those that end with ``/`` are folders.

    Examples
    --------
    >>> found = listing_of(["cat/1.jpg", "cat/.DS_Store", "dog/", "README"])
    >>> found.images, found.folders, found.others, found.junk
    ({'cat': ['1.jpg']}, ['cat', 'dog'], ['README'], ['cat/.DS_Store'])
    """
    found = FolderListing()
    folders: set[str] = set()
    for path in paths:
        if is_junk(path):
            found.junk.append(path)
            continue
        folder, _, name = path.rpartition("/")
        if name:
            found.add_file(folder, name)
        while folder and folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
    found.folders = list(folders)
    found.sort()
    return found


def list_folder(root: str) -> FolderListing:
    """List all files below a folder of a disk. Links are followed.

    Raises
    ------
    SourceChangedError
        If a folder changes meanwhile: a file that moved would be missing, or listed twice.
    """
    found = FolderListing()
    states: list[tuple[str, FileState]] = []
    todo = [_Folder("", f"{root}/", (os.path.realpath(root),))]
    while todo:
        folder = todo.pop()
        try:
            state = state_of(folder.path)
            inside = _scan(folder, found)
        except PermissionError as error:
            if not folder.below:
                raise
            found.unclear[folder.below] = f"is a folder that cannot be listed: {error.strerror}"
            continue
        states.append((folder.path, state))
        todo += inside
    found.states = FileStates.known(states)
    found.states.check()
    found.sort()
    return found


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder to be listed."""

    below: str  # its path below the root, as it is shown
    path: str
    real: tuple[str, ...]  # real paths of the folders from the root to this one
    is_utf_8: bool = True


def _scan(folder: _Folder, found: FolderListing) -> list[_Folder]:
    """Add the files of a folder; return the folders in it."""
    inside = []
    with os.scandir(folder.path) as entries:
        for entry in entries:
            name, is_utf_8 = _shown(entry.name)
            is_utf_8 &= folder.is_utf_8
            below = joined(folder.below, name)
            is_folder, fault = _kind(entry)
            if is_junk(name):
                found.junk.append(f"{below}/" if is_folder else below)
            elif is_folder:
                real = _real_path(folder, entry)
                if real is None:
                    found.unclear[below] = "is a link to a folder above it"
                else:
                    found.folders.append(below)
                    inside.append(_Folder(below, entry.path, (*folder.real, real), is_utf_8))
            elif name.lower().endswith(_SUFFIXES):
                found.add_file(folder.below, name)
                if fault or not is_utf_8:
                    found.faults[below] = fault or _NOT_UTF_8
            elif fault and entry.is_symlink():
                found.unclear[below] = fault
            else:
                found.add_file(folder.below, name)
    return inside


def _kind(entry: os.DirEntry[str]) -> tuple[bool, str]:
    """Return whether an entry is a folder, and otherwise why it is not a file; empty if it is."""
    try:
        is_folder = entry.is_dir()
        is_file = entry.is_file()
    except OSError as error:  # a link to itself, or into a folder that cannot be entered
        return False, f"is a link that cannot be followed: {error.strerror}"
    if is_folder or is_file:
        return is_folder, ""
    return False, "is a broken link" if entry.is_symlink() else "is a pipe or device"


def _real_path(folder: _Folder, entry: os.DirEntry[str]) -> str | None:
    """Return the real path of a folder in another; None if it is a link to one above."""
    if not entry.is_symlink():
        return f"{folder.real[-1]}/{entry.name}"
    real = os.path.realpath(entry.path)
    is_above = any(f"{above}/".startswith(f"{real.rstrip('/')}/") for above in folder.real)
    return None if is_above else real


def _shown(name: str) -> tuple[str, bool]:
    """Return a name as text, and whether it is that in UTF-8; other bytes become escapes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return os.fsencode(name).decode(errors="backslashreplace"), False
    return name, True
