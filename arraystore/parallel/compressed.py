"""Compress arrays that are sent to other processes, in tasks of very many small images."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEVEL: Final = 1


class CompressedArray(NamedTuple):
    """An array whose bytes are grouped by significance and compressed.

    Attributes
    ----------
    data : bytes
    dtype : str
    shape : tuple of int

    Examples
    --------
    >>> array = np.arange(12).reshape(4, 3)
    >>> np.array_equal(CompressedArray.of(array).array(), array)
    True
    """

    data: bytes
    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, array: NDArray[Any]) -> CompressedArray:
        """Compress an array of numbers."""
        columns = np.ascontiguousarray(array.T)
        grouped = columns.view(np.uint8).reshape(*columns.shape, array.itemsize)
        # The bytes of one significance, of one column, are alike.
        data = np.ascontiguousarray(np.swapaxes(grouped, -1, -2))
        return cls(zlib.compress(data.data, _LEVEL), array.dtype.str, array.shape)

    def array(self) -> NDArray[Any]:
        """Return the array."""
        dtype = np.dtype(self.dtype)
        *outer, last = self.shape[::-1]
        data = np.frombuffer(zlib.decompress(self.data), np.uint8)
        grouped = data.reshape(*outer, dtype.itemsize, last)
        columns = np.ascontiguousarray(np.swapaxes(grouped, -1, -2)).view(dtype)
        return np.ascontiguousarray(columns.reshape(self.shape[::-1]).T)
