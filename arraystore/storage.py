"""Byte ranges of stored objects: the only door through which stored bytes come in.

`RangeReader` is the protocol, `LocalReader` the local disk (`objects/` has buckets). What holds
for every reader (lengths are checked, close ranges are merged) stands in functions above it.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import stat
import threading
from collections import OrderedDict
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import google_crc32c
import numpy as np
from typing_extensions import Buffer, override

from arraystore.byterange import ZEROS, ByteRange, ChunkManifest, Pieces, Spans, coalesce
from arraystore.errors import ShortReadError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

_MAX_OPEN: Final = 1024
"""Most files that are kept open for the next read."""


class RangeReader(Protocol):
    """Anything that can return byte ranges of named objects.

    Each call is one round trip, however much is asked for in it.

    Attributes
    ----------
    is_remote : bool
        Whether a round trip is dear, and what comes back has come over a network.
    max_gap : int
        Largest run of unwanted bytes worth reading to save a request.
    max_request : int or None
        Longest range that is asked for in one request; longer ones are divided.
    """

    is_remote: bool = False
    max_gap: int = 0
    max_request: int | None = None

    def size(self, key: str) -> int:
        """Return the size of an object in bytes; raise `FileNotFoundError` if it is absent."""
        ...

    def read_ranges(self, ranges: Sequence[ByteRange]) -> list[memoryview]:
        """Return the bytes of each range, in the order asked for.

        A range that reaches beyond the end of its object gives fewer bytes;
        callers go through `read_exactly`, which tells.
        """
        ...

    def read_objects(self, keys: Sequence[str]) -> list[memoryview]:
        """Return whole objects, in the order asked for.

        Raises
        ------
        FileNotFoundError
            If one is absent; its `filename` is the key.
        """
        ...


class LocalReader(RangeReader):
    """Read ranges of the files below one folder.

    Files are opened when they are first read. Descriptors are kept for the next
    read, and all of a process's readers together keep no more than half of what
    it may have open. A reader survives `fork`, and pickles as its folder.

    Parameters
    ----------
    root : path-like
        The folder; keys are paths below it.
    max_gap : int, default 0
        See `RangeReader`.
    """

    def __init__(self, root: str | os.PathLike[str], *, max_gap: int = 0) -> None:
        self.max_gap = max_gap
        self._root = str(Path(root).absolute())
        self._seen: dict[str, tuple[int, ...]] = {}
        self._first = ""

    @override
    def size(self, key: str) -> int:
        status = os.stat(f"{self._root}/{key}")  # noqa: PTH116 - thousands of shards
        self._check_unchanged(key, _identity(status))
        return status.st_size

    @override
    def read_ranges(self, ranges: Sequence[ByteRange]) -> list[memoryview]:
        arena = memoryview(np.empty(sum(wanted.nbytes for wanted in ranges), dtype=np.uint8))
        data: list[memoryview] = []
        at = 0
        # One file is held at a time, so that a batch may lie in more than may be open at once.
        for key, wanted in groupby(ranges, key=lambda wanted: wanted.key):
            file = self._open(key)
            for _, start, stop in wanted:
                nbytes = read_into(file.fd, arena[at : at + stop - start], start)
                data.append(arena[at : at + nbytes])
                at += stop - start
        return data

    @override
    def read_objects(self, keys: Sequence[str]) -> list[memoryview]:
        return [self._read_object(key) for key in keys]

    def _read_object(self, key: str) -> memoryview:
        try:
            (data,) = read_exactly(self, [ByteRange(key, 0, self.size(key))])
        except FileNotFoundError as error:
            raise FileNotFoundError(error.errno, error.strerror, key) from None
        return data

    def _open(self, key: str) -> OpenFile:
        file = open_file(f"{self._root}/{key}")
        self._check_unchanged(key, file.identity)
        return file

    def _check_unchanged(self, key: str, identity: tuple[int, ...]) -> None:
        """Compare a file, and the one read first (the root's metadata), with what was there."""
        is_changed = self._seen.setdefault(key, identity) != identity
        first = self._first = self._first or key
        if not is_changed and first != key:
            status = os.stat(f"{self._root}/{first}")  # noqa: PTH116 - once for each read
            is_changed = self._seen[first] != _identity(status)
        if is_changed:
            raise StorageError(
                f"{self._root}/{key}: has changed since the store was opened; open it again"
            )

    def __reduce__(self) -> tuple[Callable[..., LocalReader], tuple[str]]:
        return partial(LocalReader, max_gap=self.max_gap), (self._root,)


class OpenFile:
    """An open file that closes itself when nobody reads from it any more.

    `fd` is its descriptor; `identity` are device, number, size and time of change, since
    another file may take its name.
    """

    __slots__ = ("fd", "identity")

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # no wait for a pipe
        self.identity = _identity(status := os.fstat(self.fd))
        if not stat.S_ISREG(status.st_mode):
            raise StorageError(f"{path}: must be a file, but is a folder, pipe or device")

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)


class _OpenFiles:
    """The files that were used last; a reader that holds one keeps it open."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: str) -> OpenFile:
        identity = _identity(os.stat(path))  # noqa: PTH116 - once a read, so a str is kept a str
        with self._lock:
            file = self._files.get(path)
            if file is None or file.identity != identity:
                file = self._files[path] = OpenFile(path)
                limit = min(_MAX_OPEN, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
                while len(self._files) > max(1, limit):
                    self._files.popitem(last=False)
            self._files.move_to_end(path)
            return file

    def clear(self) -> None:
        with self._lock:
            self._files.clear()

    def renew_lock(self) -> None:
        """Replace the lock, which another thread may have held while this process was forked."""
        self._lock = threading.Lock()


_open_files: Final = _OpenFiles()
os.register_at_fork(after_in_child=_open_files.renew_lock)


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def open_file(path: str) -> OpenFile:
    """Open a file for reading, or return it as it was opened before."""
    return _open_files.get(path)


def close_idle_files() -> None:
    """Close all files that nobody reads from just now; they are opened again when needed."""
    _open_files.clear()


def read_at(file: OpenFile, offset: int, nbytes: int) -> bytes:
    """Read bytes of an open file: fewer than asked for only if it ends before.

    Examples
    --------
    >>> len(read_at(open_file(__file__), 2**40, 1))
    0
    """
    data = os.pread(file.fd, nbytes, offset)
    while 0 < len(data) < nbytes and (
        more := os.pread(file.fd, nbytes - len(data), offset + len(data))
    ):
        data += more
    return data


def read_into(fd: int, buffer: memoryview, offset: int) -> int:
    """Fill `buffer` from the file; return the number of bytes there were."""
    done = 0
    while done < len(buffer):
        nbytes = os.preadv(fd, [buffer[done:]], offset + done)
        if nbytes == 0:
            break
        done += nbytes
    return done


def read_exactly(reader: RangeReader, ranges: Sequence[ByteRange]) -> list[memoryview]:
    """Read ranges, and make sure that all of their bytes came back.

    Parameters
    ----------
    reader : RangeReader
        Where to read from.
    ranges : sequence of ByteRange
        Wanted ranges, in any order.

    Returns
    -------
    list of memoryview
        ``ranges[i].nbytes`` bytes at each position ``i``.

    Raises
    ------
    ShortReadError
        If an object ends before a range does.
    """
    data = reader.read_ranges(ranges)
    for (key, start, stop), got in zip(ranges, data, strict=True):
        if len(got) != stop - start:
            raise ShortReadError(
                f"{key}: asked for bytes {start} to {stop}, got {len(got)} of {stop - start}; "
                "the object is truncated"
            )
    return data


def read_elements(
    reader: RangeReader, manifest: ChunkManifest, start: Ints, nbytes: Ints
) -> list[memoryview]:
    """Read ranges of a chunked uint8 array, merged where they lie within the reader's `max_gap`.

    Parameters
    ----------
    reader : RangeReader
        Where the chunks are.
    manifest : ChunkManifest
        Where in it.
    start, nbytes : ndarray of int64, shape (n,)
        The elements ``[start, start + nbytes)`` are wanted, in any order.

    Returns
    -------
    list of memoryview
        ``nbytes[i]`` bytes at each position ``i``. Views of ranges that were
        read together share memory.

    Raises
    ------
    ShortReadError
        If a stored object ends before a chunk does.
    """
    pieces, stored, spans = plan_elements(manifest, start, nbytes, max_gap=reader.max_gap)
    is_stored = pieces.start != ZEROS
    ranges = [
        ByteRange(manifest.keys[key], first, last)
        for key, first, last in zip(
            spans.object.tolist(), spans.start.tolist(), spans.stop.tolist(), strict=True
        )
    ]
    buffers = read_exactly(reader, ranges)
    offset = stored.start - spans.start[spans.span]
    found = iter(zip(spans.span.tolist(), offset.tolist(), strict=True))
    parts: list[list[memoryview]] = [[] for _ in range(len(start))]
    for wanted, size, there in zip(
        pieces.wanted.tolist(), pieces.nbytes.tolist(), is_stored.tolist(), strict=True
    ):
        if there:
            span, at = next(found)
            parts[wanted].append(buffers[span][at : at + size])
        else:
            parts[wanted].append(memoryview(bytes(size)))
    return [some[0] if len(some) == 1 else memoryview(b"".join(some)) for some in parts]


def plan_elements(
    manifest: ChunkManifest, start: Ints, nbytes: Ints, *, max_gap: int = 0
) -> tuple[Pieces, Pieces, Spans]:
    """Plan what `read_elements` reads, and read nothing.

    Returns
    -------
    pieces : Pieces
        Where the wanted ranges lie.
    stored : Pieces
        Those of them that are stored, because they are not `ZEROS`.
    spans : Spans
        The reads that serve those.
    """
    pieces = manifest.locate(start, nbytes)
    there = pieces.start != ZEROS
    columns = (pieces.wanted, pieces.object, pieces.start, pieces.nbytes)
    stored = Pieces(*(column[there] for column in columns))
    return pieces, stored, coalesce(stored, max_gap=max_gap)


def reserve(path: Path, nbytes: int) -> None:
    """Make a file `nbytes` long, with room on the disk for all of them.

    Raises
    ------
    StorageError
        If there is not enough room.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        with full_disk_is_told(path.parent, nbytes - 512 * os.fstat(fd).st_blocks):
            if hasattr(os, "posix_fallocate") and nbytes:
                os.posix_fallocate(fd, 0, nbytes)
            else:  # macOS has no such call, and a length of 0 is not allowed
                os.ftruncate(fd, nbytes)
    finally:
        os.close(fd)


@contextmanager
def full_disk_is_told(folder: Path, nbytes: int = 0) -> Iterator[None]:
    """Turn the operating system's "no space left" into a `StorageError` with the numbers.

    Parameters
    ----------
    folder : Path
        A folder on the disk in question.
    nbytes : int, optional
        How much was to be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        free = shutil.disk_usage(folder).free
        wanted = f"{nbytes:,} bytes" if nbytes else "any"
        raise StorageError(
            f"{folder}: no room for {wanted} more, {free:,} are free "
            f"({os.strerror(error.errno)}); free some, or choose another disk"
        ) from error


def crc32c(data: Buffer, value: int = 0) -> int:
    """Return the CRC-32C (RFC 3720, section 12.1) of `data`, going on from `value`.

    Examples
    --------
    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    # google_crc32c refuses a memoryview of writable memory but takes any NumPy array.
    result: int = google_crc32c.extend(value, np.frombuffer(data, dtype=np.uint8))
    return result
