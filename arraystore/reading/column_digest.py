"""Digest of the values of a further column, the same in both containers."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from arraystore.schema import ArraySpec


class ColumnDigest:
    """Digest of the values of a column, see ``docs/format.md``."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    @property
    def text(self) -> str:
        """The digest, in hexadecimal digits."""
        return self._hash.hexdigest()

    def passed(self, spec: ArraySpec, blocks: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
        """Yield the blocks of an array, and add it to the digest."""
        self.begin(spec.data_type, spec.shape)
        for block in blocks:
            self.add(block)
            yield block

    def begin(self, data_type: str, shape: tuple[int, ...]) -> None:
        """Add the data type and shape of an array."""
        self._hash.update(" ".join([data_type, *map(str, shape)]).encode() + b"\n")

    def add(self, block: NDArray[Any]) -> None:
        """Add the next rows of an array."""
        if isinstance(block.dtype, np.dtypes.StringDType):
            texts = [f"{text}\0" for text in block.ravel().tolist()]
            self._hash.update("".join(texts).encode())
        else:
            little = block.astype(block.dtype.newbyteorder("<"), copy=False)
            self._hash.update(np.ascontiguousarray(little).data.cast("B"))
