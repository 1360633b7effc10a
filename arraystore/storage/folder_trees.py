"""List folder trees down to a limit, and remove them at any depth."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def files_below(folder: str, max_depth: int) -> list[str]:
    """Return the sorted paths of all files in a folder, down to `max_depth` levels.

    Symbolic links to folders are not followed.
    """
    found: list[str] = []
    level = [folder]
    for _ in range(max_depth + 1):
        below: list[str] = []
        for path in level:
            with os.scandir(path) as entries:
                for entry in entries:
                    (below if entry.is_dir(follow_symlinks=False) else found).append(entry.path)
        level = below
    return sorted(path for path in found if os.path.isfile(path))  # noqa: PTH113 - 100,000 shards


def remove_tree(folder: Path) -> None:
    """Remove a folder and everything in it; symbolic links are removed, not followed.

    `shutil.rmtree` calls itself for each level before Python 3.13, and paths longer than PATH_MAX
    cannot be opened. Here, folders two levels down are moved up before they are emptied, so neither
    the stack, nor a path, nor the number of descriptors grows with the depth.

    Raises
    ------
    OSError
        If something cannot be removed; remaining entries may have moved below `folder`.
    """
    root = os.open(folder, _FLAGS)
    try:
        while entries := _entries(root):
            for name, is_folder in entries:
                if is_folder:
                    _raise_folders(name, root)
                    os.rmdir(name, dir_fd=root)
                else:
                    os.unlink(name, dir_fd=root)
    finally:
        os.close(root)
    folder.rmdir()


def _raise_folders(name: str, root: int) -> None:
    """Remove the files of a folder in `root`, and move its folders into `root`."""
    fd = os.open(name, _FLAGS, dir_fd=root)
    try:
        for inner, is_folder in _entries(fd):
            if is_folder:
                os.rename(inner, os.urandom(16).hex(), src_dir_fd=fd, dst_dir_fd=root)
            else:
                os.unlink(inner, dir_fd=fd)
    finally:
        os.close(fd)


def _entries(fd: int) -> list[tuple[str, bool]]:
    """Return the names in a folder, and whether each is a folder."""
    with os.scandir(fd) as entries:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
