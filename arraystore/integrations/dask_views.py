"""Samples and columns of a split as collections of Dask, with one partition for each shard."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore._arguments import check_choice, need
from arraystore.dataset.batch import Sample
from arraystore.errors import brief, escaped
from arraystore.images.crops import Framing
from arraystore.indexing.selection import as_positions, as_size, is_one
from arraystore.schema import COLUMNS, SHARD_NBYTES, STRING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from arraystore._typing import Ints
    from arraystore.dataset.batch import Batch
    from arraystore.dataset.split import Split

KINDS: Final = ("bag", "array", "dataframe")

_COLUMNS: Final = ("label", "file_name", "image_height", "image_width", "image_nbytes")
"""Columns of every data frame."""

_DECODED: Final = 64
"""Samples of a bag that are decoded at a time."""


def to_dask(
    split: Split,
    kind: str = "bag",
    *,
    size: int | tuple[int, int] | None = None,
    columns: Sequence[str] | None = None,
) -> Any:
    """Return the split as a collection of Dask, which is read when it is computed.

    A partition has the samples whose images begin in the same 64 MiB: of a whole split those of one
    shard. The sizes of all images are read at once, to find these. Tasks get the address of the
    store, and workers must reach it under the same path.

    Parameters
    ----------
    split : Split
        Any samples.
    kind : {"bag", "array", "dataframe"}
        A `dask.bag` of `Sample`; a `dask.array` of resized images, uint8 of shape (n, height,
        width, 3), or of the values of one column; a `dask.dataframe` of columns, whose index is the
        position in the split.
    size : int or (int, int), optional
        Height and width to resize images of a bag or an array to, see `Split.resized`.
    columns : sequence of str, optional
        For an array, the one column to read instead of images, of any shape. For a data frame, its
        columns; by default ``label`` (-1 if there is none), ``file_name``, ``image_height``,
        ``image_width`` and ``image_nbytes``, and all further columns with one value per sample.

    Returns
    -------
    dask.bag.Bag, dask.array.Array or dask.dataframe.DataFrame

    Raises
    ------
    SourceError
        If Dask is not installed, or a data frame lacks pyarrow; the message names the extra.
    KeyError
        If there is no such column.
    TypeError
        If a column is ragged or its values do not fit the collection.
    ValueError
        If the split is empty, or an array has neither or both of `size` and `columns`.

    Examples
    --------
    >>> import arraystore
    >>> train = arraystore.open("1pct.zarr")["train"]
    >>> train.to_dask("array", size=32).mean(axis=(0, 1, 2)).compute().shape
    (3,)
    >>> train.to_dask("dataframe").label.max().compute()
    np.int64(999)
    """
    check_choice(kind, "kind", KINDS)
    if isinstance(columns, str):
        raise TypeError(escaped(f"columns must be a list of names, got {brief(columns)}"))
    if not len(split):
        raise ValueError(escaped(f"{split.name}: has no samples"))
    if kind == "array" and (size is None) == (columns is None):
        raise ValueError("an array needs size=… for images, or columns=[…] for a column")
    if (kind == "bag" and columns is not None) or (kind == "dataframe" and size is not None):
        raise ValueError("size is for images, and columns are for arrays and data frames")
    pixels = None if size is None else as_size(size)
    if kind == "bag":
        return _bag(split, pixels)
    if kind == "array":
        return _array(split, _images(split, pixels) if pixels else _values(split, columns or ()))
    return _dataframe(split, columns)


class LazyRows:
    """One value per sample, read when it is sliced; what `dask.array.from_array` takes.

    Parameters
    ----------
    read : callable
        Returns the values at some positions.
    shape : tuple of int
    dtype : numpy.dtype
    """

    def __init__(
        self, read: Callable[[Ints], NDArray[Any]], shape: tuple[int, ...], dtype: Any
    ) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.ndim = len(shape)
        self._read = read

    def __getitem__(self, key: Any) -> NDArray[Any]:
        first, *rest = key if isinstance(key, tuple) else (key,)
        one = is_one(first)
        values = self._read(as_positions([first] if one else first, self.shape[0]))
        found: NDArray[Any] = values[(0 if one else slice(None), *rest)]
        return found


def _needed(module: str, extra: str = "dask") -> Any:
    return need(module, extra, "to_dask")


def _bounds(split: Split) -> list[int]:
    """Return the first position of each partition, and the number of samples."""
    nbytes = split.image_nbytes
    shard = (np.cumsum(nbytes) - nbytes) // SHARD_NBYTES
    return [0, *(np.flatnonzero(np.diff(shard)) + 1).tolist(), len(split)]


def _bag(split: Split, size: tuple[int, int] | None) -> Any:
    made: Any = _needed("dask.bag")
    from dask.delayed import delayed

    bounds = _bounds(split)
    spans = made.from_sequence(pairwise(bounds), partition_size=1)
    whole = delayed(split, traverse=False)
    return spans.map_partitions(_samples, split=whole, size=size)


def _samples(
    spans: Sequence[tuple[int, int]], split: Split, size: tuple[int, int] | None
) -> list[Sample]:
    # A list: Dask may send the samples to another process, and use them twice.
    ((start, stop),) = spans
    batches = split.select(slice(start, stop)).batches(_DECODED, shuffle=False, size=size)
    return [sample for batch in batches for sample in _each(batch)]


def _each(batch: Batch[Any]) -> Iterator[Sample]:
    return map(Sample, batch.image, batch.label.tolist(), batch.file_name.tolist())


def _array(split: Split, rows: LazyRows) -> Any:
    made: Any = _needed("dask.array")
    chunks = tuple(np.diff(_bounds(split)).tolist()), *rows.shape[1:]
    meta = np.empty((0,) * rows.ndim, rows.dtype)
    return made.from_array(rows, chunks=chunks, name=False, meta=meta)


def _images(split: Split, size: tuple[int, int]) -> LazyRows:
    return LazyRows(partial(_read_images, split, size), (len(split), *size, 3), np.uint8)


def _read_images(split: Split, size: tuple[int, int], positions: Ints) -> NDArray[np.uint8]:
    images: NDArray[np.uint8] = split._reader.images(positions, Framing(size))
    return images


def _values(split: Split, columns: Sequence[str]) -> LazyRows:
    if len(columns) != 1:
        raise ValueError(f"an array has the values of one column, got {brief(list(columns))}")
    (name,) = columns
    read = partial(_read_column, split, name)
    if name in _COLUMNS and COLUMNS[name].data_type != STRING:
        return LazyRows(read, (len(split),), COLUMNS[name].data_type)
    column = None if name in _COLUMNS else split.columns[name]
    if column is None or column.is_ragged or isinstance(column.dtype, np.dtypes.StringDType):
        raise TypeError(escaped(f"{name}: has text or is ragged, which arrays of Dask cannot hold"))
    return LazyRows(read, tuple(n or 0 for n in column.shape), column.dtype)


def _read_column(split: Split, name: str, positions: Ints) -> NDArray[Any]:
    values: NDArray[Any]
    if name in _COLUMNS:
        (values,) = split._reader.columns((name,), positions)
    else:
        values = split.columns[name].take(positions)
    return values


def _dataframe(split: Split, columns: Sequence[str] | None) -> Any:
    made: Any = _needed("dask.dataframe", "dask,parquet")
    from dask.delayed import delayed

    names = list(columns) if columns is not None else [*_COLUMNS]
    for name, column in split.columns.items():
        is_single = len(column.shape) == 1
        if columns is None and is_single and name not in names:
            names.append(name)
        elif columns is not None and name in names and not is_single:
            raise TypeError(
                escaped(f"{name}: has several values per sample, which a data frame cannot hold")
            )
    bounds = _bounds(split)
    whole, read = delayed(split, traverse=False), delayed(_frame)
    parts = [read(whole, a, b, names) for a, b in pairwise(bounds)]
    return made.from_delayed(
        parts, meta=_frame(split, 0, 0, names), divisions=(*bounds[:-1], bounds[-1] - 1)
    )


def _frame(split: Split, start: int, stop: int, names: Sequence[str]) -> Any:
    import pandas as pd

    positions = np.arange(start, stop)
    found = {name: _read_column(split, name, positions) for name in names}
    values = {
        name: pd.array(some.tolist(), dtype="string[pyarrow]") if _is_text(some) else some
        for name, some in found.items()
    }
    return pd.DataFrame(values, index=pd.RangeIndex(start, stop))


def _is_text(values: NDArray[Any]) -> bool:
    return isinstance(values.dtype, np.dtypes.StringDType)
