"""States of files, compared to detect changes while they are read.

A state is the record that the file system keeps of a file. The kernel sets the status change time
(ctime) whenever bytes, length, names or permissions of a file change, and no program can set it
back. So a file with an equal state has had the same bytes all the time.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from arraystore.errors import SourceChangedError, SourceError
from arraystore.storage.packed_paths import PackedPaths

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

_TICK_NS: Final = 20_000_000
"""Longer than a tick of the kernel's clock (1 to 10 ms); changes in one tick get the same time."""

_BATCH: Final = 4096
"""Files that are compared at a time."""

_REMEDY: Final = "start again when no program writes to it"


class FileState(NamedTuple):
    """Record of the file system about one file.

    Attributes
    ----------
    nbytes : int
        Length in bytes.
    seconds, nanoseconds : int
        Time of the last change of its bytes, since 1970; programs can set it.
    changed_ns : int
        Time of the last change of its bytes or of its status (ctime), modulo 2**64.
    inode : int
        Number of the file on its file system, modulo 2**64.
    """

    nbytes: int
    seconds: int
    nanoseconds: int
    changed_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        """Return the parts of a status that identify the bytes of a file."""
        seconds, nanoseconds = divmod(status.st_mtime_ns, 10**9)
        changed = _as_int64(status.st_ctime_ns), _as_int64(status.st_ino)
        return cls(status.st_size, seconds, nanoseconds, *changed)

    @property
    def date(self) -> str:
        """Time of the last change of the bytes, in UTC, for any year.

        Examples
        --------
        >>> FileState(1, 2**40, 5, 0, 0).date
        '36812-02-20T00:36:16.000000005'
        """
        return f"{np.datetime64(self.seconds, 's')}.{self.nanoseconds:09d}"


_ABSENT: Final = FileState(-1, 0, 0, 0, 0)


def state_of(file: str | int) -> FileState:
    """Return the state of a file, by its path or descriptor, that differs after any later change.

    If the file changed less than a tick of the kernel's clock ago, its state is taken again after
    that tick, because a second change within the tick would get the same time.
    """
    status = os.stat(file)  # noqa: PTH116 - there may be millions
    if 0 <= time.time_ns() - status.st_ctime_ns < _TICK_NS:
        time.sleep(_TICK_NS / 1e9)
        status = os.stat(file)  # noqa: PTH116 - likewise
    return FileState.of(status)


@dataclass(frozen=True, slots=True)
class FileStates:
    """The states of some files.

    Attributes
    ----------
    paths : PackedPaths
        The files.
    values : ndarray of int64, shape (n, 5)
        The `FileState` of each, as a row.
    """

    paths: PackedPaths
    values: NDArray[np.int64]

    @classmethod
    def of(cls, paths: Sequence[str]) -> FileStates:
        """Return the states of files that were listed.

        Raises
        ------
        SourceChangedError
            If one no longer exists.
        """
        values = np.empty((len(paths), len(FileState._fields)), np.int64)
        for i, path in enumerate(paths):
            try:
                values[i] = state_of(path)
            except (FileNotFoundError, NotADirectoryError):
                raise gone(path) from None
        return cls(PackedPaths.of(paths), values)

    @classmethod
    def known(cls, states: Sequence[tuple[str, FileState]]) -> FileStates:
        """Return states that were taken earlier, each with its path."""
        values = np.array([state for _, state in states], np.int64)
        return cls(
            PackedPaths.of(path for path, _ in states),
            values.reshape(len(states), len(FileState._fields)),
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> FileState:
        return FileState(*self.values[i].tolist())

    def __iter__(self) -> Iterator[FileState]:
        return (FileState(*row) for row in self.values.tolist())

    def joined(self, other: FileStates) -> FileStates:
        """Return these states followed by others."""
        return FileStates(
            self.paths.joined(other.paths), np.concatenate([self.values, other.values])
        )

    def first(self, n: int) -> FileStates:
        """Return the states of the first `n` files, as a view."""
        return FileStates(self.paths[:n], self.values[:n])

    def take(self, rows: NDArray[np.int64]) -> FileStates:
        """Return the states of some files, without the memory of the others."""
        return FileStates(PackedPaths.of(iter(self.paths.take(rows))), self.values[rows])

    def check(self) -> None:
        """Check that all files are unchanged.

        Raises
        ------
        SourceChangedError
            If one has changed, or is absent.
        """
        for first in range(0, len(self), _BATCH):
            paths = list(self.paths[first : first + _BATCH])
            now = np.array([_state_now(path) for path in paths], np.int64)
            differs = np.flatnonzero(np.any(now != self.values[first : first + _BATCH], axis=1))
            if len(differs):
                i = int(differs[0])
                found = FileState(*now[i].tolist())
                if found == _ABSENT:
                    raise gone(paths[i])
                raise _changed(paths[i], self[first + i], found)

    def check_open(self, i: int, fd: int) -> None:
        """Check that an open file is unchanged; raise `SourceChangedError` if not."""
        check_open(self.paths[i], self[i], fd)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Check all files when the context ends.

        If an error of the source in the context is due to a change, the change is raised instead.

        Raises
        ------
        SourceChangedError
            If one has changed.
        """
        try:
            yield
        except (SourceError, FileNotFoundError, NotADirectoryError):
            self.check()
            raise
        self.check()


NO_FILES: Final = FileStates.known([])


def check_open(path: str, then: FileState, fd: int) -> None:
    """Check that one open file has the state `then`.

    Raises
    ------
    SourceChangedError
        If it has another state.
    """
    now = FileState.of(os.fstat(fd))
    if now != then:
        raise _changed(path, then, now)


def _state_now(path: str) -> FileState:
    try:
        return FileState.of(os.stat(path))  # noqa: PTH116 - there may be millions
    except (FileNotFoundError, NotADirectoryError):
        return _ABSENT


def gone(path: str) -> SourceChangedError:
    """Return the error about a file that no longer exists."""
    return SourceChangedError(f"{path}: no longer exists, but did when reading began; {_REMEDY}")


def _changed(path: str, then: FileState, now: FileState) -> SourceChangedError:
    changes = {
        f"size was {then.nbytes:,} and is {now.nbytes:,} bytes": then.nbytes != now.nbytes,
        f"modification time was {then.date} and is {now.date}": then[1:3] != now[1:3],
        "status change time differs": then.changed_ns != now.changed_ns,
        "inode differs": then.inode != now.inode,
    }
    found = ", ".join(change for change, is_so in changes.items() if is_so)
    return SourceChangedError(f"{path}: changed since reading began: {found}; {_REMEDY}")


def _as_int64(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63
