"""Draws and orders, compared with slow implementations of docs/format.md."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arraystore._arguments import as_fraction, as_seed
from arraystore.indexing.layout import label_index
from arraystore.indexing.sampling import (
    Groups,
    balanced,
    block_buffers,
    class_balanced_counts,
    draw_from_groups,
    episode,
    permutation,
    ranked,
    share,
    with_repeats,
    words,
)

if TYPE_CHECKING:
    from arraystore._typing import Ints

N_CLASSES = 6
VECTORS = {
    "block": [2, 6, 9, 8, 1, 0, 5, 3, 7, 4],
    "balanced": [4, 3, 5, 3, 1, 0],
    "episode": [[0, 1], [4, 5], [0, 1]],
}
"""Test vectors of docs/format.md, section 10."""

seeds = st.integers(0, 2**63 - 1)
labels = st.lists(st.integers(-1, N_CLASSES - 1), max_size=40).map(
    lambda values: np.array(values, dtype=np.int64)
)
some_labels = labels.filter(lambda values: bool((values >= 0).any()))


def groups_of(label: Ints) -> Groups:
    return Groups(*label_index(label, N_CLASSES))


def philox(seed: int, epoch: int, n: int) -> list[int]:
    """Return the first words, from NumPy alone."""
    generator = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64))
    return [int(generator.random_raw()) for _ in range(n)]


@given(seeds, seeds, st.integers(0, 300), st.integers(0, 30))
def test_words_equal_numpys_stream(seed: int, epoch: int, start: int, count: int) -> None:
    expected = philox(seed, epoch, start + count)[start:]
    assert words(seed, epoch, start, start + count).tolist() == expected


@given(st.integers(0, 50), seeds, seeds)
def test_permutation_sorts_by_word(n: int, seed: int, epoch: int) -> None:
    stream = philox(seed, epoch, n)
    assert permutation(n, seed, epoch).tolist() == sorted(range(n), key=stream.__getitem__)


@given(st.integers(1, 50), st.integers(0, 50), seeds)
def test_with_repeats_is_words_modulo_n(n: int, count: int, seed: int) -> None:
    assert with_repeats(n, count, seed).tolist() == [w % n for w in philox(seed, 0, count)]


@given(st.integers(0, 100), st.integers(1, 9))
def test_shares_are_disjoint_and_equally_long(n: int, world_size: int) -> None:
    shares = [share(n, rank, world_size) for rank in range(world_size)]
    assert [i for part in shares for i in part] == list(range(n - n % world_size))
    assert len({len(part) for part in shares}) == 1


@given(st.integers(0, 200), seeds, st.integers(1, 70), st.integers(1, 4))
def test_block_buffers_cover_all_shares_once(
    n: int, seed: int, buffer_size: int, world_size: int
) -> None:
    found = [
        list(block_buffers(n, seed, 1, buffer_size=buffer_size, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    positions = [i for buffers in found for buffer in buffers for i in buffer.tolist()]
    assert len(set(positions)) == len(positions) == n - n % world_size
    assert set(positions) <= set(range(n))
    assert len({sum(map(len, buffers)) for buffers in found}) == 1
    assert all(len(buffer) <= buffer_size for buffers in found for buffer in buffers)


def slow_blocks(n: int, seed: int, epoch: int, size: int, part: range) -> list[list[int]]:
    """Shuffle by blocks as docs/format.md specifies it."""
    length = max(1, size // 16)
    n_blocks = -(-n // length)
    stream = philox(seed, epoch, n_blocks + n)
    blocks = sorted(range(n_blocks), key=stream.__getitem__)
    line = [i for b in blocks for i in range(b * length, min(n, (b + 1) * length))]
    places = list(part)
    buffers = [places[start : start + size] for start in range(0, len(places), size)]
    return [
        [line[j] for j in sorted(buffer, key=lambda j: stream[n_blocks + j])] for buffer in buffers
    ]


@given(st.integers(0, 150), st.integers(0, 9), seeds, st.integers(1, 70), st.integers(1, 4))
def test_block_buffers_equal_specification(
    n: int, seed: int, epoch: int, buffer_size: int, world_size: int
) -> None:
    for rank in range(world_size):
        found = block_buffers(
            n, seed, epoch, buffer_size=buffer_size, rank=rank, world_size=world_size
        )
        expected = slow_blocks(n, seed, epoch, buffer_size, share(n, rank, world_size))
        assert [buffer.tolist() for buffer in found] == expected


def slow_balanced(label: Ints, seed: int, epoch: int) -> list[int]:
    """Return the balanced order as docs/format.md specifies it."""
    n = int((label >= 0).sum())
    stream = iter(philox(seed, epoch, n + (n + N_CLASSES) * N_CLASSES))
    members: dict[int, list[int]] = {}
    for k in sorted(set(label[label >= 0].tolist())):
        by_word = {i: next(stream) for i in np.flatnonzero(label == k).tolist()}
        members[k] = sorted(by_word, key=by_word.__getitem__)
    order: list[int] = []
    for number in itertools.count():
        if len(order) >= n:
            return order[:n]
        drawn = {k: next(stream) for k in members}
        order += [
            members[k][number % len(members[k])] for k in sorted(drawn, key=drawn.__getitem__)
        ]
    return order


@given(labels, st.integers(0, 9), seeds)
def test_balanced_order_equals_specification(label: Ints, seed: int, epoch: int) -> None:
    assert balanced(groups_of(label), seed, epoch).tolist() == slow_balanced(label, seed, epoch)


def test_vectors_of_format_md() -> None:
    """Compare with the test vectors of the page."""
    label = np.array([0, 1, 0, 2, 0, 1])
    assert permutation(10, 1, 2).tolist() == [4, 2, 0, 6, 1, 5, 9, 8, 7, 3]
    (buffer,) = block_buffers(10, 1, 2, buffer_size=32)
    assert buffer.tolist() == VECTORS["block"]
    assert balanced(groups_of(label), 1, 2).tolist() == VECTORS["balanced"]
    drawn = episode(groups_of(label), np.array([0, 1]), 2, (1, 1), 1, 2)
    assert [part.reshape(-1).tolist() for part in drawn] == VECTORS["episode"]


@given(st.integers(1, 500), seeds)
def test_buffer_consists_of_few_blocks(n: int, seed: int) -> None:
    for buffer in block_buffers(n, seed, 0, buffer_size=64):
        assert len(set((buffer // 4).tolist())) <= 17  # one may be cut by the buffer's end


def test_buffers_differ_between_epochs() -> None:
    first, second = (next(block_buffers(64, 0, e, buffer_size=64)).tolist() for e in (0, 1))
    assert sorted(first) == sorted(second) == list(range(64))
    assert first != second
    assert max(Counter(np.diff(first).tolist()).values()) < 16  # the blocks are not left whole


@given(some_labels, seeds, seeds)
def test_balanced_order_has_rounds_of_every_label(label: Ints, seed: int, epoch: int) -> None:
    order = balanced(groups_of(label), seed, epoch)
    present = sorted(set(label[label >= 0].tolist()))
    assert len(order) == (label >= 0).sum()
    drawn = label[order].tolist()
    for start in range(0, len(drawn), len(present)):
        one_round = drawn[start : start + len(present)]
        assert len(set(one_round)) == len(one_round)


@given(some_labels, seeds)
def test_balanced_order_uses_all_samples_before_repeating(label: Ints, seed: int) -> None:
    order = balanced(groups_of(label), seed, 0)
    for k in set(label[order].tolist()):
        mine = order[label[order] == k].tolist()
        size = int((label == k).sum())
        assert len(set(mine[:size])) == len(mine[:size])
        assert all(mine[i] == mine[i % size] for i in range(len(mine)))


@given(labels, seeds)
def test_ranked_groups_sort_members_by_key(label: Ints, seed: int) -> None:
    keys = words(seed, 0, 0, len(label)) % np.uint64(5)  # with ties
    groups = groups_of(label)
    order, indptr = ranked(groups, keys)
    assert indptr is groups.indptr
    for k in range(N_CLASSES):
        expected = sorted(np.flatnonzero(label == k).tolist(), key=lambda i: (int(keys[i]), i))
        assert order[indptr[k] : indptr[k + 1]].tolist() == expected


@given(
    st.integers(0, 10**6),
    st.integers(0, 1000).map(lambda i: i / 1000),
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20, unique=True),
)
def test_fraction_is_divided_equally(n: int, fraction: float, keys: list[int]) -> None:
    counts = class_balanced_counts(n, fraction, np.array(keys, dtype=np.uint64))
    assert counts.sum() == round(fraction * 1000) * n // 1000
    assert counts.max() - counts.min() <= 1
    more = [keys[i] for i in np.flatnonzero(counts > counts.min())]
    assert sorted(more) == sorted(keys)[: len(more)]


@pytest.mark.parametrize(
    ("fraction", "sizes"), [(0.01, {12: 189, 13: 811}), (0.1, {128: 884, 129: 116})]
)
def test_fractions_of_imagenet_equal_simclrs(fraction: float, sizes: dict[int, int]) -> None:
    counts = class_balanced_counts(1_281_167, fraction, np.arange(1000, dtype=np.uint64))
    assert Counter(counts.tolist()) == sizes


def test_fraction_is_a_decimal_number() -> None:
    # In floating-point numbers, 0.29 * 100 is 28.999…
    assert class_balanced_counts(100, 0.29, np.arange(1, dtype=np.uint64)).tolist() == [29]


def test_fraction_of_no_classes_is_empty() -> None:
    assert class_balanced_counts(0, 0.5, np.empty(0, dtype=np.uint64)).tolist() == []


@given(some_labels, st.data())
def test_draw_takes_first_of_each_label(label: Ints, data: st.DataObject) -> None:
    groups = groups_of(label)
    present = np.unique(label[label >= 0])
    counts = [data.draw(st.integers(0, int((label == k).sum()))) for k in present]
    drawn = draw_from_groups(groups, present, np.array(counts, dtype=np.int64))
    expected = [
        i
        for k, count in zip(present, counts, strict=True)
        for i in np.flatnonzero(label == k)[:count].tolist()
    ]
    assert drawn.tolist() == expected


@given(some_labels, st.integers(0, 9), seeds)
def test_draw_with_replacement_is_words_modulo_size(label: Ints, k: int, seed: int) -> None:
    present = np.unique(label[label >= 0])
    counts = np.full(len(present), k, dtype=np.int64)
    drawn = draw_from_groups(groups_of(label), present, counts, replace=True, seed=seed)
    stream = iter(philox(seed, 0, k * len(present)))
    members = [np.flatnonzero(label == c) for c in present]
    assert drawn.tolist() == [int(m[next(stream) % len(m)]) for m in members for _ in range(k)]


@given(some_labels, st.integers(0, 2), st.integers(0, 2), seeds, st.integers(0, 99), st.data())
def test_episode_is_drawn_by_word(
    label: Ints,
    k_shot: int,
    n_query: int,
    seed: int,
    number: int,
    data: st.DataObject,
) -> None:
    groups = groups_of(label)
    sizes = np.diff(groups.indptr)
    eligible = np.flatnonzero(sizes >= max(1, k_shot + n_query))
    if not len(eligible):
        return
    n_way = data.draw(st.integers(1, len(eligible)))
    chosen, support, query = episode(groups, eligible, n_way, (k_shot, n_query), seed, number)
    stream = iter(philox(seed, number, len(eligible) + int(sizes.sum())))
    by_word = {k: next(stream) for k in eligible.tolist()}
    assert chosen.tolist() == sorted(by_word, key=by_word.__getitem__)[:n_way]
    for row, k in enumerate(chosen.tolist()):
        members = {i: next(stream) for i in np.flatnonzero(label == k).tolist()}
        first = sorted(members, key=members.__getitem__)
        assert support[row].tolist() == first[:k_shot]
        assert query[row].tolist() == first[k_shot : k_shot + n_query]


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seed_out_of_range_raises(seed: int) -> None:
    with pytest.raises(ValueError, match=rf"seed must be 0 or more and below 2\*\*63, got {seed}"):
        as_seed(seed)


def test_seed_of_wrong_type_raises() -> None:
    with pytest.raises(TypeError, match=r"seed must be an integer, got 0\.5"):
        as_seed(0.5)  # type: ignore[arg-type] # the point


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_fraction_out_of_range_raises(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"fraction must be in \[0, 1\]"):
        as_fraction(fraction, "fraction")
