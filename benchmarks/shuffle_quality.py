"""How close the shuffles of `Split.batches` are to a uniform one: model and simulation.

    python -m benchmarks.shuffle_quality [--samples 1000000]

The measures, of a batch of 256 samples:

- **same block**: probability that two of its samples are of one block of consecutive samples.
- **met again**: probability that two of its samples are in one batch of the next epoch as well.
- **label entropy**: of the labels in it, in bits, if the store is in random order, and if it is
  sorted by label.

The simulation draws the batches as `Split.batches` does, and counts.
"""

from __future__ import annotations

import argparse
import math
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from arraystore.indexing.sampling import BLOCKS_IN_BUFFER, block_buffers, permutation
from benchmarks.scaling_model import print_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from arraystore._typing import Ints

BATCH: Final = 256
N_CLASSES: Final = 1000
BUFFERS: Final = (1024, 4096, 16384)


class Quality(NamedTuple):
    """Measures of a shuffle, see above."""

    same_block: float
    met_again: float
    shuffled_entropy: float
    sorted_entropy: float


def entropy(counts: Ints) -> float:
    """Return the entropy of a distribution given as counts, in bits."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum())


def drawn_entropy(size: int, total: int) -> float:
    """Return what a label of `size` among `total` samples adds to the expected entropy of a batch.

    The batch is drawn without replacement, so the number of its samples with this label has a
    hypergeometric distribution.
    """

    def logarithm(n: int, k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    found = 0.0
    for k in range(max(1, BATCH - (total - size)), min(BATCH, size) + 1):
        chance = logarithm(size, k) + logarithm(total - size, BATCH - k) - logarithm(total, BATCH)
        found -= math.exp(chance) * k / BATCH * math.log2(k / BATCH)
    return found


def uniform(n: int) -> Quality:
    """Return the measures of a uniform permutation, for blocks of 64 samples."""
    of_labels = N_CLASSES * drawn_entropy(n // N_CLASSES, n)
    return Quality(63 / (n - 1), (BATCH - 1) / (n - 1), of_labels, of_labels)


def predicted(n: int, buffer_size: int) -> Quality:
    """Return the measures of a shuffle by blocks, whose buffers have several batches each.

    Two samples of a batch meet again if they are of one block, which stays in one buffer, or if
    their blocks meet again, and if they then are in the same batch of the buffer. In a store sorted
    by label, a block has one label or a few.
    """
    size = buffer_size // BLOCKS_IN_BUFFER
    same_block = (size - 1) / (buffer_size - 1)
    same_batch = (BATCH - 1) / (buffer_size - 1)
    blocks_meet = (BLOCKS_IN_BUFFER - 1) / (n / size - 1)
    met_again = same_batch * (same_block + (1 - same_block) * blocks_meet)
    label = np.arange(n - n % size) * N_CLASSES // n
    groups = [np.unique(block, return_counts=True)[1] for block in label.reshape(-1, size)]
    sizes, how_often = np.unique(np.concatenate(groups), return_counts=True)
    of_block = sum(
        times * drawn_entropy(int(count), buffer_size)
        for count, times in zip(sizes, how_often.tolist(), strict=True)
    ) / len(groups)
    of_labels = N_CLASSES * drawn_entropy(n // N_CLASSES, n)
    return Quality(same_block, met_again, of_labels, BLOCKS_IN_BUFFER * of_block)


def batches(n: int, buffer_size: int, epoch: int) -> Iterator[Ints]:
    """Yield the positions of the batches of an epoch; of a full shuffle without buffer size."""
    if not buffer_size:
        order = permutation(n, 0, epoch)
    else:
        order = np.concatenate([*block_buffers(n, 0, epoch, buffer_size=buffer_size)])
    for start in range(0, n - n % BATCH, BATCH):
        yield order[start : start + BATCH]


def pairs(values: Ints) -> float:
    """Return the share of pairs with equal values."""
    counts = np.unique(values, return_counts=True)[1]
    return float((counts * (counts - 1)).sum()) / (len(values) * (len(values) - 1))


def simulated(n: int, buffer_size: int) -> Quality:
    """Return the measures of two epochs of n samples."""
    size = (buffer_size or BUFFERS[0]) // BLOCKS_IN_BUFFER
    batch_of = np.full(n, -1, dtype=np.int64)
    for number, batch in enumerate(batches(n, buffer_size, 1)):
        batch_of[batch] = number
    sorted_label = np.arange(n) * N_CLASSES // n
    label = np.random.default_rng(0).permutation(sorted_label)
    found = [
        (
            pairs(batch // size),
            pairs(batch_of[batch]),
            entropy(np.bincount(label[batch])),
            entropy(np.bincount(sorted_label[batch])),
        )
        for batch in batches(n, buffer_size, 0)
    ]
    return Quality(*np.mean(found, axis=0).tolist())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shuffle_quality")
    parser.add_argument("--samples", type=int, default=10**6)
    n = parser.parse_args(arguments).samples
    rows = []
    for buffer_size in (0, *BUFFERS):
        model = predicted(n, buffer_size) if buffer_size else uniform(n)
        counted = simulated(n, buffer_size)
        cells = [f"{a:.3g} / {b:.3g}" for a, b in zip(model, counted, strict=True)]
        rows.append([f"block, buffer {buffer_size:,}" if buffer_size else "full", *cells])
    head = ["predicted / simulated", "same block", "met again", "entropy, shuffled", "sorted"]
    print_table(head, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
