"""What a dataset of HDF5 is as an array of ours: data type, dimension and fill value."""

from __future__ import annotations

from typing import Any

from arraystore.containers.hdf5_guard import dimension_of
from arraystore.errors import FormatError
from arraystore.schema import STRING, Column


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
