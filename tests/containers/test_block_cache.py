"""A stored object read through blocks: the same bytes, each block fetched once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from arraystore.containers.hdf5 import block_cache as blocks_room
from arraystore.containers.hdf5.block_cache import BlockReader
from arraystore.errors import ShortReadError
from arraystore.indexing.byte_range import ByteRange
from arraystore.storage.range_reader import RangeReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BLOCK = 8


@pytest.fixture(autouse=True, scope="module")
def _small_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks_room, "BLOCK_NBYTES", BLOCK)
        patch.setattr(blocks_room, "_MAX_BLOCKS", 3)
        yield


class InMemory(RangeReader):
    """One object, and a note of each call."""

    is_remote = True

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.calls: list[list[ByteRange]] = []

    @override
    def size(self, key: str) -> int:
        raise AssertionError("the size is known")

    @override
    def read_ranges(self, ranges: Sequence[ByteRange]) -> list[memoryview]:
        self.calls.append(list(ranges))
        return [memoryview(self.data)[start:stop] for _, start, stop in ranges]

    @override
    def read_objects(self, keys: Sequence[str]) -> list[memoryview]:
        raise AssertionError("the whole object is not asked for")


def reader_of(data: bytes, head: int = 3, tail: int = 10) -> tuple[InMemory, BlockReader]:
    inner = InMemory(data)
    view = memoryview(data)
    start = max(0, len(data) - tail)
    return inner, BlockReader(inner, "k", len(data), view[:head], view[start:])


offsets = st.integers(0, 120)


@given(
    st.binary(max_size=100),
    st.integers(0, 20),
    st.integers(0, 30),
    st.lists(st.lists(st.tuples(offsets, offsets), max_size=4), max_size=5),
)
def test_the_bytes_of_every_range_come_back(
    data: bytes, head: int, tail: int, batches: list[list[tuple[int, int]]]
) -> None:
    inner, reader = reader_of(data, head, tail)
    for batch in batches:
        calls = len(inner.calls)
        ranges = [ByteRange("k", min(pair), max(pair)) for pair in batch]
        found = reader.read_ranges(ranges)
        assert [bytes(part) for part in found] == [data[a:b] for _, a, b in ranges]
        assert len(inner.calls) <= calls + 1
    assert reader.size("k") == len(data)
    assert bytes(reader.read_objects(["k"])[0]) == data


def test_missing_blocks_are_fetched_together_and_each_once() -> None:
    inner, reader = reader_of(bytes(range(100)))
    reader.read_ranges([ByteRange("k", 9, 11), ByteRange("k", 30, 42)])
    assert inner.calls == [
        [
            ByteRange("k", 8, 16),
            ByteRange("k", 24, 32),
            ByteRange("k", 32, 40),
            ByteRange("k", 40, 48),
        ]
    ]
    reader.read_ranges([ByteRange("k", 33, 47)])
    assert len(inner.calls) == 1


def test_what_is_in_the_ends_is_not_fetched_again() -> None:
    inner, reader = reader_of(bytes(range(100)))
    reader.read_ranges([ByteRange("k", 0, 3), ByteRange("k", 90, 100)])
    assert inner.calls == []
    reader.read_ranges([ByteRange("k", 85, 95)])
    assert inner.calls == [[ByteRange("k", 80, 88), ByteRange("k", 88, 90)]]


def test_no_more_blocks_are_kept_than_allowed() -> None:
    _, reader = reader_of(bytes(1000))
    for start in range(0, 900, BLOCK):
        reader.read_ranges([ByteRange("k", start, start + 1)])
    assert len(reader._blocks) == 3


def test_an_object_that_is_shorter_than_it_was_is_told() -> None:
    inner, reader = reader_of(bytes(100))
    inner.data = inner.data[:50]
    with pytest.raises(ShortReadError, match=r"^k: asked for bytes 48 to 56, got 2 of 8"):
        reader.read_ranges([ByteRange("k", 49, 55)])
