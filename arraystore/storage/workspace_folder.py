"""The folder beside a target in which its store is made, and a store that was left there."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Final

from arraystore.errors import StorageError
from arraystore.storage.fsync import sync_path

REPLACED: Final = "replaced"
CONTENT: Final = frozenset({"lock", "store", "journal", "spool", "skeleton", REPLACED})
_RESTORE_PAUSES: Final = tuple(0.001 * 2**i for i in range(10))
"""Seconds to wait for a running conversion to reach the second of its two renames; 1 s in all."""


def restore(target: Path) -> None:
    """Give a store its name again if a conversion was killed between its two renames.

    Where names can be exchanged no conversion leaves such a state. A running conversion is
    waited for, for a second.

    Parameters
    ----------
    target : Path
        Where nothing is.

    Raises
    ------
    StorageError
        If there is such a store, but it cannot be moved back: the folder is read-only, or a
        conversion still runs.
    """
    if target.is_symlink():  # that points to nothing
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
            problem = f"a conversion that was killed left it in {folder / REPLACED}, and it "
            problem += f"cannot be moved back ({error.strerror or error}); move it back"
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


def work_folder(target: Path) -> Path:
    """Return the folder in which a store is made before it is published as `target`."""
    return target.parent / f".{target.name}.partial"


def check_own(folder: Path) -> None:
    """Refuse to work in what we did not make, because it is going to be emptied."""
    strange = folder.is_symlink() or {path.name for path in folder.iterdir()} - CONTENT
    if strange:
        raise StorageError(f"{folder}: is in the way, and not of arraystore's making; move it away")


def put_back(folder: Path, target: Path) -> None:
    """Give an old store its name again, if it was moved aside and nothing took its place."""
    if os.path.lexists(folder / REPLACED) and not os.path.lexists(target):
        (folder / REPLACED).rename(target)
