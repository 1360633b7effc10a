"""Read byte ranges of objects, many at once, and check that no object has changed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from typing_extensions import override

from arraystore.errors import StorageError, StoreChangedError, store_changed
from arraystore.storage.objects.errors import (
    is_final,
    is_interrupted,
    is_past_end,
    is_suffix_unsupported,
)
from arraystore.storage.objects.event_loop import arrivals, check_process, gather, run
from arraystore.storage.objects.slots import MAX_IN_FLIGHT, Slots
from arraystore.storage.open_files import LARGE_NBYTES
from arraystore.storage.range_reader import RangeReader

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
    from datetime import datetime

    from arraystore.indexing.byte_range import ByteRange
    from arraystore.storage.objects.connection import Connection

MAX_GAP: Final = 32 * 2**10
"""Bytes that arrive in less time than another request takes."""

_PART_NBYTES: Final = 4 * 2**20
"""Longer ranges are requested in parts of this size, because one connection is slow."""


class Seen(NamedTuple):
    """State of an object in its first response."""

    identity: tuple[Any, ...]
    etag: str | None
    nbytes: int
    time: datetime


class Reply(NamedTuple):
    """Bytes of an object, their offset in it, and its size."""

    data: memoryview
    start: int
    size: int


class ObjectReader(RangeReader):
    """Read ranges of objects in a bucket, or behind a web server.

    All readers of a process share one background thread, so any number of threads may read. The
    etag (or else the time) and the size of an object must be the same in every response.

    Parameters
    ----------
    connection : Connection
    prefix : str
        Text in front of each key.
    max_gap : int
        See `RangeReader`.
    max_in_flight : int
        See `Slots`.

    Attributes
    ----------
    accepts : callable or None
        Given the new bytes of the first object, which has changed, returns whether all that was
        read of it still holds.
    """

    is_remote = True
    max_request = _PART_NBYTES

    def __init__(
        self,
        connection: Connection,
        prefix: str = "",
        *,
        max_gap: int = MAX_GAP,
        max_in_flight: int = MAX_IN_FLIGHT,
    ) -> None:
        self.max_gap = max_gap
        self._connection = connection
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.root = connection.store, self._prefix.rstrip("/")
        self.accepts: Callable[[bytes], bool] | None = None
        self._slots = Slots(max_in_flight)
        self._seen: dict[str, Seen] = {}
        self._guarded: set[str] = set()
        self._has_responded = False

    @override
    def size(self, key: str) -> int:
        seen = self._seen.get(key)
        if seen is not None:
            return seen.nbytes
        self._check_redirects([key])
        return run(self._head(key))

    @override
    def folders(self, folder: str) -> list[str] | None:
        return run(self._folders(folder)) if self._connection.is_listable else None

    async def _folders(self, folder: str) -> list[str]:
        prefix = f"{self._prefix}{folder}".rstrip("/")
        try:
            found = await self._connection.store.list_with_delimiter_async(prefix or None)
        except self._connection.errors as error:
            raise self._translated(folder, error) from None
        return [path.rstrip("/").rpartition("/")[2] for path in found["common_prefixes"]]

    @override
    def read_ranges(self, ranges: Sequence[ByteRange]) -> list[memoryview]:
        found = dict(self.arrivals(ranges))
        return [found[i] for i in range(len(ranges))]

    @override
    def arrivals(self, ranges: Sequence[ByteRange]) -> Iterator[tuple[int, memoryview]]:
        check_process()  # before coroutines are made, which would never be awaited
        self._check_redirects([wanted.key for wanted in ranges])
        works = [self._in_parts(*wanted) for wanted in ranges]
        return self._all(works, [wanted.key for wanted in ranges])

    @override
    def read_objects(self, keys: Sequence[str]) -> list[memoryview]:
        check_process()
        self._check_redirects(keys)
        found = dict(self._all([self._object(key) for key in keys], keys))
        return [found[i] for i in range(len(keys))]

    def _all(
        self, works: list[Coroutine[Any, Any, memoryview]], keys: Sequence[str]
    ) -> Iterator[tuple[int, memoryview]]:
        """Yield responses; if some objects are new, check that the first object is unchanged.

        The first object is the root's metadata. Objects that were not seen before may belong to
        another store that replaced this one. So the first object is requested along with them, in
        the same round trip, and again after them if one is not older: the root is written last,
        so such an object may have been written in the meantime.
        """
        first = self._first
        new = {key for key in keys if key not in self._seen}
        if first is None or not new:
            yield from arrivals(works)
            return
        n = len(works)
        works.append(self._check_first())
        yield from (found for found in arrivals(works) if found[0] < n)
        seen = [self._seen[key] for key in new if key in self._seen]
        if any(one.time >= self._seen[first].time for one in seen):
            run(self._check_first())

    @override
    def check_unchanged(self) -> None:
        if self._first is not None:
            run(self._check_first())

    @property
    def _first(self) -> str | None:
        """The key of the first response: the root's metadata, or the only file."""
        return next(iter(list(self._seen)), None)

    async def _check_first(self) -> memoryview:
        """Check that the first object is unchanged, or that all that was read of it still holds."""
        first = self._first or ""
        try:
            await self._head(first)
        except StoreChangedError:
            if not await self._is_accepted(first):
                raise
        return memoryview(b"")

    async def _is_accepted(self, key: str) -> bool:
        """Whether all that was read of an object holds though it changed; then remember it so."""
        if self.accepts is None:
            return False
        try:
            result = await self._connection.store.get_async(self._path(key))
            data = bytes(await result.bytes_async())
        except self._connection.errors:
            return False
        if not self.accepts(data):
            return False
        self._seen[key] = _seen_of(result.meta)
        return True

    async def _object(self, key: str) -> memoryview:
        return (await self._get(key, {})).data

    async def _in_parts(self, key: str, start: int, stop: int) -> memoryview:
        if stop - start <= _PART_NBYTES:
            return (await self._range(key, start, stop)).data
        if stop - start > LARGE_NBYTES:  # a store may state any size
            seen = self._seen.get(key)
            size = await self._head(key) if seen is None else seen.nbytes
            stop = max(start, min(stop, size))
        parts = [(at, min(at + _PART_NBYTES, stop)) for at in range(start, stop, _PART_NBYTES)]
        replies = await gather(self._range(key, *part) for part in parts)
        return memoryview(b"".join(reply.data for reply in replies))

    def read_ends(self, key: str, first: int, last: int) -> tuple[int, memoryview, memoryview]:
        """Return the size of an object, its first bytes and its last, in one round trip.

        Azure and other services without ranges from the end need two round trips.

        Raises
        ------
        FileNotFoundError
            If there is no such object.
        """
        self._check_redirects([key])
        return run(self._ends(key, first, last))

    def _check_redirects(self, keys: Sequence[str]) -> None:
        """Check the redirects of new objects, if headers must not follow them."""
        guard = self._connection.guard
        if guard is None:
            return
        for key in dict.fromkeys(keys):
            if key not in self._guarded:
                guard.check(self._path(key))
                self._guarded.add(key)

    def _path(self, key: str) -> str:
        return self._prefix + key if key else self._prefix.rstrip("/")

    async def _ends(self, key: str, first: int, last: int) -> tuple[int, memoryview, memoryview]:
        head, tail = await asyncio.gather(
            self._get(key, {"range": (0, first)}),
            self._get(key, {"range": {"suffix": last}}),
            return_exceptions=True,
        )
        if isinstance(head, BaseException):
            raise head
        start = max(0, head.size - last)
        if isinstance(tail, _NoSuffix) or (isinstance(tail, Reply) and tail.start != start):
            tail = await self._get(key, {"range": (start, head.size)})
        if isinstance(tail, BaseException):
            raise tail
        return head.size, head.data, tail.data

    async def _range(self, key: str, start: int, stop: int) -> Reply:
        try:
            reply = await self._get(key, {"range": (start, stop)})
        except FileNotFoundError as error:
            raise StorageError(
                f"{self._at(key)}: does not exist, but the store refers to it"
            ) from error
        if len(reply.data) and reply.start != start:
            raise StorageError(
                f"{self._at(key)}: requested bytes from offset {start}, but the server sent bytes "
                f"from offset {reply.start}"
            )
        return reply

    async def _get(self, key: str, options: dict[str, Any]) -> Reply:
        """Request an object or a range of it; raise if it is not the object first seen."""
        seen = self._seen.get(key)
        if seen is not None and seen.etag is not None:
            options = options | {"if_match": seen.etag}
        wanted = options.get("range")
        nbytes = wanted[1] - wanted[0] if isinstance(wanted, tuple) else None
        async with self._slots.one(nbytes):
            pauses = self._connection.patience.pauses()
            while True:
                try:
                    return await self._complete_reply(key, options)
                except self._connection.errors as error:
                    if is_past_end(error):
                        return Reply(memoryview(b""), 0, 0)
                    is_suffix = isinstance(options.get("range"), dict)
                    if is_suffix and is_suffix_unsupported(error):
                        raise _NoSuffix from None
                    pause = next(pauses, None) if self._should_retry(key, error) else None
                    if pause is None:
                        failure = error
                        break
                await asyncio.sleep(pause)
        if isinstance(failure, FileNotFoundError) and self._first not in (None, key):
            await self._check_first()  # else it may be absent from a store that replaced this one
        # Not chained: the text of obstore may contain signed URLs.
        raise self._translated(key, failure) from None

    def _should_retry(self, key: str, error: Exception) -> bool:
        """Whether a response was interrupted that obstore cannot resume, for lack of an etag."""
        seen = self._seen.get(key)
        return is_interrupted(error) and seen is not None and seen.etag is None

    async def _complete_reply(self, key: str, options: dict[str, Any]) -> Reply:
        result = await self._response(key, options)
        start, stop = result.range
        size = self._check_unchanged(key, result.meta)
        data = memoryview(await result.bytes_async())
        if len(data) != stop - start:
            raise StorageError(
                f"{self._at(key)}: the server announced {stop - start} bytes and sent {len(data)}"
            )
        return Reply(data, start, size)

    async def _response(self, key: str, options: dict[str, Any]) -> Any:
        path = self._path(key)
        if not self._has_responded:
            # A server that has never responded gets few retries.
            try:
                result = await self._connection.first.get_async(path, options=options)
            except self._connection.errors as error:
                if is_final(error):
                    raise
            else:
                self._has_responded = True
                return result
        result = await self._connection.store.get_async(path, options=options)
        self._has_responded = True
        return result

    async def _head(self, key: str) -> int:
        async with self._slots.one(0):
            try:
                meta = await self._connection.store.head_async(self._prefix + key)
                return self._check_unchanged(key, meta)
            except self._connection.errors as error:
                raise self._translated(key, error) from None

    def _check_unchanged(self, key: str, meta: Mapping[str, Any]) -> int:
        found = _seen_of(meta)
        if self._seen.setdefault(key, found).identity != found.identity:
            raise store_changed(self._at(key))
        return found.nbytes

    def _translated(self, key: str, error: Exception) -> Exception:
        """Return the error to raise instead of an error of obstore."""
        raised = self._connection.translate(error, self._prefix + key)
        if isinstance(raised, FileNotFoundError):
            if key in self._seen:
                return StoreChangedError(
                    f"{self._at(key)}: no longer exists, but did when the store was opened; "
                    "open it again"
                )
            return FileNotFoundError(raised.errno, raised.strerror, key)
        return raised

    def _at(self, key: str) -> str:
        return str(self._connection.location.at(self._prefix + key))

    def __reduce__(self) -> NoReturn:
        raise TypeError("an ObjectReader may hold secrets; pickle the store that it reads for")


def _seen_of(meta: Mapping[str, Any]) -> Seen:
    """Return the state of an object that a response describes."""
    etag, size, time = meta["e_tag"], int(meta["size"]), meta["last_modified"]
    # A weak etag cannot be a precondition, but it can be compared.
    is_strong = etag is not None and not etag.startswith("W/")
    return Seen((etag or time, size), etag if is_strong else None, size, time)


class _NoSuffix(Exception):  # noqa: N818 - a response, not a failure
    """The service has no ranges that count from the end of an object."""
