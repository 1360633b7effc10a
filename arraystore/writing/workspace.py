"""The workspace of a new store: a folder beside the target, where the store is until it is whole.

::

    data/1pct.h5              appears complete, or not at all
    data/.1pct.h5.partial/    exists during the conversion, and after it was stopped
        ├── lock              held by the process that writes the store
        ├── store             the new store; the old one after both have exchanged their names
        ├── journal           records the blocks of the new store that are on the disk
        ├── spool             re-encoded images
        ├── skeleton          a second layout, while a store is resumed
        ├── replaced          the old store between two renames, if names cannot be exchanged
        ├── added             a new column, until it is complete
        ├── redo              what a change of the columns replaces in an HDF5 file
        ├── part              how to publish a part that is complete
        └── scratch           such a record, or a new root, while it is written
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from arraystore.containers import editor_for, is_container
from arraystore.errors import FormatError, StorageError, escaped
from arraystore.storage.exchange import exchange
from arraystore.storage.folder_trees import remove_tree
from arraystore.storage.fsync import sync_path
from arraystore.storage.workspace_folder import (
    CONTENT,
    PART,
    REDO,
    REPLACED,
    check_own,
    put_back,
    work_folder,
)
from arraystore.writing.journal import read_journal
from arraystore.writing.publish_part import finish_part

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

_LOCK_TRIES: Final = 100
"""How often the folder may vanish between its creation and its locking."""


class StoreExistsError(FileExistsError):
    """The target exists, and no unfinished store: the target may be a complete store."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """A locked folder in which a store is written, and the target of the store.

    Attributes
    ----------
    folder : Path
    target : Path
    overwrite : bool
        Whether an existing target may be replaced.
    appends : bool
        Whether the target exists, and a part of it is written.
    """

    folder: Path
    target: Path
    overwrite: bool
    appends: bool = False

    @property
    def store(self) -> Path:
        """The new store."""
        return self.folder / "store"

    @property
    def spool(self) -> Path:
        """File of the re-encoded images."""
        return self.folder / "spool"

    @property
    def journal(self) -> Path:
        """Journal of the new store."""
        return self.folder / "journal"

    @property
    def skeleton(self) -> Path:
        """Second layout of a store that is resumed, without its payloads."""
        return self.folder / "skeleton"

    @property
    def is_left_over(self) -> bool:
        """Whether the store of a killed process was published, and only the folder is left."""
        return self.folder.is_dir() and os.path.lexists(self.target) and not self.is_unfinished

    @property
    def is_being_published(self) -> bool:
        """Whether the folder has what completes a change of the target."""
        return (self.folder / REDO).exists() or (self.folder / PART).exists()

    @property
    def is_unfinished(self) -> bool:
        """Whether the folder has a store with at least one recorded block."""
        if not os.path.lexists(self.store) or _is_same(self.store, self.target):
            return False
        try:
            recorded = read_journal(self.journal)
        except FormatError:
            return True  # not deleted without the user's decision; resuming reports the damage
        return recorded is not None and bool(recorded.blocks)

    def publish(self) -> None:
        """Rename the finished store to the target.

        Raises
        ------
        FileExistsError
            If another process created the target meanwhile.
        """
        if self.overwrite and os.path.lexists(self.target):
            _check_target(self.target, overwrite=True)
            self._replace_target()
        else:
            _rename_without_replacing(self.store, self.target)
        sync_path(self.target.parent)

    def _replace_target(self) -> None:
        """Replace the old store by the new one; the old one is then at `store`, or deleted."""
        if self.store.is_file() and self.target.is_file():
            self.store.replace(self.target)
            return
        _delete_journal(self.folder)  # it does not describe the old store
        if exchange(self.store, self.target):
            sync_path(self.folder)
            return
        try:
            self.target.rename(self.folder / REPLACED)
            _rename_without_replacing(self.store, self.target)
        except BaseException as error:
            put_back(self.folder, self.target)
            if os.path.lexists(self.folder / REPLACED):
                kept = _free_name(self.target)
                (self.folder / REPLACED).rename(kept)
                error.add_note(escaped(f"the old store is now {kept}"))
            raise


@contextmanager
def workspace(
    target: Path, *, overwrite: bool = False, resume: bool = False, appends: bool = False
) -> Iterator[Workspace]:
    """Create and lock the workspace of a target for as long as the context lasts.

    Its contents are deleted at the beginning and at the end, except an unfinished store.

    Parameters
    ----------
    target : Path
    overwrite : bool, default False
        Whether an existing target may be replaced, and an unfinished store deleted.
    resume : bool, default False
        Whether to keep an unfinished store.
    appends : bool, default False
        Whether a part of `target`, which exists, is written. A part that an earlier process has
        completed but not published is published first.

    Raises
    ------
    FileExistsError
        If `target` exists, and `overwrite` is false or the target is neither a Zarr group nor an
        HDF5 file. If an unfinished store exists, and neither `overwrite` nor `resume` is true.
    FileNotFoundError, NotADirectoryError, PermissionError
        If the folder of `target` does not exist or cannot be written to.
    StorageError
        If another process is converting to the same target.
    """
    work = Workspace(work_folder(target), target, overwrite, appends)
    if not work.is_left_over and not appends:
        _check_target(target, overwrite=overwrite, unfinished=work.is_unfinished)
    lock = locked_folder(work.folder)
    try:
        put_back(work.folder, target)
        if (work.folder / REDO).exists() and is_container(target):
            editor_for(target).recover(Path(os.path.realpath(target)), work.folder)
        if appends:
            finish_part(work.folder, target)
        else:
            _check_target(target, overwrite=overwrite, unfinished=work.is_unfinished)
        if work.is_unfinished and not overwrite and not resume:
            raise FileExistsError(
                escaped(
                    f"{work.folder}: holds an unfinished conversion to {target.name}; pass "
                    "resume=True (--resume) to finish it, or overwrite=True (--overwrite) to "
                    "start again"
                )
            )
        _clear(work.folder, keep=("store", "journal") if resume and work.is_unfinished else ())
        yield work
    finally:
        if work.is_unfinished or work.is_being_published:
            unlock(lock)
        else:
            _remove(work, lock)


@contextmanager
def editing(target: Path, recover: Callable[[Path, Path], None]) -> Iterator[Path]:
    """Lock the workspace of a finished store to change the store, and yield its empty folder.

    Parameters
    ----------
    target : Path
        The store, without symbolic links.
    recover : callable
        Completes a change that a killed process began, given `target` and the folder.

    Raises
    ------
    FileExistsError
        If the folder holds an unfinished conversion that is to replace the store.
    PermissionError
        If the folder of `target` cannot be written to.
    StorageError
        If another process is writing to the store.
    """
    work = Workspace(work_folder(target), target, overwrite=False)
    lock = locked_folder(work.folder)
    try:
        put_back(work.folder, target)
        recover(target, work.folder)
        finish_part(work.folder, target)
        if work.is_unfinished:
            raise FileExistsError(
                escaped(
                    f"{work.folder}: holds an unfinished conversion to {target.name}; finish it "
                    "with resume=True (--resume), or delete the folder"
                )
            )
        _clear(work.folder)
        yield work.folder
    finally:
        if work.is_unfinished or work.is_being_published:
            unlock(lock)
        else:
            _remove(work, lock)


def _remove(work: Workspace, lock: int) -> None:
    """Delete a workspace and release the lock on it."""
    _clear(work.folder)
    (work.folder / "lock").unlink()
    work.folder.rmdir()
    unlock(lock)


def unlock(lock: int) -> None:
    """Release a lock of `locked_folder`; processes that were forked meanwhile have it as well."""
    fcntl.flock(lock, fcntl.LOCK_UN)
    os.close(lock)


def _check_target(target: Path, *, overwrite: bool, unfinished: bool = False) -> None:
    if os.path.lexists(target):
        if not overwrite:
            raise (FileExistsError if unfinished else StoreExistsError)(
                escaped(
                    f"{target}: exists; choose another name, or pass overwrite=True (--overwrite)"
                )
            )
        if not is_container(target):
            raise FileExistsError(
                escaped(
                    f"{target}: is neither a Zarr group nor an HDF5 file, and is not overwritten"
                )
            )
    if not target.parent.is_dir():
        kind = NotADirectoryError if target.parent.exists() else FileNotFoundError
        raise kind(escaped(f"{target.parent}: is not a folder; create it first"))


def locked_folder(
    folder: Path,
    is_content: Callable[[str], object] = CONTENT.__contains__,
    work: str = "converting to the same target",
) -> int:
    """Create and lock a folder beside a store; return the descriptor of the lock.

    Parameters
    ----------
    folder : Path
    is_content : callable
        Whether arraystore may have created an entry of that name.
    work : str
        What another process that has the lock does, for the message.

    Raises
    ------
    PermissionError
        If the folder cannot be created.
    StorageError
        If another process has the lock, or the folder has other contents.
    """
    for _ in range(_LOCK_TRIES):
        try:
            folder.mkdir(exist_ok=True)
            check_own(folder, is_content)
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except PermissionError as error:
            raise PermissionError(escaped(f"{folder.parent}: cannot be written to")) from error
        except FileNotFoundError:  # another process that held the lock deleted the folder
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise StorageError(f"{folder}: another process is {work}; wait until it ends") from None
        if _is_at(lock, folder / "lock"):
            return lock
        unlock(lock)
    raise StorageError(f"{folder}: cannot be created and locked")


def _free_name(target: Path) -> Path:
    """Return an unused name beside `target`."""
    numbers = itertools.count(1)
    names = (target.with_name(f"{target.stem}.replaced-{n}{target.suffix}") for n in numbers)
    return next(name for name in names if not os.path.lexists(name))


def _is_at(fd: int, path: Path) -> bool:
    """Whether the file of a descriptor still is the file at `path`."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _is_same(path: Path, other: Path) -> bool:
    """Whether two paths name the same file."""
    try:
        return path.samefile(other)
    except FileNotFoundError:
        return False


def _clear(folder: Path, keep: Collection[str] = ()) -> None:
    """Delete the contents of a workspace, the journal first: it must not name deleted blocks."""
    kept = {"lock", *keep}
    if "journal" not in kept:
        _delete_journal(folder)
    for path in folder.iterdir():
        if path.name in kept:
            continue
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            path.unlink()


def _delete_journal(folder: Path) -> None:
    """Delete the journal, and wait until the disk has recorded that."""
    if os.path.lexists(folder / "journal"):
        (folder / "journal").unlink()
        with suppress(OSError):  # the journal reappears only if power is lost now
            sync_path(folder)


def _rename_without_replacing(source: Path, target: Path) -> None:
    """Rename a file or folder; raise `FileExistsError` if `target` exists.

    A folder can only replace an empty folder (POSIX). A file gets `target` as a second name, which
    fails if the name is taken, and then loses its first name.
    """
    exists = FileExistsError(escaped(f"{target}: was created by another process meanwhile"))
    try:
        if source.is_dir():
            source.rename(target)
        else:
            target.hardlink_to(source)
            sync_path(target.parent)  # or a loss of power could leave neither name
            source.unlink()
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise exists from error
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        # The file system has no hard links: create an empty file of that name, and replace it.
        try:
            target.touch(exist_ok=False)
        except FileExistsError:
            raise exists from None
        source.replace(target)
