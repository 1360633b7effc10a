"""Byte ranges of stored objects: all stored bytes are read through a `RangeReader`.

`LocalReader` reads the local disk, `objects/reader.py` buckets and web servers. The functions below
hold for every reader: they check lengths and merge ranges that are close to each other.
"""

from __future__ import annotations

import errno
import os
import weakref
from functools import partial
from io import UnsupportedOperation
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from typing_extensions import override

from arraystore.errors import FormatError, ShortReadError, StoreChangedError, store_changed
from arraystore.indexing.byte_range import ZEROS, ByteRange, ChunkManifest, Pieces, Spans, coalesce
from arraystore.storage.open_files import (
    LARGE_NBYTES,
    OpenFile,
    identity_of,
    open_file,
    read_at,
    read_into,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from mmap import mmap

    from arraystore._typing import Ints


_LEAD_NBYTES: Final = 2**26
"""Most bytes that are announced to the disk before they are read."""

_UNCACHED_BATCHES: Final = 16
"""Batches that count as uncached after one that was not in the page cache."""


class RangeReader(Protocol):
    """Return byte ranges of named objects.

    Each call is one round trip, however many ranges it requests.

    Attributes
    ----------
    is_remote : bool
        Whether bytes come over a network, where round trips are expensive.
    has_maps : bool
        Whether `map` returns memory maps.
    has_cheap_reads : bool
        Whether single ranges cost little enough to be read one by one, as from an open file.
    max_gap : int
        Most unneeded bytes between two ranges that are read to save a request.
    max_request : int or None
        Longest range of one request; longer ones are divided.
    root : str, or pair of an obstore store and a key
        The folder, or the place in a bucket, that contains all keys; for other libraries.
    """

    is_remote: bool = False
    has_maps: bool = False
    has_cheap_reads: bool = False
    max_gap: int = 0
    max_request: int | None = None
    root: str | tuple[Any, str] = ""

    def size(self, key: str) -> int:
        """Return the size of an object in bytes; raise `FileNotFoundError` if it is absent."""
        ...

    def folders(self, folder: str) -> list[str] | None:
        """Return the names of the folders directly in a folder; None if it cannot be listed."""
        del folder
        return None

    def count(self, folder: str) -> int | None:
        """Return the number of objects directly in a folder; None if that takes round trips."""
        del folder
        return None

    def read_ranges(self, ranges: Sequence[ByteRange]) -> list[memoryview]:
        """Return the bytes of each range, in the order of `ranges`.

        A range that extends beyond the end of its object gives fewer bytes; `read_exactly` raises
        in that case.
        """
        ...

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """Return the bytes of one range; fewer if the object ends before."""
        (data,) = self.read_ranges([ByteRange(key, start, stop)])
        return bytes(data)

    def arrivals(self, ranges: Sequence[ByteRange]) -> Iterator[tuple[int, memoryview]]:
        """Yield the number and the bytes of each range as soon as they arrive."""
        yield from enumerate(self.read_ranges(ranges))

    def read_each(self, ranges: Sequence[ByteRange]) -> Iterator[bytes | memoryview]:
        """Yield the bytes of each range; only a remote reader reads all of them at once.

        From a disk one range is in memory at a time, and the next ones are announced to the disk.
        """
        return iter(self.read_ranges(ranges))

    def read_objects(self, keys: Sequence[str]) -> list[memoryview]:
        """Return whole objects, in the order of `keys`.

        Raises
        ------
        FileNotFoundError
            If one is absent; its `filename` is the key.
        """
        ...

    def map(self, key: str) -> mmap:
        """Return an object as a memory map, which lasts as long as a view of it; if `has_maps`."""
        del key
        raise UnsupportedOperation("this reader has no memory maps")

    def is_cached(self, ranges: Sequence[ByteRange]) -> bool:
        """Whether, judging by some of the ranges to be read, no disk needs to be waited for."""
        del ranges
        return False

    def read_ahead(self, ranges: Sequence[ByteRange]) -> None:
        """Announce ranges that will be read soon, so that a disk begins to read them."""
        del ranges

    def check_unchanged(self) -> None:
        """Check that the object that was read first is unchanged.

        Raises
        ------
        StoreChangedError
            If the store was replaced, changed or deleted since.
        """
        return


class LocalReader(RangeReader):
    """Read ranges of the files below one folder.

    Files are opened when they are first read. Descriptors are kept for the next read; all readers
    of a process together keep at most half of its limit. A reader survives `fork`, and pickles as
    its folder.

    Parameters
    ----------
    root : path-like
        The folder; keys are paths below it.
    max_gap : int, default 0
        See `RangeReader`.
    mmap : bool, default True
        Whether files may be mapped into memory.

    Attributes
    ----------
    accepts : callable or None
        Given the key of a changed file and its identity before and after, returns whether all
        that was read of it still holds.
    """

    def __init__(
        self, root: str | os.PathLike[str], *, max_gap: int = 0, mmap: bool = True
    ) -> None:
        self.max_gap = max_gap
        self.has_maps = mmap
        self.has_cheap_reads = True
        self.root = str(Path(root).absolute())
        self._seen: dict[str, tuple[int, ...]] = {}
        self._files: dict[str, weakref.ref[OpenFile]] = {}
        self._first = ""
        self._uncached_batches = 0
        self.accepts: Callable[[str, tuple[int, ...], tuple[int, ...]], bool] | None = None

    @override
    def size(self, key: str) -> int:
        try:
            status = os.stat(f"{self.root}/{key}")  # noqa: PTH116 - thousands of shards
        except OSError as error:
            self._check_absent(key, error)
            raise
        self._check_new(key, identity_of(status))
        return status.st_size

    @override
    def folders(self, folder: str) -> list[str]:
        with os.scandir(f"{self.root}/{folder}") as entries:
            return [entry.name for entry in entries if entry.is_dir()]

    @override
    def count(self, folder: str) -> int:
        try:
            with os.scandir(f"{self.root}/{folder}") as entries:
                return sum(1 for _ in entries)
        except (FileNotFoundError, NotADirectoryError):
            return 0

    @override
    def read_ranges(self, ranges: Sequence[ByteRange]) -> list[memoryview]:
        lengths = [stop - start for _, start, stop in ranges]
        if sum(lengths) > LARGE_NBYTES:
            lengths = [
                max(0, min(stop, file.nbytes) - start)
                for file, (_, start, stop) in self._with_files(ranges)
            ]
        arena = memoryview(np.empty(sum(lengths), dtype=np.uint8))
        data: list[memoryview] = []
        at = 0
        for (file, (_, start, _)), length in zip(self._in_turn(ranges), lengths, strict=True):
            nbytes = read_into(file.fd, arena[at : at + length], start)
            data.append(arena[at : at + nbytes])
            at += length
        return data

    @override
    def read_each(self, ranges: Sequence[ByteRange]) -> Iterator[bytes]:
        for file, (_, start, stop) in self._in_turn(ranges):
            yield read_at(file, start, stop - start)

    @override
    def read_range(self, key: str, start: int, stop: int) -> bytes:
        return read_at(self.file(key), start, stop - start)

    @override
    def map(self, key: str) -> mmap:
        return self.file(key).map

    @override
    def is_cached(self, ranges: Sequence[ByteRange]) -> bool:
        # After a miss the next batches count as uncached, because some of their ranges may be
        # cached when others are not. The middle of a range is probed: its ends share pages with
        # its neighbours. Changes are checked when the range is read, not here.
        if all(
            (self._held(key) or self.file(key)).is_cached((start + stop) // 2)
            for key, start, stop in ranges
        ):
            self._uncached_batches = max(0, self._uncached_batches - 1)
        else:
            self._uncached_batches = _UNCACHED_BATCHES
        return not self._uncached_batches

    @override
    def read_ahead(self, ranges: Sequence[ByteRange]) -> None:
        # Bounded, so that pages are not evicted before they are used.
        lead = 0
        for file, wanted in self._with_files(ranges):
            file.read_ahead(wanted.start, wanted.nbytes)
            lead += wanted.nbytes
            if lead > _LEAD_NBYTES:
                break

    @override
    def read_objects(self, keys: Sequence[str]) -> list[memoryview]:
        return [self._read_object(key) for key in keys]

    def _read_object(self, key: str) -> memoryview:
        try:
            (data,) = read_exactly(self, [ByteRange(key, 0, self.size(key))])
        except FileNotFoundError as error:
            raise FileNotFoundError(error.errno, error.strerror, key) from None
        return data

    def _in_turn(self, ranges: Sequence[ByteRange]) -> Iterator[tuple[OpenFile, ByteRange]]:
        """Yield each range with its file, after announcing the next ranges to the disk."""
        self.check_unchanged()
        following = self._with_files(ranges if len(ranges) > 1 else [])
        lead = 0
        for file, wanted in self._with_files(ranges):
            while lead <= _LEAD_NBYTES and (next_one := next(following, None)):
                later, (_, start, stop) = next_one
                later.read_ahead(start, stop - start)
                lead += stop - start
            lead -= wanted.stop - wanted.start
            yield file, wanted

    def _with_files(self, ranges: Sequence[ByteRange]) -> Iterator[tuple[OpenFile, ByteRange]]:
        # Only one file is held open, because a batch may lie in more files than may be open.
        for key, some in groupby(ranges, key=lambda wanted: wanted.key):
            file = self.file(key)
            for wanted in some:
                yield file, wanted

    def file(self, key: str) -> OpenFile:
        """Return an open file, after checking that it is unchanged since it was first seen."""
        held = self._held(key)
        if held is not None and (status := os.fstat(held.fd)).st_nlink:
            self._check(key, identity_of(status))
            return held
        try:
            file = open_file(f"{self.root}/{key}")
        except OSError as error:
            self._check_absent(key, error)
            raise
        self._files[key] = weakref.ref(file)
        self._check_new(key, file.identity)
        return file

    def _held(self, key: str) -> OpenFile | None:
        """Return a file if it is open; it may have been replaced on the disk."""
        known = self._files.get(key)
        return None if known is None else known()

    @override
    def check_unchanged(self) -> None:
        if self._first:  # the root's metadata, or the only file
            path = f"{self.root}/{self._first}"
            try:
                status = os.stat(path)  # noqa: PTH116 - once for each batch
            except (FileNotFoundError, NotADirectoryError):
                raise StoreChangedError(
                    f"{path}: no longer exists, but did when the store was opened; open it again"
                ) from None
            self._check(self._first, identity_of(status))

    def _check_absent(self, key: str, error: OSError) -> None:
        """Raise if the store was replaced, so that no file of another store counts as missing."""
        self.check_unchanged()
        if isinstance(error, NotADirectoryError):  # a folder of the key is a file
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key) from None

    def _check_new(self, key: str, identity: tuple[int, ...]) -> None:
        """Check a file that was opened by name; its name may belong to another store now."""
        self._check(key, identity)
        if self._first:
            self.check_unchanged()
        else:
            self._first = key

    def _check(self, key: str, identity: tuple[int, ...]) -> None:
        seen = self._seen.setdefault(key, identity)
        if seen == identity:
            return
        if self.accepts is None or not self.accepts(key, seen, identity):
            raise store_changed(f"{self.root}/{key}")
        self._seen[key] = identity

    def __reduce__(self) -> tuple[Callable[..., LocalReader], tuple[Any]]:
        return partial(LocalReader, max_gap=self.max_gap, mmap=self.has_maps), (self.root,)


def read_exactly(reader: RangeReader, ranges: Sequence[ByteRange]) -> list[memoryview]:
    """Read ranges, and check that all of their bytes were returned.

    Parameters
    ----------
    reader : RangeReader
    ranges : sequence of ByteRange
        In any order.

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
    for wanted, got in zip(ranges, data, strict=True):
        check_length(wanted, len(got))
    return data


def each_exactly(reader: RangeReader, ranges: Sequence[ByteRange]) -> Iterator[bytes | memoryview]:
    """Yield what `read_exactly` returns, as `RangeReader.read_each` does."""
    for wanted, got in zip(ranges, reader.read_each(ranges), strict=True):
        check_length(wanted, len(got))
        yield got


def check_length(wanted: ByteRange, nbytes: int) -> None:
    """Check that a read returned all bytes of its range.

    Raises
    ------
    ShortReadError
        If the object ended before the range did.
    """
    if nbytes != wanted.nbytes:
        key, start, stop = wanted
        raise ShortReadError(
            f"{key}: asked for bytes {start} to {stop}, got {nbytes} of {stop - start}; "
            "the object is truncated"
        )


def read_elements(
    reader: RangeReader, manifest: ChunkManifest, start: Ints, nbytes: Ints
) -> list[memoryview]:
    """Read ranges of a chunked uint8 array, merged where they lie within the reader's `max_gap`.

    Parameters
    ----------
    reader : RangeReader
        Reads the objects that contain the chunks.
    manifest : ChunkManifest
        Places of the chunks in these objects.
    start, nbytes : ndarray of int64, shape (n,)
        The ranges ``[start, start + nbytes)`` of elements, in any order.

    Returns
    -------
    list of memoryview
        ``nbytes[i]`` bytes at each position ``i``. Views of ranges that were read together share
        memory.

    Raises
    ------
    ShortReadError
        If a stored object ends before a chunk does.
    """
    found = [memoryview(b"")] * len(start)
    for i, data in arriving_elements(reader, manifest, start, nbytes):
        found[i] = data
    return found


def arriving_elements(
    reader: RangeReader, manifest: ChunkManifest, start: Ints, nbytes: Ints
) -> Iterator[tuple[int, memoryview]]:
    """Yield the number and the bytes of each range as they arrive; see `read_elements`."""
    pieces, stored, spans = plan_elements(manifest, start, nbytes, max_gap=reader.max_gap)
    check_zeros(pieces)
    ranges = [
        ByteRange(manifest.keys[key], first, last)
        for key, first, last in zip(
            spans.object.tolist(), spans.start.tolist(), spans.stop.tolist(), strict=True
        )
    ]
    parts: list[dict[int, memoryview]] = [{} for _ in range(len(start))]
    for piece in np.flatnonzero(pieces.start == ZEROS).tolist():
        parts[pieces.wanted[piece]][piece] = memoryview(bytes(pieces.nbytes[piece]))
    missing = np.bincount(stored.wanted, minlength=len(start)).tolist()
    yield from ((i, _joined(parts[i])) for i, number in enumerate(missing) if not number)
    order = np.argsort(spans.span, kind="stable")
    first = np.searchsorted(spans.span[order], np.arange(len(ranges) + 1)).tolist()
    numbers = np.flatnonzero(pieces.start != ZEROS)[order].tolist()
    wanted = stored.wanted[order].tolist()
    at = stored.start[order] - spans.start[spans.span[order]]
    places = list(zip(at.tolist(), (at + stored.nbytes[order]).tolist(), strict=True))
    for span, data in reader.arrivals(ranges):
        check_length(ranges[span], len(data))
        for k in range(first[span], first[span + 1]):
            i = wanted[k]
            parts[i][numbers[k]] = data[slice(*places[k])]
            missing[i] -= 1
            if not missing[i]:
                yield i, _joined(parts[i])


def check_zeros(pieces: Pieces) -> None:
    """Limit the zeros that chunks without stored bytes expand to, as a store may state any size.

    Raises
    ------
    FormatError
        If chunks that are not stored would take more than 64 MiB.
    """
    nbytes = int(pieces.nbytes[pieces.start == ZEROS].sum())
    if nbytes > LARGE_NBYTES:
        raise FormatError(
            f"images have {nbytes} bytes in chunks that are not stored; at most {LARGE_NBYTES} "
            "bytes are read as zeros"
        )


def _joined(parts: dict[int, memoryview]) -> memoryview:
    """Return the numbered parts of a range as one view."""
    if len(parts) == 1:
        return next(iter(parts.values()))
    return memoryview(b"".join(parts[number] for number in sorted(parts)))


def plan_elements(
    manifest: ChunkManifest, start: Ints, nbytes: Ints, *, max_gap: int = 0
) -> tuple[Pieces, Pieces, Spans]:
    """Return what `read_elements` would read, without reading.

    Returns
    -------
    pieces : Pieces
        The requested ranges, divided by chunks.
    stored : Pieces
        The pieces that are stored: all except `ZEROS`.
    spans : Spans
        The reads that cover the stored pieces.
    """
    pieces = manifest.locate(start, nbytes)
    there = pieces.start != ZEROS
    columns = (pieces.wanted, pieces.object, pieces.start, pieces.nbytes)
    stored = Pieces(*(column[there] for column in columns))
    return pieces, stored, coalesce(stored, max_gap=max_gap)
