"""States of files and objects, compared to detect changes while they are read.

The state of a file is the record that the file system keeps of it. The kernel sets the status
change time (ctime) whenever bytes, length, names or permissions of a file change, and no program
can set it back. So a file with an equal state has had the same bytes all the time.

The state of an object in a bucket is its size, its time and its ETag, as listings and responses
state them.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import numpy as np

from arraystore.errors import SourceChangedError, SourceError
from arraystore.parallel.compressed import CompressedArray
from arraystore.storage.packed_paths import PackedPaths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from arraystore.indexing.byte_range import ByteRange

_TICK_NS: Final = 20_000_000
"""Longer than a tick of the kernel's clock (1 to 10 ms); changes in one tick get the same time."""

_BATCH: Final = 4096
"""Files that are compared at a time."""

_REMEDY: Final = "start again when no program writes to it"


class RemoteFiles(Protocol):
    """Buckets that hold some of the files whose states are known."""

    def states_now(self, addresses: Sequence[str]) -> NDArray[np.int64]:
        """Return the `FileState` of each object as a row; `ABSENT` if it does not exist."""
        ...

    def read(self, ranges: Sequence[ByteRange], states: Sequence[FileState]) -> list[memoryview]:
        """Return ranges of objects, each of the expected state."""
        ...


class FileState(NamedTuple):
    """Record of the file system about one file, or of a bucket about one object.

    Attributes
    ----------
    nbytes : int
        Length in bytes.
    seconds, nanoseconds : int
        Time of the last change of its bytes, since 1970; programs can set it. Of an object in
        whole seconds, because listings and responses state different fractions.
    changed_ns : int
        Time of the last change of its bytes or of its status (ctime), modulo 2**64. Of an object
        a checksum of its ETag; 0 if that is not known.
    inode : int
        Number of the file on its file system, modulo 2**64; 0 of an object.
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

    @classmethod
    def of_object(cls, nbytes: int, seconds: int, etag: str | None) -> FileState:
        """Return what identifies the bytes of an object; ETags may lack their quotes."""
        plain = (etag or "").removeprefix("W/").strip('"')
        digest = hashlib.blake2b(plain.encode(), digest_size=8).digest() if plain else b""
        return cls(nbytes, seconds, 0, int.from_bytes(digest, "big", signed=True), 0)

    def matches(self, other: FileState) -> bool:
        """Whether an object is the same, judging by what is known of both states.

        Examples
        --------
        >>> known, unknown = FileState.of_object(5, 9, "a"), FileState.of_object(5, 9, None)
        >>> known.matches(unknown), known.matches(FileState.of_object(5, 9, "b"))
        (True, False)
        """
        pairs = zip(self[1:], other[1:], strict=True)
        return self[0] == other[0] and all(not a or not b or a == b for a, b in pairs)

    @property
    def date(self) -> str:
        """Time of the last change of the bytes, in UTC, for any year.

        Examples
        --------
        >>> FileState(1, 2**40, 5, 0, 0).date
        '36812-02-20T00:36:16.000000005'
        """
        return f"{np.datetime64(self.seconds, 's')}.{self.nanoseconds:09d}"


ABSENT: Final = FileState(-1, 0, 0, 0, 0)
"""State of a file that does not exist."""


def is_address(path: str) -> bool:
    """Whether a path is the address of an object; paths of files never have two slashes.

    Examples
    --------
    >>> is_address("s3://bucket/a.tar"), is_address("photos/a.jpg")
    (True, False)
    """
    return "://" in path


def common_folder(paths: Sequence[str]) -> str:
    """Return the folder that contains all files or objects; empty if there is none.

    Examples
    --------
    >>> common_folder(["s3://a/b/c.jpg", "s3://a/bc/d.jpg"]), common_folder(["a.jpg", "b/c.jpg"])
    ('s3://a', '')
    """
    first, last = min(paths).split("/")[:-1], max(paths).split("/")[:-1]
    n = 0
    while n < min(len(first), len(last)) and first[n] == last[n]:
        n += 1
    return "/".join(first[:n])


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
    buckets : RemoteFiles, optional
        Holds the files whose paths are addresses.
    """

    paths: PackedPaths
    values: NDArray[np.int64]
    buckets: RemoteFiles | None = None

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
    def known(
        cls, states: Sequence[tuple[str, FileState]], buckets: RemoteFiles | None = None
    ) -> FileStates:
        """Return states that were taken earlier, each with its path."""
        values = np.array([state for _, state in states], np.int64)
        shape = len(states), len(FileState._fields)
        paths = PackedPaths.of(path for path, _ in states)
        return cls(paths, values.reshape(shape), buckets)

    def __reduce__(self) -> tuple[Callable[..., FileStates], tuple[Any, ...]]:
        return _decompressed, (self.paths, CompressedArray.of(self.values), self.buckets)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> FileState:
        return FileState(*self.values[i].tolist())

    def __iter__(self) -> Iterator[FileState]:
        return (FileState(*row) for row in self.values.tolist())

    def joined(self, other: FileStates) -> FileStates:
        """Return these states followed by others."""
        values = np.concatenate([self.values, other.values])
        return FileStates(self.paths.joined(other.paths), values, self.buckets or other.buckets)

    def first(self, n: int) -> FileStates:
        """Return the states of the first `n` files, as a view."""
        return FileStates(self.paths[:n], self.values[:n], self.buckets)

    def take(self, rows: NDArray[np.int64]) -> FileStates:
        """Return the states of some files, without the memory of the others."""
        paths = PackedPaths.of(iter(self.paths.take(rows)))
        return FileStates(paths, self.values[rows], self.buckets)

    def portable(self) -> FileStates:
        """Return these states with absolute paths, for processes with other working directories."""
        paths = (path if is_address(path) else os.path.abspath(path) for path in self.paths)  # noqa: PTH100 - there may be many
        return FileStates(PackedPaths.of(paths), self.values, self.buckets)

    def find(self, paths: Sequence[str]) -> FileStates:
        """Return the states of some of these files, by their paths.

        Raises
        ------
        KeyError
            If a path is not one of these, or two of these have one hash.
        """
        # Hashes take a tenth of the memory of a dict of the paths.
        hashes = np.fromiter(map(hash, self.paths), np.int64, len(self))
        order = np.argsort(hashes)
        wanted = np.fromiter(map(hash, paths), np.int64, len(paths))
        places = np.searchsorted(hashes[order], wanted)
        found = self.take(order[np.minimum(places, len(self) - 1)])
        for path, one in zip(paths, found.paths, strict=True):
            if path != one:
                raise KeyError(path)
        return found

    def check(self) -> None:
        """Check that all files are unchanged.

        Raises
        ------
        SourceChangedError
            If one has changed, or is absent.
        """
        local = np.arange(len(self))
        if self.buckets is not None:
            is_remote = np.array([is_address(path) for path in self.paths], np.bool_)
            remote = np.flatnonzero(is_remote)
            now = self.buckets.states_now(list(self.paths.take(remote)))
            then = self.values[remote]
            is_known = (now != 0) & (then != 0) | (np.arange(now.shape[1]) == 0)
            self._compare(remote, np.where(is_known, now, then))
            local = np.flatnonzero(~is_remote)
        for first in range(0, len(local), _BATCH):
            rows = local[first : first + _BATCH]
            now = np.array([_state_now(path) for path in self.paths.take(rows)], np.int64)
            self._compare(rows, now)

    def _compare(self, rows: NDArray[np.int64], now: NDArray[np.int64]) -> None:
        """Raise `SourceChangedError` if some files have other states now."""
        if not len(rows):
            return
        differs = np.flatnonzero(np.any(now != self.values[rows], axis=1))
        if len(differs):
            first = int(differs[0])
            i, found = int(rows[first]), FileState(*now[first].tolist())
            raise changed(self.paths[i], self[i], found)

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


def _decompressed(
    paths: PackedPaths, values: CompressedArray, buckets: RemoteFiles | None
) -> FileStates:
    return FileStates(paths, values.array(), buckets)


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
        raise changed(path, then, now)


def _state_now(path: str) -> FileState:
    try:
        return FileState.of(os.stat(path))  # noqa: PTH116 - there may be millions
    except (FileNotFoundError, NotADirectoryError):
        return ABSENT


def gone(path: str) -> SourceChangedError:
    """Return the error about a file that no longer exists."""
    return SourceChangedError(f"{path}: no longer exists, but did when reading began; {_REMEDY}")


def changed(path: str, then: FileState, now: FileState) -> SourceChangedError:
    """Return the error about a file that has another state than before, or no longer exists."""
    if now.nbytes == ABSENT.nbytes:
        return gone(path)
    status = "ETag" if is_address(path) else "status change time"
    changes = {
        f"size was {then.nbytes:,} and is {now.nbytes:,} bytes": then.nbytes != now.nbytes,
        f"modification time was {then.date} and is {now.date}": then[1:3] != now[1:3],
        f"{status} differs": then.changed_ns != now.changed_ns,
        "inode differs": then.inode != now.inode,
    }
    found = ", ".join(change for change, is_so in changes.items() if is_so)
    return SourceChangedError(f"{path}: changed since reading began: {found}; {_REMEDY}")


def _as_int64(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63
