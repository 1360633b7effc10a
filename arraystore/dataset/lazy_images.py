"""Images of a split as a sequence that is read when it is indexed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import numpy as np

from arraystore.errors import escaped
from arraystore.indexing.selection import as_position, as_positions, is_one

if TYPE_CHECKING:
    from collections.abc import Callable, Sized

    from numpy.typing import NDArray

    from arraystore._typing import Ints
    from arraystore.indexing.selection import Selection

One = TypeVar("One")
Many = TypeVar("Many")


class LazyImages(Generic[One, Many]):
    """Images of a split in one form, read when they are indexed.

    An integer in brackets gives one image, any other selection several.

    Parameters
    ----------
    form : str
        Name of the form, such as ``image_bytes``.
    split : sized
        The split.
    read : callable
        Returns the images at some positions, in a sequence.
    read_one : callable, optional
        Returns the image at one position, if there is a faster function for it.
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
            return self._read_one(selection)  # as below, in a third of the time
        if is_one(selection):
            position = as_position(selection, self._length)
            if self._read_one is not None:
                return self._read_one(position)
            many: Any = self._read(np.array([position], dtype=np.int64))
            one: One = many[0]
            return one
        return self._read(as_positions(selection, self._length))

    def __array__(self, *args: object, **kwargs: object) -> NDArray[Any]:
        raise TypeError(
            "images are not converted to an array as a whole; select some, such as images[:10]"
        )

    def __repr__(self) -> str:
        return escaped(f"<{self._form} of {self._split!r}>")
