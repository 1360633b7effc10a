"""Columns as Arrow tables, which pyarrow, pandas, Polars and DuckDB read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from arraystore._arguments import need

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from arraystore._typing import Ints
    from arraystore.dataset.batch import Arena


def arrow_table(
    columns: Mapping[str, Any], label: Ints, label_names: Sequence[str], images: Arena | None
) -> Any:
    """Return columns as a `pyarrow.Table`.

    Parameters
    ----------
    columns : mapping of str to ndarray, or to Arrow's arrays
        Among them ``file_name``, which comes first.
    label : ndarray of int64, shape (n,)
        -1 becomes null.
    label_names : sequence of str
        Class ids, which become a dictionary.
    images : Arena, optional
        Becomes large binary, without a copy.

    Raises
    ------
    SourceError
        If pyarrow is not installed.
    """
    pa = need("pyarrow", "parquet", "an Arrow table")
    is_missing = label < 0
    names = pa.array(label.astype(np.int32), mask=is_missing), pa.array(list(label_names))
    found = {
        "file_name": _nested(pa, columns["file_name"]),
        "label": pa.array(label, mask=is_missing),
        "label_name": pa.DictionaryArray.from_arrays(*names),
    }
    for name, values in columns.items():
        if name != "file_name":
            plain = _nested(pa, values) if isinstance(values, np.ndarray) else values
            found[f"columns.{name}" if name in found else name] = plain
    if images is not None:
        buffers = [None, pa.py_buffer(images.offsets), pa.py_buffer(images.data)]
        found["image_bytes"] = pa.Array.from_buffers(pa.large_binary(), len(label), buffers)
    return pa.table(found)


def arrow_array(values: NDArray[Any] | list[NDArray[Any]], none: NDArray[Any]) -> Any:
    """Return values of samples as a `pyarrow.ChunkedArray`: lists where they have several.

    Parameters
    ----------
    values : ndarray, shape (n, …), or list of ndarray
        A list if their number differs.
    none : ndarray
        The values of a sample that has none; its shape and type are those of the others.

    Raises
    ------
    SourceError
        If pyarrow is not installed.
    """
    pa = need("pyarrow", "parquet", "an Arrow array")
    if not isinstance(values, list):
        return pa.chunked_array([_nested(pa, values)])
    bounds = pa.array(np.cumsum([0, *map(len, values)], dtype=np.int64))
    joined = _nested(pa, np.concatenate([none, *values]))
    return pa.chunked_array([pa.LargeListArray.from_arrays(bounds, joined)])


def _nested(pa: Any, values: NDArray[Any]) -> Any:
    """Return an array of any number of dimensions as lists of fixed length."""
    flat = values.reshape(-1)
    is_text = flat.dtype.kind == "T"
    found = pa.array(flat.tolist(), pa.large_string()) if is_text else pa.array(flat)
    for length in reversed(values.shape[1:]):
        found = pa.FixedSizeListArray.from_arrays(found, length)
    return found
