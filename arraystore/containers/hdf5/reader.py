"""Read an HDF5 file: attributes, columns, and the places of payloads.

Everything read here has a fixed length: text is fixed-length UTF-8, so that nothing depends on
HDF5's global heap.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn, Self

import numpy as np
from typing_extensions import override

from arraystore.containers.hdf5.arrays import ARRAY_KINDS, HDF5Array
from arraystore.containers.hdf5.checks import (
    check_attribute,
    check_dataset,
    check_values,
    unreadable_value,
)
from arraystore.containers.hdf5.chunks import ChunkedColumn, payload_chunks
from arraystore.containers.hdf5.datasets import (
    SCALE_ATTRIBUTES,
    as_column,
    describe_dataset,
    filters_of,
    is_dimension,
    layout_faults,
)
from arraystore.containers.hdf5.errors import RAISED, translate_error
from arraystore.containers.hdf5.links import find_node, walk_nodes
from arraystore.containers.hdf5.range_file import RangeFile
from arraystore.containers.protocol import (
    ArrayReader,
    ContainerReader,
    Fault,
    Tree,
    as_string_array,
)
from arraystore.errors import ArrayStoreError, FormatError, escaped
from arraystore.indexing.byte_range import ByteRange, ChunkManifest
from arraystore.schema import (
    PAYLOAD,
    STRING,
    USER_COLUMNS,
    Column,
    Unreadable,
    without_parts,
)
from arraystore.storage.range_reader import each_exactly, read_exactly

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from numpy.typing import NDArray

    from arraystore._typing import Ints
    from arraystore.containers.protocol import ColumnRows
    from arraystore.storage.range_reader import RangeReader


class HDF5Reader(ContainerReader):
    """Read an HDF5 file.

    libhdf5 opens the file for each call and closes it again, so that no open file is shared by
    threads or inherited by a fork; `keep_open` keeps it open for several calls.

    Parameters
    ----------
    reader : RangeReader
        Reads the file.
    key : str
        Its key.
    location : str
        Address of the store, for messages.
    """

    def __init__(self, reader: RangeReader, key: str, location: str) -> None:
        self._reader = reader
        self._key = key
        self._location = location
        self._chunked: dict[tuple[str, str], ChunkedColumn | None] = {}
        self._attributes: dict[str, dict[str, Any]] = {}
        self._session = _Session()

    @override
    @contextmanager
    def keep_open(self) -> Iterator[None]:
        session = self._session
        if session.is_kept:
            yield
            return
        session.is_kept = True
        try:
            yield
        finally:
            file, session.file, session.is_kept = session.file, None, False
            if file is not None:
                file.close()

    @override
    def import_libraries(self) -> None:
        import h5py  # noqa: F401

    @override
    def attributes(self, path: str = "") -> dict[str, Any]:
        from h5py import h5t

        with self._open(path) as node:
            found, attributes = {}, node.attrs
            for name in attributes:
                attribute = attributes.get_id(name)
                shape, dtype = attribute.shape, attribute.dtype
                if shape is None or dtype.hasobject:
                    if name not in SCALE_ATTRIBUTES:
                        found[name] = unreadable_value(shape, dtype)
                else:
                    check_attribute(shape, dtype, name, self._locate(path))
                    # As h5py does for `attributes[name]`, which would open it once more.
                    value = np.zeros(shape, dtype)
                    attribute.read(value, mtype=h5t.py_create(dtype))
                    try:
                        found[name] = _plain(value[()] if value.ndim == 0 else value)
                    except UnicodeDecodeError as error:
                        found[name] = Unreadable(f"text that is not UTF-8 ({error})")
            self._attributes[path] = found
            return found

    @override
    def read_rows(self, columns: Sequence[ColumnRows]) -> Iterator[NDArray[Any]]:
        with self.keep_open():
            found = [
                (path, self._chunked_column(path, data_type), rows)
                for path, data_type, rows in columns
            ]
        ranges = [column.ranges(self._key, rows) if column else [] for _, column, rows in found]
        chunks = each_exactly(self._reader, [one for some in ranges for one in some])
        for (path, column, rows), some in zip(found, ranges, strict=True):
            if column is None:
                with self._open(path) as dataset:
                    yield self._decoded(dataset[slice(*rows) if rows else slice(None)], path)
                continue
            try:
                values = column.values(islice(chunks, len(some)), rows)
            except ValueError as error:
                raise FormatError(f"{self._locate(path)}: cannot be decoded: {error}") from None
            yield self._decoded(values, path)

    @override
    def members(self, path: str) -> dict[str, bool]:
        with self.keep_open():
            above = ""
            for part in path.split("/"):
                with self._open(above) as group:
                    if part not in group:
                        return {}
                above = f"{above}/{part}" if above else part
            return self._members(path)

    def _members(self, path: str) -> dict[str, bool]:
        import h5py

        with self._open(path) as group:
            found = {}
            for name in sorted(group):
                if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
                    continue
                node = group[name]
                if not (isinstance(node, h5py.Dataset) and node.is_scale):
                    found[name] = isinstance(node, h5py.Group)
            return found

    @override
    def open_array(self, path: str) -> ArrayReader:
        with self.keep_open(), self._open(path) as dataset:
            location = self._locate(path)
            file_nbytes = self._reader.size(self._key)
            check_dataset(dataset, location, is_flat=False)
            check_values(dataset, file_nbytes, location)
            if dataset.dtype.kind not in ARRAY_KINDS:
                got = unreadable_value(dataset.shape, dataset.dtype)
                raise FormatError(f"{location}: must hold numbers, bools or text, got {got}")
            column = ChunkedColumn.of(dataset, file_nbytes)
            rows, chunks = partial(self._array_rows, path), partial(self._array_chunks, path)
            read = self._array_rows_of if self._reader.has_cheap_reads else None
            return HDF5Array(dataset, column, rows, chunks, read)

    def _array_rows_of(self, column: ChunkedColumn, positions: Ints) -> NDArray[Any]:
        """Return rows of chunks without filters; the rest of the chunks is not read."""
        data = read_exactly(self._reader, column.row_ranges(self._key, positions))
        joined = data[0] if len(data) == 1 else bytearray().join(data)
        return np.frombuffer(joined, column.dtype).reshape(len(positions), *column.row_shape)

    def _array_chunks(
        self, path: str, column: ChunkedColumn, numbers: Sequence[int]
    ) -> Iterator[NDArray[Any]]:
        """Yield decoded chunks of an array, read without libhdf5."""
        starts, sizes = (some[list(numbers)].tolist() for some in (column.start, column.nbytes))
        ranges = [
            ByteRange(self._key, start, start + nbytes)
            for start, nbytes in zip(starts, sizes, strict=True)
        ]
        for number, data in zip(numbers, each_exactly(self._reader, ranges), strict=True):
            try:
                values = column.decode(data)
            except ValueError as error:
                raise FormatError(f"{self._locate(path)}: cannot be decoded: {error}") from None
            values = values[: max(0, column.length - number * column.chunk_rows)]
            yield self._decoded(values.ravel(), path).reshape(values.shape)

    def _array_rows(self, path: str, start: int, stop: int) -> NDArray[Any]:
        """Return rows of an array, read by libhdf5."""
        with self._open(path) as dataset:
            values = np.asarray(dataset[start:stop])
        return self._decoded(values.ravel(), path).reshape(values.shape)

    @override
    def check_column(self, path: str, data_type: str, length: int) -> None:
        with self.keep_open():
            self._chunked_column(path, data_type)
            with self._open(path) as dataset:
                found = len(dataset)
        if found != length:
            raise FormatError(f"{self._locate(path)}: must have {length} values, got {found}")

    def _chunked_column(self, path: str, data_type: str) -> ChunkedColumn | None:
        """Return where the chunks of a column are, see `ChunkedColumn.of`; found out once."""
        if (path, data_type) not in self._chunked:
            with self._open(path) as dataset:
                file_nbytes = self._reader.size(self._key)
                self._check_column(dataset, path, data_type, file_nbytes)
                found = ChunkedColumn.of(dataset, file_nbytes)
                self._chunked[path, data_type] = found
        return self._chunked[path, data_type]

    def _check_column(self, dataset: Any, path: str, data_type: str, file_nbytes: int) -> None:
        location = self._locate(path)
        check_dataset(dataset, location)
        check_values(dataset, file_nbytes, location)
        found = dataset.dtype
        if data_type == STRING and found.kind != "S":
            got = unreadable_value(dataset.shape, found) if found.hasobject else found
            raise FormatError(f"{location}: must hold fixed-length text, got {got}")
        if data_type != STRING and found != np.dtype(data_type):
            raise FormatError(f"{location}: must hold {data_type}, got {found}")

    def _decoded(self, values: NDArray[Any], path: str) -> NDArray[Any]:
        """Return fixed-length UTF-8 as text, and other values unchanged."""
        if values.dtype.kind != "S":
            return values
        if not (np.ascontiguousarray(values).view(np.uint8) >= 0x80).any():
            return values.astype(np.dtypes.StringDType())
        try:  # not by that cast: NumPy 2.1 accepts some bytes that are not UTF-8
            return as_string_array([value.decode() for value in values.tolist()])
        except UnicodeDecodeError as error:
            raise FormatError(f"{self._locate(path)}: must be UTF-8: {error}") from None

    @override
    def manifest(self, path: str, recheck: Collection[str] = ()) -> ChunkManifest:
        with self._open(path) as dataset:
            location = self._locate(path)
            check_dataset(dataset, location)
            filters = filters_of(dataset)
            if dataset.dtype != np.uint8 or filters:
                raise FormatError(
                    f"{location}: must be uint8 without filters, got {dataset.dtype} with "
                    f"{len(filters)}"
                )
            chunk_nbytes, starts = payload_chunks(dataset, self._reader.size(self._key), location)
            zeros = np.zeros(len(starts), dtype=np.int64)
            return ChunkManifest((self._key,), zeros, starts, chunk_nbytes, len(dataset))

    @override
    def faults(self, path: str) -> Iterator[Fault]:
        import h5py

        if not path:
            return
        with self._open(path) as dataset:
            if isinstance(dataset, h5py.Dataset) and dataset.ndim == 1:
                texts = layout_faults(dataset, is_payload=path.rpartition("/")[2] == PAYLOAD)
                yield from [Fault(path, "layout", text) for text in texts]

    @override
    def has_same_samples(self, later: Self) -> bool:
        return all(
            without_parts(found) == without_parts(later.attributes(path))
            for path, found in self._attributes.items()
            if path.split("/")[1:2] != [USER_COLUMNS]
        )

    @override
    def tree(self) -> Tree:
        import h5py

        groups, columns, others = [], {}, []
        with self._open("") as root:
            for path, node in walk_nodes(root, self._location):
                if isinstance(node, h5py.Group):
                    groups.append(path)
                elif not isinstance(node, h5py.Dataset):
                    others.append(path)
                elif not node.is_scale and (column := as_column(node, path)) is not None:
                    columns[path] = column
                elif not is_dimension(node):
                    others.append(path)
        return Tree(tuple(groups), columns, tuple(others))

    @override
    def describe_array(self, path: str) -> Column:
        with self._open(path) as dataset:
            return describe_dataset(dataset, path, self._locate(path))

    @override
    def as_zarr(self) -> NoReturn:
        raise TypeError(
            escaped(f"{self._location}: is an HDF5 file, not a Zarr store; use store.h5py()")
        )

    @override
    def as_h5py(self) -> Any:
        import h5py

        root = self._reader.root
        if isinstance(root, str):
            return h5py.File(f"{root}/{self._key}", "r", locking=False)
        from arraystore.storage.objects.event_loop import check_process

        check_process()
        return h5py.File(RangeFile(self._reader, self._key), "r")

    def _locate(self, path: str) -> str:
        return f"{self._location}/{path}" if path else self._location

    @contextmanager
    def _open(self, path: str) -> Iterator[Any]:
        """Open a group or dataset, and translate errors of libhdf5."""
        try:
            with self._file() as file:
                yield find_node(file["/"], path, self._locate)
        except (ArrayStoreError, FileNotFoundError):
            raise
        except RAISED as error:
            if isinstance(error, OSError) and error.errno:
                raise  # the operating system's, not libhdf5's
            self._reader.check_unchanged()
            raise translate_error(error, self._locate(path)) from error

    @contextmanager
    def _file(self) -> Iterator[Any]:
        """Open the file, unless it is kept open."""
        import h5py

        session = self._session
        file = session.file or h5py.File(RangeFile(self._reader, self._key), "r")
        if session.is_kept:
            session.file = file
            yield file
        else:
            with file:
                yield file


class _Session(threading.local):
    """The file that one thread keeps open for several calls."""

    is_kept = False
    file: Any = None


def _plain(value: Any) -> Any:
    """Turn an attribute's value, as h5py returns it, into plain Python values."""
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.int8) and value in (0, 1):
        return bool(value)
    return value.item() if isinstance(value, np.generic) else value
