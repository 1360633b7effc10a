"""What samples come as: one, a batch of several, and views of their images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, TypeVar, overload

import numpy as np

from arraystore.errors import escaped
from arraystore.indexing.selection import as_position, as_positions, is_one

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence, Sized

    from numpy.typing import NDArray

    from arraystore._typing import Ints, Pixels
    from arraystore.indexing.selection import Selection

One = TypeVar("One")
Many = TypeVar("Many")


class Sample(NamedTuple):
    """One labelled image.

    Attributes
    ----------
    image : ndarray of uint8, shape (height, width, 3)
        Pixels: red, green, blue.
    label : int
        Index of the class, -1 if there is none.
    file_name : str
        Name of the image in the source.
    """

    image: Pixels
    label: int
    file_name: str


class Batch(NamedTuple, Generic[Many]):
    """Several samples, column by column.

    Attributes
    ----------
    image : list of ndarray of uint8, or ndarray of uint8, shape (n, height, width, 3)
        Pixels of each image: a list of arrays (height, width, 3), since sizes differ;
        one array where images were resized.
    label : ndarray of int64, shape (n,)
    file_name : ndarray of str, shape (n,)
    """

    image: Many
    label: Ints
    file_name: NDArray[Any]


class Encoded(NamedTuple):
    """Several samples as they were read, not yet decoded.

    Attributes
    ----------
    positions : ndarray of int64, shape (n,)
        Which they are, in the split that they were read from.
    views : sequence of memoryview, length n
        The encoded images.
    label : ndarray of int64, shape (n,)
    file_name : ndarray of str, shape (n,)
    """

    positions: Ints
    views: Sequence[memoryview]
    label: Ints
    file_name: NDArray[Any]

    def part(self, start: int, stop: int | None = None) -> Encoded:
        """Return some of the samples."""
        some = slice(start, stop)
        positions, views, label, file_name = self
        return Encoded(positions[some], views[some], label[some], file_name[some])

    def joined(self, more: Encoded) -> Encoded:
        """Return these samples, and others after them."""
        positions, label, file_name = (
            np.concatenate(pair)
            for pair in zip(
                (self.positions, self.label, self.file_name),
                (more.positions, more.label, more.file_name),
                strict=True,
            )
        )
        return Encoded(positions, [*self.views, *more.views], label, file_name)


class Arena(NamedTuple):
    """Encoded images in one piece of memory.

    Attributes
    ----------
    data : ndarray of uint8, shape (n_bytes,)
        The images, end to end.
    offsets : ndarray of int64, shape (n + 1,)
        Image i is ``data[offsets[i] : offsets[i + 1]]``; as Arrow has it of a large binary
        array.
    """

    data: NDArray[np.uint8]
    offsets: Ints

    @classmethod
    def of(cls, views: Sequence[memoryview]) -> Self:
        """Copy images into an arena."""
        offsets = np.cumsum([0, *map(len, views)], dtype=np.int64)
        data = np.empty(offsets[-1], dtype=np.uint8)
        memory = memoryview(data)
        for view, start in zip(views, offsets.tolist(), strict=False):
            memory[start : start + len(view)] = view
        return cls(data, offsets)


class Images(Generic[One, Many]):
    """The images of a split in one form: an integer in brackets gives one, all else many.

    Parameters
    ----------
    form : str
        What it is called.
    split : sized
        What the images are of.
    read : callable
        Returns the images at some positions, in a form that has a length.
    read_one : callable, optional
        Returns the image at one position, where that is simpler.
    """

    __array_ufunc__ = None

    def __init__(
        self,
        form: str,
        split: Sized,
        read: Callable[[Ints], Many],
        read_one: Callable[[int], One] | None = None,
    ) -> None:
        self._form = form
        self._split = split
        self._length = len(split)
        self._read = read
        self._read_one = read_one

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, selection: int | np.integer[Any]) -> One: ...
    @overload
    def __getitem__(self, selection: Selection) -> Many: ...
    def __getitem__(self, selection: int | np.integer[Any] | Selection) -> One | Many:
        if type(selection) is int and 0 <= selection < self._length and self._read_one is not None:
            return self._read_one(selection)  # the same as below, in a third of the time
        if is_one(selection):
            position = as_position(selection, self._length)
            if self._read_one is not None:
                return self._read_one(position)
            many: Any = self._read(np.array([position], dtype=np.int64))
            one: One = many[0]
            return one
        return self._read(as_positions(selection, self._length))

    def __array__(self, *args: object, **kwargs: object) -> NDArray[Any]:
        raise TypeError("images are not turned into an array as a whole; select some: images[:10]")

    def __repr__(self) -> str:
        return escaped(f"<{self._form} of {self._split!r}>")
