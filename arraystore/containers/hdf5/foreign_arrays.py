"""What a dataset of HDF5 is as an array of ours: data type, dimension and fill value."""

from __future__ import annotations

from typing import Any, Final

from arraystore.containers.hdf5.guard import dimension_of, is_padded_with_zeros
from arraystore.errors import FormatError
from arraystore.schema import COLUMN_CHUNK_ROWS, MIN_TEXT_WIDTH, STRING, Column

SHUFFLE_DEFLATE: Final = [2, 1]
"""The filters of a column, by HDF5's numbers, in the order in which they are applied."""


def layout_faults(dataset: Any, *, is_payload: bool) -> list[str]:
    """Return in what a 1-d dataset is laid out otherwise than ``docs/format.md`` says."""
    properties, length = dataset.id.get_create_plist(), len(dataset)
    filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    faults = []
    if is_payload:
        if dataset.chunks is not None:
            faults.append(f"must be one contiguous run, got chunks of {dataset.chunks[0]} bytes")
        return faults
    chunks = (min(COLUMN_CHUNK_ROWS, length),)
    if length and dataset.chunks != chunks:
        faults.append(f"must have chunks of {chunks[0]} rows, got {dataset.chunks}")
    if length and filters != SHUFFLE_DEFLATE:
        faults.append(f"must have the filters {SHUFFLE_DEFLATE} (shuffle, gzip), got {filters}")
    if dataset.dtype.kind == "S" and dataset.dtype.itemsize < MIN_TEXT_WIDTH:
        faults.append(f"text must be {MIN_TEXT_WIDTH} bytes wide or more, got {dataset.dtype}")
    if not is_padded_with_zeros(dataset):
        faults.append("text must be padded with zero bytes (H5T_STR_NULLPAD)")
    return faults


def as_column(dataset: Any, path: str) -> Column | None:
    """Return what a dataset is as a column, or None if it is none."""
    is_filtered = dataset.id.get_create_plist().get_nfilters() > 0
    if dimension_of(dataset, path) is None or dataset.ndim != 1:
        return None
    if len(dataset) and not is_filtered:
        return None
    column = _column(dataset, path)
    return None if column.dimension == "byte" or dataset.dtype.kind not in "iufS" else column


def described(dataset: Any, path: str, where: str) -> Column:
    """Return what a dataset is; without a dimension scale its dimension is empty.

    Raises
    ------
    FormatError
        If it is no dataset of one dimension.
    """
    if getattr(dataset, "ndim", None) != 1:
        raise FormatError(f"{where}: must be a 1-d dataset, got {dataset!r}")
    column = _column(dataset, path)
    # Which scales are attached lies in the global heap; that some are does not.
    return column if "DIMENSION_LIST" in dataset.attrs else column._replace(dimension="")


def _column(dataset: Any, path: str) -> Column:
    dimension = dimension_of(dataset, path) or ""
    if dataset.dtype.kind == "S":
        return Column(STRING, dimension, "")
    fill = dataset.fillvalue
    return Column(dataset.dtype.name, dimension, fill.item() if hasattr(fill, "item") else "")
