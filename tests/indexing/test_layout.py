"""Order of samples, offsets of bytes, digests; plain Python and NumPy are the oracles."""

from __future__ import annotations

import hashlib
import struct
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr
from hypothesis import example, given
from hypothesis import strategies as st

from arraystore.containers.zarr.writer import ZarrWriter
from arraystore.indexing.layout import (
    blocks,
    content_digest,
    hash_numbers,
    image_starts,
    label_index,
    name_hashes,
    sample_order,
)
from arraystore.schema import COLUMNS, SHARD_NBYTES

if TYPE_CHECKING:
    from pathlib import Path

    from arraystore._typing import Ints

named = pytest.mark.parametrize


def ints(values: list[int]) -> Ints:
    return np.array(values, dtype=np.int64)


# Sizes from far smaller to far larger than a block.
sizes = st.lists(st.one_of(st.integers(1, 3), st.integers(1, 60)), max_size=40).map(ints)
block_lengths = st.integers(1, 25)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
unique_names = st.lists(texts, unique=True, max_size=20)
seeds = st.integers(0, 2**64 - 1)
labels = st.lists(st.integers(-1, 6), max_size=30).map(ints)


# Blocks


@given(st.lists(st.integers(0, 2**40), max_size=20).map(ints))
def test_image_starts_are_running_sum(nbytes: Ints) -> None:
    expected = [sum(nbytes.tolist()[:i]) for i in range(len(nbytes))]
    assert image_starts(nbytes).tolist() == expected


@given(sizes, block_lengths)
def test_blocks_cover_payload_once(nbytes: Ints, length: int) -> None:
    found = blocks(nbytes, block_nbytes=length)
    edges = [0, *(block.stop for block in found)]
    assert [(block.start, block.stop) for block in found] == list(pairwise(edges))
    assert edges[-1] == nbytes.sum()


@given(sizes, block_lengths)
def test_blocks_have_full_length_except_the_last(nbytes: Ints, length: int) -> None:
    found = [block.stop - block.start for block in blocks(nbytes, block_nbytes=length)]
    assert found[:-1] == [length] * (len(found) - 1)
    assert all(0 < nbytes <= length for nbytes in found[-1:])


@given(sizes, block_lengths)
@example(ints([100]), 10)
@example(ints([10, 10, 10]), 10)
@example(ints([1] * 40), 7)
def test_block_lists_samples_with_bytes_in_it(nbytes: Ints, length: int) -> None:
    owner = np.repeat(np.arange(len(nbytes)), nbytes)  # the sample of each byte of the payload
    for block in blocks(nbytes, block_nbytes=length):
        inside = np.unique(owner[block.start : block.stop])
        assert list(range(block.first, block.last)) == inside.tolist()


@given(sizes, block_lengths)
@example(ints([100]), 10)
def test_skip_counts_bytes_in_previous_block(nbytes: Ints, length: int) -> None:
    owner = np.repeat(np.arange(len(nbytes)), nbytes)
    for block in blocks(nbytes, block_nbytes=length):
        assert block.skip == np.count_nonzero(owner[: block.start] == block.first)


@given(sizes, block_lengths)
def test_each_sample_starts_in_one_block(nbytes: Ints, length: int) -> None:
    begun = [
        sample
        for block in blocks(nbytes, block_nbytes=length)
        for sample in range(block.first + (block.skip > 0), block.last)
    ]
    assert begun == list(range(len(nbytes)))


def test_empty_payload_has_no_blocks() -> None:
    assert blocks(ints([])) == []


def test_block_has_length_of_a_shard() -> None:
    found = blocks(ints([SHARD_NBYTES, 2 * SHARD_NBYTES, 5]))
    edges = [n * SHARD_NBYTES for n in (1, 2, 3)]
    assert [block.stop for block in found] == [*edges, edges[-1] + 5]


# Order


@given(unique_names, seeds, st.sampled_from(["shuffled", "label", "source"]), st.data())
def test_every_order_is_a_permutation(
    names: list[str], seed: int, order: str, data: st.DataObject
) -> None:
    label = ints(data.draw(st.lists(st.integers(-1, 3), min_size=len(names), max_size=len(names))))
    found = sample_order(order, seed, names, label)
    assert sorted(found.tolist()) == list(range(len(names)))
    assert found.dtype == np.int64


@given(unique_names, seeds)
def test_source_order_is_kept(names: list[str], seed: int) -> None:
    label = np.zeros(len(names), dtype=np.int64)
    assert sample_order("source", seed, names, label).tolist() == list(range(len(names)))


@given(st.lists(st.tuples(st.integers(-1, 3), texts), unique=True, max_size=20), seeds)
def test_label_order_sorts_by_label_then_name(rows: list[tuple[int, str]], seed: int) -> None:
    found = sample_order("label", seed, [name for _, name in rows], ints([k for k, _ in rows]))
    assert [rows[i] for i in found] == sorted(rows)


@given(unique_names, seeds)
def test_shuffled_order_sorts_by_hash(names: list[str], seed: int) -> None:
    found = sample_order("shuffled", seed, names, np.zeros(len(names), dtype=np.int64))
    key = seed.to_bytes(8, "little")
    hashes = [
        int.from_bytes(hashlib.blake2b(names[i].encode(), digest_size=8, key=key).digest(), "big")
        for i in found
    ]
    assert hashes == sorted(hashes)


def test_equal_hashes_sort_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def first_letters(names: list[str], seed: int) -> list[bytes]:
        return [8 * name[:1].encode() for name in names]

    monkeypatch.setattr("arraystore.indexing.layout.name_hashes", first_letters)
    names = ["b2", "a9", "b1", "a10", "b10"]
    found = sample_order("shuffled", 0, names, ints([0, 1, 2, 3, 4]))
    assert [names[i] for i in found] == ["a10", "a9", "b1", "b10", "b2"]


@given(unique_names, seeds)
def test_shuffled_order_is_independent_of_source_order(names: list[str], seed: int) -> None:
    label = np.zeros(len(names), dtype=np.int64)
    other = sorted(names)
    by_first = [names[i] for i in sample_order("shuffled", seed, names, label)]
    by_second = [other[i] for i in sample_order("shuffled", seed, other, label)]
    assert by_first == by_second


@given(unique_names, seeds, st.data())
def test_subset_keeps_relative_order(names: list[str], seed: int, data: st.DataObject) -> None:
    some = data.draw(st.lists(st.sampled_from(names), unique=True) if names else st.just([]))
    label = np.zeros(len(names), dtype=np.int64)
    whole = [names[i] for i in sample_order("shuffled", seed, names, label)]
    found = [some[i] for i in sample_order("shuffled", seed, some, label[: len(some)])]
    assert found == [name for name in whole if name in some]


@given(st.sets(seeds, min_size=2, max_size=5))
def test_seeds_give_different_orders(some_seeds: set[int]) -> None:
    names = [f"{i}.jpg" for i in range(60)]
    label = np.zeros(60, dtype=np.int64)
    orders = {tuple(sample_order("shuffled", seed, names, label)) for seed in some_seeds}
    assert len(orders) == len(some_seeds)


def test_shuffled_order_mixes_labels() -> None:
    names = [f"n{label:08d}_{i}.JPEG" for label in range(10) for i in range(100)]
    label = np.repeat(np.arange(10), 100)
    first = label[sample_order("shuffled", 0, names, label)[:200]]
    assert np.bincount(first, minlength=10).min() >= 5


@given(st.lists(texts, max_size=20), seeds)
def test_names_are_hashed_with_keyed_blake2b(names: list[str], seed: int) -> None:
    key = struct.pack("<Q", seed)
    expected = [hashlib.blake2b(n.encode(), digest_size=8, key=key).digest() for n in names]
    assert name_hashes(names, seed) == expected


@named(
    ("name", "seed", "expected"),
    [
        ("n01440764_10026.JPEG", 0, "b688a95e164b4169"),
        ("ILSVRC2012_val_00000001.JPEG", 0, "7c0b5ff829d23e18"),
        ("n01440764_10026.JPEG", 1, "d363f5d9a1622565"),
        ("", 2**64 - 1, "579cca997dcfd361"),
        ("é/漢.jpg", 258, "11063c9c7fe21144"),
    ],
)
def test_hashes_equal_reference_values(name: str, seed: int, expected: str) -> None:
    assert name_hashes([name], seed)[0].hex() == expected


# Labels


@given(labels, st.integers(7, 10))
def test_label_index_groups_positions_by_label(label: Ints, n_classes: int) -> None:
    order, indptr = label_index(label, n_classes)
    found = [order[indptr[k] : indptr[k + 1]].tolist() for k in range(n_classes)]
    assert found == [np.flatnonzero(label == k).tolist() for k in range(n_classes)]


@given(labels, st.integers(7, 10))
def test_label_index_has_right_shape(label: Ints, n_classes: int) -> None:
    order, indptr = label_index(label, n_classes)
    assert sorted(order.tolist()) == np.flatnonzero(label >= 0).tolist()
    assert (len(indptr), indptr[0], indptr[-1]) == (n_classes + 1, 0, len(order))
    assert order.dtype == indptr.dtype == np.int64


def test_label_index_of_nothing_is_empty() -> None:
    order, indptr = label_index(ints([]), 0)
    assert (order.tolist(), indptr.tolist()) == ([], [0])


# Content digest

rows_of_content = st.lists(
    st.tuples(
        texts, st.integers(-1, 2**63 - 1), st.integers(0, 2**63 - 1), st.integers(0, 2**32 - 1)
    ),
    unique_by=lambda row: row[0],
    max_size=12,
)
Content = list[tuple[str, int, int, int]]


def digest_of(rows: Content) -> str:
    names = [row[0] for row in rows]
    numbers = np.array([row[1:] for row in rows], dtype=np.int64).reshape(-1, 3)
    return content_digest(names, numbers[:, 0], numbers[:, 1], numbers[:, 2].astype(np.uint32))


@given(rows_of_content)
def test_digest_is_sha256_of_sorted_rows(
    rows: Content,
) -> None:
    expected = hashlib.sha256()
    for name, label, nbytes, crc in sorted(rows, key=lambda row: row[0].encode()):
        expected.update(name.encode() + b"\0" + struct.pack("<qqI", label, nbytes, crc))
    assert digest_of(rows) == expected.hexdigest()


@given(rows_of_content.flatmap(lambda rows: st.tuples(st.just(rows), st.permutations(rows))))
def test_digest_is_independent_of_order(drawn: tuple[Content, Content]) -> None:
    rows, permuted = drawn
    assert digest_of(rows) == digest_of(permuted)


@named("changed", [("c", 4, 5, 6), ("b", 0, 5, 6), ("b", 4, 0, 6), ("b", 4, 5, 0)])
def test_digest_depends_on_every_column(changed: tuple[str, int, int, int]) -> None:
    first = ("a", 1, 2, 3)
    assert digest_of([first, changed]) != digest_of([first, ("b", 4, 5, 6)])


# Pieces


@given(unique_names.filter(bool), seeds)
def test_names_are_hashed_in_pieces(names: list[str], seed: int) -> None:
    numbers = np.arange(len(names))
    columns = (numbers, 2 * numbers, numbers.astype(np.uint32))
    whole = hash_numbers(names, seed).tolist(), content_digest(names, *columns)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("arraystore.indexing.layout._PIECE", 3)
        assert (hash_numbers(names, seed).tolist(), content_digest(names, *columns)) == whole


def test_text_is_written_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arraystore.containers.zarr.writer.COLUMN_CHUNK_ROWS", 2)
    names = ["a", "bc", "ä", "", "e" * 20]
    writer = ZarrWriter(tmp_path / "s")
    writer.write_column("file_name", names, COLUMNS["file_name"])
    writer.close()
    assert np.array_equal(zarr.open_array(tmp_path / "s/file_name")[:], names)
    assert len(list((tmp_path / "s/file_name/c").iterdir())) == 3
