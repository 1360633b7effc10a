"""Objects of a bucket written, replaced and deleted, each whole or not at all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from arraystore.errors import StorageError, escaped
from arraystore.storage.objects.address import parse_address
from arraystore.storage.objects.connection import connect, connection_to
from arraystore.storage.objects.errors import is_beyond_the_end, is_broken_off, is_refused, told
from arraystore.storage.objects.event_loop import feed, run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from typing_extensions import Buffer

    from arraystore.storage.objects.connection import Connection
    from arraystore.storage.objects.event_loop import Stream

T = TypeVar("T")

PART_NBYTES: Final = 16 * 2**20
"""Smallest part of an upload in parts."""

MAX_PARTS: Final = 9_000
"""Most parts of an upload; S3 takes 10,000."""

MAX_READ_NBYTES: Final = 2**30
"""Most bytes that are read of an object that records how far a conversion is."""

_PARTS_IN_FLIGHT: Final = 4

_PATIENCE: Final[Mapping[str, float]] = {
    # Nothing comes back while 64 MiB go up, which a slow line takes minutes for.
    "timeout": 300,
    "read_timeout": 300,
    "retry_timeout": 900,
}


class Version(NamedTuple):
    """Which of the objects that had a key one after another.

    Attributes
    ----------
    etag : str
        As the service gives it, empty if it gives none.
    generation : str
        What Google's storage asks for in its place.
    """

    etag: str = ""
    generation: str = ""

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Version:
        """Return that of an answer of obstore."""
        return cls(answer["e_tag"] or "", answer["version"] or "")

    @property
    def tag(self) -> str:
        """The etag as it can be compared; a listing of Azure's has it without quotes."""
        return self.etag.strip('"')


class Status(NamedTuple):
    """What is known of an object without its bytes."""

    nbytes: int
    version: Version


class Found(NamedTuple):
    """An object, and when it was written; without its bytes if it has more than are read."""

    data: bytes
    version: Version
    time: datetime


class ObjectWriter:
    """Write objects of a bucket.

    Requests run in the background, so that Ctrl-C, or the `Scope` of the work that a thread does,
    ends the wait for their answers. It can be sent to other processes, as its address and options.

    Parameters
    ----------
    place : str, or pair of an obstore store and a key
        Address of anything in the bucket; keys are from the bucket's root on.
    options : mapping, optional
        See `arraystore.open`.

    Attributes
    ----------
    key : str
        The key in `place`.
    max_seconds : float or None
        How long an answer is waited for, all repetitions included. Without, as long as the
        options say.

    Raises
    ------
    ValueError
        If nothing can be written there, or an option is wrong.
    """

    def __init__(
        self, place: str | tuple[Any, str], options: Mapping[str, Any] | None = None
    ) -> None:
        self._given = place, dict(options or {})
        self.max_seconds: float | None = None
        self._connection: Connection
        if isinstance(place, tuple):
            store, self.key = place
            self._connection = connection_to(store)
            return
        parsed = parse_address(place)
        if parsed is None or parsed.kind == "http":
            where = parsed.where if parsed else place
            raise ValueError(escaped(f"{where}: stores are written to a disk or a bucket"))
        self.key = parsed.key
        self._connection = connect(parsed, {**_PATIENCE, **self._given[1]})

    @property
    def _refusals(self) -> tuple[type[Exception], ...]:
        return (*self._connection.errors, NotImplementedError)

    def at(self, key: str) -> str:
        """Return the address of a key, for messages."""
        return self._connection.where + key

    def status(self, key: str) -> Status | None:
        """Return what an object is, or None if there is none."""
        try:
            meta = self._request(key, lambda store: store.head_async(key))
        except FileNotFoundError:
            return None
        return Status(int(meta["size"]), Version.of(meta))

    def start(self, key: str, nbytes: int) -> bytes | None:
        """Return the first bytes of an object, or None if there is none; the first to be asked.

        Raises
        ------
        FileNotFoundError
            If there is no such bucket.
        StorageError
            If nobody answers, or not to these credentials.
        """
        errors, options = self._connection.errors, {"range": (0, nbytes)}

        async def begin(store: Any) -> bytes:
            return bytes(await (await store.get_async(key, options=options)).bytes_async())

        def get(store: Any) -> bytes:
            try:
                return self._answer(key, begin, store)
            except errors as error:
                if is_beyond_the_end(error):
                    return b""
                raise

        def met(store: Any) -> bytes:
            try:
                # A server that has never answered is not called for long.
                return get(self._connection.first)
            except errors as error:
                if is_refused(error) or isinstance(error, FileNotFoundError):
                    raise
                return get(store)

        try:
            return self._ask(key, met)
        except FileNotFoundError as error:
            if "no such bucket" in str(error):
                raise
            return None

    def read(self, key: str) -> Found | None:
        """Return a whole object, or None if there is none."""

        async def get(store: Any) -> Found:
            answer = await store.get_async(key)
            meta = answer.meta
            data = bytes(await answer.bytes_async()) if meta["size"] <= MAX_READ_NBYTES else b""
            return Found(data, Version.of(meta), meta["last_modified"])

        try:
            return self._request(key, get)
        except FileNotFoundError:
            return None

    def tags(self, prefix: str) -> dict[str, str]:
        """List all objects below a key: their keys, and the `Version.tag` of each."""

        async def listed(store: Any) -> dict[str, str]:
            pages = store.list(f"{prefix}/")
            return {
                str(meta["path"]): Version.of(meta).tag async for page in pages for meta in page
            }

        return self._request(prefix, listed)

    def put(self, key: str, data: Buffer) -> Version:
        """Write an object in one request, whatever was there."""
        return self._ask(key, lambda store: self._put(store, key, data))

    def _put(self, store: Any, key: str, data: Buffer, **how: Any) -> Version:
        def put(store: Any) -> Awaitable[Mapping[str, Any]]:
            answer: Awaitable[Mapping[str, Any]] = store.put_async(
                key, data, use_multipart=False, **how
            )
            return answer

        return Version.of(self._answer(key, put, store))

    def create(self, key: str, data: bytes) -> Version:
        """Write an object if there is none.

        An answer that gets lost may leave it unknown whether the object is ours;
        then its bytes decide.

        Raises
        ------
        FileExistsError
            If there is another.
        """

        def put(store: Any) -> Version:
            try:
                return self._put(store, key, data, mode="create")
            except self._refusals as error:
                if _is_unknown(error) and self.status(key) is None:
                    return self.put(key, data)  # the best that this service can do
                found = self.read(key)
                if found is None:
                    raise
                if found.data != data:
                    raise _Taken from None
                return found.version

        try:
            return self._ask(key, put)
        except _Taken:
            raise FileExistsError(
                escaped(f"{self.at(key)}: was created by somebody else in the meantime")
            ) from None

    def replace(self, key: str, data: bytes, old: Version) -> Version | None:
        """Write an object in the place of a certain one, or return None if that is not there.

        It is not there either if it has been replaced by `data`, and the answer got lost.
        """
        condition = {"e_tag": old.etag, "version": old.generation}
        mode = {name: value for name, value in condition.items() if value}

        def put(store: Any) -> Version | None:
            try:
                return self._put(store, key, data, mode=mode)
            except self._refusals as error:
                if type(error).__name__ == "PreconditionError":
                    return None
                if not _is_unknown(error):
                    raise
                status = self.status(key)  # the best that this service can do
                return self.put(key, data) if status and status.version == old else None

        try:
            return self._ask(key, put)
        except FileNotFoundError:
            return None

    def upload(self, key: str, nbytes: int, pieces: Callable[[], Iterable[Buffer]]) -> None:
        """Write one object in parts, front to back; it appears when the last has come.

        Parameters
        ----------
        key : str
        nbytes : int
            Its size, which decides that of the parts.
        pieces : callable
            Returns its bytes in pieces of any size. If taking one fails, the upload
            is aborted, and nothing is left of it.
        """
        before = self.status(key)

        def put(store: Any) -> None:
            async def take(stream: Stream[Buffer]) -> None:
                await store.put_async(
                    key,
                    stream,
                    use_multipart=True,
                    chunk_size=max(PART_NBYTES, -(-nbytes // MAX_PARTS)),
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
                    raise  # else all but the answer has arrived

        try:
            self._ask(key, put)
        except _Failed as failed:
            raise failed.reason from None

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; one that is not there is as good as deleted."""
        try:
            self._request(keys[0] if keys else "", lambda store: store.delete_async(list(keys)))
        except FileNotFoundError:
            # Those that came after it may not have been asked for.
            for key in keys if len(keys) > 1 else ():
                self.delete([key])

    def _ask(self, key: str, act: Callable[[Any], T]) -> T:
        """Do something with the bucket, again if the connection fails; tell what goes wrong.

        What is done must be as good when it is done twice. Obstore repeats plain
        requests by itself, and not the rest.
        """
        connection = self._connection
        pauses = connection.patience.pauses()
        while True:
            try:
                return act(connection.store)
            except connection.errors as error:
                pause = next(pauses, None) if is_broken_off(error) else None
                if pause is None:
                    raise told(
                        error,
                        self.at(key),
                        is_anonymous=connection.is_anonymous,
                        secrets=connection.secrets,
                    ) from None
            run(asyncio.sleep(pause))

    def _request(self, key: str, ask: Callable[[Any], Awaitable[T]]) -> T:
        """Ask the bucket once, or again if the connection fails, see `_ask`."""
        return self._ask(key, lambda store: self._answer(key, ask, store))

    def _answer(self, key: str, ask: Callable[[Any], Awaitable[T]], store: Any) -> T:
        """Ask a store in the background, and return the answer."""

        async def answer() -> T:
            async with asyncio.timeout(self.max_seconds):
                return await ask(store)

        try:
            return run(answer())
        except TimeoutError:
            raise StorageError(
                f"{self.at(key)}: no answer within {self.max_seconds:g} seconds"
            ) from None

    def __reduce__(self) -> tuple[type[ObjectWriter], tuple[str | tuple[Any, str], dict[str, Any]]]:
        return ObjectWriter, self._given


def _is_unknown(error: Exception) -> bool:
    """Whether a service does not know such a condition."""
    is_told = isinstance(error, NotImplementedError) or "status code: 501" in str(error)
    return is_told or type(error).__name__ == "NotSupportedError"


class _Taken(Exception):  # noqa: N818 - an answer, not a failure
    """There is another object of that key."""


class _Failed(Exception):  # noqa: N818 - carries the reason, is never seen outside
    """What was to be sent could not be had; `reason` says why."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__()
        self.reason = reason


class _Pieces:
    """An iterator that remembers whether it came to its end, and what it failed with."""

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
