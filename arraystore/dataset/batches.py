"""Loops over samples: batches of an epoch, and episodes of few-shot learning, read ahead."""

from __future__ import annotations

import itertools
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import numpy as np

from arraystore._arguments import as_seed
from arraystore.dataset.batch import Batch, Encoded
from arraystore.errors import brief, escaped
from arraystore.indexing.sampling import (
    Groups,
    balanced,
    block_buffers,
    episode,
    permutation,
    share,
)
from arraystore.reading.read_ahead import ahead

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from arraystore._typing import Ints
    from arraystore.dataset.samples import Samples
    from arraystore.reading.stored_split import Size

    AnyBatch = Batch[Any]

T = TypeVar("T")

SHUFFLES: Final = ("full", "block")
"""The kinds of shuffle; the first is the default."""

_LOADERS: Final = 2
"""Batches that are read and decoded at a time: while one decodes, the next is read."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """The order of one epoch, in one of several processes.

    Attributes
    ----------
    shuffle : {"full", "block"} or None
    seed, epoch : int
    groups : Groups or None
        To balance the labels of.
    rank, world_size : int
        Which of how many processes.
    buffer_size : int
        Samples in a buffer of the shuffle by blocks.
    """

    shuffle: str | None
    seed: int
    epoch: int
    groups: Groups | None
    rank: int
    world_size: int
    buffer_size: int

    def __post_init__(self) -> None:
        if self.shuffle not in (*SHUFFLES, None):
            raise ValueError(
                f"shuffle must be one of {', '.join(SHUFFLES)} or False, got {brief(self.shuffle)}"
            )
        if self.groups is not None and self.shuffle != SHUFFLES[0]:
            raise ValueError(
                f"balanced batches are shuffled in full, got shuffle={self.shuffle or False!r}"
            )
        if not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"rank must be in range(world_size), got {brief(self.rank)} of "
                f"{brief(self.world_size)}"
            )

    def positions(self, n: int) -> range | Ints:
        """Return this process's part of the order of n samples, but for ``"block"``."""
        order: range | Ints
        if self.groups is not None:
            order = balanced(self.groups, self.seed, self.epoch)
        elif self.shuffle is None:
            order = range(n)
        else:
            order = permutation(n, self.seed, self.epoch)
        mine = share(len(order), self.rank, self.world_size)
        return order[mine.start : mine.stop]

    def buffers(self, n: int) -> Iterator[Ints]:
        """Yield this process's part of the order of n samples, a buffer at a time."""
        return block_buffers(
            n,
            self.seed,
            self.epoch,
            buffer_size=self.buffer_size,
            rank=self.rank,
            world_size=self.world_size,
        )


class Batches:
    """The batches of one epoch; get them from `Split.batches`.

    It has a length, and each loop over it begins anew.

    Parameters
    ----------
    samples : Samples
    batch_size : int
    epoch : Epoch
    first : int
        Batches to leave out at the beginning.
    drop_last : bool
        Whether to leave out a last batch that is shorter.
    size : int or (int, int), optional
        Height and width to resize images to.
    """

    def __init__(
        self,
        samples: Samples,
        batch_size: int,
        epoch: Epoch,
        *,
        first: int,
        drop_last: bool,
        size: Size | None,
    ) -> None:
        self._samples = samples
        self._batch_size = batch_size
        self._epoch = epoch
        self._size = size
        n = len(samples) if epoch.groups is None else len(epoch.groups.order)
        n //= epoch.world_size
        self._start = first * batch_size
        self._stop = n - n % batch_size if drop_last else n

    def __len__(self) -> int:
        """Return the number of batches that a loop yields."""
        return max(0, -(-(self._stop - self._start) // self._batch_size))

    def __iter__(self) -> Iterator[AnyBatch]:
        """Yield the batches in order; the next ones are read and decoded meanwhile."""
        if not len(self):
            return iter(())
        if self._epoch.shuffle == "block":
            return self._ahead(self._cut(), self._load_read)
        return self._ahead(self._whole(), self._load)

    def positions(self) -> Iterator[Ints]:
        """Yield the positions in the split of each batch, and read nothing."""
        if self._epoch.shuffle != "block":
            yield from self._whole()
            return
        none = np.empty(0, dtype=np.int64)
        for piece in self._pieces(Encoded(buffer, [], none, none) for buffer in self._buffers()):
            yield piece.positions

    def _whole(self) -> Generator[Ints]:
        order = self._epoch.positions(len(self._samples))
        for start in range(self._start, self._stop, self._batch_size):
            piece = order[start : min(start + self._batch_size, self._stop)]
            yield np.asarray(piece, dtype=np.int64)

    def _buffers(self) -> Generator[Ints]:
        """Yield what is wanted of the buffers, from the first that has any of it."""
        place = 0
        for buffer in self._epoch.buffers(len(self._samples)):
            wanted = buffer[max(0, self._start - place) : max(0, self._stop - place)]
            if len(wanted):
                yield wanted
            place += len(buffer)

    def _cut(self) -> Generator[Encoded]:
        """Read a buffer at a time, the next one meanwhile, and yield batches of what was read."""
        read = ahead(self._buffers(), self._samples.encoded, n_ahead=1)
        with closing(read):
            yield from self._pieces(read)

    def _pieces(self, buffers: Iterator[Encoded]) -> Generator[Encoded]:
        """Cut what is read, a buffer at a time, into batches, which may reach over two."""
        size, rest = self._batch_size, None
        for more in buffers:
            read = more if rest is None else rest.joined(more)
            full = len(read.positions) - len(read.positions) % size
            for start in range(0, full, size):
                yield read.part(start, start + size)
            rest = read.part(full)
        if rest is not None and len(rest.positions):
            yield rest

    def _ahead(self, items: Generator[T], load: Callable[[T], AnyBatch]) -> Iterator[AnyBatch]:
        prepare = self._samples.import_libraries
        return ahead(items, load, n_ahead=_LOADERS, n_threads=_LOADERS, prepare=prepare)

    def _load(self, positions: Ints) -> AnyBatch:
        return self._samples.batch(positions, self._size)

    def _load_read(self, encoded: Encoded) -> AnyBatch:
        return self._samples.batch(encoded.positions, self._size, encoded)

    def __repr__(self) -> str:
        return escaped(f"<{len(self):,} batches of {self._samples!r}>")


class Episode(NamedTuple):
    """One task of few-shot learning: learn from `support`, be tested on `query`.

    Attributes
    ----------
    support, query : Batch
        ``k_shot`` and ``n_query`` samples of each label, label after label in the order of
        `labels`. Their labels are those of the split.
    labels : ndarray of int64, shape (n_way,)
        The labels drawn: the task's own label of ``labels[i]`` is i.
    number : int
        Which episode.
    """

    support: AnyBatch
    query: AnyBatch
    labels: Ints
    number: int


class Episodes:
    """Episodes, endless or so many; get them from `Split.episodes`.

    Each loop over it begins anew. It has a length where it has an end.

    Parameters
    ----------
    samples : Samples
    groups : Groups
        Positions of each label.
    shape : (int, int, int)
        Labels, support samples of each, query samples of each.
    seed : int
    numbers : (int, int or None)
        The first episode, and how many.
    size : int or (int, int), optional
        Height and width to resize images to.
    """

    def __init__(
        self,
        samples: Samples,
        groups: Groups,
        shape: tuple[int, int, int],
        *,
        seed: int,
        numbers: tuple[int, int | None],
        size: Size | None,
    ) -> None:
        self._samples = samples
        self._groups = groups
        self._n_way, *sizes = shape
        self._sizes = (sizes[0], sizes[1])
        self._eligible = np.flatnonzero(np.diff(groups.indptr) >= sum(sizes))
        self._seed = seed
        self._first, self._count = numbers
        self._size = size
        if len(self._eligible) < self._n_way:
            raise ValueError(
                escaped(
                    f"{samples.name}: {self._n_way} labels with {sum(sizes)} samples each are "
                    f"needed for an episode, there are {len(self._eligible)}"
                )
            )
        if self._count is not None:
            as_seed(self._first + max(0, self._count - 1), "the number of the last episode")

    def __len__(self) -> int:
        if self._count is None:
            raise TypeError("the episodes have no end")
        return self._count

    def __iter__(self) -> Iterator[Episode]:
        """Yield the episodes in order; the next ones are read and decoded meanwhile."""
        first, count = self._first, self._count
        numbers = itertools.count(first) if count is None else range(first, first + count)
        return ahead(
            (n for n in numbers),
            self._episode,
            n_ahead=_LOADERS,
            n_threads=_LOADERS,
            prepare=self._import_libraries,
        )

    def _import_libraries(self) -> None:
        self._samples.import_libraries()
        _ = np.random  # NumPy imports it when it is first used

    def positions(self, number: int) -> tuple[Ints, Ints, Ints]:
        """Return what one episode is made of, and read nothing.

        Returns
        -------
        labels : ndarray of int64, shape (n_way,)
        support : ndarray of int64, shape (n_way, k_shot)
        query : ndarray of int64, shape (n_way, n_query)
            Positions in the split.

        Raises
        ------
        ValueError
            If `number` is not in ``range(2**63)``.
        """
        number = as_seed(number, "number")
        return episode(self._groups, self._eligible, self._n_way, self._sizes, self._seed, number)

    def _episode(self, number: int) -> Episode:
        labels, support, query = self.positions(number)
        positions = np.concatenate([support.reshape(-1), query.reshape(-1)])
        both = self._samples.batch(positions, self._size)
        n = support.size
        return Episode(
            Batch(*(column[:n] for column in both)),
            Batch(*(column[n:] for column in both)),
            labels,
            number,
        )

    def __repr__(self) -> str:
        many = "endless" if self._count is None else f"{self._count:,}"
        return escaped(f"<{many} episodes of {self._samples!r}>")
