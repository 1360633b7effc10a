"""A store as xarray datasets: ``xarray.open_dataset("1pct.zarr", engine="arraystore")``.

xarray's own engines also open a store, and show its arrays as they are on disk. This engine shows
samples, with their images encoded or at one size, and reads only the samples that are indexed.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from typing_extensions import override
from xarray import Dataset, DataTree, Variable
from xarray.backends import BackendArray, BackendEntrypoint

# Not among the public names of xarray, but documented in its guide to writing a backend.
from xarray.core import indexing

from arraystore.containers import open_local
from arraystore.dataset.split import Split
from arraystore.errors import ArrayStoreError, escaped
from arraystore.indexing.selection import as_positions, as_size, is_one
from arraystore.reader import Store, open_store
from arraystore.schema import (
    COLUMN_CHUNK_ROWS,
    COLUMN_DESCRIPTION,
    COLUMNS,
    FORMAT_NAME,
    ROOT_COLUMNS,
    STRING,
)
from arraystore.storage.location import Location

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from arraystore._typing import Ints, Pixels
    from arraystore.dataset.columns import Column
    from arraystore.dataset.saved_selection import SavedSelection
    from arraystore.schema import SplitInfo

    Index = int | slice | NDArray[np.int64]

_SUFFIXES: Final = (".zarr", ".h5", ".hdf5")
_CLASS: Final = "label_name"
"""The variable with the id of the class of each sample; the column of the root has this name."""

_COORDINATES: Final = frozenset({"label", _CLASS, "file_name"})

_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    # Text is an array of Python `str`. xarray has no missing value for NumPy's own string dtype, so
    # `Dataset.where` would fail.
    name: np.dtype(object if column.data_type == STRING else column.data_type)
    for name, column in (*COLUMNS.items(), *ROOT_COLUMNS.items())
    if name in {*_COORDINATES, "image_height", "image_width", "image_nbytes"}
}
"""The variables of a split, without images and further columns."""

_CHUNK_NBYTES: Final = 64 * 2**20
"""Most bytes of a chunk of Dask with ``chunks={}``, if images have the average size."""


class ArraystoreBackend(BackendEntrypoint):
    r"""The xarray engine ``arraystore``.

    A split is a dataset along the dimension ``sample``. Its coordinates are ``label``,
    ``label_name`` (the id of the class, empty if there is none) and ``file_name``; its variables
    are ``image_height``, ``image_width``, ``image_nbytes``, further columns, and
    ``image_bytes``, whose elements are the encoded images as Python `bytes`. With ``size=`` it has
    ``image`` instead, the pixels along ``sample``, ``height``, ``width`` and ``channel``.

    All variables are lazy: a column is read when it is first used, and of the images only those
    that are indexed. Loading a whole dataset therefore reads every image.

    The root is a dataset along ``class``: ``label_name`` and ``label_words``. Its
    attributes, and those of a split, have the same names as on disk.

    Datasets can be pickled, and read from many threads. With ``chunks=`` they have arrays of Dask,
    whose slices read only their own samples; for lists and masks Dask computes whole chunks.

    Examples
    --------
    >>> import xarray
    >>> train = xarray.open_dataset("1pct.zarr", engine="arraystore", group="train")
    >>> train.image_bytes.isel(sample=5).item()[:3]
    b'\xff\xd8\xff'
    """

    open_dataset_parameters: ClassVar[tuple[str, ...] | None] = (
        "filename_or_obj",
        "drop_variables",
        "group",
        "selection",
        "size",
        "storage_options",
    )
    description: ClassVar[str] = "Open arraystore image data sets (.zarr, .h5, .hdf5)"
    supports_groups: ClassVar[bool] = True

    @override
    def guess_can_open(self, filename_or_obj: object) -> bool:
        """Whether this is a store on the local disk, by its suffix and its root attribute.

        That includes a store of a version that this release cannot read; opening it raises an
        error. xarray tries the netCDF engines first, which accept every HDF5 file.
        """
        try:
            location = Location.parse(filename_or_obj)
            if not location.is_local or location.suffix.lower() not in _SUFFIXES:
                return False
            _, container = open_local(location.path)
            return container.attributes().get("format") == FORMAT_NAME
        except (ArrayStoreError, OSError, RuntimeError, TypeError, ValueError):
            # A file of another program, about which nothing is known.
            return False

    @override
    def open_dataset(
        self,
        filename_or_obj: object,
        *,
        drop_variables: str | Iterable[str] | None = None,
        group: str | None = None,
        selection: str | os.PathLike[str] | SavedSelection | None = None,
        size: int | tuple[int, int] | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> Dataset:
        """Open a split, or the root.

        Parameters
        ----------
        filename_or_obj : path-like, str or Split
            Path or address of a store, see `arraystore.open`; or samples.
        drop_variables : str or iterable of str, optional
            Variables to leave out.
        group : str, optional
            A split string as for `Store`: ``train``, ``train[:10%]``,
            ``train+validation``. The root if None or ``"/"``.
        selection : str, path-like or SavedSelection, optional
            Samples of the group: the name of a selection that the store contains, such as
            ``"1pct"``, or a saved one; see `Split.select`.
        size : int or (int, int), optional
            Height and width to resize images to, see `Split.resized`. The variable
            ``image`` then replaces ``image_bytes``.
        storage_options : mapping, optional
            How to reach a bucket or a web server; see `arraystore.open`.

        Returns
        -------
        xarray.Dataset

        Raises
        ------
        KeyError
            If a split or a selection does not exist.
        ValueError
            If `group` is malformed, or exceeds the split; or if `size` is not 1 or more.
        TypeError
            If samples are given with an option that says where they are.
        """
        names, pixels = _names(drop_variables), None if size is None else as_size(size)
        if not isinstance(filename_or_obj, Split):
            store = open_store(filename_or_obj, storage_options=storage_options)
            return _dataset(store, group, names, pixels, selection)
        if any(option is not None for option in (group, selection, storage_options)):
            raise TypeError(
                "a Split has its samples already; group, selection and storage_options are for "
                "the address of a store"
            )
        whole = filename_or_obj._sample_set.whole
        return _split(filename_or_obj, names, pixels, None if whole is None else whole.info)

    @override
    def open_groups_as_dict(
        self,
        filename_or_obj: object,
        *,
        drop_variables: str | Iterable[str] | None = None,
        size: int | tuple[int, int] | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> dict[str, Dataset]:
        """Open the root, which is ``"/"``, and every split, such as ``"/train"``."""
        store = open_store(filename_or_obj, storage_options=storage_options)
        names, pixels = _names(drop_variables), None if size is None else as_size(size)
        paths = "/", *(f"/{name}" for name in store)
        return {path: _dataset(store, path, names, pixels) for path in paths}

    @override
    def open_datatree(
        self,
        filename_or_obj: object,
        *,
        drop_variables: str | Iterable[str] | None = None,
        size: int | tuple[int, int] | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> DataTree:
        """Open the root and every split as a tree."""
        groups = self.open_groups_as_dict(
            filename_or_obj,
            drop_variables=drop_variables,
            size=size,
            storage_options=storage_options,
        )
        return DataTree.from_dict(groups)


class _LazyRows(BackendArray):
    """Values of samples that are read when they are indexed.

    Parameters
    ----------
    split : Split
        The samples. It pickles as the location of its store.
    shape : tuple of int
    dtype : numpy.dtype
        The data type that xarray announces for the values.
    """

    def __init__(self, split: Split, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape, self.dtype = shape, dtype
        self._split = split

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )

    def _read(self, key: tuple[Index, ...]) -> Any:
        raise NotImplementedError


class LazySamples(_LazyRows):
    """One value for each sample: of a column, ``label_name`` or ``image_bytes``."""

    def __init__(self, split: Split, name: str, dtype: np.dtype[Any]) -> None:
        super().__init__(split, (len(split),), dtype)
        self._name = name

    @override
    def _read(self, key: tuple[Index, ...]) -> NDArray[Any]:
        (selection,) = key
        if self._name == "image_bytes":
            found: Any = self._split.image_bytes[selection]
        else:
            one = [int(selection)] if is_one(selection) else None
            found = self._values(as_positions(one or selection, len(self._split)))
            found = found[0] if one else found
        # A copy, because users may write to it and columns are shared; with the announced dtype,
        # because NumPy's own would cut the trailing zeros of `bytes`.
        return np.array(found, dtype=self.dtype)

    def _values(self, positions: Ints) -> Any:
        """Read only the chunks that are needed, and not the whole column as `Split.label` does."""
        if self._name == _CLASS:
            (label,) = self._split._reader.columns(("label",), positions)
            names = (*self._split.label_names, "")  # -1 is the last one
            return [names[i] for i in label.tolist()]
        (found,) = self._split._reader.columns((self._name,), positions)
        return found


class LazyColumn(_LazyRows):
    """A further column. The values of a ragged one are arrays."""

    def __init__(self, split: Split, column: Column) -> None:
        is_text = isinstance(column.dtype, np.dtypes.StringDType)
        dtype = np.dtype(object) if column.is_ragged or is_text else column.dtype
        super().__init__(split, (len(column), *_even_shape(column)), dtype)
        self._name = column.name

    @override
    def _read(self, key: tuple[Index, ...]) -> Any:
        selection, *others = key
        column = self._split.columns[self._name]
        found = column[selection]
        if column.is_ragged:
            if not isinstance(found, list):
                return _as_object(found)
            values = np.empty(len(found), object)
            for i, value in enumerate(found):
                values[i] = value
            return values
        return np.array(_within(found, others, selection), dtype=self.dtype)


class LazyPixels(_LazyRows):
    """Images at one size: uint8 of shape (sample, height, width, channel).

    Of the images only those that are indexed are read, and decoded in threads.
    """

    def __init__(self, split: Split, size: tuple[int, int]) -> None:
        super().__init__(split, (len(split), *size, 3), np.dtype(np.uint8))
        self._size = size

    @override
    def _read(self, key: tuple[Index, ...]) -> Pixels:
        selection, *others = key
        return np.asarray(_within(self._split.resized(self._size)[selection], others, selection))


def _within(values: Any, others: Sequence[Index], selection: Index) -> Any:
    """Index the further dimensions of values, each by itself, as xarray does."""
    axis = 0 if is_one(selection) else 1
    for one in others:
        values = values[(slice(None),) * axis + (one,)]
        axis += not is_one(one)
    return values


def _even_shape(column: Column) -> tuple[int, ...]:
    """Return the shape of the value of a sample; that of a ragged column is one object."""
    return () if column.is_ragged else tuple(n or 0 for n in column.row_shape)


def _as_object(value: NDArray[Any]) -> NDArray[Any]:
    single = np.empty((), object)
    single[()] = value
    return single


def _dataset(
    store: Store,
    group: str | None,
    drop_variables: Iterable[str],
    size: tuple[int, int] | None = None,
    selection: str | os.PathLike[str] | SavedSelection | None = None,
) -> Dataset:
    name = (group or "").strip("/")
    try:
        if not name and selection is None:
            return _root(store).drop_vars(drop_variables, errors="ignore")
        split = store[name]
        if selection is not None:
            return _split(split.select(selection), drop_variables, size)
        info = store.split_info(name) if name in store else None
        return _split(split, drop_variables, size, info)
    except (KeyError, ValueError) as error:
        error.add_note(escaped(f"while opening group {group!r} of {store.address}"))
        raise


def _root(store: Store) -> Dataset:
    info = store.info
    columns = {"label_name": info.label_names, "label_words": info.label_words}
    variables = {
        name: Variable(ROOT_COLUMNS[name].dimension, np.array(texts, dtype=object))
        for name, texts in columns.items()
    }
    attributes = {
        "dataset_name": info.name,
        "dataset_config": info.config,
        "dataset_version": info.version,
        "description": info.description,
        "homepage": info.homepage,
        "citation": info.citation,
        "splits": list(info.splits),
        "partial": int(info.partial),  # as in HDF5, because netCDF has no attributes of type bool
        "format": FORMAT_NAME,
        "format_version": info.format_version,
        "writer": info.writer,
    }
    return Dataset(variables, attrs=attributes)


def _split(
    split: Split,
    drop_variables: Iterable[str],
    size: tuple[int, int] | None,
    info: SplitInfo | None = None,
) -> Dataset:
    """Return samples as a dataset; `info` if they are a whole split."""
    arrays: dict[str, _LazyRows] = {
        name: LazySamples(split, name, dtype) for name, dtype in _DTYPES.items()
    }
    if size is None:
        arrays["image_bytes"] = LazySamples(split, "image_bytes", np.dtype(object))
    else:
        arrays["image"] = LazyPixels(split, size)
    dims: dict[str, tuple[str, ...]] = dict.fromkeys(arrays, ("sample",))
    dims["image"] = ("sample", "height", "width", "channel")
    texts: dict[str, dict[str, Any]] = {}
    row_nbytes = [_image_nbytes(split, size)]
    for column in split.columns.values():
        if column.name in COLUMNS:
            continue
        # A column may have the name of a coordinate that the store does not contain.
        name = f"columns.{column.name}" if column.name in arrays else column.name
        arrays[name] = LazyColumn(split, column)
        dims[name] = ("sample", *(f"{name}.{axis}" for axis in range(1, len(arrays[name].shape))))
        description = column.attributes.get(COLUMN_DESCRIPTION)
        texts[name] = {COLUMN_DESCRIPTION: description} if description else {}
        row_nbytes.append(arrays[name].dtype.itemsize * math.prod(arrays[name].shape[1:]))
    encoding = {"preferred_chunks": _chunks(max(row_nbytes))}
    variables = {
        name: Variable(dims[name], indexing.LazilyIndexedArray(array), texts.get(name), encoding)
        for name, array in arrays.items()
        if name not in drop_variables
    }
    if info is None:
        # The attributes of a split, such as its digest, do not hold for a part of it.
        attributes: dict[str, Any] = {"split": split.name, "num_samples": len(split)}
    else:
        attributes = asdict(info)
        # Not a bool, as above; and only where it says something.
        is_referenced = {"is_referenced": 1} if attributes.pop("is_referenced") else {}
        attributes |= is_referenced
    return Dataset(variables, attrs=attributes).set_coords([*variables.keys() & _COORDINATES])


def _image_nbytes(split: Split, size: tuple[int, int] | None) -> int:
    """Return the size of an image as it is returned, on average."""
    if size is not None:
        return 3 * math.prod(size)
    infos = [stored.info for stored, _ in split._sample_set]
    return sum(some.num_bytes for some in infos) // max(1, sum(some.num_samples for some in infos))


class _PreferredChunks(dict[str, int]):
    """Chunks of Dask that ``chunks={}`` means: at most so many samples.

    xarray looks up preferred chunks twice: with a default to use them, and without one to warn if
    other chunks divide them. They are not stored chunks here, so only the first finds them.
    """

    def __init__(self, n_samples: int) -> None:
        super().__init__()
        self._n_samples = n_samples

    @override
    def get(self, key: str, default: Any = None) -> Any:
        return min(self._n_samples, default) if key == "sample" and default else default


def _chunks(row_nbytes: int) -> _PreferredChunks:
    """Return the same chunks for all variables, because some operations of xarray need that."""
    return _PreferredChunks(max(1, min(_CHUNK_NBYTES // max(1, row_nbytes), COLUMN_CHUNK_ROWS)))


def _names(drop_variables: str | Iterable[str] | None) -> list[str]:
    return [drop_variables] if isinstance(drop_variables, str) else list(drop_variables or ())
