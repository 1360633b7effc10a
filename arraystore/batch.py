"""What samples come as: one, a batch of several, and views of their images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, overload

import numpy as np

from arraystore.selection import as_position, as_positions, is_one

if TYPE_CHECKING:
    from collections.abc import Callable, Sized

    from numpy.typing import NDArray

    from arraystore.selection import Selection

    Ints = NDArray[np.int64]
    Pixels = NDArray[np.uint8]

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


class Images(Generic[One, Many]):
    """The images of a split in one form: an integer in brackets gives one, all else many."""

    __array_ufunc__ = None

    def __init__(
        self,
        form: str,
        split: Sized,
        read: Callable[[Ints], Many],
    ) -> None:
        self._form = form
        self._split = split
        self._read = read

    def __len__(self) -> int:
        return len(self._split)

    @overload
    def __getitem__(self, selection: int | np.integer[Any]) -> One: ...
    @overload
    def __getitem__(self, selection: Selection) -> Many: ...
    def __getitem__(self, selection: int | np.integer[Any] | Selection) -> One | Many:
        if is_one(selection):
            position = as_position(selection, len(self))
            many: Any = self._read(np.array([position], dtype=np.int64))
            one: One = many[0]
            return one
        positions = as_positions(selection, len(self))
        return self._read(positions)

    def __array__(self, *args: object, **kwargs: object) -> NDArray[Any]:
        raise TypeError("images are not turned into an array as a whole; select some: images[:10]")

    def __repr__(self) -> str:
        return f"<{self._form} of {self._split!r}>"
