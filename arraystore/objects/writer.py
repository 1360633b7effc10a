"""Objects of a bucket written, replaced and deleted, each whole or not at all."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from arraystore.objects.address import parse_address
from arraystore.objects.loop import check_process
from arraystore.objects.stores import connect
from arraystore.objects.told import is_beyond_the_end, is_refused, told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from typing_extensions import Buffer

    from arraystore.objects.stores import Connection

PART_NBYTES: Final = 16 * 2**20
"""Smallest part of an upload in parts."""

MAX_PARTS: Final = 9_000
"""Most parts of an upload; S3 takes 10,000."""

_PARTS_IN_FLIGHT: Final = 4
_STARTS: Final = 4
"""How often an upload is begun again that failed before it took the first byte."""

_PATIENCE: Final[Mapping[str, float]] = {
    # Nothing comes back while 64 MiB go up, which a slow line takes minutes for.
    "timeout": 300,
    "read_timeout": 300,
    "retry_timeout": 900,
}


class Status(NamedTuple):
    """What is known of an object without its bytes."""

    nbytes: int
    etag: str | None


class ObjectWriter:
    """Write objects of a bucket.

    It can be sent to other processes, as its address and options.

    Parameters
    ----------
    address : str
        Of anything in the bucket; keys are from the bucket's root on.
    options : mapping, optional
        See `arraystore.open`.

    Attributes
    ----------
    key : str
        The key in `address`.

    Raises
    ------
    ValueError
        If nothing can be written there, or an option is wrong.
    """

    def __init__(self, address: str, options: Mapping[str, Any] | None = None) -> None:
        parsed = parse_address(address)
        if parsed is None or parsed.kind == "http":
            where = parsed.where if parsed else address
            raise ValueError(f"{where}: stores are written to a disk or a bucket")
        self.key = parsed.key
        self._root = parsed.where.removesuffix(parsed.key)
        self._given = address, dict(options or {})
        self._connection: Connection = connect(parsed, {**_PATIENCE, **self._given[1]})

    def at(self, key: str) -> str:
        """Return the address of a key, for messages."""
        return f"{self._root.removesuffix('/')}/{key}" if key else self._root

    def status(self, key: str) -> Status | None:
        """Return what an object is, or None if there is none."""
        try:
            with self._telling(key):
                meta = self._connection.store.head(key)
        except FileNotFoundError:
            return None
        return Status(int(meta["size"]), meta["e_tag"])

    def start(self, key: str, nbytes: int) -> bytes | None:
        """Return the first bytes of an object, or None if there is none; the first to be asked.

        Raises
        ------
        FileNotFoundError
            If there is no such bucket.
        StorageError
            If nobody answers, or not to these credentials.
        """
        check_process()
        connection, options = self._connection, {"range": (0, nbytes)}
        try:
            try:
                # A server that has never answered is not called for long.
                result = connection.first.get(key, options=options)
            except connection.errors as error:
                if is_refused(error) or isinstance(error, FileNotFoundError):
                    raise
                result = connection.store.get(key, options=options)
            return bytes(result.bytes())
        except connection.errors as error:
            if is_beyond_the_end(error):
                return b""
            said = self._told(key, error)
            if isinstance(said, FileNotFoundError) and "no such bucket" not in str(said):
                return None
            raise said from None

    def read(self, key: str) -> bytes | None:
        """Return a whole object, or None if there is none."""
        try:
            with self._telling(key):
                return bytes(self._connection.store.get(key).bytes())
        except FileNotFoundError:
            return None

    def keys(self, prefix: str) -> list[str]:
        """List the keys of all objects below a key."""
        with self._telling(prefix):
            pages = self._connection.store.list(f"{prefix}/")
            return [str(meta["path"]) for page in pages for meta in page]

    def put(self, key: str, data: Buffer) -> None:
        """Write an object in one request, whatever was there."""
        with self._telling(key):
            self._connection.store.put(key, data, use_multipart=False)

    def create(self, key: str, data: bytes) -> None:
        """Write an object if there is none.

        An answer that gets lost may leave it unknown whether the object is ours;
        then its bytes decide.

        Raises
        ------
        FileExistsError
            If there is another.
        """
        store = self._connection.store
        try:
            store.put(key, data, mode="create", use_multipart=False)
        except self._connection.errors as error:
            if type(error).__name__ == "NotSupportedError" and self.status(key) is None:
                self.put(key, data)  # the best that this service can do
                return
            found = self.read(key)
            if found == data:
                return
            if found is not None:
                raise FileExistsError(
                    f"{self.at(key)}: was created by somebody else in the meantime"
                ) from None
            raise self._told(key, error) from None

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
        for start in range(_STARTS):
            taken = _Taken(pieces())
            try:
                self._connection.store.put(
                    key,
                    taken,
                    use_multipart=True,
                    chunk_size=max(PART_NBYTES, -(-nbytes // MAX_PARTS)),
                    max_concurrency=_PARTS_IN_FLIGHT,
                )
            except self._connection.errors as error:
                if taken.failure is not None:
                    raise taken.failure from None
                after = self.status(key)
                if taken.is_all and after != before and after and after.nbytes == nbytes:
                    return  # all but the answer arrived
                if taken.is_begun or start == _STARTS - 1:
                    raise self._told(key, error) from None
            else:
                return

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; one that is not there is as good as deleted."""
        try:
            with self._telling(keys[0] if keys else ""):
                self._connection.store.delete(list(keys))
        except FileNotFoundError:
            pass

    @contextmanager
    def _telling(self, key: str) -> Iterator[None]:
        check_process()
        try:
            yield
        except self._connection.errors as error:
            raise self._told(key, error) from None

    def _told(self, key: str, error: Exception) -> OSError:
        connection = self._connection
        return told(
            error,
            self.at(key),
            is_anonymous=connection.is_anonymous,
            secrets=connection.secrets,
        )

    def __reduce__(self) -> tuple[type[ObjectWriter], tuple[str, dict[str, Any]]]:
        return ObjectWriter, self._given


class _Taken:
    """An iterator that remembers how far it got, and what it failed with."""

    def __init__(self, pieces: Iterable[Buffer]) -> None:
        self._pieces = iter(pieces)
        self.is_begun = self.is_all = False
        self.failure: BaseException | None = None

    def __iter__(self) -> _Taken:
        return self

    def __next__(self) -> Buffer:
        self.is_begun = True
        try:
            return next(self._pieces)
        except StopIteration:
            self.is_all = True
            raise
        except BaseException as failure:
            self.failure = failure
            raise
