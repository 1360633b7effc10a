"""Chunks of HDF5 datasets: their byte ranges in the file, and the decoding of columns.

libhdf5 reports once where the chunks are. It would read one after another, and block other threads
meanwhile.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore.containers.hdf5.datasets import filters_of, is_padded_with_zeros
from arraystore.errors import FormatError
from arraystore.indexing.byte_range import ByteRange
from arraystore.indexing.positions import compact

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from numpy.typing import NDArray
    from typing_extensions import Buffer

    from arraystore._typing import Ints

_DEFLATE: Final = 1
_SHUFFLE: Final = 2
_DECODABLE: Final[tuple[list[int], ...]] = ([], [_DEFLATE], [_SHUFFLE], [_SHUFFLE, _DEFLATE])


@dataclass(frozen=True, slots=True)
class ChunkedColumn:
    """Where the chunks of a column are, and how to decode them.

    Attributes
    ----------
    dtype : numpy.dtype
    length, chunk_rows : int
        Rows of the column, and of a chunk.
    start, nbytes : ndarray of int64, shape (n_chunks,)
        Offset of each chunk in the file, and its size.
    filters : list of int
        Numbers of HDF5's own filters, in the order in which they were applied.
    row_shape : tuple of int
        Shape of a row; empty for one value.
    """

    dtype: np.dtype[Any]
    length: int
    chunk_rows: int
    start: Ints
    nbytes: Ints
    filters: list[int]
    row_shape: tuple[int, ...] = ()

    @classmethod
    def of(cls, dataset: Any, file_nbytes: int) -> ChunkedColumn | None:
        """Return how a column is stored, or None if libhdf5 has to read it.

        Parameters
        ----------
        dataset : h5py.Dataset
            With no chunk missing.
        file_nbytes : int
            Size of the file, which contains all chunks.
        """
        if not is_padded_with_zeros(dataset):
            return None
        filters = filters_of(dataset)
        if dataset.chunks is None or filters not in _DECODABLE:
            return None
        if dataset.chunks[1:] != dataset.shape[1:]:  # a row is in several chunks
            return None
        rows, length = dataset.chunks[0], len(dataset)
        start = np.full(-(-length // rows), -1, dtype=np.int64)
        nbytes = np.zeros_like(start)
        masks = set[int]()

        def record(chunk: Any) -> None:
            number = chunk.chunk_offset[0] // rows
            start[number], nbytes[number] = chunk.byte_offset, chunk.size
            masks.add(chunk.filter_mask)

        if length:
            dataset.id.chunk_iter(record)
        plain = math.prod(dataset.chunks) * dataset.dtype.itemsize
        is_odd = (start < 0) | (start > file_nbytes - nbytes) | (nbytes > plain + plain // 8 + 64)
        if masks - {0} or is_odd.any():
            return None
        return cls(dataset.dtype, length, rows, start, nbytes, filters, dataset.shape[1:])

    def ranges(self, key: str, rows: tuple[int, int] | None) -> list[ByteRange]:
        """Return the byte ranges of the file `key` that hold the rows ``[start, stop)``, or all."""
        start, stop = rows or (0, self.length)
        some = slice(start // self.chunk_rows, -(-min(stop, self.length) // self.chunk_rows))
        pairs = zip(self.start[some].tolist(), self.nbytes[some].tolist(), strict=True)
        return [ByteRange(key, offset, offset + nbytes) for offset, nbytes in pairs]

    def row_ranges(self, key: str, positions: Ints) -> list[ByteRange]:
        """Return the byte ranges of the file `key` that hold some rows, if there are no filters.

        Parameters
        ----------
        key : str
        positions : ndarray of int64, shape (n,)
            Ascending. Rows that follow each other in a chunk are one range.
        """
        row_nbytes = math.prod(self.row_shape) * self.dtype.itemsize
        if isinstance(run := compact(positions), range):
            return [
                ByteRange(key, start + first * row_nbytes, start + stop * row_nbytes)
                for start, first, stop in self._parts(run)
            ]
        numbers, within = np.divmod(positions, self.chunk_rows)
        begins = self.start[numbers] + within * row_nbytes
        is_first = np.ones(len(begins), np.bool_)
        np.not_equal(begins[1:], begins[:-1] + row_nbytes, out=is_first[1:])
        first = np.flatnonzero(is_first)
        stops = begins[np.append(first[1:], len(begins)) - 1] + row_nbytes
        pairs = zip(begins[first].tolist(), stops.tolist(), strict=True)
        return [ByteRange(key, start, stop) for start, stop in pairs]

    def _parts(self, run: range) -> Iterator[tuple[int, int, int]]:
        """Yield the offset of each chunk that has some of the rows, and the rows in the chunk."""
        for number in range(run.start // self.chunk_rows, (run.stop - 1) // self.chunk_rows + 1):
            above = number * self.chunk_rows
            first, stop = max(0, run.start - above), min(self.chunk_rows, run.stop - above)
            yield int(self.start[number]), first, stop

    def values(self, chunks: Iterable[Buffer], rows: tuple[int, int] | None) -> NDArray[Any]:
        """Return the rows, decoded from the bytes of `ranges`.

        Raises
        ------
        ValueError
            If a chunk is damaged.
        """
        start, stop = rows or (0, self.length)
        stop = min(stop, self.length)
        values = np.empty((max(0, stop - start), *self.row_shape), self.dtype)
        first = start // self.chunk_rows * self.chunk_rows - start
        for row, chunk in zip(range(first, len(values), self.chunk_rows), chunks, strict=False):
            some = self.decode(chunk)[max(0, -row) : len(values) - row]
            values[max(0, row) : row + self.chunk_rows] = some
        return values

    def decode(self, chunk: Buffer) -> NDArray[Any]:
        """Return all rows of a chunk; those beyond the end of the column are not values of it.

        Raises
        ------
        ValueError
            If the chunk is damaged.
        """
        data: Buffer = chunk
        shape = self.chunk_rows, *self.row_shape
        n_values = math.prod(shape)
        nbytes = n_values * self.dtype.itemsize
        if _DEFLATE in self.filters:
            stream = zlib.decompressobj()
            try:
                data = stream.decompress(chunk, nbytes + 1)
            except zlib.error as error:
                raise ValueError(str(error)) from None
            if not stream.eof and len(data) == nbytes:  # its checksum follows the data
                raise ValueError("a chunk ends before its compressed data does")
        if memoryview(data).nbytes != nbytes:
            raise ValueError(f"a chunk has {memoryview(data).nbytes} bytes or more, not {nbytes}")
        if _SHUFFLE not in self.filters:
            return np.frombuffer(data, self.dtype).reshape(shape)
        # The first bytes of all values come first, then the second. (Four times as fast as `.T`.)
        values = np.empty((n_values, self.dtype.itemsize), dtype=np.uint8)
        shuffled = np.frombuffer(data, np.uint8).reshape(self.dtype.itemsize, n_values)
        for place, some in enumerate(shuffled):
            values[:, place] = some
        return values.view(self.dtype).reshape(shape)


def payload_chunks(dataset: Any, file_nbytes: int, location: str) -> tuple[int, Ints]:
    """Return the length of a payload's chunks in bytes, and the offset of each in the file.

    Parameters
    ----------
    dataset : h5py.Dataset
        One-dimensional, of bytes, without filters. A contiguous one is a single chunk.
    file_nbytes : int
        Size of the file, which contains all chunks.
    location : str
        The dataset, for messages.

    Raises
    ------
    FormatError
        If a chunk is missing, or lies outside the file.
    """
    length = len(dataset)
    if dataset.chunks is None:
        offset = dataset.id.get_offset()
        if length and (offset is None or dataset.id.get_storage_size() < length):
            raise FormatError(f"{location}: has no storage in this file")
        _check_inside([offset] if length else [], length, file_nbytes, location)
        return max(length, 1), np.full(min(length, 1), offset or 0, dtype=np.int64)
    (chunk_nbytes,) = dataset.chunks
    found: dict[int, int] = {}

    # chunk_iter walks the index once; requesting one chunk after another is quadratic.
    def record(chunk: Any) -> None:
        found[chunk.chunk_offset[0] // chunk_nbytes] = chunk.byte_offset

    dataset.id.chunk_iter(record)
    n_chunks = -(-length // chunk_nbytes)
    if missing := next((str(i) for i in range(n_chunks) if i not in found), None):
        raise FormatError(f"{location}: chunk {missing} of {n_chunks} is missing")
    _check_inside(found.values(), int(chunk_nbytes), file_nbytes, location)
    return int(chunk_nbytes), np.array([found[i] for i in range(n_chunks)], dtype=np.int64)


def _check_inside(
    starts: Collection[int], chunk_nbytes: int, file_nbytes: int, location: str
) -> None:
    """Refuse chunks that extend beyond the end of the file, or do not fit in it together."""
    if starts and not (
        min(starts) >= 0
        and max(starts) + chunk_nbytes <= file_nbytes
        and len(starts) * chunk_nbytes <= file_nbytes
    ):
        raise FormatError(
            f"{location}: {len(starts)} chunks of {chunk_nbytes} bytes do not lie in the file of "
            f"{file_nbytes} bytes"
        )
