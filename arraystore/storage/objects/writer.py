"""Write, replace and delete objects of a bucket, each as a whole or not at all."""

from __future__ import annotations

import asyncio
from contextlib import closing
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from arraystore.errors import StorageError, escaped
from arraystore.parallel.executors import Workers
from arraystore.storage.objects.connection import connect
from arraystore.storage.objects.errors import (
    NoBucketError,
    is_condition_failed,
    is_condition_unsupported,
    is_connection_refused,
    is_disconnected,
    is_past_end,
)
from arraystore.storage.objects.event_loop import feed, run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from typing_extensions import Buffer

    from arraystore.storage.location import Location
    from arraystore.storage.objects.connection import Connection
    from arraystore.storage.objects.event_loop import Stream

T = TypeVar("T")

PART_NBYTES: Final = 16 * 2**20
"""Smallest part of an upload in parts."""

MAX_PARTS: Final = 9_000
"""Most parts of an upload; S3 takes 10,000."""

MAX_PART_NBYTES: Final = 5 * 2**30
"""Largest part of an upload that S3 takes."""

MAX_READ_NBYTES: Final = 2**30
"""Most bytes that are read of an object that records the progress of a conversion."""

_PARTS_IN_FLIGHT: Final = 4
_FILES_IN_FLIGHT: Final = 16

PATIENCE: Final[Mapping[str, float]] = {
    # No byte is received while 64 MiB are sent, which takes minutes on a slow line.
    "timeout": 300,
    "read_timeout": 300,
    "retry_timeout": 900,
}
"""Options of connections that are written to, unless the caller passes others."""


def part_nbytes(nbytes: int) -> int:
    """Return the size of the parts that an object is sent in.

    Examples
    --------
    >>> part_nbytes(10**9), part_nbytes(10**12)
    (16777216, 111111112)
    """
    return max(PART_NBYTES, -(-nbytes // MAX_PARTS))


class Version(NamedTuple):
    """One of the objects that had a key one after another.

    Attributes
    ----------
    etag : str
        As the service states it, or empty.
    generation : str
        Number that Google's storage uses instead, or empty.
    """

    etag: str = ""
    generation: str = ""

    @classmethod
    def of(cls, response: Mapping[str, Any]) -> Version:
        """Return the version that a response of obstore states."""
        return cls(response["e_tag"] or "", response["version"] or "")

    @property
    def tag(self) -> str:
        """The etag in a form that can be compared; listings of Azure have no quotes."""
        return self.etag.strip('"')


class Status(NamedTuple):
    """Size and version of an object."""

    nbytes: int
    version: Version


class Found(NamedTuple):
    """An object and its time of writing; without bytes if it has more than `MAX_READ_NBYTES`."""

    data: bytes
    version: Version
    time: datetime


class ObjectWriter:
    """Write objects of a bucket.

    Requests run in the background thread, so that Ctrl-C, or the cancelled `Scope` of a thread,
    ends the wait for a response. A writer can be sent to other processes.

    Parameters
    ----------
    location : Location
        Any place in the bucket; keys count from the bucket's root.

    Attributes
    ----------
    location : Location
    key : str
        The key of `location`.
    max_seconds : float or None
        Most seconds to wait for a response, including retries; None to wait as long as the options
        allow.

    Raises
    ------
    ValueError
        If objects cannot be written there, or an option is wrong.
    """

    def __init__(self, location: Location) -> None:
        if location.kind in ("file", "http"):
            raise ValueError(
                escaped(f"{location}: stores can be written to a disk or a bucket only")
            )
        self.key = location.key
        self.max_seconds: float | None = None
        self.location = location
        self._connection  # noqa: B018 - for its errors

    @cached_property
    def _connection(self) -> Connection:
        return connect(self.location, PATIENCE)

    @property
    def _refusals(self) -> tuple[type[Exception], ...]:
        return (*self._connection.errors, NotImplementedError)

    def at(self, key: str) -> str:
        """Return the location of a key, for messages."""
        return str(self.location.at(key))

    def status(self, key: str) -> Status | None:
        """Return the status of an object, or None if there is none."""
        try:
            meta = self._request(key, lambda store: store.head_async(key))
        except FileNotFoundError:
            return None
        return Status(int(meta["size"]), Version.of(meta))

    def start(self, key: str, nbytes: int) -> bytes | None:
        """Return the first bytes of an object, or None if there is none; to be called first.

        Raises
        ------
        FileNotFoundError
            If there is no such bucket.
        StorageError
            If the server does not respond, or denies access.
        """
        errors, options = self._connection.errors, {"range": (0, nbytes)}

        async def begin(store: Any) -> bytes:
            return bytes(await (await store.get_async(key, options=options)).bytes_async())

        def get(store: Any) -> bytes:
            try:
                return self._response(key, begin, store)
            except errors as error:
                if is_past_end(error):
                    return b""
                raise

        def get_first(store: Any) -> bytes:
            try:
                # A server that has never responded gets few retries.
                return get(self._connection.first)
            except errors as error:
                if is_connection_refused(error) or isinstance(error, FileNotFoundError):
                    raise
                return get(store)

        try:
            return self._retried(key, get_first)
        except NoBucketError:
            raise
        except FileNotFoundError:
            return None

    def read(self, key: str) -> Found | None:
        """Return a whole object, or None if there is none."""

        async def get(store: Any) -> Found:
            response = await store.get_async(key)
            meta = response.meta
            data = bytes(await response.bytes_async()) if meta["size"] <= MAX_READ_NBYTES else b""
            return Found(data, Version.of(meta), meta["last_modified"])

        try:
            return self._request(key, get)
        except FileNotFoundError:
            return None

    def tags(self, prefix: str) -> dict[str, str]:
        """Return the keys of all objects below a key, with the `Version.tag` of each."""

        async def listed(store: Any) -> dict[str, str]:
            pages = store.list(f"{prefix}/")
            return {
                str(meta["path"]): Version.of(meta).tag async for page in pages for meta in page
            }

        return self._request(prefix, listed)

    def put(self, key: str, data: Buffer) -> Version:
        """Write or replace an object in one request."""
        return self._retried(key, lambda store: self._put(store, key, data))

    def _put(self, store: Any, key: str, data: Buffer, **options: Any) -> Version:
        def put(store: Any) -> Awaitable[Mapping[str, Any]]:
            response: Awaitable[Mapping[str, Any]] = store.put_async(
                key, data, use_multipart=False, **options
            )
            return response

        return Version.of(self._response(key, put, store))

    def create(self, key: str, data: bytes) -> Version:
        """Write an object unless there is one.

        If a response is lost, the bytes of the object show whether this call wrote it.

        Raises
        ------
        FileExistsError
            If there is an object with other bytes.
        """

        def put(store: Any) -> Version:
            try:
                return self._put(store, key, data, mode="create")
            except self._refusals as error:
                if is_condition_unsupported(error) and self.status(key) is None:
                    return self.put(key, data)  # all that this service supports
                found = self.read(key)
                if found is None:
                    raise
                if found.data != data:
                    raise _Taken from None
                return found.version

        try:
            return self._retried(key, put)
        except _Taken:
            raise FileExistsError(
                escaped(f"{self.at(key)}: was created by another process meanwhile")
            ) from None

    def replace(self, key: str, data: bytes, old: Version) -> Version | None:
        """Replace the version `old` of an object; return None if it no longer exists.

        That is also so if it was replaced by `data` and the response was lost.
        """
        condition = {"e_tag": old.etag, "version": old.generation}
        mode = {name: value for name, value in condition.items() if value}

        def put(store: Any) -> Version | None:
            try:
                return self._put(store, key, data, mode=mode)
            except self._refusals as error:
                if is_condition_failed(error):
                    return None
                if not is_condition_unsupported(error):
                    raise
                status = self.status(key)  # all that this service supports
                return self.put(key, data) if status and status.version == old else None

        try:
            return self._retried(key, put)
        except FileNotFoundError:
            return None

    def put_files(self, files: Mapping[str, Path]) -> dict[str, Version]:
        """Write files as objects, some at the same time; return the version of each by its key.

        After an error, or Ctrl-C, responses are not waited for.
        """
        with (
            Workers(None, n_threads=_FILES_IN_FLIGHT, max_in_flight=_FILES_IN_FLIGHT) as workers,
            closing(
                workers.run(self._put_file, ((key, (key, files[key])) for key in files))
            ) as sent,
        ):
            return dict(sent)

    def _put_file(self, file: tuple[str, Path]) -> Version:
        key, path = file
        return self.put(key, path.read_bytes())

    def upload(self, key: str, nbytes: int, pieces: Callable[[], Iterable[Buffer]]) -> None:
        """Write one object in parts, from front to back; it appears when the last has arrived.

        Parameters
        ----------
        key : str
        nbytes : int
            Its size, which determines the size of the parts.
        pieces : callable
            Returns its bytes in pieces of any size. If that fails, the upload is aborted and
            leaves nothing.
        """
        before = self.status(key)

        def put(store: Any) -> None:
            async def take(stream: Stream[Buffer]) -> None:
                await store.put_async(
                    key,
                    stream,
                    use_multipart=True,
                    chunk_size=part_nbytes(nbytes),
                    max_concurrency=_PARTS_IN_FLIGHT,
                )

            read = _Pieces(pieces())
            try:
                feed(take, read)
            except self._connection.errors:
                if read.failure is not None:
                    raise _Failed(read.failure) from None
                after = self.status(key)
                if not (read.is_all and after and after != before and after.nbytes == nbytes):
                    raise  # else only the response was lost

        try:
            self._retried(key, put)
        except _Failed as failed:
            raise failed.reason from None

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; absent ones count as deleted."""
        try:
            self._request(keys[0] if keys else "", lambda store: store.delete_async(list(keys)))
        except FileNotFoundError:
            # The service may have stopped at the absent key.
            for key in keys if len(keys) > 1 else ():
                self.delete([key])

    def _retried(self, key: str, act: Callable[[Any], T]) -> T:
        """Call `act` with the store, again if the connection fails; translate other errors.

        `act` must have the same effect when it is called twice. obstore itself retries only plain
        requests.
        """
        connection = self._connection
        pauses = connection.patience.pauses()
        while True:
            try:
                return act(connection.store)
            except connection.errors as error:
                pause = next(pauses, None) if is_disconnected(error) else None
                if pause is None:
                    raise connection.translate(error, key) from None
            run(asyncio.sleep(pause))

    def _request(self, key: str, send: Callable[[Any], Awaitable[T]]) -> T:
        """Send a request, again if the connection fails; see `_retried`."""
        return self._retried(key, lambda store: self._response(key, send, store))

    def _response(self, key: str, send: Callable[[Any], Awaitable[T]], store: Any) -> T:
        """Send a request in the background, and return the response."""

        async def response() -> T:
            async with asyncio.timeout(self.max_seconds):
                return await send(store)

        try:
            return run(response())
        except TimeoutError:
            raise StorageError(
                f"{self.at(key)}: no response within {self.max_seconds:g} seconds"
            ) from None

    def __getstate__(self) -> dict[str, Any]:
        # Another process connects when it writes: an error while a task is unpickled would end the
        # processes of a pool.
        return {name: value for name, value in vars(self).items() if name != "_connection"}


class _Taken(Exception):  # noqa: N818 - a response, not a failure
    """Another object has the key."""


class _Failed(Exception):  # noqa: N818 - carries the reason, and never leaves this module
    """The bytes to send could not be read because of `reason`."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__()
        self.reason = reason


class _Pieces:
    """An iterator that records whether it came to its end, and the error that it raised."""

    def __init__(self, pieces: Iterable[Buffer]) -> None:
        self._pieces = iter(pieces)
        self.is_all = False
        self.failure: BaseException | None = None

    def __iter__(self) -> _Pieces:
        return self

    def __next__(self) -> Buffer:
        try:
            return next(self._pieces)
        except StopIteration:
            self.is_all = True
            raise
        except BaseException as failure:
            self.failure = failure
            raise
