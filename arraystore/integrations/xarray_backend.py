"""A store as xarray datasets: ``xarray.open_dataset("1pct.zarr", engine="arraystore")``.

xarray's own engines also open a store, and show its arrays as they are on disk. This engine shows
samples, with the encoded images as a variable, and reads only the samples that are indexed.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from typing_extensions import override
from xarray import Dataset, DataTree, Variable
from xarray.backends import BackendArray, BackendEntrypoint

# Not among the public names of xarray, but documented in its guide to writing a backend.
from xarray.core import indexing

from arraystore.containers import open_local
from arraystore.errors import ArrayStoreError, escaped
from arraystore.indexing.selection import as_positions
from arraystore.reader import Store, open_store
from arraystore.schema import COLUMNS, FORMAT_NAME, ROOT_COLUMNS, STRING
from arraystore.storage.location import Location

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from arraystore.dataset.columns import Column
    from arraystore.dataset.split import Split

_SUFFIXES: Final = (".zarr", ".h5", ".hdf5")
_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    # Text is an array of Python `str`. xarray has no missing value for NumPy's own string dtype, so
    # `Dataset.where` would fail.
    name: np.dtype(object if COLUMNS[name].data_type == STRING else COLUMNS[name].data_type)
    for name in ("label", "file_name", "image_height", "image_width", "image_nbytes")
} | {"image_bytes": np.dtype(object)}
"""The variables of a split."""


class ArraystoreBackend(BackendEntrypoint):
    r"""The xarray engine ``arraystore``.

    A split is a dataset along the dimension ``sample``: ``label``, ``file_name``,
    ``image_height``, ``image_width``, ``image_nbytes`` and ``image_bytes``, whose
    elements are the encoded images as Python `bytes`. All variables are lazy: a column is
    read when it is first used, and of the images only those that are indexed. Loading a
    whole dataset therefore reads every image.

    The root is a dataset along ``class``: ``label_name`` and ``label_words``. Its
    attributes, and those of a split, have the same names as on disk.

    Datasets can be pickled, and read from many threads. With ``chunks=`` they have arrays of Dask,
    which read only the selected samples.

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
        storage_options: Mapping[str, Any] | None = None,
    ) -> Dataset:
        """Open a split, or the root.

        Parameters
        ----------
        filename_or_obj : path-like or str
            Path or address of a store; see `arraystore.open`.
        drop_variables : str or iterable of str, optional
            Variables to leave out.
        group : str, optional
            A split string as for `Store`: ``train``, ``train[:10%]``,
            ``train+validation``. The root if None or ``"/"``.
        storage_options : mapping, optional
            How to reach a bucket or a web server; see `arraystore.open`.

        Returns
        -------
        xarray.Dataset

        Raises
        ------
        KeyError
            If a split does not exist.
        ValueError
            If `group` is malformed, or exceeds the split.
        """
        return _dataset(
            open_store(filename_or_obj, storage_options=storage_options),
            group,
            _names(drop_variables),
        )

    @override
    def open_groups_as_dict(
        self,
        filename_or_obj: object,
        *,
        drop_variables: str | Iterable[str] | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> dict[str, Dataset]:
        """Open the root, which is ``"/"``, and every split, such as ``"/train"``."""
        store = open_store(filename_or_obj, storage_options=storage_options)
        names = _names(drop_variables)
        return {
            path: _dataset(store, path, names) for path in ("/", *(f"/{name}" for name in store))
        }

    @override
    def open_datatree(
        self,
        filename_or_obj: object,
        *,
        drop_variables: str | Iterable[str] | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> DataTree:
        """Open the root and every split as a tree."""
        groups = self.open_groups_as_dict(
            filename_or_obj, drop_variables=drop_variables, storage_options=storage_options
        )
        return DataTree.from_dict(groups)


class LazySamples(BackendArray):
    """One value for each sample, read when it is indexed.

    Parameters
    ----------
    split : Split
        The samples. It pickles as the location of its store.
    name : str
        A column, or ``image_bytes``.
    dtype : numpy.dtype
        The data type that xarray announces for the values.
    """

    def __init__(self, split: Split, name: str, dtype: np.dtype[Any]) -> None:
        self.shape = (len(split),)
        self.dtype = dtype
        self._split = split
        self._name = name

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )

    def _read(self, key: tuple[int | slice | NDArray[np.int64]]) -> NDArray[Any]:
        (selection,) = key
        if self._name == "image_bytes":
            found: Any = self._split.image_bytes[selection]
        else:  # only the chunks that are needed, and not the whole column as `Split.label` does
            one = [int(selection)] if isinstance(selection, int | np.integer) else None
            positions = as_positions(one or selection, len(self._split))
            (found,) = self._split._reader.columns((self._name,), positions)
            found = found[0] if one else found
        # A copy, because users may write to it and columns are shared; with the announced dtype,
        # because NumPy's own would cut the trailing zeros of `bytes`.
        return np.array(found, dtype=self.dtype)


class LazyColumn(BackendArray):
    """A further column, whose chunks are read when they are indexed.

    Parameters
    ----------
    column : Column
        It pickles with its split. The values of a ragged one are arrays.
    split : Split
        Its split.
    """

    def __init__(self, column: Column, split: Split) -> None:
        self._is_text = isinstance(column.dtype, np.dtypes.StringDType)
        is_object = column.is_ragged or self._is_text
        self.shape: tuple[int, ...] = len(column), *_even_shape(column)
        self.dtype = np.dtype(object) if is_object else column.dtype
        self._split, self._name = split, column.name

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )

    def _read(self, key: tuple[int | slice | NDArray[np.int64], ...]) -> Any:
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
        axis = int(isinstance(found, np.ndarray) and not isinstance(selection, int | np.integer))
        for one in others:
            found = found[(slice(None),) * axis + (one,)]
            axis += not isinstance(one, int | np.integer)
        return np.array(found, dtype=self.dtype)


def _even_shape(column: Column) -> tuple[int, ...]:
    """Return the shape of the value of a sample; that of a ragged column is one object."""
    return () if column.is_ragged else tuple(n or 0 for n in column.row_shape)


def _as_object(value: NDArray[Any]) -> NDArray[Any]:
    single = np.empty((), object)
    single[()] = value
    return single


def _dataset(store: Store, group: str | None, drop_variables: Iterable[str]) -> Dataset:
    name = (group or "").strip("/")
    try:
        dataset = _split(store, name) if name else _root(store)
    except (KeyError, ValueError) as error:
        error.add_note(escaped(f"while opening group {group!r} of {store.address}"))
        raise
    return dataset.drop_vars(drop_variables, errors="ignore")


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


def _split(store: Store, name: str) -> Dataset:
    split = store[name]
    variables = {
        variable: Variable("sample", indexing.LazilyIndexedArray(LazySamples(split, variable, t)))
        for variable, t in _DTYPES.items()
        if variable != "image_crc32c" or split.has_checksums
    }
    for column in split.columns.values():
        if column.name not in variables:
            n_more = len(_even_shape(column))
            more = (f"{column.name}.{axis}" for axis in range(1, n_more + 1))
            lazy = indexing.LazilyIndexedArray(LazyColumn(column, split))
            attributes = {name: column.attributes.get(name) for name in ("description",)}
            attributes = {name: value for name, value in attributes.items() if value}
            variables[column.name] = Variable(("sample", *more), lazy, attributes)
    if name in store:
        attributes = asdict(store.split_info(name))
        # Not a bool, as above; and only where it says something.
        is_referenced = {"is_referenced": 1} if attributes.pop("is_referenced") else {}
        return Dataset(variables, attrs=attributes | is_referenced)
    # The attributes of a split, such as its digest, do not hold for a part of it.
    return Dataset(variables, attrs={"split": name, "num_samples": len(split)})


def _names(drop_variables: str | Iterable[str] | None) -> list[str]:
    return [drop_variables] if isinstance(drop_variables, str) else list(drop_variables or ())
