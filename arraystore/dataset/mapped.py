"""A function of each sample, as a sequence for training loops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from arraystore.errors import brief, escaped
from arraystore.indexing.selection import as_positions, is_one

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np

    from arraystore.dataset.batch import Sample
    from arraystore.dataset.samples import Samples
    from arraystore.indexing.selection import Selection

T = TypeVar("T")


class Mapped(Generic[T]):
    """``transform(sample)`` of each sample of a split; get one from `Split.map`.

    It pickles, if the transform does, and reads a batch at a time where a loader asks for
    one with ``__getitems__``, as PyTorch's and grain's do.

    Parameters
    ----------
    samples : Samples
    transform : callable
        Given a `Sample`. If it raises `StopIteration`, that becomes the cause of a `RuntimeError`,
        as in generators (PEP 479).
    """

    def __init__(self, samples: Samples, transform: Callable[[Sample], T]) -> None:
        self._samples = samples
        self._transform = transform

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, selection: int | np.integer[Any]) -> T: ...
    @overload
    def __getitem__(self, selection: Selection) -> list[T]: ...
    def __getitem__(self, selection: int | np.integer[Any] | Selection) -> T | list[T]:
        if is_one(selection):
            return self._transformed(self._samples[int(selection)])
        return self.__getitems__(as_positions(selection, len(self)).tolist())

    def __getitems__(self, indices: Sequence[int]) -> list[T]:
        """Return the results at some positions: what torch's DataLoader calls for a batch."""
        return [self._transformed(sample) for sample in self._samples.__getitems__(indices)]

    def __iter__(self) -> Iterator[T]:
        """Yield every result in order; the next samples are read meanwhile."""
        for sample in self._samples:
            yield self._transformed(sample)

    def _transformed(self, sample: Sample) -> T:
        try:
            return self._transform(sample)
        except StopIteration as error:  # would end the caller's loop as if there were no more
            raise RuntimeError(
                f"{self!r}: the transform raised StopIteration for {brief(sample.file_name)}"
            ) from error

    def __repr__(self) -> str:
        name = getattr(self._transform, "__qualname__", repr(self._transform))
        return escaped(f"<{name} of {self._samples!r}>")


def image_and_label(sample: Sample) -> tuple[Any, int]:
    """Return what is learned from, and what is to be learned."""
    return sample.image, sample.label
