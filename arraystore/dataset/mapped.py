"""A function applied to each sample, as a sequence for training loops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from arraystore.errors import brief, escaped
from arraystore.indexing.selection import as_position, as_positions, is_one

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np

    from arraystore.dataset.batch import Sample
    from arraystore.dataset.sample_reader import SampleReader
    from arraystore.indexing.selection import Selection

T = TypeVar("T")


class Mapped(Generic[T]):
    """``transform(sample)`` of each sample of a split; get one from `Split.map`.

    It pickles if the transform does. Loaders that call ``__getitems__`` for a batch, as those of
    PyTorch and grain do, read the batch at once.

    Parameters
    ----------
    reader : SampleReader
        The samples.
    transform : callable
        Given a `Sample`. If it raises `StopIteration`, that becomes the cause of a `RuntimeError`,
        as in generators (PEP 479).
    """

    def __init__(self, reader: SampleReader, transform: Callable[[Sample], T]) -> None:
        self._reader = reader
        self._transform = transform

    def __len__(self) -> int:
        return len(self._reader)

    @overload
    def __getitem__(self, selection: int | np.integer[Any]) -> T: ...
    @overload
    def __getitem__(self, selection: Selection) -> list[T]: ...
    def __getitem__(self, selection: int | np.integer[Any] | Selection) -> T | list[T]:
        if is_one(selection):
            (sample,) = self._reader.samples([as_position(selection, len(self))])
            return self._transformed(sample)
        return self.__getitems__(as_positions(selection, len(self)).tolist())

    def __getitems__(self, indices: Sequence[int]) -> list[T]:
        """Return the results at some positions; the DataLoader of torch calls this for a batch."""
        return [self._transformed(sample) for sample in self._reader.samples(indices)]

    def __iter__(self) -> Iterator[T]:
        """Yield every result in order, and read the next samples meanwhile."""
        for sample in self._reader:
            yield self._transformed(sample)

    def _transformed(self, sample: Sample) -> T:
        try:
            return self._transform(sample)
        except StopIteration as error:  # would end the caller's loop silently
            raise RuntimeError(
                f"{self!r}: the transform raised StopIteration for {brief(sample.file_name)}"
            ) from error

    def __repr__(self) -> str:
        name = getattr(self._transform, "__qualname__", repr(self._transform))
        return escaped(f"<{name} of {self._reader.title}>")


def image_and_label(sample: Sample) -> tuple[Any, int]:
    """Return the input and the target of supervised learning."""
    return sample.image, sample.label
