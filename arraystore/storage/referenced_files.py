"""Files and objects outside of a store that hold images of it.

A store states the path and the state of each. Whether a path may be followed is decided here, for
each file, before it is opened.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from typing_extensions import override

from arraystore.errors import FormatError, ReferencedFileError, SourceChangedError
from arraystore.storage.file_states import FileState, is_address
from arraystore.storage.location import Location
from arraystore.storage.open_files import OpenFile, open_file
from arraystore.storage.range_reader import LocalReader, RangeReader

if TYPE_CHECKING:
    from collections.abc import Mapping
    from mmap import mmap

    from arraystore._typing import Ints
    from arraystore.indexing.byte_range import ByteRange
    from arraystore.indexing.packed_names import PackedNames
    from arraystore.storage.buckets import Buckets

VARIABLE: Final = "ARRAYSTORE_ALLOW_REFERENCES"
"""Environment variable with folders and addresses that references may lead to; 1 allows all."""

ALL: Final = ("",)
"""Stands for all folders and addresses."""

_BETWEEN: Final = re.compile(re.escape(os.pathsep) + "(?!//)")  # not the one of an address
_REMOTE_MAX_GAP: Final = 32 * 2**10
_KEPT: Final = 4096
"""Paths whose permission is remembered."""


class ReferencedFile(str):
    """Path or address of a file, with the state that a store states.

    Attributes
    ----------
    nbytes, mtime : int
        Size in bytes, and time of the last change in nanoseconds since 1970; 0 if not known.
    etag : int
        Checksum of the ETag of an object, see `FileState.changed_ns`; 0 if not known.
    store : str
        The store, for messages.
    """

    nbytes: int
    mtime: int
    etag: int
    store: str

    def changed(self, nbytes: int, mtime: int) -> ReferencedFileError:
        """Return the error about a file that has another state now."""
        then, now = (FileState(0, *divmod(t, 10**9), 0, 0).date for t in (self.mtime, mtime))
        what = (
            f"has {nbytes:,} bytes, must have {self.nbytes:,}"
            if nbytes != self.nbytes
            else f"was modified at {now}, must have been at {then}"
        )
        return ReferencedFileError(
            f"{self}: {what}, because images of {self.store} are in it; restore the file; or, if "
            f"it is a copy with the same bytes: arraystore relocate {self.store} {self} {self}"
        )

    def missing(self) -> ReferencedFileError:
        """Return the error about a file that does not exist."""
        return ReferencedFileError(
            f"{self}: does not exist, but images of {self.store} are in it; state where it is now: "
            f"arraystore relocate {self.store} {self} NEW"
        )


@dataclass(frozen=True, slots=True)
class References:
    """Which files a store may refer to: those in its own folder, and in folders that are allowed.

    Attributes
    ----------
    store : Location
        The store; relative paths begin at the folder that contains it.
    allowed : bool or tuple of str
        Whether all are allowed, or further folders and addresses whose content is.
    """

    store: Location
    allowed: bool | tuple[str, ...] = False

    def resolve(self, path: str) -> str:
        """Return the path or address of a file, not checked.

        Raises
        ------
        FormatError
            If it is not valid.
        """
        if is_address(path):
            location = _parsed(path, self.store)
            if location.is_local:
                return os.path.normpath(location.path)
            if {"", ".", ".."} & set(location.key.split("/")):
                raise FormatError(f"{self.store}: refers to {path!r}, which is not valid")
            return str(location)
        if not path or "\0" in path:
            raise FormatError(f"{self.store}: refers to {path!r}, which is not a path")
        if self.store.is_local:
            return os.path.normpath(self.store.path.parent / path)
        if self.store.store is not None:
            raise ReferencedFileError(
                f"{self.store}: refers to other files; open it by its address to read these"
            )
        folder = self.store.key.rpartition("/")[0]
        key = posixpath.normpath(posixpath.join(folder, path))
        if path.startswith("/") or key.startswith(".."):
            raise FormatError(
                f"{self.store}: refers to {path!r}; a store that is not on a disk must name other "
                "files by their addresses, or by paths below its folder"
            )
        return str(self.store.at(key))

    def is_allowed(self, path: str) -> bool:
        """Whether a path or address that `resolve` returned may be followed."""
        allowed = self._allowed()
        if allowed is ALL:
            return True
        parent = self.store.path.parent.as_posix() if self.store.is_local else None
        folders = [self.store.at(parent or self.store.key.rpartition("/")[0])]
        folders += [Location.parse(place) for place in allowed]
        location = Location.parse(path)
        return any(location.is_within(folder) for folder in folders)

    def _allowed(self) -> tuple[str, ...]:
        """Return what the caller and the environment allow."""
        stated = os.environ.get(VARIABLE, "")
        if self.allowed is True or stated == "1":
            return ALL
        return (*(self.allowed or ()), *filter(None, _BETWEEN.split(stated)))

    def check(self, path: str) -> None:
        """Raise `ReferencedFileError` if a path that `resolve` returned may not be followed."""
        if not self.is_allowed(path):
            folder = path.rpartition("/")[0]
            error = ReferencedFileError(
                f"{path}: {self.store} refers to this file outside of its folder; if you trust the "
                f"store, allow it: allow_references={folder!r}, or set {VARIABLE}={folder}"
            )
            error.is_refused = True
            raise error


def as_allowed(places: bool | str | os.PathLike[str] | Sequence[str]) -> bool | tuple[str, ...]:
    """Return the value of `References.allowed` for an argument.

    Raises
    ------
    TypeError, ValueError
        If it is neither a bool nor paths and addresses.

    Examples
    --------
    >>> as_allowed("s3://bucket/images"), as_allowed(["/a", "/b"]), as_allowed(True)
    (('s3://bucket/images',), ('/a', '/b'), True)
    """
    if isinstance(places, bool):
        return places
    if isinstance(places, str | os.PathLike):
        places = [os.fspath(places)]
    texts = tuple(os.fspath(place) for place in places)
    for text in texts:
        Location.parse(text)
    return texts


def _parsed(path: str, store: Location) -> Location:
    try:
        return Location.parse(path)
    except ValueError as error:
        raise FormatError(f"{store}: refers to {path!r}: {error}") from None


class ReferencedFiles(Sequence[str]):
    """The files that hold images of a store, each looked up and checked when it is used.

    Parameters
    ----------
    references : References
        Which of them may be used.
    paths : sequence of str
        As the store has them.
    nbytes, mtime, etag : ndarray of int64, shape (n_files,)
        See `ReferencedFile`.
    """

    def __init__(
        self, references: References, paths: Sequence[str], nbytes: Ints, mtime: Ints, etag: Ints
    ) -> None:
        self._references, self.paths = references, paths
        self.nbytes, self.mtime, self.etag = nbytes, mtime, etag
        self._known: dict[int, ReferencedFile] = {}
        self._folders: set[str] = set()

    @override
    def __len__(self) -> int:
        return len(self.nbytes)

    @override
    def __getitem__(self, i: int) -> ReferencedFile:  # type: ignore[override] # no slices
        file = self._known.get(i)
        if file is None:
            path = self._references.resolve(self.paths[i])
            self._check(path)
            file = ReferencedFile(path)
            file.nbytes, file.mtime = self.nbytes.item(i), self.mtime.item(i)
            file.etag, file.store = self.etag.item(i), str(self._references.store)
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[i] = file  # complete, because other threads use it
        return file

    def _check(self, path: str) -> None:
        """Check that a path may be followed; that of a file in a folder that was checked is."""
        folder = path.rpartition("/")[0]
        is_link = not is_address(path) and os.path.islink(path)  # noqa: PTH114 - of every file
        if is_link or folder not in self._folders:
            self._references.check(path)
            if not is_link:
                self._folders.add(folder)


class LocalFilesReader(LocalReader):
    """Read a store on a disk, and files on the disk that hold images of it.

    The size and time of such a file are compared whenever it is opened, and each time a batch
    reads from it.

    Parameters
    ----------
    own : LocalReader
        Reads the store.
    """

    def __init__(self, own: LocalReader) -> None:
        super().__init__("/", max_gap=own.max_gap, mmap=own.has_maps)
        self.root = own.root
        self._own = own

    @override
    def file(self, key: str) -> OpenFile:
        return opened(key) if isinstance(key, ReferencedFile) else self._own.file(key)

    @override
    def _held(self, key: str) -> OpenFile | None:
        del key
        return None

    @override
    def size(self, key: str) -> int:
        return opened(key).nbytes if isinstance(key, ReferencedFile) else self._own.size(key)

    @override
    def map(self, key: str) -> mmap:
        return self.file(key).map

    @override
    def check_unchanged(self) -> None:
        self._own.check_unchanged()


def opened(key: ReferencedFile) -> OpenFile:
    """Open a file that has the state that its store states.

    Raises
    ------
    ReferencedFileError
        If it does not exist, or has another state.
    """
    try:
        file = open_file(key)
    except (FileNotFoundError, NotADirectoryError):
        raise key.missing() from None
    if file.nbytes != key.nbytes or (key.mtime and file.mtime != key.mtime):
        raise key.changed(file.nbytes, file.mtime)
    return file


class RemoteFilesReader(RangeReader):
    """Read a store, and files on the disk or in buckets that hold images of it.

    Parameters
    ----------
    own : RangeReader
        Reads the store.
    buckets : Buckets
        The buckets of the files.
    max_gap : int
        See `RangeReader`.
    """

    def __init__(self, own: RangeReader, buckets: Buckets, *, max_gap: int) -> None:
        self.is_remote = True
        self.max_gap = max_gap
        self.max_request = own.max_request
        self._own = own
        self._local = LocalFilesReader(LocalReader("/", mmap=False))
        self._buckets = buckets

    @override
    def size(self, key: str) -> int:
        return key.nbytes if isinstance(key, ReferencedFile) else self._own.size(key)

    @override
    def read_ranges(self, ranges: Sequence[ByteRange]) -> list[memoryview]:
        found = [memoryview(b"")] * len(ranges)
        readers = (self._own.read_ranges, self._local.read_ranges, self._read_objects)
        kinds = np.array([_kind(wanted.key) for wanted in ranges], np.int64)
        for number, read in enumerate(readers):
            rows = np.flatnonzero(kinds == number).tolist()
            if rows:
                for i, data in zip(rows, read([ranges[i] for i in rows]), strict=True):
                    found[i] = data
        return found

    @override
    def read_objects(self, keys: Sequence[str]) -> list[memoryview]:
        return self._own.read_objects(keys)

    def _read_objects(self, ranges: Sequence[ByteRange]) -> list[memoryview]:
        files = [wanted.key for wanted in ranges]
        states = [
            FileState(file.nbytes, file.mtime // 10**9, 0, file.etag, 0)
            for file in files
            if isinstance(file, ReferencedFile)
        ]
        try:
            return self._buckets.read(ranges, states)
        except SourceChangedError as error:
            store = files[0].store if isinstance(files[0], ReferencedFile) else ""
            raise ReferencedFileError(
                f"{error}; images of {store} are in it; state where the same bytes are now: "
                f"arraystore relocate {store} OLD NEW"
            ) from error

    @override
    def check_unchanged(self) -> None:
        self._own.check_unchanged()


def reader_of(
    own: RangeReader,
    paths: PackedNames,
    *,
    max_gap: int | None,
    storage_options: Mapping[str, Any],
) -> RangeReader:
    """Return a reader of a store and of files with images of it.

    Parameters
    ----------
    own : RangeReader
        Reads the store.
    paths : PackedNames
        The files, as the store has them.
    max_gap : int, optional
        See `RangeReader`.
    storage_options : mapping
        Options of the buckets of the files.
    """
    if isinstance(own, LocalReader) and b"://" not in paths.data:
        return LocalFilesReader(own)
    from arraystore.storage.buckets import Buckets

    return RemoteFilesReader(
        own, Buckets(storage_options), max_gap=_REMOTE_MAX_GAP if max_gap is None else max_gap
    )


def _kind(key: str) -> int:
    if not isinstance(key, ReferencedFile):
        return 0
    return 2 if is_address(key) else 1
