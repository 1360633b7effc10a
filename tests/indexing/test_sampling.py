"""Draws and orders, against slow and plain ways to say the same."""

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
    from numpy.typing import NDArray

N_CLASSES = 6
VECTORS = {
    "block": [2, 6, 9, 8, 1, 0, 5, 3, 7, 4],
    "balanced": [4, 3, 5, 3, 1, 0],
    "episode": [[0, 1], [4, 5], [0, 1]],
}
"""Those of docs/format.md, section 10."""

seeds = st.integers(0, 2**63 - 1)
labels = st.lists(st.integers(-1, N_CLASSES - 1), max_size=40).map(
    lambda values: np.array(values, dtype=np.int64)
)
some_labels = labels.filter(lambda values: bool((values >= 0).any()))


def groups_of(label: NDArray[np.int64]) -> Groups:
    return Groups(*label_index(label, N_CLASSES))


def philox(seed: int, epoch: int, n: int) -> list[int]:
    """The first words, from NumPy alone."""
    generator = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64))
    return [int(generator.random_raw()) for _ in range(n)]


@given(seeds, seeds, st.integers(0, 300), st.integers(0, 30))
def test_words_are_those_of_numpys_stream_from_any_place(
    seed: int, epoch: int, start: int, count: int
) -> None:
    expected = philox(seed, epoch, start + count)[start:]
    assert words(seed, epoch, start, start + count).tolist() == expected


@given(st.integers(0, 50), seeds, seeds)
def test_a_permutation_sorts_by_word(n: int, seed: int, epoch: int) -> None:
    stream = philox(seed, epoch, n)
    assert permutation(n, seed, epoch).tolist() == sorted(range(n), key=stream.__getitem__)


@given(st.integers(1, 50), st.integers(0, 50), seeds)
def test_a_draw_with_repeats_is_the_words_modulo_n(n: int, count: int, seed: int) -> None:
    assert with_repeats(n, count, seed).tolist() == [w % n for w in philox(seed, 0, count)]


@given(st.integers(0, 100), st.integers(1, 9))
def test_shares_are_disjoint_and_of_equal_length(n: int, world_size: int) -> None:
    shares = [share(n, rank, world_size) for rank in range(world_size)]
    assert [i for part in shares for i in part] == list(range(n - n % world_size))
    assert len({len(part) for part in shares}) == 1


@given(st.integers(0, 200), seeds, st.integers(1, 70), st.integers(1, 4))
def test_buffers_of_blocks_cover_the_shares_of_all_processes_once(
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
    """The shuffle by blocks, as docs/format.md says it."""
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
def test_buffers_are_those_of_the_specification(
    n: int, seed: int, epoch: int, buffer_size: int, world_size: int
) -> None:
    for rank in range(world_size):
        found = block_buffers(
            n, seed, epoch, buffer_size=buffer_size, rank=rank, world_size=world_size
        )
        expected = slow_blocks(n, seed, epoch, buffer_size, share(n, rank, world_size))
        assert [buffer.tolist() for buffer in found] == expected


def slow_balanced(label: NDArray[np.int64], seed: int, epoch: int) -> list[int]:
    """The balanced order, as docs/format.md says it."""
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
def test_a_balanced_order_is_that_of_the_specification(
    label: NDArray[np.int64], seed: int, epoch: int
) -> None:
    assert balanced(groups_of(label), seed, epoch).tolist() == slow_balanced(label, seed, epoch)


def test_the_orders_of_docs_format_md() -> None:
    """The vectors that the page has."""
    label = np.array([0, 1, 0, 2, 0, 1])
    assert permutation(10, 1, 2).tolist() == [4, 2, 0, 6, 1, 5, 9, 8, 7, 3]
    (buffer,) = block_buffers(10, 1, 2, buffer_size=32)
    assert buffer.tolist() == VECTORS["block"]
    assert balanced(groups_of(label), 1, 2).tolist() == VECTORS["balanced"]
    drawn = episode(groups_of(label), np.array([0, 1]), 2, (1, 1), 1, 2)
    assert [part.reshape(-1).tolist() for part in drawn] == VECTORS["episode"]


@given(st.integers(1, 500), seeds)
def test_a_buffer_holds_few_blocks_of_neighbours(n: int, seed: int) -> None:
    for buffer in block_buffers(n, seed, 0, buffer_size=64):
        assert len(set((buffer // 4).tolist())) <= 17  # one may be cut by the buffer's end


def test_a_buffer_is_shuffled_and_differs_from_epoch_to_epoch() -> None:
    first, second = (next(block_buffers(64, 0, e, buffer_size=64)).tolist() for e in (0, 1))
    assert sorted(first) == sorted(second) == list(range(64))
    assert first != second
    assert max(Counter(np.diff(first).tolist()).values()) < 16  # the blocks are not left whole


@given(some_labels, seeds, seeds)
def test_a_balanced_order_comes_in_rounds_of_every_label(
    label: NDArray[np.int64], seed: int, epoch: int
) -> None:
    order = balanced(groups_of(label), seed, epoch)
    present = sorted(set(label[label >= 0].tolist()))
    assert len(order) == (label >= 0).sum()
    drawn = label[order].tolist()
    for start in range(0, len(drawn), len(present)):
        one_round = drawn[start : start + len(present)]
        assert len(set(one_round)) == len(one_round)


@given(some_labels, seeds)
def test_a_balanced_order_uses_up_a_label_before_it_repeats(
    label: NDArray[np.int64], seed: int
) -> None:
    order = balanced(groups_of(label), seed, 0)
    for k in set(label[order].tolist()):
        mine = order[label[order] == k].tolist()
        size = int((label == k).sum())
        assert len(set(mine[:size])) == len(mine[:size])
        assert all(mine[i] == mine[i % size] for i in range(len(mine)))


@given(labels, seeds)
def test_ranked_groups_keep_their_members_and_sort_them_by_key(
    label: NDArray[np.int64], seed: int
) -> None:
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
def test_a_fraction_is_divided_as_equally_as_can_be(
    n: int, fraction: float, keys: list[int]
) -> None:
    counts = class_balanced_counts(n, fraction, np.array(keys, dtype=np.uint64))
    assert counts.sum() == round(fraction * 1000) * n // 1000
    assert counts.max() - counts.min() <= 1
    more = [keys[i] for i in np.flatnonzero(counts > counts.min())]
    assert sorted(more) == sorted(keys)[: len(more)]


@pytest.mark.parametrize(
    ("fraction", "sizes"), [(0.01, {12: 189, 13: 811}), (0.1, {128: 884, 129: 116})]
)
def test_the_fractions_of_imagenet_are_those_of_simclr(
    fraction: float, sizes: dict[int, int]
) -> None:
    counts = class_balanced_counts(1_281_167, fraction, np.arange(1000, dtype=np.uint64))
    assert Counter(counts.tolist()) == sizes


def test_a_fraction_is_the_decimal_number_that_was_written() -> None:
    # As floating-point numbers 0.29 * 100 is 28.999…
    assert class_balanced_counts(100, 0.29, np.arange(1, dtype=np.uint64)).tolist() == [29]


def test_no_class_is_a_fraction_of_nothing() -> None:
    assert class_balanced_counts(0, 0.5, np.empty(0, dtype=np.uint64)).tolist() == []


@given(some_labels, st.data())
def test_the_first_of_each_label_are_drawn(label: NDArray[np.int64], data: st.DataObject) -> None:
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
def test_a_draw_of_each_label_with_repeats_is_the_words_modulo_its_size(
    label: NDArray[np.int64], k: int, seed: int
) -> None:
    present = np.unique(label[label >= 0])
    counts = np.full(len(present), k, dtype=np.int64)
    drawn = draw_from_groups(groups_of(label), present, counts, replace=True, seed=seed)
    stream = iter(philox(seed, 0, k * len(present)))
    members = [np.flatnonzero(label == c) for c in present]
    assert drawn.tolist() == [int(m[next(stream) % len(m)]) for m in members for _ in range(k)]


@given(some_labels, st.integers(0, 2), st.integers(0, 2), seeds, st.integers(0, 99), st.data())
def test_an_episode_is_drawn_by_word_and_never_tests_what_it_taught(
    label: NDArray[np.int64],
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
def test_a_seed_that_cannot_be_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=rf"seed must be 0 or more and below 2\*\*63, got {seed}"):
        as_seed(seed)


def test_a_seed_that_is_no_integer_is_refused() -> None:
    with pytest.raises(TypeError, match=r"seed must be an integer, got 0\.5"):
        as_seed(0.5)  # type: ignore[arg-type] # the point


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_fraction_that_cannot_be_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"fraction must be in \[0, 1\]"):
        as_fraction(fraction, "fraction")
