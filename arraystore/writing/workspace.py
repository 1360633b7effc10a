"""The place of a new store: a work folder beside the target, published by one rename.

::

    data/1pct.h5              appears whole, or not at all
    data/.1pct.h5.partial/    while the conversion runs, and when it was stopped
        ├── lock              held by the process that works here
        ├── store             the new store; the old one once the two have changed places
        ├── journal           which blocks of the new store are on the disk
        ├── spool             images that were encoded again
        ├── again             a second layout, while a store is resumed
        └── replaced          the old store between two renames, where names cannot be exchanged
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from arraystore.errors import FormatError, StorageError, escaped
from arraystore.storage.exchange import exchange
from arraystore.storage.folder_trees import remove_tree
from arraystore.storage.fsync import sync_path
from arraystore.storage.workspace_folder import REPLACED, check_own, put_back, work_folder
from arraystore.writing.journal import read_journal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

_LOCK_TRIES: Final = 100
"""How often a work folder may vanish, between its making and its locking, before we give up."""


class StoreExistsError(FileExistsError):
    """What is at the target may be a complete store: nothing unfinished is beside it."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """A locked work folder, and the target its store is published as.

    Attributes
    ----------
    folder : Path
        The work folder.
    target : Path
        Where the store is to appear.
    overwrite : bool
        Whether what is there now may be replaced.
    """

    folder: Path
    target: Path
    overwrite: bool

    @property
    def store(self) -> Path:
        """Where the store is built."""
        return self.folder / "store"

    @property
    def spool(self) -> Path:
        """Where images that were encoded anew are kept."""
        return self.folder / "spool"

    @property
    def journal(self) -> Path:
        """Which blocks of the store are on the disk."""
        return self.folder / "journal"

    @property
    def again(self) -> Path:
        """Where a store that is resumed is laid out anew."""
        return self.folder / "again"

    @property
    def is_left_over(self) -> bool:
        """Whether a process was killed here when its store already had its name."""
        return self.folder.is_dir() and os.path.lexists(self.target) and not self.is_unfinished

    @property
    def is_unfinished(self) -> bool:
        """Whether there is a store with at least one block that need not be filled again."""
        if not os.path.lexists(self.store) or _is_same(self.store, self.target):
            return False
        try:
            recorded = read_journal(self.journal)
        except FormatError:
            return True  # it is for the user to decide: resuming says what is wrong
        return recorded is not None and bool(recorded.blocks)

    def publish(self) -> None:
        """Give the finished store its name.

        Raises
        ------
        FileExistsError
            If something took the target's name in the meantime.
        """
        if self.overwrite and os.path.lexists(self.target):
            _check_target(self.target, overwrite=True)
            self._replace_target()
        else:
            _rename_without_replacing(self.store, self.target)
        sync_path(self.target.parent)

    def _replace_target(self) -> None:
        """Put the new store in the place of the old, which is then `store`, or gone."""
        if self.store.is_file() and self.target.is_file():
            self.store.replace(self.target)
            return
        _forget_journal(self.folder)  # it does not describe what `store` is from now on
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
    target: Path, *, overwrite: bool = False, resume: bool = False
) -> Iterator[Workspace]:
    """Take a work folder beside `target` for as long as the context lasts.

    Unless it is an unfinished store, whatever is in it is deleted, first and last.

    Parameters
    ----------
    target : Path
        Where the store is to appear.
    overwrite : bool, default False
        Whether a store that is there may be replaced; and an unfinished one be deleted.
    resume : bool, default False
        Whether an unfinished store is wanted.

    Raises
    ------
    FileExistsError
        If there is something at `target`, and `overwrite` is false or it is
        neither a Zarr group nor an HDF5 file. If there is an unfinished store, and
        neither `overwrite` nor `resume` is true.
    FileNotFoundError, NotADirectoryError, PermissionError
        If the folder of `target` is not there or cannot be written to.
    StorageError
        If another process is converting to the same target.
    """
    work = Workspace(work_folder(target), target, overwrite)
    if not work.is_left_over:
        _check_target(target, overwrite=overwrite, unfinished=work.is_unfinished)
    lock = _locked(work.folder)
    try:
        put_back(work.folder, target)
        _check_target(target, overwrite=overwrite, unfinished=work.is_unfinished)
        if work.is_unfinished and not overwrite and not resume:
            raise FileExistsError(
                escaped(
                    f"{work.folder}: holds an unfinished conversion to {target.name}; give "
                    "resume=True (--resume) to finish it, or overwrite=True (--overwrite) to "
                    "start again"
                )
            )
        _clear(work.folder, but=("store", "journal") if resume and work.is_unfinished else ())
        yield work
    finally:
        if work.is_unfinished:
            os.close(lock)
        else:
            _remove(work, lock)


def _remove(work: Workspace, lock: int) -> None:
    """Remove a work folder, and give the lock on it free."""
    _clear(work.folder)
    (work.folder / "lock").unlink()
    work.folder.rmdir()
    os.close(lock)


def _check_target(target: Path, *, overwrite: bool, unfinished: bool = False) -> None:
    if os.path.lexists(target):
        if not overwrite:
            raise (FileExistsError if unfinished else StoreExistsError)(
                escaped(
                    f"{target}: exists; choose another name, or give overwrite=True (--overwrite)"
                )
            )
        if not _may_be_replaced(target):
            raise FileExistsError(
                escaped(
                    f"{target}: is neither a Zarr group nor an HDF5 file, and is not overwritten"
                )
            )
    if not target.parent.is_dir():
        kind = NotADirectoryError if target.parent.exists() else FileNotFoundError
        raise kind(escaped(f"{target.parent}: is not a folder; create it first"))


def _may_be_replaced(target: Path) -> bool:
    if target.is_dir():
        return (target / "zarr.json").is_file()
    if not target.is_file():
        return False
    with target.open("rb") as file:
        return file.read(4) == b"\x89HDF"


def _locked(folder: Path) -> int:
    """Create and lock the work folder; return the lock's descriptor."""
    for _ in range(_LOCK_TRIES):
        try:
            folder.mkdir(exist_ok=True)
            check_own(folder)
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except PermissionError as error:
            raise PermissionError(escaped(f"{folder.parent}: cannot be written to")) from error
        except FileNotFoundError:  # the process that had it removed the folder just now
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise StorageError(
                f"{folder}: another process is converting to the same target; wait for it"
            ) from None
        if _is_at(lock, folder / "lock"):
            return lock
        os.close(lock)
    raise StorageError(f"{folder}: cannot be created and locked")


def _free_name(target: Path) -> Path:
    """Return a name beside `target` that nothing has."""
    numbers = itertools.count(1)
    names = (target.with_name(f"{target.stem}.replaced-{n}{target.suffix}") for n in numbers)
    return next(name for name in names if not os.path.lexists(name))


def _is_at(fd: int, path: Path) -> bool:
    """Whether a descriptor is still that of the file at `path`."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _is_same(path: Path, other: Path) -> bool:
    """Whether two names are those of one file."""
    try:
        return path.samefile(other)
    except FileNotFoundError:
        return False


def _clear(folder: Path, but: Collection[str] = ()) -> None:
    """Delete what is in a work folder, the journal first: it must not name what is gone."""
    kept = {"lock", *but}
    if "journal" not in kept:
        _forget_journal(folder)
    for path in folder.iterdir():
        if path.name in kept:
            continue
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            path.unlink()


def _forget_journal(folder: Path) -> None:
    """Delete the journal, and wait until that is on the disk."""
    if os.path.lexists(folder / "journal"):
        (folder / "journal").unlink()
        with suppress(OSError):  # only a loss of power now could bring it back
            sync_path(folder)


def _rename_without_replacing(source: Path, target: Path) -> None:
    """Rename a file or folder; `FileExistsError` if there is something at `target`.

    A folder is never renamed onto anything but an empty folder (POSIX); a file
    gets a second name, which fails if that is taken, and loses the first.
    """
    exists = FileExistsError(escaped(f"{target}: was created by somebody else in the meantime"))
    try:
        if source.is_dir():
            source.rename(target)
        else:
            target.hardlink_to(source)
            sync_path(target.parent)  # else a loss of power could leave neither name
            source.unlink()
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise exists from error
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        # The file system has no hard links: claim the name with an empty file, and replace that.
        try:
            target.touch(exist_ok=False)
        except FileExistsError:
            raise exists from None
        source.replace(target)
