"""Results of reading: one sample, a batch of several, and encoded images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, TypeVar

import numpy as np
from typing_extensions import override

from arraystore.errors import escaped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from arraystore._typing import Bytes, Checksums, Ints, Pixels

Many = TypeVar("Many")


class Sample(NamedTuple):
    """One labelled image.

    Attributes
    ----------
    image : ndarray of uint8, shape (height, width, 3)
        Pixels: red, green, blue.
    label : int
        Index of the class, -1 if the sample has none.
    file_name : str
        Name of the image in the source.
    """

    image: Pixels
    label: int
    file_name: str

    @override
    def __repr__(self) -> str:
        image = _shape_of(self.image)
        return escaped(f"<Sample: image {image}, label {self.label}, file_name {self.file_name!r}>")


class Batch(NamedTuple, Generic[Many]):
    """Several samples, as columns.

    Attributes
    ----------
    image : list of ndarray of uint8, or ndarray of uint8, shape (n, height, width, 3)
        Pixels of each image: a list of arrays (height, width, 3), since sizes differ;
        one array where images were resized. Several views have an axis before these.
    label : ndarray of int64, shape (n,)
    file_name : ndarray of str, shape (n,)
    """

    image: Many
    label: Ints
    file_name: NDArray[Any]

    @property
    def num_samples(self) -> int:
        """Number of samples; `len` of a batch is the number of its fields, as of every tuple."""
        return len(self.label)

    @property
    def columns(self) -> dict[str, Any]:
        """Values of the further columns that were requested: arrays, or lists if ragged."""
        return {}

    @override
    def __repr__(self) -> str:
        names = ", ".join(["label", "file_name", *self.columns])
        image = _shape_of(self.image)
        return escaped(f"<Batch of {self.num_samples} samples: image {image}, {names}>")


def _shape_of(image: object) -> str:
    """Return dtype and shape of the pixels, or that they are a list."""
    if isinstance(image, np.ndarray):
        return f"{image.dtype} {image.shape}"
    return "list" if isinstance(image, list) else "none"


class BatchWithColumns(Batch[Many]):
    """A batch with the values of further columns; it unpacks as every batch does."""

    _values: dict[str, Any]

    @property
    @override
    def columns(self) -> dict[str, Any]:
        return self._values

    @classmethod
    def of(cls, batch: Batch[Many], columns: dict[str, Any]) -> Self:
        """Return a batch with columns."""
        found = cls(*batch)
        found._values = columns
        return found


class Encoded(NamedTuple):
    """Several samples that were read and not decoded yet.

    Attributes
    ----------
    indices : ndarray of int64, shape (n,)
        Their positions in the split.
    views : sequence of memoryview, length n
        The encoded images.
    crc32c : ndarray of uint32, shape (n,)
        Checksum of each image.
    label : ndarray of int64, shape (n,)
    file_name : ndarray of str, shape (n,)
    """

    indices: Ints
    views: Sequence[memoryview]
    crc32c: Checksums
    label: Ints
    file_name: NDArray[Any]

    def part(self, start: int, stop: int | None = None) -> Encoded:
        """Return some of the samples."""
        some = slice(start, stop)
        indices, views, crc32c, label, file_name = self
        return Encoded(indices[some], views[some], crc32c[some], label[some], file_name[some])

    def joined(self, more: Encoded) -> Encoded:
        """Return these samples, and others after them."""
        return Encoded(
            np.concatenate([self.indices, more.indices]),
            [*self.views, *more.views],
            np.concatenate([self.crc32c, more.crc32c]),
            np.concatenate([self.label, more.label]),
            np.concatenate([self.file_name, more.file_name]),
        )


class Arena(NamedTuple):
    """Encoded images in one array.

    Attributes
    ----------
    data : ndarray of uint8, shape (n_bytes,)
        The images, end to end.
    offsets : ndarray of int64, shape (n + 1,)
        Image i is ``data[offsets[i] : offsets[i + 1]]``, as in a large binary array of Arrow.
    """

    data: Bytes
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
