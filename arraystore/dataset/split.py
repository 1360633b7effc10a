"""Splits: samples to draw from, to loop over in batches and episodes, and to map."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Final, Self, TypeVar

import numpy as np

from arraystore._arguments import as_count, as_fraction, as_seed, check_bools
from arraystore.dataset.batches import SHUFFLES, Batches, Episodes, Epoch
from arraystore.dataset.mapped import Mapped, image_and_label
from arraystore.dataset.queries import Queries
from arraystore.errors import escaped
from arraystore.indexing.layout import hash_numbers, label_index
from arraystore.indexing.positions import is_ascending
from arraystore.indexing.sampling import (
    Groups,
    class_balanced_counts,
    draw_from_groups,
    permutation,
    ranked,
    with_repeats,
)
from arraystore.indexing.selection import as_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from arraystore._typing import Ints, Pixels
    from arraystore.dataset.batch import Sample

T = TypeVar("T")

_MOST_DRAWN: Final = 2**30
"""Most samples that one draw returns: their positions alone take 8 GiB."""


class Split(Queries):
    """Samples of a store, read on demand.

    Indexing follows NumPy along one axis: an integer gives a `Sample`, a slice, a
    list, an array of integers or a mask a `Batch`. The columns are whole arrays in
    memory, loaded when they are first used; of the images only the bytes of those
    selected are read. Get one from a `Store`; ``store["train+validation"]`` joins two.

    `where`, `select` and `sample` return a new split, and no image is read until you use it.
    A split pickles as the address of its store, positions, and the content digest and order
    that they belong to; if the store was replaced by another, every use of the unpickled
    split raises `StoreChangedError`. All randomness follows from `seed` and the other arguments:
    the same call gives the same samples, here and elsewhere.

    Attributes
    ----------
    name : str
        How it was made, escaped: such as ``train[:10%]`` or ``train.where(label='goldfish')``.
    """

    def sample(self, n: int, *, seed: int = 0, replace: bool = False) -> Self:
        """Return samples drawn at random, in random order.

        Parameters
        ----------
        n : int
            How many.
        seed : int, default 0
            In ``range(2**63)``. The draw of fewer is the beginning of the draw of more.
        replace : bool, default False
            Whether a sample may be drawn more than once.

        Raises
        ------
        ValueError
            If there are not that many, or a number is negative.

        Examples
        --------
        >>> import arraystore
        >>> train = arraystore.open("1pct.zarr")["train"]
        >>> train.sample(3, seed=1).positions
        array([90, 78,  3])
        """
        check_bools(replace=replace)
        n = as_count(n, "n", most=_MOST_DRAWN if replace else max(len(self), _MOST_DRAWN))
        seed = as_seed(seed)
        if n > len(self) and not (replace and len(self)):
            way_out = " or give replace=True" if len(self) else ""
            raise ValueError(
                escaped(
                    f"{n} samples were asked for, {self.name} has {len(self)}; ask for "
                    f"fewer{way_out}"
                )
            )
        chosen = with_repeats(len(self), n, seed) if replace else permutation(len(self), seed)[:n]
        repeats = ", replace=True" if replace else ""
        return self._derived(chosen, f"{self._term}.sample({n}, seed={seed}{repeats})")

    def per_label(
        self,
        k: int | None = None,
        *,
        fraction: float | None = None,
        seed: int = 0,
        replace: bool = False,
    ) -> Self:
        """Return the same number of samples of each label that there is, drawn at random.

        Of each label those samples are taken whose file names have the smallest keyed
        hashes, the hashes that also order a shuffled store. So the draw is the same in
        every order and container, and that of 1 is part of that of 5.

        Parameters
        ----------
        k : int
            Samples of each label.
        fraction : float
            Instead of `k`: this part of all labelled samples, rounded down, as equally
            as possible from all labels. Where that leaves a rest, some labels give one more.
            SimCLR's lists of 1 % and 10 % of ImageNet are made like that.
        seed : int, default 0
            In ``range(2**63)``.
        replace : bool, default False
            Draw each from all samples of its label, so that it may come more than once.

        Returns
        -------
        Split
            Grouped by label.

        Raises
        ------
        ValueError
            If a label has fewer samples than are asked for, and `replace` is false; or if
            a number cannot be.
        TypeError
            If not exactly one of `k` and `fraction` is given.

        Examples
        --------
        >>> import arraystore
        >>> train = arraystore.open("1pct.zarr")["train"]
        >>> few = train.where(label=["tench", "n01728572"]).per_label(2)
        >>> few.label
        array([ 0,  0, 52, 52])
        """
        if (k is None) == (fraction is None):
            raise TypeError("per_label() needs either k or fraction")
        check_bools(replace=replace)
        seed = as_seed(seed)
        sizes = np.diff(self._groups.indptr)
        labels = np.flatnonzero(sizes)
        if fraction is None:
            count = as_count(0 if k is None else k, "k", most=_MOST_DRAWN)
            asked = str(count)
            counts = np.full(len(labels), count, dtype=np.int64)
            if replace:
                as_count(count * len(labels), "k of all labels", most=_MOST_DRAWN)
        else:
            fraction = as_fraction(fraction, "fraction")
            asked = f"fraction={fraction}"
            ids = [self.label_names[label] for label in labels.tolist()]
            counts = class_balanced_counts(int(sizes.sum()), fraction, hash_numbers(ids, seed))
        if not replace:
            self._check_enough(labels, sizes[labels], counts)
        groups = self._ranked(seed)
        chosen = draw_from_groups(groups, labels, counts, replace=replace, seed=seed)
        repeats = ", replace=True" if replace else ""
        return self._derived(chosen, f"{self._term}.per_label({asked}, seed={seed}{repeats})")

    def batches(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        shuffle: str | bool = "full",
        balanced: bool = False,
        drop_last: bool = False,
        start_batch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        buffer_size: int = 1024,
        size: int | tuple[int, int] | None = None,
    ) -> Batches:
        """Return the batches of one epoch; a loop over them reads and decodes ahead.

        The order follows from the arguments alone. With one process every sample comes
        once; several get parts of the order that are disjoint and of equal length, so that
        the last ``len(split) % world_size`` samples of it are left out. (If `balanced`, the order
        itself has samples more than once.)

        Parameters
        ----------
        batch_size : int
            Samples in a batch; the last one may be shorter.
        seed, epoch : int, default 0
            Together fix the order; in ``range(2**63)``.
        shuffle : {"full", "block", False}, default "full"
            ``"full"`` is a permutation: a read for nearly every sample. ``"block"`` reads
            16 blocks of consecutive samples at a time, which are chosen at random,
            and shuffles those: few large reads, but neighbours stay close, and a
            buffer of encoded images is held twice. False keeps the order.
        balanced : bool, default False
            Every label as often as every other, in every batch: labels with few samples are
            repeated, of those with many some are left out, others in another epoch.
            Samples without a label never come.
        drop_last : bool, default False
            Leave out a last batch that is shorter.
        start_batch : int, default 0
            Leave out the first batches, to go on with an epoch.
        rank, world_size : int
            Which process this is, of how many.
        buffer_size : int, default 1024
            Samples in a buffer of ``"block"``.
        size : int or (int, int), optional
            Height and width to resize to, see `resized`; ``Batch.image`` is one array then.

        Returns
        -------
        Batches
            It has a length, and a loop over it yields a `Batch` at a time. An image that
            is damaged ends it with an error that names it, an object that cannot be read
            with one that names the object.

        Raises
        ------
        ValueError
            If an argument is not one of those above.

        Examples
        --------
        >>> import arraystore
        >>> train = arraystore.open("1pct.zarr")["train"]
        >>> for batch in train.batches(64, seed=0, epoch=3, size=32):
        ...     print(batch.image.shape, batch.label[:3])
        (64, 32, 32, 3) [525 105 736]
        (64, 32, 32, 3) [368 841 315]
        (32, 32, 32, 3) [683 210   0]
        """
        check_bools(balanced=balanced, drop_last=drop_last)
        order = Epoch(
            shuffle=SHUFFLES[0] if shuffle is True else shuffle or None,
            seed=as_seed(seed),
            epoch=as_seed(epoch, "epoch"),
            groups=self._groups if balanced else None,
            rank=as_count(rank, "rank"),
            world_size=as_count(world_size, "world_size"),
            buffer_size=as_count(buffer_size, "buffer_size", least=1),
        )
        return Batches(
            self,
            as_count(batch_size, "batch_size", least=1),
            order,
            first=as_count(start_batch, "start_batch"),
            drop_last=drop_last,
            size=None if size is None else as_size(size),
        )

    def episodes(
        self,
        n_way: int,
        k_shot: int,
        n_query: int,
        *,
        seed: int = 0,
        n_episodes: int | None = None,
        start: int = 0,
        size: int | tuple[int, int] | None = None,
    ) -> Episodes:
        """Return episodes of few-shot learning (Vinyals et al., 2016, arXiv:1606.04080).

        Episode i follows from `seed` and i alone. Labels with fewer than ``k_shot +
        n_query`` samples are never drawn.

        Parameters
        ----------
        n_way : int
            Labels in an episode.
        k_shot, n_query : int
            Samples of each label to learn from, and to be tested on; no sample is both.
        seed : int, default 0
            In ``range(2**63)``.
        n_episodes : int, optional
            How many; without end by default.
        start : int, default 0
            Number of the first.
        size : int or (int, int), optional
            Height and width to resize to, see `resized`.

        Returns
        -------
        Episodes
            A loop over it yields an `Episode` at a time, and reads and decodes ahead.

        Raises
        ------
        ValueError
            If there are not enough labels with enough samples, or a number is negative.

        Examples
        --------
        >>> import arraystore
        >>> train = arraystore.open("1pct.zarr")["train"]
        >>> for task in train.episodes(n_way=5, k_shot=1, n_query=3, n_episodes=2, size=32):
        ...     print(task.labels, task.support.image.shape, task.query.image.shape)
        [  0 105 578 893 473] (5, 32, 32, 3) (15, 32, 32, 3)
        [893 841 736 788 262] (5, 32, 32, 3) (15, 32, 32, 3)
        """
        shape = (
            as_count(n_way, "n_way", least=1),
            as_count(k_shot, "k_shot", least=1),
            as_count(n_query, "n_query"),
        )
        return Episodes(
            self,
            self._groups,
            shape,
            seed=as_seed(seed),
            numbers=(
                as_seed(start, "start"),
                None if n_episodes is None else as_count(n_episodes, "n_episodes"),
            ),
            size=None if size is None else as_size(size),
        )

    def map(self, transform: Callable[[Sample], T]) -> Mapped[T]:
        """Return ``transform(sample)`` of each sample, as a sequence for training loops.

        Parameters
        ----------
        transform : callable
            Given a `Sample`. Must pickle if worker processes are to call it.

        Returns
        -------
        Mapped
            If `transform` raises `StopIteration`, a `RuntimeError` is raised in its place.

        Examples
        --------
        >>> import arraystore
        >>> train = arraystore.open("1pct.zarr")["train"]
        >>> heights = train.map(lambda sample: sample.image.shape[0])
        >>> heights[5], heights[:3]
        (333, [500, 240, 333])
        """
        return Mapped(self, transform)

    def as_supervised(self) -> Mapped[tuple[Pixels, int]]:
        """Return ``(image, label)`` of each sample, as TFDS does with ``as_supervised=True``."""
        return self.map(image_and_label)

    @property
    def classes(self) -> list[str]:
        """Ids of the classes, as torchvision's ``ImageFolder`` has them."""
        return list(self.label_names)

    @property
    def class_to_idx(self) -> dict[str, int]:
        """Label of each id, as torchvision's ``ImageFolder`` has them."""
        return dict(self._store.vocabulary.by_name)

    @property
    def targets(self) -> list[int]:
        """Label of each sample, as torchvision's ``ImageFolder`` has them."""
        return list(map(int, self.label))

    @cached_property
    def _groups(self) -> Groups:
        """Positions here of the labelled samples, by label; of one that is here twice the first."""
        whole = self._parts.whole
        if whole is not None:
            return whole.groups
        first = self._parts.distinct()
        label = self.label if first is None else self.label[first]
        order, indptr = label_index(label, len(self.label_names))
        return Groups(order if first is None else first[order], indptr)

    def _ranked(self, seed: int) -> Groups:
        """Return the groups with each in the order of the keyed hashes of the file names."""
        whole, only = self._parts.whole, self._parts.only
        if whole is not None:
            return whole.ranked(seed)
        if only is not None and only.stored.is_hashed(seed) and is_ascending(only.positions):
            return self._groups
        keys = np.empty(len(self), dtype=np.uint64)
        for stored, positions, which in self._parts.locate(np.arange(len(self), dtype=np.int64)):
            keys[np.asarray(which, dtype=np.int64)] = stored.name_keys(seed, positions)
        return ranked(self._groups, keys)

    def _check_enough(self, labels: Ints, sizes: Ints, counts: Ints) -> None:
        short = np.flatnonzero(sizes < counts)
        if len(short):
            label, size, count = (int(values[short[0]]) for values in (labels, sizes, counts))
            more = f" (and {len(short) - 1} more labels have too few)" if len(short) > 1 else ""
            raise ValueError(
                escaped(
                    f"{self.name}: label {label} ({self.label_names[label]}, "
                    f"{self.label_words[label]}) has {size} samples, {count} were asked for{more}; "
                    "ask for fewer or give replace=True"
                )
            )
