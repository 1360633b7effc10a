"""The folder beside a target in which its store is written, and an old store left in it."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from arraystore.errors import StorageError
from arraystore.storage.fsync import sync_path

if TYPE_CHECKING:
    from collections.abc import Callable

REPLACED: Final = "replaced"
REDO: Final = "redo"
ADDED: Final = "added"
PART: Final = "part"
SCRATCH: Final = "scratch"
CONTENT: Final = frozenset(
    {
        *("lock", "store", "journal", "spool", "skeleton", REPLACED),
        *(REDO, ADDED, f"{ADDED}.json", PART, SCRATCH),
    }
)
_RESTORE_PAUSES: Final = tuple(0.001 * 2**i for i in range(10))
"""Seconds to wait for a running conversion to make the second of its two renames; 1 s in total."""


def restore(target: Path) -> None:
    """Move a store back to its name if a conversion was killed between its two renames.

    Where names can be exchanged, no conversion leaves that state. If the conversion still runs,
    this waits for a second.

    Parameters
    ----------
    target : Path
        Does not exist.

    Raises
    ------
    StorageError
        If there is such a store and it cannot be moved back, because the folder is read-only or
        a conversion still runs.
    """
    if target.is_symlink():  # to a path that does not exist
        target = Path(os.path.realpath(target))
    folder = work_folder(target)
    problem = "a running conversion is replacing it; try again"
    for pause in _RESTORE_PAUSES:
        if not os.path.lexists(folder / REPLACED) or os.path.lexists(target):
            return
        try:
            if _restore_locked(folder, target):
                return
        except OSError as error:
            problem = f"an interrupted conversion left the old store in {folder / REPLACED}, and "
            problem += f"it cannot be moved back ({error.strerror or error}); move it back"
            break
        time.sleep(pause)
    raise StorageError(f"{target}: {problem}")


def _restore_locked(folder: Path, target: Path) -> bool:
    """Move an old store back, unless another process holds the lock."""
    check_own(folder)
    lock = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)  # as a reader may
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        put_back(folder, target)
        sync_path(target.parent)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def has_journal(target: Path) -> bool:
    """Whether a killed process left a journal of a change of a store."""
    return (work_folder(Path(os.path.realpath(target))) / REDO).exists()


def recovered(target: Path, recover: Callable[[Path, Path], None]) -> None:
    """Complete a change of a store that a killed process began, or wait for a running one.

    Parameters
    ----------
    target : Path
    recover : callable
        Completes it, given the target and the workspace, which is locked meanwhile.

    Raises
    ------
    StorageError
        If the files cannot be written to, or another process still works on the store.
    """
    target = Path(os.path.realpath(target))
    folder = work_folder(target)
    for pause in _RESTORE_PAUSES:
        try:
            lock = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)  # as a reader may
        except FileNotFoundError:  # completed, and the folder deleted, meanwhile
            recover(target, folder)
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            time.sleep(pause)
            continue
        try:
            recover(target, folder)
        except PermissionError as error:
            raise StorageError(
                f"{target}: a change of its columns was interrupted, and this process cannot "
                "complete it, because it may not write; open it once with permission to write"
            ) from error
        finally:
            os.close(lock)
        return
    raise StorageError(f"{target}: its columns are being changed; try again")


def work_folder(target: Path) -> Path:
    """Return the folder in which a store is written before it is published as `target`."""
    return target.parent / f".{target.name}.partial"


def check_own(folder: Path, is_content: Callable[[str], object] = CONTENT.__contains__) -> None:
    """Refuse a folder with foreign contents, because a conversion empties its folder."""
    if folder.is_symlink() or not all(is_content(path.name) for path in folder.iterdir()):
        raise StorageError(
            f"{folder}: contains files that arraystore did not create; move or delete it"
        )


def put_back(folder: Path, target: Path) -> None:
    """Move an old store back to its name, if it was moved aside and its name is free."""
    if os.path.lexists(folder / REPLACED) and not os.path.lexists(target):
        (folder / REPLACED).rename(target)
