"""Reproducible random draws of positions, from a seed and an epoch.

All draws use the raw 64-bit words of Philox-4x64-10 (Salmon et al., "Parallel random numbers: as
easy as 1, 2, 3", SC 2011) with the key (seed, epoch), which NumPy promises to keep;
``docs/format.md`` has test vectors. No state is kept: the arguments determine the result.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from arraystore._typing import Hashes, Ints

BLOCKS_IN_BUFFER: Final = 16
"""Shuffle blocks, which are runs of consecutive samples, in one shuffle buffer."""

_WORDS_PER_STEP: Final = 4
_PERIOD: Final = 2**256


class Groups(NamedTuple):
    """Positions by label.

    Attributes
    ----------
    order : ndarray of int64, shape (n_labelled,)
        Positions grouped by label.
    indptr : ndarray of int64, shape (n_classes + 1,)
        Label k is ``order[indptr[k]:indptr[k + 1]]``.
    """

    order: Ints
    indptr: Ints


def words(seed: int, epoch: int, start: int, stop: int) -> Hashes:
    """Return the words ``[start, stop)`` of the stream of a seed and an epoch.

    Examples
    --------
    >>> [hex(word) for word in words(0, 0, 0, 2)]
    ['0x2f4ba6408e4d89b', '0x3dd62b0b9ca8c5b2']
    >>> words(0, 0, 1, 2) == words(0, 0, 0, 2)[1:]
    array([ True])
    """
    generator = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64))
    steps, rest = divmod(start, _WORDS_PER_STEP)
    generator.advance(steps)
    stream: Hashes = generator.random_raw(rest + stop - start)
    return stream[rest:]


def words_at(seed: int, epoch: int, steps: Iterable[int], n_steps: int) -> Hashes:
    """Return several runs of words of the stream of a seed and an epoch.

    Parameters
    ----------
    seed, epoch : int
    steps : iterable of int
        Where each run starts, in steps of four words.
    n_steps : int
        Length of a run.

    Returns
    -------
    ndarray of uint64, shape (number of runs, 4 * n_steps)

    Examples
    --------
    >>> np.array_equal(words_at(0, 0, [2, 0], 1), [words(0, 0, 8, 12), words(0, 0, 0, 4)])
    True
    """
    generator = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64))
    at, runs = 0, []
    for step in steps:
        generator.advance((step - at) % _PERIOD)
        runs.append(generator.random_raw(_WORDS_PER_STEP * n_steps))
        at = step + n_steps
    return np.array(runs, dtype=np.uint64).reshape(-1, _WORDS_PER_STEP * n_steps)


def permutation(n: int, seed: int, epoch: int = 0) -> Ints:
    """Return ``range(n)`` in random order: sorted by the first n words, and by position if equal.

    Examples
    --------
    >>> permutation(5, seed=0)
    array([0, 2, 1, 4, 3])
    """
    return np.argsort(words(seed, epoch, 0, n), kind="stable").astype(np.int64, copy=False)


def with_repeats(n: int, count: int, seed: int) -> Ints:
    """Return `count` positions in ``range(n)``, drawn with replacement: word modulo n.

    The first positions are more probable than others by less than n in 2**64.
    """
    return (words(seed, 0, 0, count) % np.uint64(n)).astype(np.int64)


def share(n: int, rank: int, world_size: int) -> range:
    """Return the part of ``range(n)`` that belongs to one of several equal processes.

    All parts have the same length; the last ``n % world_size`` positions belong to none.
    """
    length = n // world_size
    return range(rank * length, (rank + 1) * length)


def block_buffers(
    n: int, seed: int, epoch: int, *, buffer_size: int, rank: int = 0, world_size: int = 1
) -> Iterator[Ints]:
    """Yield positions in a random order that reads storage in large pieces.

    ``range(n)`` is divided into shuffle blocks, and the blocks are put in random order. Buffers
    are filled from them one after another, and each is shuffled. The first words of the stream
    order the blocks; the others, one per sample, order the samples in their buffers.

    Parameters
    ----------
    n : int
        Number of positions.
    seed, epoch : int
    buffer_size : int
        Positions in a buffer. A block is a sixteenth of it, 1 or more.
    rank, world_size : int
        Which `share` of the ordered samples to yield.

    Yields
    ------
    ndarray of int64, shape (m,), m at most `buffer_size`
    """
    buffer_size = min(buffer_size, BLOCKS_IN_BUFFER * max(1, n))  # then one block contains all
    size = max(1, buffer_size // BLOCKS_IN_BUFFER)
    n_blocks = -(-n // size)
    blocks = permutation(n_blocks, seed, epoch)
    # Only the last block may be shorter. All samples that follow it move forward by as much.
    lacking = n_blocks * size - n
    short = int(np.flatnonzero(blocks == n_blocks - 1)[0]) if lacking else n_blocks
    mine = share(n, rank, world_size)
    for start in range(mine.start, mine.stop, buffer_size):
        stop = min(start + buffer_size, mine.stop)
        places = np.arange(start, stop, dtype=np.int64)
        places[places >= (short + 1) * size - lacking] += lacking
        nth, within = np.divmod(places, size)
        positions = blocks[nth] * size + within
        shuffled = np.argsort(words(seed, epoch, n_blocks + start, n_blocks + stop), kind="stable")
        yield positions[shuffled]


def balanced(groups: Groups, seed: int, epoch: int) -> Ints:
    """Return as many positions as `groups` has, with every label equally often.

    Positions come in rounds: a round has one sample of each label with samples, in random order, so
    that any batch is balanced. The samples of a label are shuffled, and repeat when all of them
    were used.

    Parameters
    ----------
    groups : Groups
    seed, epoch : int

    Returns
    -------
    ndarray of int64, shape (n_labelled,)
    """
    n, sizes = len(groups.order), np.diff(groups.indptr)
    present = np.flatnonzero(sizes)
    if not n:
        return groups.order
    members = groups.order[_sorted_in_groups(words(seed, epoch, 0, n), sizes)]
    rounds = -(-n // len(present))
    draws = words(seed, epoch, n, n + rounds * len(present)).reshape(rounds, len(present))
    label = present[np.argsort(draws, axis=1, kind="stable")]
    nth = np.arange(rounds)[:, np.newaxis] % sizes[label]
    positions: Ints = members[(groups.indptr[label] + nth).reshape(-1)[:n]]
    return positions


def ranked(groups: Groups, keys: Hashes) -> Groups:
    """Return the groups with the positions of each sorted by key.

    Parameters
    ----------
    groups : Groups
    keys : ndarray of uint64, shape (n,)
        Key of each position; positions with equal keys keep their order.
    """
    order = groups.order[_sorted_in_groups(keys[groups.order], np.diff(groups.indptr))]
    return Groups(order, groups.indptr)


def _sorted_in_groups(keys: Hashes, sizes: Ints) -> Ints:
    group = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
    return np.lexsort((keys, group))


def class_balanced_counts(n: int, fraction: float, keys: Hashes) -> Ints:
    """Return how many samples of each class make up a fraction of all, as in SimCLR's lists.

    Parameters
    ----------
    n : int
        Number of samples.
    fraction : float
        In [0, 1]. Interpreted as the decimal number that is written; the number of samples is
        rounded down.
    keys : ndarray of uint64, shape (n_classes,)
        If the number is not a multiple of the classes, those with the smallest keys get one more.

    Returns
    -------
    ndarray of int64, shape (n_classes,)

    Examples
    --------
    >>> counts = class_balanced_counts(1_281_167, 0.01, np.arange(1000, dtype=np.uint64))
    >>> np.unique(counts, return_counts=True)
    (array([12, 13]), array([189, 811]))
    """
    if not len(keys):
        return np.empty(0, dtype=np.int64)
    from fractions import Fraction

    base, more = divmod(int(Fraction(repr(fraction)) * n), len(keys))
    counts = np.full(len(keys), base, dtype=np.int64)
    counts[np.argsort(keys, kind="stable")[:more]] += 1
    return counts


def stratified_bounds(sizes: Ints, fractions: Sequence[float], keys: Hashes) -> Ints:
    """Divide each class by fractions; what cannot be divided evens out over all classes.

    Parameters
    ----------
    sizes : ndarray of int64, shape (n_classes,)
        Samples of each class.
    fractions : sequence of float
        Interpreted as the decimal numbers that are written; in all at most 1.
    keys : ndarray of uint64, shape (n_classes,)
        Where the numbers of a class are rounded, as a fraction of 2^64.

    Returns
    -------
    ndarray of int64, shape (n_classes, n_fractions + 1)
        Part i of a class are its samples from bound i to bound i + 1.

    Raises
    ------
    ValueError
        If the fractions add up to more than 1.

    Examples
    --------
    >>> half = np.array([2**63], dtype=np.uint64)
    >>> stratified_bounds(np.array([60, 6]), [0.8, 0.1, 0.1], half.repeat(2))
    array([[ 0, 48, 54, 60],
           [ 0,  5,  5,  6]])
    """
    from fractions import Fraction

    ends = [Fraction(0), *accumulate(Fraction(repr(float(part))) for part in fractions)]
    if ends[-1] > 1:
        total = float(ends[-1])
        raise ValueError(f"fractions must add up to at most 1, got {total}")
    rows = [
        [0, *((end.numerator * size * 2**64 // end.denominator + key) >> 64 for end in ends[1:])]
        for size, key in zip(sizes.tolist(), keys.tolist(), strict=True)
    ]
    return np.array(rows, dtype=np.int64).reshape(len(sizes), len(ends))


def draw_from_groups(
    groups: Groups,
    labels: Ints,
    counts: Ints,
    *,
    first: Ints | None = None,
    replace: bool = False,
    seed: int = 0,
) -> Ints:
    """Draw some positions of each of several labels: the first ones, or with replacement.

    Parameters
    ----------
    groups : Groups
    labels : ndarray of int64, shape (n_labels,)
        Labels that have positions.
    counts : ndarray of int64, shape (n_labels,)
        Positions to draw of each label; without `replace`, at most as many as it has.
    first : ndarray of int64, shape (n_labels,), optional
        Positions of each label that are passed over; without `replace`.
    replace : bool, default False
        Draw from all positions of the label each time, as `with_repeats` does.
    seed : int, default 0

    Returns
    -------
    ndarray of int64, shape (counts.sum(),)
        Grouped by label, in the order of `labels`.
    """
    start = np.repeat(groups.indptr[labels] + (0 if first is None else first), counts)
    nth = np.arange(len(start), dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
    if replace:
        sizes = np.repeat(np.diff(groups.indptr)[labels], counts).astype(np.uint64)
        nth = (words(seed, 0, 0, len(start)) % sizes).astype(np.int64)
    drawn: Ints = groups.order[start + nth]
    return drawn


def episode(
    groups: Groups, eligible: Ints, n_way: int, sizes: tuple[int, int], seed: int, number: int
) -> tuple[Ints, Ints, Ints]:
    """Draw one episode of few-shot learning.

    The first words of the stream of (seed, number) choose the labels, one word per eligible label;
    the next choose the samples, one word per sample of each chosen label in turn.

    Parameters
    ----------
    groups : Groups
    eligible : ndarray of int64
        Labels to choose from: `n_way` or more, ascending.
    n_way : int
        Labels to choose.
    sizes : (int, int)
        Samples of each label for support and for query.
    seed, number : int
        Which episode.

    Returns
    -------
    labels : ndarray of int64, shape (n_way,)
    support : ndarray of int64, shape (n_way, sizes[0])
    query : ndarray of int64, shape (n_way, sizes[1])
        Positions; no position is in both.
    """
    first = len(eligible)
    labels = eligible[permutation(first, seed, number)[:n_way]]
    start, stop = groups.indptr[labels], groups.indptr[labels + 1]
    total = int((stop - start).sum())
    draws = np.split(words(seed, number, first, first + total), np.cumsum(stop - start)[:-1])
    k_shot, both = sizes[0], sum(sizes)
    chosen = np.stack(
        [
            groups.order[a:b][np.argsort(draw, kind="stable")[:both]]
            for a, b, draw in zip(start, stop, draws, strict=True)
        ]
    )
    return labels, chosen[:, :k_shot], chosen[:, k_shot:]
