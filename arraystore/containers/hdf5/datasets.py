"""HDF5 datasets as columns: data type, dimension, fill value, and deviations of their layout."""

from __future__ import annotations

from typing import Any, Final

from arraystore.errors import FormatError
from arraystore.schema import (
    COLUMN_CHUNK_ROWS,
    COLUMNS,
    MIN_TEXT_WIDTH,
    PAYLOAD,
    ROOT_COLUMNS,
    SELECTIONS,
    STRING,
    Column,
)

SCALE_ATTRIBUTES: Final = ("DIMENSION_LIST", "REFERENCE_LIST")
"""Attributes that connect datasets with dimension scales, written by `attach_scale`."""

SHUFFLE_DEFLATE: Final = [2, 1]
"""Filters of a column, by HDF5's numbers, in the order in which they are applied."""


def layout_faults(dataset: Any, *, is_payload: bool) -> list[str]:
    """Return how the layout of a 1-d dataset deviates from ``docs/format.md``."""
    if is_payload:
        if dataset.chunks is None:
            return []
        return [f"must be one contiguous run, got chunks of {dataset.chunks[0]} bytes"]
    faults, length = [], len(dataset)
    chunks, filters = (min(COLUMN_CHUNK_ROWS, length),), filters_of(dataset)
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
    """Return a dataset as a column, or None if it is not stored like one."""
    if dimension_of(dataset, path) is None or dataset.ndim != 1:
        return None
    if len(dataset) and not filters_of(dataset):
        return None
    column = _column(dataset, path)
    return None if column.dimension == "byte" or dataset.dtype.kind not in "iufS" else column


def describe_dataset(dataset: Any, path: str, location: str) -> Column:
    """Return data type, dimension and fill value; without a dimension scale, no dimension.

    Raises
    ------
    FormatError
        If it is not a dataset of one dimension.
    """
    if getattr(dataset, "ndim", None) != 1:
        raise FormatError(f"{location}: must be a 1-d dataset, got {dataset!r}")
    column = _column(dataset, path)
    # Reading the attached scales would need the global heap; testing for the attribute does not.
    has_scale = SCALE_ATTRIBUTES[0] in dataset.attrs
    return column if has_scale else column._replace(dimension="")


def _column(dataset: Any, path: str) -> Column:
    dimension = dimension_of(dataset, path) or ""
    if dataset.dtype.kind == "S":
        return Column(STRING, dimension, "")
    fill = dataset.fillvalue
    return Column(dataset.dtype.name, dimension, fill.item() if hasattr(fill, "item") else "")


def filters_of(dataset: Any) -> list[int]:
    """Return the numbers of a dataset's filters, in the order in which they are applied."""
    properties = dataset.id.get_create_plist()
    return [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]


def is_padded_with_zeros(dataset: Any) -> bool:
    """Return whether text of a dataset has only zeros behind its end; True for numbers.

    C programs end text with a zero byte, and any bytes may follow it; Fortran programs pad text
    with spaces. libhdf5 removes both, NumPy neither.
    """
    from h5py import h5t

    if dataset.dtype.kind != "S":
        return True
    return bool(dataset.id.get_type().get_strpad() == h5t.STR_NULLPAD)


def is_dimension(dataset: Any) -> bool:
    """Return whether a dataset is a dimension without values, as netCDF-4 makes them."""
    return bool(dataset.is_scale) and dataset.id.get_storage_size() == 0


def dimension_of(dataset: Any, path: str) -> str | None:
    """Return the name of the dimension of a 1-d dataset, or None if it has none.

    The list of a dataset's scales is in the global heap, where a flipped bit can keep libhdf5 busy
    forever. It is therefore not read for arrays whose dimension the format fixes.

    Raises
    ------
    FormatError
        If the list of its scales is something else. libhdf5 does not check its type: a number in
        its place ends the process (HDF5 2.0).
    """
    from h5py import h5t

    group, _, last = path.rpartition("/")
    if known := {**COLUMNS, **ROOT_COLUMNS}.get(last):
        return known.dimension
    if last == PAYLOAD or group.startswith(f"{SELECTIONS}/"):
        return "byte" if last == PAYLOAD else f"selected_{last}"
    name = SCALE_ATTRIBUTES[0]
    if dataset.ndim != 1 or name not in dataset.attrs:
        return None
    attribute = dataset.attrs.get_id(name)
    kind = attribute.get_type()
    is_list = kind.get_class() == h5t.VLEN and kind.get_super().get_class() == h5t.REFERENCE
    if not is_list or attribute.get_space().get_simple_extent_npoints() != 1:
        raise FormatError(f"{dataset.name}: attribute {name!r} must list scales, got {kind}")
    scales = dataset.dims[0]
    if not len(scales):
        return None
    scale = scales[0].name
    if scale is None:
        raise FormatError(f"{dataset.name}: its dimension scale has no name; attach a named one")
    return str(scale.rpartition("/")[2])
