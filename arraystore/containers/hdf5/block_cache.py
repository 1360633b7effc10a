"""One stored object in blocks that are kept: for a library that reads a little here and there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from typing_extensions import override

from arraystore.indexing.byte_range import ByteRange
from arraystore.storage.range_reader import RangeReader, read_exactly

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HEAD_NBYTES: Final = 64 * 2**10
"""What is fetched of the beginning: HDF5's superblock, and what was laid out first."""

BLOCK_NBYTES: Final = 4 * 2**20
"""Length of a block, and of the end that is fetched with the beginning."""

_MAX_BLOCKS: Final = 16


class BlockReader(RangeReader):
    """Read one object through blocks of it.

    Missing blocks are fetched at once, and the last few are kept.

    Parameters
    ----------
    reader : RangeReader
        Where the object is.
    key : str
        Its key; there are no others.
    nbytes : int
        Its size.
    head, tail : memoryview
        Its first and last bytes, which are kept for ever.
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
        self._blocks: dict[int, memoryview] = {}

    @override
    def size(self, key: str) -> int:
        return self._nbytes

    @override
    def read_ranges(self, ranges: Sequence[ByteRange]) -> list[memoryview]:
        blocks = self._load(
            {
                index
                for _, start, stop in ranges
                if not self._is_in_ends(start, min(stop, self._nbytes))
                for index in range(start // BLOCK_NBYTES, -(-stop // BLOCK_NBYTES))
                if index * BLOCK_NBYTES < self._tail_start
            }
        )
        return [self._cut(start, min(stop, self._nbytes), blocks) for _, start, stop in ranges]

    @override
    def read_objects(self, keys: Sequence[str]) -> list[memoryview]:
        return self.read_ranges([ByteRange(key, 0, self._nbytes) for key in keys])

    @override
    def read_each(self, ranges: Sequence[ByteRange]) -> Iterator[memoryview]:
        """Read ranges in one round trip as they are, and keep nothing of them."""
        others = [one for one in ranges if not self._is_in_ends(one.start, one.stop)]
        read = iter(read_exactly(self._reader, others) if others else [])
        for _, start, stop in ranges:
            yield self._cut(start, stop, {}) if self._is_in_ends(start, stop) else next(read)

    @override
    def check_unchanged(self) -> None:
        self._reader.check_unchanged()

    def _is_in_ends(self, start: int, stop: int) -> bool:
        return stop <= len(self._head) or start >= self._tail_start

    def _load(self, wanted: set[int]) -> dict[int, memoryview]:
        """Return some blocks, those that are missing fetched in one round trip."""
        blocks = {index: self._blocks[index] for index in wanted if index in self._blocks}
        missing = sorted(wanted - blocks.keys())
        if missing:
            starts = [index * BLOCK_NBYTES for index in missing]
            # What lies in the tail is there already.
            stops = [min(start + BLOCK_NBYTES, self._tail_start) for start in starts]
            ranges = map(ByteRange, [self._key] * len(missing), starts, stops)
            blocks |= zip(missing, read_exactly(self._reader, list(ranges)), strict=True)
            kept = {**self._blocks, **blocks}
            self._blocks = dict(list(kept.items())[-_MAX_BLOCKS:])
        return blocks

    def _cut(self, start: int, stop: int, blocks: dict[int, memoryview]) -> memoryview:
        if stop <= len(self._head):
            return self._head[start:stop]
        parts = []
        while start < min(stop, self._tail_start):
            index, at = divmod(start, BLOCK_NBYTES)
            part = blocks[index][at : at + stop - start]
            parts.append(part)
            start += len(part)
        if start < stop:
            parts.append(self._tail[start - self._tail_start : stop - self._tail_start])
        return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))
