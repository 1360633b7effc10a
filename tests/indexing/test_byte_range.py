"""Pieces of requested ranges, and the reads that return them; arrays of bytes are the oracle."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from arraystore.errors import ShortReadError
from arraystore.indexing.byte_range import ZEROS, ByteRange, ChunkManifest, Pieces, Spans, coalesce
from arraystore.storage.range_reader import RangeReader, arriving_elements, read_elements

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from random import Random

    from hypothesis.strategies import DrawFn

    from arraystore._typing import Ints, Mask

OBJECT_NBYTES = 40


@dataclass
class StoredArray(RangeReader):
    """An array, and objects in memory that contain its chunks among other bytes."""

    data: bytes
    manifest: ChunkManifest
    objects: dict[str, bytes]
    ranges: list[ByteRange] = field(default_factory=list)

    @override
    def size(self, key: str) -> int:
        return len(self.objects[key])

    @override
    def read_ranges(self, ranges: Sequence[ByteRange]) -> list[memoryview]:
        self.ranges += ranges
        return [memoryview(self.objects[key])[start:stop] for key, start, stop in ranges]

    @override
    def read_objects(self, keys: Sequence[str]) -> list[memoryview]:
        return [memoryview(self.objects[key]) for key in keys]

    def slices(self, start: Ints, nbytes: Ints) -> list[bytes]:
        return [self.data[a : a + n] for a, n in zip(start, nbytes, strict=True)]

    def stored(self, pieces: Pieces) -> list[bytes]:
        """Return the bytes of each piece."""
        names = [self.manifest.keys[number] for number in pieces.object]
        return [
            bytes(n) if a == ZEROS else self.objects[name][a : a + n]
            for name, a, n in zip(names, pieces.start, pieces.nbytes, strict=True)
        ]


@st.composite
def stored_arrays(draw: DrawFn) -> StoredArray:
    """Draw an array whose chunks are anywhere, or not stored if they are all zeros."""
    chunk_nbytes = draw(st.integers(1, 9))
    data = bytearray(draw(st.binary(max_size=50)))
    objects = [bytearray() for _ in range(draw(st.integers(1, 3)))]
    n_chunks = -(-len(data) // chunk_nbytes)
    number, offset = np.zeros((2, n_chunks), dtype=np.int64)
    for chunk in draw(st.permutations(range(n_chunks))):
        number[chunk] = draw(st.integers(0, len(objects) - 1))
        rows = slice(chunk * chunk_nbytes, (chunk + 1) * chunk_nbytes)
        if draw(st.integers(0, 4)) == 0:
            data[rows] = bytes(len(data[rows]))
            offset[chunk] = ZEROS
        else:
            stored = objects[number[chunk]]
            stored += b"\xee" * draw(st.integers(0, 3))
            offset[chunk] = len(stored)
            stored += data[rows].ljust(chunk_nbytes, b"\xee")
    keys = tuple(f"object {i}" for i in range(len(objects)))
    manifest = ChunkManifest(keys, number, offset, chunk_nbytes, len(data))
    return StoredArray(bytes(data), manifest, dict(zip(keys, map(bytes, objects), strict=True)))


@st.composite
def arrays_with_ranges(draw: DrawFn) -> tuple[StoredArray, Ints, Ints]:
    """Draw an array and ranges of it, in any order, overlapping, repeated, empty."""
    array = draw(stored_arrays())
    bound = st.integers(0, len(array.data))
    bounds = np.array(draw(st.lists(st.tuples(bound, bound), max_size=6)), dtype=np.int64)
    bounds = np.sort(bounds.reshape(-1, 2), axis=1)
    return array, bounds[:, 0], bounds[:, 1] - bounds[:, 0]


piece_rows = st.tuples(st.integers(0, 2), st.integers(0, OBJECT_NBYTES - 8), st.integers(1, 8)).map(
    lambda row: np.array(row, dtype=np.int64)
)


@st.composite
def some_pieces(draw: DrawFn) -> Pieces:
    rows = draw(st.lists(piece_rows, max_size=12))
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return Pieces(np.arange(len(table)), table[:, 0], table[:, 1], table[:, 2])


def marked(number: Ints, start: Ints, stop: Ints) -> Mask:
    """Return which bytes of three objects are in any of the ranges."""
    mask = np.zeros((3, OBJECT_NBYTES), dtype=np.bool_)
    for row in zip(number, start, stop, strict=True):
        mask[row[0], row[1] : row[2]] = True
    return mask


def requested_bytes(pieces: Pieces) -> Mask:
    return marked(pieces.object, pieces.start, pieces.start + pieces.nbytes)


def read_bytes(spans: Spans) -> Mask:
    return marked(spans.object, spans.start, spans.stop)


def with_short_gaps(mask: Mask, max_gap: int) -> Mask:
    """Fill the gaps between requested bytes that are not longer than `max_gap`."""
    filled = mask.copy()
    for row, new in zip(mask, filled, strict=True):
        requested = np.flatnonzero(row)
        for before, after in pairwise(requested):
            if after - before - 1 <= max_gap:
                new[before:after] = True
    return filled


# Pieces


@given(arrays_with_ranges())
def test_pieces_of_a_range_are_its_bytes(drawn: tuple[StoredArray, Ints, Ints]) -> None:
    array, start, nbytes = drawn
    pieces = array.manifest.locate(start, nbytes)
    joined = [b""] * len(start)
    for number, part in zip(pieces.wanted, array.stored(pieces), strict=True):
        joined[number] += part
    assert joined == array.slices(start, nbytes)


@given(arrays_with_ranges())
def test_range_has_one_piece_per_chunk(
    drawn: tuple[StoredArray, Ints, Ints],
) -> None:
    array, start, nbytes = drawn
    touched = [
        np.unique(np.arange(a, a + n) // array.manifest.chunk_nbytes)
        for a, n in zip(start, nbytes, strict=True)
    ]
    pieces = array.manifest.locate(start, nbytes)
    expected = np.repeat(np.arange(len(start)), [len(chunks) for chunks in touched])
    np.testing.assert_array_equal(pieces.wanted, expected)
    assert np.all(pieces.nbytes >= 1)


@given(arrays_with_ranges())
def test_pieces_are_zeros_where_chunks_are_not_stored(
    drawn: tuple[StoredArray, Ints, Ints],
) -> None:
    array, start, nbytes = drawn
    chunks = [
        np.unique(np.arange(a, a + n) // array.manifest.chunk_nbytes)
        for a, n in zip(start, nbytes, strict=True)
    ]
    expected = array.manifest.start[np.concatenate([np.empty(0, np.int64), *chunks])] == ZEROS
    pieces = array.manifest.locate(start, nbytes)
    np.testing.assert_array_equal(pieces.start == ZEROS, expected)


@given(stored_arrays())
def test_empty_range_has_no_pieces(array: StoredArray) -> None:
    everywhere = np.arange(len(array.data) + 1)
    assert len(array.manifest.locate(everywhere, np.zeros_like(everywhere)).wanted) == 0


def test_range_of_a_thousand_chunks() -> None:
    starts = np.arange(1000) * 10
    manifest = ChunkManifest(("f",), np.zeros(1000, np.int64), starts, 8, 8000)
    pieces = manifest.locate(np.array([0]), np.array([8000]))
    np.testing.assert_array_equal(pieces.start, starts)


def test_offsets_beyond_32_bits_are_exact() -> None:
    manifest = ChunkManifest(("f",), np.zeros(3, np.int64), np.array([7, 9, 2**60]), 2**40, 2**41)
    pieces = manifest.locate(np.array([2**41 - 5]), np.array([10]))
    assert pieces.start.tolist() == [9 + 2**40 - 5, 2**60]
    assert pieces.nbytes.tolist() == [5, 5]


# Reads


@given(some_pieces(), st.integers(0, 10))
def test_every_piece_is_inside_its_span(pieces: Pieces, max_gap: int) -> None:
    spans = coalesce(pieces, max_gap=max_gap)
    np.testing.assert_array_equal(spans.object[spans.span], pieces.object)
    assert np.all(spans.start[spans.span] <= pieces.start)
    assert np.all(spans.stop[spans.span] >= pieces.start + pieces.nbytes)


@given(some_pieces(), st.integers(0, 10))
def test_spans_are_sorted_and_further_apart_than_max_gap(pieces: Pieces, max_gap: int) -> None:
    spans = coalesce(pieces, max_gap=max_gap)
    same = np.diff(spans.object) == 0
    assert np.all(np.diff(spans.object) >= 0)
    assert np.all((spans.start[1:] - spans.stop[:-1])[same] > max_gap)


@given(some_pieces())
def test_without_gap_only_requested_bytes_are_read(pieces: Pieces) -> None:
    np.testing.assert_array_equal(read_bytes(coalesce(pieces)), requested_bytes(pieces))


@given(some_pieces(), st.integers(0, 10))
def test_gaps_up_to_max_gap_are_read(pieces: Pieces, max_gap: int) -> None:
    expected = with_short_gaps(requested_bytes(pieces), max_gap)
    np.testing.assert_array_equal(read_bytes(coalesce(pieces, max_gap=max_gap)), expected)


def test_no_pieces_have_no_spans() -> None:
    none = np.empty(0, dtype=np.int64)
    spans = coalesce(Pieces(none, none, none, none))
    assert [len(spans.object), len(spans.start), len(spans.stop), len(spans.span)] == [0] * 4


def test_spans_of_thousands_of_huge_objects_are_exact() -> None:
    number = np.array([9_999, 0, 9_999, 0])
    start = np.array([2**40, 2**40 - 5, 10, 2**40])
    spans = coalesce(Pieces(np.arange(4), number, start, np.full(4, 5)))
    assert spans.start.tolist() == [2**40 - 5, 10, 2**40]
    assert spans.stop.tolist() == [2**40 + 5, 15, 2**40 + 5]
    assert spans.span.tolist() == [2, 0, 1, 0]


def test_negative_gap_raises() -> None:
    one = np.ones(1, dtype=np.int64)
    with pytest.raises(ValueError, match="max_gap must be 0 or more bytes, got -1"):
        coalesce(Pieces(one, one, one, one), max_gap=-1)


# Bytes


@given(arrays_with_ranges(), st.integers(0, 10))
@settings(deadline=None)
def test_read_elements_returns_every_range(
    drawn: tuple[StoredArray, Ints, Ints], max_gap: int
) -> None:
    array, start, nbytes = drawn
    array.max_gap = max_gap
    found = read_elements(array, array.manifest, start, nbytes)
    assert list(map(bytes, found)) == array.slices(start, nbytes)


@given(arrays_with_ranges(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_elements_are_whole_in_any_order_of_arrival(
    drawn: tuple[StoredArray, Ints, Ints], random: Random
) -> None:
    array, start, nbytes = drawn

    class Shuffled(StoredArray):
        @override
        def arrivals(self, ranges: Sequence[ByteRange]) -> Iterator[tuple[int, memoryview]]:
            yield from random.sample(list(super().arrivals(ranges)), len(ranges))

    shuffled = Shuffled(array.data, array.manifest, array.objects)
    found = dict(arriving_elements(shuffled, array.manifest, start, nbytes))
    assert [bytes(found[i]) for i in range(len(start))] == array.slices(start, nbytes)


@given(arrays_with_ranges())
def test_each_byte_is_read_once(drawn: tuple[StoredArray, Ints, Ints]) -> None:
    array, start, nbytes = drawn
    read_elements(array, array.manifest, start, nbytes)
    read = [(key, byte) for key, a, b in array.ranges for byte in range(a, b)]
    elements = {byte for a, n in zip(start, nbytes, strict=True) for byte in range(a, a + n)}
    chunk_nbytes = array.manifest.chunk_nbytes
    stored = {byte for byte in elements if array.manifest.start[byte // chunk_nbytes] != ZEROS}
    assert len(read) == len(set(read)) == len(stored)


def test_chunks_of_zeros_are_not_read() -> None:
    manifest = ChunkManifest(("gone",), np.array([0]), np.array([ZEROS]), 8, 8)
    array = StoredArray(bytes(8), manifest, {})
    assert read_elements(array, manifest, np.array([2]), np.array([3])) == [bytes(3)]
    assert array.ranges == []


@given(arrays_with_ranges(), st.data())
def test_truncated_object_raises(
    drawn: tuple[StoredArray, Ints, Ints], data: st.DataObject
) -> None:
    array, start, nbytes = drawn
    expected = array.slices(start, nbytes)
    read_elements(array, array.manifest, start, nbytes)
    key = data.draw(st.sampled_from(sorted(array.objects)))
    length = data.draw(st.integers(0, len(array.objects[key])))
    array.objects[key] = array.objects[key][:length]
    is_needed = any(one.key == key and one.stop > length for one in array.ranges)
    with pytest.raises(ShortReadError, match=f"^{key}: ") if is_needed else nullcontext():
        assert read_elements(array, array.manifest, start, nbytes) == expected


def test_short_read_message() -> None:
    manifest = ChunkManifest(("train/c/0",), np.array([0]), np.array([100]), 64, 64)
    array = StoredArray(bytes(64), manifest, {"train/c/0": bytes(120)})
    message = "^train/c/0: asked for bytes 110 to 130, got 10 of 20; the object is truncated$"
    with pytest.raises(ShortReadError, match=message):
        read_elements(array, manifest, np.array([10]), np.array([20]))
