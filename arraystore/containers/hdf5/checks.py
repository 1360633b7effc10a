"""Datasets and attributes of an HDF5 file that are refused before they are read.

HDF5 can refer to other files (external storage, virtual datasets), run code that is installed
elsewhere (filters from plug-ins), and state arrays of any size that take no space in the file.
No store has any of that.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from arraystore.errors import FormatError, brief
from arraystore.schema import MAX_CHUNK_NBYTES, MAX_NBYTES, Unreadable

if TYPE_CHECKING:
    import numpy as np

_FILTERS: Final = {1: "deflate", 2: "shuffle", 3: "fletcher32"}
"""Filters of HDF5 itself that a column may have, by their numbers, each of them once."""

_MAX_RATIO: Final = 1100
"""More than deflate can compress: 1032 to 1."""


def unreadable_value(shape: tuple[int, ...] | None, dtype: Any) -> Unreadable:
    """Return a stand-in for values in the global heap, which are not read.

    libhdf5 walks that heap without bounds: a flipped bit in it can keep it busy forever.
    """
    import h5py

    if shape is None:
        return Unreadable("nothing (an empty dataspace)")
    if h5py.check_string_dtype(dtype) is None:
        return Unreadable(f"values of type {dtype}, which is not read")
    return Unreadable(
        "variable-length text, which is not read",
        "write text of fixed length, as h5py does with dtype=h5py.string_dtype('utf-8', n) and "
        "n = max(2, len(text.encode()))",
    )


def check_attribute(shape: tuple[int, ...], dtype: np.dtype[Any], name: str, location: str) -> None:
    """Raise `FormatError` if an attribute is larger than `MAX_NBYTES`."""
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes > MAX_NBYTES:
        raise FormatError(
            f"{location}: attribute {brief(name)} has {nbytes} bytes, at most {MAX_NBYTES} are read"
        )


def check_dataset(dataset: Any, location: str, *, is_flat: bool = True) -> None:
    """Raise `FormatError` unless a node is a dataset that is stored in its file by known filters.

    It must have one dimension if `is_flat`, else at least one.
    """
    import h5py

    if not isinstance(dataset, h5py.Dataset) or (
        dataset.ndim != 1 if is_flat else not dataset.ndim
    ):
        kind = "a 1-d dataset" if is_flat else "a dataset with dimensions"
        raise FormatError(f"{location}: must be {kind}, got {dataset!r}")
    properties = dataset.id.get_create_plist()
    if properties.get_layout() == h5py.h5d.VIRTUAL or properties.get_external_count():
        raise FormatError(f"{location}: has its values in other files; they are not followed")
    filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    if not set(filters) <= _FILTERS.keys() or len(set(filters)) < len(filters):
        raise FormatError(
            f"{location}: must have no filters but {', '.join(_FILTERS.values())}, each once, got "
            f"those of the numbers {filters}"
        )


def check_values(dataset: Any, file_nbytes: int, location: str) -> None:
    """Raise `FormatError` if fewer values of a column are stored than it states."""
    row_nbytes = math.prod(dataset.shape[1:]) * dataset.dtype.itemsize
    nbytes = len(dataset) * row_nbytes
    stored = min(dataset.id.get_storage_size(), file_nbytes)
    if dataset.chunks is None:
        if stored < nbytes:
            raise FormatError(f"{location}: must have {nbytes} bytes, but {stored} are stored")
        return
    rows = dataset.chunks[0]
    chunk_nbytes = math.prod(dataset.chunks) * dataset.dtype.itemsize
    if max(chunk_nbytes, row_nbytes) > MAX_CHUNK_NBYTES:
        raise FormatError(f"{location}: chunks may have {MAX_CHUNK_NBYTES} bytes, got {rows} rows")
    sides = zip(dataset.shape, dataset.chunks, strict=True)
    n_chunks = math.prod(-(-side // step) for side, step in sides)
    found = dataset.id.get_num_chunks() if n_chunks else 0
    if found < n_chunks:
        raise FormatError(f"{location}: {n_chunks - found} chunks of {n_chunks} are missing")
    if nbytes > _MAX_RATIO * stored:
        raise FormatError(f"{location}: {nbytes} bytes cannot be compressed to {stored}")
