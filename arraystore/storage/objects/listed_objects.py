"""List objects of a bucket, and read ranges of them while they have the listed states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from typing_extensions import override

from arraystore.errors import SourceChangedError, SourceError, escaped
from arraystore.storage.file_states import (
    ABSENT,
    FileState,
    FileStates,
    changed,
    common_folder,
    gone,
)
from arraystore.storage.objects.connection import connect
from arraystore.storage.objects.event_loop import arrivals, gather, run
from arraystore.storage.objects.reader import ObjectReader
from arraystore.storage.objects.slots import Slots
from arraystore.storage.packed_paths import PackedPaths

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from arraystore.indexing.byte_range import ByteRange
    from arraystore.storage.location import Location

_MAX_HEADS: Final = 256
"""Objects whose states are requested one by one; those of more objects are listed."""

_MAX_OTHERS: Final = 10_000
"""Other objects that may be listed beside as many wanted ones, before the listing is given up."""


def state_of_object(meta: Mapping[str, Any]) -> FileState:
    """Return the state that a listing or a response states."""
    return FileState.of_object(
        int(meta["size"]), int(meta["last_modified"].timestamp()), meta["e_tag"]
    )


def fields_that_differ(listed: FileState, responded: FileState) -> frozenset[str]:
    """Return the field that listings of a service state otherwise than its responses.

    Parameters
    ----------
    listed, responded : FileState
        Of one object, soon after each other.

    Returns
    -------
    frozenset of str
        ``"changed_ns"``, the ETag, if only that differs; ``"seconds"``, the time, if only that
        differs. If more differs, the object has changed meanwhile, and the set is empty.

    Examples
    --------
    >>> state = FileState.of_object(5, 1000, "a")
    >>> set(fields_that_differ(state, FileState.of_object(5, 1000, "b")))
    {'changed_ns'}
    >>> fields_that_differ(state, FileState.of_object(5, 1007, "b"))
    frozenset()
    """
    names = [
        name
        for name, one, other in zip(FileState._fields, listed, responded, strict=True)
        if one != other
    ]
    return frozenset(names if names in (["changed_ns"], ["seconds"]) else ())


class ListedObjects:
    """The objects of one bucket, or behind one web server, as files of a source.

    All threads share the connection and the limit of requests.

    Parameters
    ----------
    location : Location
        A place in the bucket; its key is not used.

    Attributes
    ----------
    location : Location
    """

    def __init__(self, location: Location) -> None:
        self.location = location
        self.connection = connect(location)
        self.slots = Slots()
        self.guarded: set[str] = set()
        self.has_responded = False
        self._ignored: frozenset[str] | None = None

    @property
    def is_listable(self) -> bool:
        """Whether objects can be listed."""
        return self.connection.is_listable

    def address(self, key: str) -> str:
        """Return the address of an object."""
        return str(self.location.at(key))

    def read(
        self, ranges: Sequence[ByteRange], states: Mapping[str, FileState]
    ) -> list[memoryview]:
        """Return ranges of objects, many at once; fewer bytes only where an object ends before.

        Parameters
        ----------
        ranges : sequence of ByteRange
        states : mapping of str to FileState
            Expected states of the objects, by key.

        Raises
        ------
        SourceChangedError
            If an object has another state, or no longer exists.
        """
        return _StateReader(self, states).read_ranges(ranges)

    def state(self, key: str) -> FileState:
        """Return the state of one object.

        Raises
        ------
        FileNotFoundError
            If there is none.
        """
        (state,) = self.states([key])
        if state == ABSENT:
            raise FileNotFoundError(2, "there is nothing here", escaped(self.address(key)))
        return state

    def states(self, keys: Sequence[str]) -> list[FileState]:
        """Return the state of each object; `ABSENT` if it does not exist."""
        _StateReader(self, {})._check_redirects(keys)
        return run(self._states(keys))

    async def _states(self, keys: Sequence[str]) -> list[FileState]:
        return await gather(self._state(key) for key in keys)

    async def _state(self, key: str) -> FileState:
        # Two retries: a wrong address is reported within a second.
        store = self.connection.store if self.has_responded else self.connection.first
        async with self.slots.one(0):
            try:
                meta = await store.head_async(key)
            except self.connection.errors as error:
                raised = self.connection.translate(error, key)
                if isinstance(raised, FileNotFoundError):
                    return ABSENT
                raise raised from None
        self.has_responded = True
        return self.state_of(meta)

    def state_of(self, meta: Mapping[str, Any]) -> FileState:
        """Return what a listing or a response states, without what they state differently."""
        state = state_of_object(meta)
        return state._replace(**dict.fromkeys(self._ignored, 0)) if self._ignored else state

    def _compare_listing(self, listed: Mapping[str, Any]) -> None:
        """Find out, by the first object that is listed, whether listings can be relied on.

        Some services list other ETags than they send with an object, or other times.
        """
        if self._ignored is None:
            self._ignored = frozenset()
            responded = self.states([str(listed["path"])])[0]
            self._ignored = fields_that_differ(state_of_object(listed), responded)

    def states_now(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """Return the states of many objects as rows: requested one by one, or listed."""
        found = np.tile(np.array(ABSENT, np.int64), (len(keys), 1))
        if len(keys) > _MAX_HEADS and self.is_listable:
            row_of = {key: row for row, key in enumerate(keys)}
            n_others = 0
            for key, state in self.listed(common_folder(keys)):
                row = row_of.get(key)
                if row is not None:
                    found[row] = state
                    continue
                n_others += 1
                if n_others > len(keys) + _MAX_OTHERS:
                    break
            else:
                return found
        for first in range(0, len(keys), _MAX_HEADS):
            states = self.states(keys[first : first + _MAX_HEADS])
            found[first : first + len(states)] = states
        return found

    def below(self, folder: str) -> FileStates:
        """Return the states of all objects below a folder, sorted by key.

        Empty objects named as a folder are left out: consoles make them to show a folder.

        Raises
        ------
        SourceError
            If objects cannot be listed.
        """
        paths: list[str] = []
        rows = bytearray()
        for key, state in self.listed(folder):
            paths.append(key)
            rows += np.array(state, np.int64).tobytes()
        values = np.frombuffer(rows, np.int64).reshape(len(paths), len(ABSENT))
        order = np.array(sorted(range(len(paths)), key=paths.__getitem__), np.int64)
        if (values[:, 0] == 0).any():
            folders = {path.rpartition("/")[0] for path in paths}
            folders |= {"/".join(parts) for path in folders for parts in _above(path)}
            order = np.array(
                [i for i in order if values[i, 0] or paths[i] not in folders], np.int64
            )
        return FileStates(PackedPaths.of(paths[i] for i in order), values[order])

    def listed(self, folder: str) -> Iterator[tuple[str, FileState]]:
        """Yield key and state of each object below a folder; "directories" of consoles are not."""
        self.check_listable(folder)
        pages = self.connection.store.list(folder or None)
        while page := run(self._next_page(pages, folder)):
            self.has_responded = True
            self._compare_listing(page[0])
            for meta in page:
                if meta["path"] != folder:
                    yield str(meta["path"]), self.state_of(meta)

    async def _next_page(self, pages: Any, folder: str) -> Sequence[Mapping[str, Any]]:
        try:
            page: Sequence[Mapping[str, Any]] = await anext(pages)
        except StopAsyncIteration:
            return ()
        except self.connection.errors as error:
            raise self.connection.translate(error, folder) from None
        return page

    def entries(self, folder: str) -> tuple[list[str], FileStates]:
        """Return the keys of the folders directly in a folder, and the objects directly in it."""
        self.check_listable(folder)
        found = run(self._entries(folder))
        self.has_responded = True
        if found["objects"]:
            self._compare_listing(found["objects"][0])
        objects = {str(m["path"]): self.state_of(m) for m in found["objects"]}
        objects.pop(folder, None)
        folders = [path.rstrip("/") for path in found["common_prefixes"]]
        return sorted(folders), FileStates.known(sorted(objects.items()))

    async def _entries(self, folder: str) -> Mapping[str, Any]:
        try:
            found: Mapping[str, Any] = await self.connection.store.list_with_delimiter_async(
                folder or None
            )
        except self.connection.errors as error:
            raise self.connection.translate(error, folder) from None
        return found

    def check_listable(self, folder: str) -> None:
        """Raise `SourceError` if objects cannot be listed."""
        if not self.is_listable:
            raise SourceError(
                f"{self.address(folder)}: a web server does not list its files; name them, as in "
                "wds:https://host/shard-{000000..000009}.tar, or use the address of a bucket"
            )


def _above(path: str) -> Iterator[list[str]]:
    """Yield the parts of each folder that a path lies in."""
    parts = path.split("/")
    return (parts[:n] for n in range(1, len(parts)))


class _StateReader(ObjectReader):
    """Reads ranges of objects, and compares their states with those that are expected."""

    def __init__(self, objects: ListedObjects, states: Mapping[str, FileState]) -> None:
        super().__init__(objects.connection)
        self._objects = objects
        self._states = states
        self._slots = objects.slots
        self._guarded = objects.guarded
        self._has_responded = objects.has_responded

    @override
    def _all(
        self, works: list[Coroutine[Any, Any, memoryview]], keys: Sequence[str]
    ) -> Iterator[tuple[int, memoryview]]:
        return arrivals(works)

    @override
    def _check_unchanged(self, key: str, meta: Mapping[str, Any]) -> int:
        self._objects.has_responded = True
        now = self._objects.state_of(meta)
        then = self._states.get(key, now)
        if not then.matches(now):
            raise changed(self._at(key), then, now)
        return now.nbytes

    @override
    def _translated(self, key: str, error: Exception) -> Exception:
        if isinstance(error, SourceChangedError):  # a ValueError, as errors of obstore may be
            return error
        raised = self._connection.translate(error, key)
        if isinstance(raised, FileNotFoundError) and key in self._states:
            return gone(self._at(key))
        return raised
