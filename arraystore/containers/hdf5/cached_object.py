"""One stored object, read through a cache of pages: libhdf5 makes many small reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from typing_extensions import override

from arraystore.indexing.byte_range import ByteRange
from arraystore.storage.range_reader import RangeReader, read_exactly

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HEAD_NBYTES: Final = 64 * 2**10
"""Bytes read of the beginning: HDF5's superblock, and the metadata that was written first."""

PAGE_NBYTES: Final = 4 * 2**20
"""Length of a page, and of the end of the object that is read together with its beginning."""

_MAX_PAGES: Final = 16


class CachedObjectReader(RangeReader):
    """Read one object in pages and keep the pages that were used last.

    All missing pages of a request are fetched in one round trip.

    Parameters
    ----------
    reader : RangeReader
        Reads the object.
    key : str
        Its key; there are no others.
    nbytes : int
        Its size.
    head, tail : memoryview
        Its first and last bytes, which are kept as long as the reader.
    """

    def __init__(
        self, reader: RangeReader, key: str, nbytes: int, head: memoryview, tail: memoryview
    ) -> None:
        self.is_remote = reader.is_remote
        self.max_gap = reader.max_gap
        self.root = reader.root
        self._reader = reader
        self._key = key
        self._nbytes = nbytes
        self._head = head
        self._tail = tail
        self._tail_start = nbytes - len(tail)
        self._pages: dict[int, memoryview] = {}

    @override
    def size(self, key: str) -> int:
        return self._nbytes

    @override
    def read_ranges(self, ranges: Sequence[ByteRange]) -> list[memoryview]:
        pages = self._load(
            {
                number
                for _, start, stop in ranges
                if not self._is_in_ends(start, min(stop, self._nbytes))
                for number in range(start // PAGE_NBYTES, -(-stop // PAGE_NBYTES))
                if number * PAGE_NBYTES < self._tail_start
            }
        )
        return [self._cut(start, min(stop, self._nbytes), pages) for _, start, stop in ranges]

    @override
    def read_objects(self, keys: Sequence[str]) -> list[memoryview]:
        return self.read_ranges([ByteRange(key, 0, self._nbytes) for key in keys])

    @override
    def read_each(self, ranges: Sequence[ByteRange]) -> Iterator[memoryview]:
        """Read exactly these ranges in one round trip, without caching them."""
        others = [one for one in ranges if not self._is_in_ends(one.start, one.stop)]
        read = iter(read_exactly(self._reader, others) if others else [])
        for _, start, stop in ranges:
            yield self._cut(start, stop, {}) if self._is_in_ends(start, stop) else next(read)

    @override
    def check_unchanged(self) -> None:
        self._reader.check_unchanged()

    def _is_in_ends(self, start: int, stop: int) -> bool:
        return stop <= len(self._head) or start >= self._tail_start

    def _load(self, numbers: set[int]) -> dict[int, memoryview]:
        """Return pages by number; fetch the missing ones in one round trip."""
        pages = {number: self._pages[number] for number in numbers if number in self._pages}
        missing = sorted(numbers - pages.keys())
        if missing:
            starts = [number * PAGE_NBYTES for number in missing]
            # The tail is in memory already.
            stops = [min(start + PAGE_NBYTES, self._tail_start) for start in starts]
            ranges = map(ByteRange, [self._key] * len(missing), starts, stops)
            pages |= zip(missing, read_exactly(self._reader, list(ranges)), strict=True)
            kept = {**self._pages, **pages}
            self._pages = dict(list(kept.items())[-_MAX_PAGES:])
        return pages

    def _cut(self, start: int, stop: int, pages: dict[int, memoryview]) -> memoryview:
        if stop <= len(self._head):
            return self._head[start:stop]
        parts = []
        while start < min(stop, self._tail_start):
            number, offset = divmod(start, PAGE_NBYTES)
            part = pages[number][offset : offset + stop - start]
            parts.append(part)
            start += len(part)
        if start < stop:
            parts.append(self._tail[start - self._tail_start : stop - self._tail_start])
        return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))
