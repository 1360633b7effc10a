"""Episodes of few-shot learning, read and decoded ahead."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from arraystore._arguments import as_seed
from arraystore.dataset.batch import Batch
from arraystore.dataset.batches import N_LOADERS
from arraystore.errors import escaped
from arraystore.indexing.sampling import Groups, episode
from arraystore.reading.read_ahead import ahead

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arraystore._typing import Ints
    from arraystore.dataset.sample_reader import SampleReader
    from arraystore.images.crops import Framing

    AnyBatch = Batch[Any]


class Episode(NamedTuple):
    """One task of few-shot learning: learn from `support`, test on `query`.

    Attributes
    ----------
    support, query : Batch
        ``k_shot`` and ``n_query`` samples of each label, label after label in the order of
        `labels`. Their labels are those of the split.
    labels : ndarray of int64, shape (n_way,)
        The labels drawn; ``labels[i]`` is label i of the task.
    number : int
        Number of the episode.
    """

    support: AnyBatch
    query: AnyBatch
    labels: Ints
    number: int


class Episodes:
    """Episodes, endless or a given number; get them from `Split.episodes`.

    It can be iterated any number of times, and has a length unless it is endless.

    Parameters
    ----------
    reader : SampleReader
        The samples.
    name : str
        Name of the split, for messages.
    groups : Groups
        Positions of each label.
    shape : (int, int, int)
        Labels, support samples of each, query samples of each.
    seed : int
    numbers : (int, int or None)
        The first episode, and how many.
    framing : Framing, optional
        How images become one array.
    """

    def __init__(
        self,
        reader: SampleReader,
        name: str,
        groups: Groups,
        shape: tuple[int, int, int],
        *,
        seed: int,
        numbers: tuple[int, int | None],
        framing: Framing | None,
    ) -> None:
        self._reader = reader
        self._groups = groups
        self._n_way, *sizes = shape
        self._sizes = (sizes[0], sizes[1])
        self._eligible = np.flatnonzero(np.diff(groups.indptr) >= sum(sizes))
        self._seed = seed
        self._first, self._count = numbers
        self._framing = framing
        if len(self._eligible) < self._n_way:
            raise ValueError(
                escaped(
                    f"{name}: an episode needs {self._n_way} labels with {sum(sizes)} samples "
                    f"each, {len(self._eligible)} have so many"
                )
            )
        if self._count is not None:
            as_seed(self._first + max(0, self._count - 1), "the number of the last episode")

    def __len__(self) -> int:
        if self._count is None:
            raise TypeError("endless episodes have no length; pass n_episodes=…")
        return self._count

    def __iter__(self) -> Iterator[Episode]:
        """Yield the episodes in order, and read and decode the next ones meanwhile."""
        first, count = self._first, self._count
        numbers = itertools.count(first) if count is None else range(first, first + count)
        return ahead(
            (n for n in numbers),
            self._episode,
            n_ahead=N_LOADERS,
            n_threads=N_LOADERS,
            prepare=self._import_libraries,
        )

    def _import_libraries(self) -> None:
        self._reader.import_libraries()
        _ = np.random  # NumPy imports it when it is first used

    def positions(self, number: int) -> tuple[Ints, Ints, Ints]:
        """Return the labels and samples of one episode, without reading images.

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
        both = self._reader.batch(positions, self._framing)
        n = support.size
        return Episode(
            Batch(*(column[:n] for column in both)),
            Batch(*(column[n:] for column in both)),
            labels,
            number,
        )

    def __repr__(self) -> str:
        many = "endless" if self._count is None else f"{self._count:,}"
        return escaped(f"<{many} episodes of {self._reader.title}>")
