"""The buckets and web servers that a source is read from, and paths of objects in them."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from functools import partial, total_ordering
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Final, overload

import numpy as np
from typing_extensions import override

from arraystore import _threads as threads
from arraystore._arguments import as_path
from arraystore._threads import Task, current_scope
from arraystore.errors import brief, escaped
from arraystore.indexing.byte_range import ByteRange
from arraystore.storage.file_states import (
    ABSENT,
    FileState,
    FileStates,
    gone,
    is_address,
    state_of,
)
from arraystore.storage.location import Location
from arraystore.storage.packed_paths import PackedPaths, PathView

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray
    from typing_extensions import Buffer

    from arraystore.storage.objects.listed_objects import ListedObjects

_FIRST_NBYTES: Final = 2**16
_MOST_NBYTES: Final = 2**24
"""Bytes that the first read of a file requests, and that later ones request at most."""


class Buckets:
    """The buckets and web servers that a source is read from; each is connected to once.

    Parameters
    ----------
    options : mapping of str to anything, optional
        How to reach them; see `storage_options` of `arraystore.open`. A pickle contains them.
    """

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        self._options = dict(options or {})
        self._opened: dict[tuple[str, ...], ListedObjects] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Callable[..., Buckets], tuple[Any]]:
        return Buckets, (self._options,)

    def path(self, place: str | os.PathLike[str]) -> SourcePath:
        """Return the path of a file, or of an object if `place` is the address of one.

        Raises
        ------
        ValueError
            If the address is not valid.
        """
        if isinstance(place, str) and (is_address(place) or place.startswith("file:/")):
            location = Location.parse(place, self._options)
            if not location.is_local:
                return ObjectPath(self, location, location.key)
            place = location.path
        return as_path(place)

    def check_needed(self, *places: object) -> None:
        """Raise `ValueError` if there are options, and no place is an address or has one."""
        if self._options and not any(is_address(str(place)) for place in places):
            raise ValueError(
                f"source_options need an address as the source, got {brief(str(places[0]))}"
            )

    def objects(self, address: str) -> tuple[ListedObjects, str]:
        """Return the bucket of an address, and the key."""
        location = Location.parse(address, self._options)
        name = location.kind, location.bucket, location.account, location.login
        with self._lock:
            if name not in self._opened:
                # asyncio and obstore are imported only where they are needed.
                from arraystore.storage.objects.listed_objects import ListedObjects

                self._opened[name] = ListedObjects(location)
            return self._opened[name], location.key

    def read(self, ranges: Sequence[ByteRange], states: Sequence[FileState]) -> list[memoryview]:
        """Return ranges of objects, many at once; fewer bytes only where an object ends before.

        Parameters
        ----------
        ranges : sequence of ByteRange
            Their keys are addresses.
        states : sequence of FileState
            The expected state of the object of each range.

        Raises
        ------
        SourceChangedError
            If an object has another state, or no longer exists.
        StorageError
            If a bucket cannot be reached, or refuses the request.
        """
        found = [memoryview(b"")] * len(ranges)
        groups: dict[int, tuple[ListedObjects, list[int], list[ByteRange]]] = {}
        expected: dict[int, dict[str, FileState]] = {}
        for i, (address, start, stop) in enumerate(ranges):
            objects, key = self.objects(address)
            group = groups.setdefault(id(objects), (objects, [], []))
            group[1].append(i)
            group[2].append(ByteRange(key, start, stop))
            expected.setdefault(id(objects), {})[key] = states[i]
        for number, (objects, rows, wanted) in groups.items():
            for i, data in zip(rows, objects.read(wanted, expected[number]), strict=True):
                found[i] = data
        return found

    def states_now(self, addresses: Sequence[str]) -> NDArray[np.int64]:
        """See `RemoteFiles`."""
        found = np.tile(np.array(ABSENT, np.int64), (len(addresses), 1))
        groups: dict[int, tuple[ListedObjects, list[int], list[str]]] = {}
        for i, address in enumerate(addresses):
            objects, key = self.objects(address)
            group = groups.setdefault(id(objects), (objects, [], []))
            group[1].append(i)
            group[2].append(key)
        for objects, rows, keys in groups.values():
            found[rows] = objects.states_now(keys)
        return found


@total_ordering
class ObjectPath:
    """The path of an object, or of a folder of objects, with the names that `pathlib.Path` has.

    Parameters
    ----------
    buckets : Buckets
    bucket : Location
        A place in the bucket; its key is not used.
    key : str
        The key, without slashes at its ends.
    """

    __slots__ = ("_bucket", "buckets", "key")

    def __init__(self, buckets: Buckets, bucket: Location, key: str) -> None:
        self.buckets = buckets
        self._bucket = bucket
        self.key = key

    @property
    def location(self) -> Location:
        """Where it is."""
        return self._bucket.at(self.key)

    def __str__(self) -> str:
        return str(self.location)

    def __repr__(self) -> str:
        return escaped(f"ObjectPath({str(self)!r})")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectPath) and self.location == other.location

    def __lt__(self, other: ObjectPath) -> bool:
        return (self._bucket.root, self.parts) < (other._bucket.root, other.parts)

    def __hash__(self) -> int:
        return hash(self.location)

    def __truediv__(self, name: str) -> ObjectPath:
        return self.at("/".join(filter(None, (self.key, name))))

    def at(self, key: str) -> ObjectPath:
        """Return the path of another key in the same bucket."""
        return ObjectPath(self.buckets, self._bucket, key)

    @property
    def name(self) -> str:
        """The last part of the key; of a bucket its own name."""
        return self.parts[-1]

    @property
    def parts(self) -> tuple[str, ...]:
        """The name of the bucket, and the parts of the key."""
        bucket = self._bucket.root.rstrip("/").rpartition("/")[2]
        return (bucket, *filter(None, self.key.split("/")))

    @property
    def suffix(self) -> str:
        """The suffix of the name, with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def parent(self) -> ObjectPath:
        """The folder; the bucket is its own."""
        return self.at(self.key.rpartition("/")[0])

    def absolute(self) -> ObjectPath:
        """Return the path itself."""
        return self

    def resolve(self) -> ObjectPath:
        """Return the path itself; buckets have no links."""
        return self

    @property
    def is_in_plain_bucket(self) -> bool:
        """Whether it is in a bucket of the service that options are for, whoever names it."""
        return self._bucket.kind != "http" and not self._bucket.account

    @property
    def objects(self) -> ListedObjects:
        """The bucket."""
        return self.buckets.objects(str(self))[0]

    def exists(self) -> bool:
        """Whether there is an object of this key, or below it."""
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """Whether there is an object of this key."""
        return bool(self.key) and self.objects.states([self.key])[0] != ABSENT

    def is_dir(self) -> bool:
        """Whether there are objects below this key; never behind a web server."""
        objects = self.objects
        return objects.is_listable and any(True for _ in objects.listed(self.key))

    def entries(self) -> tuple[list[str], FileStates]:
        """Return the names of the folders directly below this key, and the objects there."""
        folders, files = self.objects.entries(self.key)
        return [key.rpartition("/")[2] for key in folders], self._states(files)

    def names(self) -> list[str]:
        """Return the names of the folders and objects directly below this key."""
        folders, files = self.objects.entries(self.key)
        return [key.rpartition("/")[2] for key in (*folders, *files.paths)]

    def below(self) -> tuple[list[str], FileStates]:
        """Return all objects below this key: paths relative to it, and states."""
        found = self.objects.below(self.key)
        n = len(self.key) + 1 if self.key else 0
        return [key[n:] for key in found.paths], self._states(found)

    def _states(self, found: FileStates) -> FileStates:
        addresses = PackedPaths.of(str(self._bucket.at(key)) for key in found.paths)
        return FileStates(addresses, found.values, self.buckets)

    def state(self) -> FileState:
        """Return the state of the object; raise `FileNotFoundError` if there is none."""
        return self.objects.state(self.key)

    def open(self, mode: str = "rb", buffering: int = 2**16) -> io.BufferedReader:
        """Open the object for reading bytes."""
        del mode
        return io.BufferedReader(self.open_raw(), buffering)

    def open_raw(self) -> ObjectFile:
        """Open the object for reading bytes, for programs with buffers of their own."""
        return ObjectFile(self, self.state())

    def read_bytes(self) -> bytes:
        """Return the bytes of the object."""
        with self.open() as file:
            return file.read()

    def read_text(self, encoding: str) -> str:
        """Return the text of the object."""
        return self.read_bytes().decode(encoding)


SourcePath = Path | ObjectPath
"""The path of a file on the disk, or of an object in a bucket."""


class MixedPaths(Sequence[SourcePath]):
    """A sequence of paths and addresses that are texts until they are used.

    Parameters
    ----------
    texts : sequence of str
    buckets : Buckets
    """

    def __init__(self, texts: Sequence[str], buckets: Buckets) -> None:
        self._texts = texts
        self._buckets = buckets

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, index: int) -> SourcePath: ...
    @overload
    def __getitem__(self, index: slice) -> MixedPaths: ...
    @override
    def __getitem__(self, index: int | slice) -> SourcePath | MixedPaths:
        if isinstance(index, slice):
            return MixedPaths(self._texts[index], self._buckets)
        text = self._texts[index]
        return self._buckets.path(text) if is_address(text) else Path(text)


def paths_of(states: FileStates) -> Sequence[SourcePath]:
    """Return the paths of files whose states are known, made when they are used."""
    if isinstance(states.buckets, Buckets):
        return MixedPaths(states.paths, states.buckets)
    return PathView(states.paths)


class ObjectFile(io.RawIOBase):
    """An object as a file: reads ahead while it is read front to back.

    Each read requests more than the one before, up to 16 MiB in parallel parts. From then on the
    next 16 MiB are requested meanwhile. After a jump it begins with 64 KiB again.

    Parameters
    ----------
    path : ObjectPath
    state : FileState
        Expected state of the object.
    least, most : int, optional
        Bytes that the first read requests, and later ones at most.
    max_gap : int, optional
        Longest jump forward that still counts as reading front to back.

    Attributes
    ----------
    state : FileState
    """

    def __init__(
        self,
        path: ObjectPath,
        state: FileState,
        *,
        least: int = _FIRST_NBYTES,
        most: int = _MOST_NBYTES,
        max_gap: int = 0,
    ) -> None:
        self._path, self._address = path, str(path)
        self.state = state
        self._least, self._most, self._max_gap = least, most, max_gap
        self._position = 0
        self._start = self._stop = 0  # of the bytes that were read last
        self._data = memoryview(b"")
        self._ahead: tuple[int, int, Task[memoryview]] | None = None
        self._step = least

    def again(self) -> ObjectFile:
        """Return the same object as another file, for another thread."""
        return ObjectFile(
            self._path,
            self.state,
            least=self._least,
            most=self._most,
            max_gap=self._max_gap,
        )

    def read_at(self, offset: int, nbytes: int) -> bytes:
        """Return bytes of the object; fewer only if it ends before."""
        stop = min(offset + nbytes, self.state.nbytes)
        parts = []
        while offset < stop:
            if not self._start <= offset < self._stop:
                self._fetch(offset, stop)
            part = self._data[offset - self._start : stop - self._start]
            parts.append(part)
            offset += len(part)
        return b"".join(parts)

    def _fetch(self, offset: int, stop: int) -> None:
        is_next = self._stop <= offset <= self._stop + self._max_gap
        self._step = min(2 * self._step, self._most) if is_next and self._stop else self._least
        self._data = memoryview(b"")  # so that no more than two pieces are held
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] <= offset < ahead[1]:
            self._start, self._stop = ahead[:2]
            self._data = ahead[2].result()
        else:
            self._start = offset
            self._stop = self._end(offset, min(max(stop - offset, self._step), self._most))
            self._data = self._piece(self._start, self._stop)
        if self._step == self._most and self._stop < self.state.nbytes:
            end = self._end(self._stop, self._most)
            piece = Task(partial(self._piece, self._stop, end), current_scope())
            threads.readers.submit(piece.run)
            self._ahead = self._stop, end, piece

    def _end(self, start: int, nbytes: int) -> int:
        return min(start + nbytes, self.state.nbytes)

    def _piece(self, start: int, stop: int) -> memoryview:
        (data,) = self._path.buckets.read([ByteRange(self._address, start, stop)], [self.state])
        return data

    @override
    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read_at(self._position, len(view))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.state.nbytes}
        self._position = max(0, start[whence] + offset)
        return self._position

    @override
    def tell(self) -> int:
        return self._position


def states_now(paths: Sequence[ObjectPath]) -> list[FileState]:
    """Return the states of objects, all requested at once; `ABSENT` if one does not exist."""
    if not paths:
        return []
    values = paths[0].buckets.states_now([str(path) for path in paths])
    return [FileState(*row) for row in values.tolist()]


def states_of(paths: Sequence[SourcePath]) -> FileStates:
    """Return the states of files or objects that were found.

    Raises
    ------
    SourceChangedError
        If one no longer exists.
    """
    local = [str(path) for path in paths if not isinstance(path, ObjectPath)]
    remote = [path for path in paths if isinstance(path, ObjectPath)]
    if not remote:
        return FileStates.of(local)
    states = states_now(remote)
    for path, state in zip(remote, states, strict=True):
        if state == ABSENT:
            raise gone(str(path))
    addresses = [str(path) for path in remote]
    found = FileStates.known(list(zip(addresses, states, strict=True)), remote[0].buckets)
    if not local:
        return found
    is_remote = np.array([isinstance(path, ObjectPath) for path in paths])
    places = np.where(is_remote, len(local) + np.cumsum(is_remote), np.cumsum(~is_remote)) - 1
    return FileStates.of(local).joined(found).take(places)


def start_of(path: SourcePath, nbytes: int) -> bytes:
    """Return the first bytes of a file or object; fewer only if it ends before."""
    if isinstance(path, ObjectPath):
        return ObjectFile(path, path.state(), least=nbytes).read_at(0, nbytes)
    with path.open("rb") as file:
        return file.read(nbytes)


def state_of_path(path: SourcePath) -> FileState:
    """Return the state of one file or object; raise `FileNotFoundError` if it does not exist."""
    return path.state() if isinstance(path, ObjectPath) else state_of(str(path))


def open_text(path: SourcePath) -> IO[str]:
    """Open a file or object of UTF-8 text, perhaps with a byte order mark; for `csv`."""
    if isinstance(path, ObjectPath):
        return io.TextIOWrapper(path.open(), "utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")
