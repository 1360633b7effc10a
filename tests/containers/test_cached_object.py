"""Pages of a stored object: equal bytes, each page fetched once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from arraystore.containers.hdf5 import cached_object
from arraystore.containers.hdf5.cached_object import CachedObjectReader
from arraystore.errors import ShortReadError
from arraystore.indexing.byte_range import ByteRange
from arraystore.storage.range_reader import RangeReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PAGE = 8


@pytest.fixture(autouse=True, scope="module")
def _small_pages() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cached_object, "PAGE_NBYTES", PAGE)
        patch.setattr(cached_object, "_MAX_PAGES", 3)
        yield


class InMemory(RangeReader):
    """One object, and a record of each call."""

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
        raise AssertionError("the whole object is not read")


def make_reader(data: bytes, head: int = 3, tail: int = 10) -> tuple[InMemory, CachedObjectReader]:
    inner = InMemory(data)
    view = memoryview(data)
    start = max(0, len(data) - tail)
    return inner, CachedObjectReader(inner, "k", len(data), view[:head], view[start:])


offsets = st.integers(0, 120)


@given(
    st.binary(max_size=100),
    st.integers(0, 20),
    st.integers(0, 30),
    st.lists(st.lists(st.tuples(offsets, offsets), max_size=4), max_size=5),
)
def test_ranges_equal_slices_of_the_object(
    data: bytes, head: int, tail: int, batches: list[list[tuple[int, int]]]
) -> None:
    inner, reader = make_reader(data, head, tail)
    for batch in batches:
        calls = len(inner.calls)
        ranges = [ByteRange("k", min(pair), max(pair)) for pair in batch]
        found = reader.read_ranges(ranges)
        assert [bytes(part) for part in found] == [data[a:b] for _, a, b in ranges]
        assert len(inner.calls) <= calls + 1
    assert reader.size("k") == len(data)
    assert bytes(reader.read_objects(["k"])[0]) == data


def test_missing_pages_are_fetched_together_and_once() -> None:
    inner, reader = make_reader(bytes(range(100)))
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


def test_head_and_tail_are_not_fetched_again() -> None:
    inner, reader = make_reader(bytes(range(100)))
    reader.read_ranges([ByteRange("k", 0, 3), ByteRange("k", 90, 100)])
    assert inner.calls == []
    reader.read_ranges([ByteRange("k", 85, 95)])
    assert inner.calls == [[ByteRange("k", 80, 88), ByteRange("k", 88, 90)]]


def test_number_of_pages_is_bounded() -> None:
    _, reader = make_reader(bytes(1000))
    for start in range(0, 900, PAGE):
        reader.read_ranges([ByteRange("k", start, start + 1)])
    assert len(reader._pages) == 3


def test_object_that_became_shorter_raises() -> None:
    inner, reader = make_reader(bytes(100))
    inner.data = inner.data[:50]
    with pytest.raises(ShortReadError, match=r"^k: asked for bytes 48 to 56, got 2 of 8"):
        reader.read_ranges([ByteRange("k", 49, 55)])
