"""What is exported: samples by split, and groups of them that fit into memory."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore.errors import brief

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from arraystore._typing import Ints
    from arraystore.dataset.columns import Column
    from arraystore.dataset.split import Split

GROUP_NBYTES: Final = 2**24
_GROUP_SAMPLES: Final = 512
"""Most bytes of images, and most samples, that are read together."""


@dataclass(frozen=True, slots=True)
class Group:
    """Some samples in a row, with their images.

    Attributes
    ----------
    indices : ndarray of int64, shape (n,)
        In their split, ascending.
    names : list of str
    labels : ndarray of int64, shape (n,)
    images : list of memoryview
        Encoded, and compared with their checksums; none if the format does not read them.
    values : dict of str to ndarray of shape (n, …), or list of ndarray
        Values of further columns; a list if their number differs.
    """

    indices: Ints
    names: list[str]
    labels: Ints
    images: Sequence[memoryview]
    values: dict[str, Any]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, slots=True)
class Shard:
    """Consecutive samples of a split that are written, and recorded, together.

    Attributes
    ----------
    split : str
    number, count : int
        Which shard it is, of how many of its split.
    start, stop : int
        Indices of its samples in the split.
    """

    split: str
    number: int
    count: int
    start: int
    stop: int

    def file_name(self, form: str) -> str:
        """Return a name such as ``train-00000-of-00002.tar``."""
        return f"{self.split}-{self.number:05d}-of-{self.count:05d}{form}"


class ExportedSplit:
    """Samples of one split that are exported, in their order.

    Parameters
    ----------
    name : str
        Name of the split in the store.
    samples : Split
    columns : sequence of str
        Names of further columns.
    """

    def __init__(self, name: str, samples: Split, columns: Sequence[str]) -> None:
        self.name = name
        self.samples = samples
        self.columns: dict[str, Column] = {column: samples.columns[column] for column in columns}

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def nbytes(self) -> Ints:
        """Size of each encoded image in bytes: ndarray of int64, shape (n,)."""
        return self.samples.image_nbytes

    def nbytes_of(self, shard: Shard) -> int:
        """Return the total size of the images of a shard."""
        return int(self.nbytes[shard.start : shard.stop].sum())

    @cached_property
    def names(self) -> NDArray[Any]:
        """File name of each sample: ndarray of str, shape (n,)."""
        return self.samples.file_name


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything that is exported.

    Attributes
    ----------
    title : str
        How the selection was made, and from which store, for messages.
    dataset : str
        Name of the data set.
    splits : tuple of ExportedSplit
    columns : tuple of str
        Names of the further columns.
    label_names, label_words : tuple of str
        Ids of the classes, and their names for people.
    """

    title: str
    dataset: str
    splits: tuple[ExportedSplit, ...]
    columns: tuple[str, ...]
    label_names: tuple[str, ...]
    label_words: tuple[str, ...]

    @classmethod
    def of(cls, samples: Split, columns: Sequence[str] | None, *, once: bool) -> Contents:
        """Return the contents of a selection.

        Parameters
        ----------
        samples : Split
        columns : sequence of str or None
            Further columns; None means all that every split has.
        once : bool
            Whether a sample that occurs several times is exported once.

        Raises
        ------
        KeyError
            If there is no such column.
        TypeError
            If `columns` is one text.
        """
        if isinstance(columns, str):
            raise TypeError(f"columns must be a list of names, got {brief(columns)}")
        chosen = tuple(dict.fromkeys(samples.columns if columns is None else columns))
        for name in chosen:
            _ = samples.columns[name]
        first = samples._sample_set.distinct() if once else None
        if first is not None:
            samples = samples._derived(first, samples.name)
        return cls(
            title=f"{samples._root.address}: {samples.name}",
            dataset=samples._root.dataset.name,
            splits=tuple(_by_split(samples, chosen)),
            columns=chosen,
            label_names=samples.label_names,
            label_words=samples.label_words,
        )

    def without(self, left_out: Mapping[str, Collection[int]]) -> Contents:
        """Return the contents without some samples, given by their indices in each split."""
        splits = []
        for split in self.splits:
            kept = np.delete(np.arange(len(split)), [*left_out[split.name]])
            samples = split.samples._derived(kept, split.samples.name)
            splits.append(ExportedSplit(split.name, samples, self.columns))
        return replace(self, splits=tuple(splits))

    @property
    def num_samples(self) -> int:
        """Number of samples."""
        return sum(map(len, self.splits))

    @property
    def num_bytes(self) -> int:
        """Total size of the encoded images in bytes."""
        return sum(int(split.nbytes.sum()) for split in self.splits)


def _by_split(samples: Split, columns: Sequence[str]) -> list[ExportedSplit]:
    """Return the samples of each split, in their order."""
    roots = samples._roots
    indices_of: dict[str, list[Ints]] = {}
    everything = np.arange(len(samples), dtype=np.int64)
    for stored, _, which in samples._sample_set.locate(everything):
        name = roots[stored.handle.address].dataset.split_of(stored.name)
        indices_of.setdefault(name, []).append(np.asarray(which, dtype=np.int64))
    filled = {name: parts for name, parts in indices_of.items() if any(map(len, parts))}
    if len(filled) < 2:
        name = next(iter(filled or indices_of))
        return [ExportedSplit(name, samples, columns)]
    return [
        ExportedSplit(name, samples._derived(np.sort(np.concatenate(parts)), name), columns)
        for name, parts in filled.items()
    ]


def bounds_by_nbytes(nbytes: Ints, most: int, *, most_samples: int | None = None) -> list[int]:
    """Return where runs of samples begin, and the end: each of at most `most` bytes, or one sample.

    Examples
    --------
    >>> bounds_by_nbytes(np.array([5, 5, 20, 1, 1]), 10)
    [0, 2, 3, 5]
    >>> bounds_by_nbytes(np.array([1, 1, 1]), 10, most_samples=2)
    [0, 2, 3]
    """
    ends = np.cumsum(nbytes, dtype=np.int64)
    bounds, n = [0], len(nbytes)
    while bounds[-1] < n:
        start = bounds[-1]
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + most, side="right")))
        bounds.append(min(stop, n, n if most_samples is None else start + most_samples))
    return bounds


def group_bounds(split: ExportedSplit, shard: Shard) -> list[tuple[int, int]]:
    """Return the samples of a shard that are read together, as indices of the split."""
    nbytes = split.nbytes[shard.start : shard.stop]
    bounds = bounds_by_nbytes(nbytes, GROUP_NBYTES, most_samples=_GROUP_SAMPLES)
    return [(shard.start + start, shard.start + stop) for start, stop in itertools.pairwise(bounds)]


def plain(values: Any) -> list[Any]:
    """Return values as JSON has them; complex numbers as pairs."""
    if isinstance(values, list):
        return [plain(value) for value in values]
    if values.dtype.kind == "c":
        values = np.stack([values.real, values.imag], axis=-1)
    found: list[Any] = values.tolist()
    return found
