"""Arrays of any number of dimensions in an HDF5 file, read along the first."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from typing_extensions import override

from arraystore.containers.protocol import ArrayReader
from arraystore.schema import ARRAY_CHUNK_NBYTES, COLUMN_CHUNK_ROWS, STRING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from arraystore._typing import Ints
    from arraystore.containers.hdf5.chunks import ChunkedColumn

    Rows = Callable[[int, int], NDArray[Any]]
    Chunks = Callable[[ChunkedColumn, Sequence[int]], Iterator[NDArray[Any]]]

ARRAY_KINDS: Final = "biufcS"
"""Kinds of NumPy's data types that an array may have; ``S`` is fixed-length text."""


class HDF5Array(ArrayReader):
    """A dataset, read chunk by chunk without libhdf5 where that is possible.

    Parameters
    ----------
    dataset : h5py.Dataset
        It is not kept.
    column : ChunkedColumn or None
        Where its chunks are; None if libhdf5 has to read it.
    rows : callable
        Returns some rows, read by libhdf5.
    chunks : callable
        Yields decoded chunks.
    read : callable or None
        Returns single rows of chunks without filters, where single reads are cheap.
    """

    def __init__(
        self,
        dataset: Any,
        column: ChunkedColumn | None,
        rows: Rows,
        chunks: Chunks,
        read: Callable[[ChunkedColumn, Ints], NDArray[Any]] | None,
    ) -> None:
        is_text = dataset.dtype.kind == "S"
        self.data_type = STRING if is_text else dataset.dtype.name
        self.dtype = np.dtypes.StringDType() if is_text else np.dtype(self.data_type)
        self.shape = dataset.shape
        row_nbytes = max(1, math.prod(self.shape[1:]) * dataset.dtype.itemsize)
        some_rows = max(1, min(COLUMN_CHUNK_ROWS, ARRAY_CHUNK_NBYTES // row_nbytes))
        self.chunk_rows = some_rows if column is None else column.chunk_rows
        self._column, self._rows, self._chunks, self._read = column, rows, chunks, read

    @override
    def rows(self, positions: Ints) -> NDArray[Any] | None:
        column = self._column
        if self._read is None or column is None or column.filters or self.data_type == STRING:
            return None
        return self._read(column, positions).astype(self.dtype, copy=False)

    @override
    def chunks(self, numbers: Sequence[int]) -> Iterator[NDArray[Any]]:
        if self._column is not None:
            found = self._chunks(self._column, numbers)
        else:
            starts = (number * self.chunk_rows for number in numbers)
            found = (self._rows(start, start + self.chunk_rows) for start in starts)
        for values in found:
            yield values.astype(self.dtype, copy=False)
