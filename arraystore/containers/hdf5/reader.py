"""HDF5: one file, each payload at an address known before it is written.

Everything read here is of fixed length: text is fixed-length UTF-8, so that
nothing depends on HDF5's global heap. Dimensions are made as netCDF-4 makes one
that has no variable, so that netCDF4, h5netcdf and xarray see their names.
"""

from __future__ import annotations

import io
import threading
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NoReturn

import numpy as np
from typing_extensions import Buffer, override

from arraystore.containers.hdf5.chunks import ChunkedColumn
from arraystore.containers.hdf5.foreign_arrays import (
    as_column,
    described,
    layout_faults,
)
from arraystore.containers.hdf5.guard import (
    SCALE_LISTS,
    check_attribute,
    check_storage,
    check_values,
    chunk_starts,
    find,
    is_dimension,
    unreadable,
    walk,
)
from arraystore.containers.protocol import ContainerReader, Tree, as_string_array
from arraystore.errors import ArrayStoreError, FormatError, ShortReadError, escaped
from arraystore.indexing.byte_range import ByteRange, ChunkManifest
from arraystore.schema import PAYLOAD, STRING, Column, Unreadable
from arraystore.storage.range_reader import each_exactly

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from arraystore.containers.protocol import Rows
    from arraystore.storage.range_reader import RangeReader

SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"
"""The first bytes of every HDF5 file that has no user block."""

_RAISED: Final = (
    OSError,
    RuntimeError,
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
    MemoryError,
)
"""What h5py raises when libhdf5 or NumPy cannot make sense of a file."""


class HDF5Reader(ContainerReader):
    """Read an HDF5 file.

    The file is opened by libhdf5 for each question, or for those that are asked while it is
    `held`, and closed again, so that nothing is held across threads and forks.

    Parameters
    ----------
    reader : RangeReader
        Where the file is.
    key : str
        Its key.
    where : str
        Address of the store, for messages.
    """

    def __init__(self, reader: RangeReader, key: str, where: str) -> None:
        self._reader = reader
        self._key = key
        self._where = where
        self._chunked: dict[tuple[str, str], ChunkedColumn | None] = {}
        self._session = _Session()

    @override
    @contextmanager
    def held(self) -> Iterator[None]:
        session = self._session
        if session.is_held:
            yield
            return
        session.is_held = True
        try:
            yield
        finally:
            file, session.file, session.is_held = session.file, None, False
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
                    if name not in SCALE_LISTS:
                        found[name] = unreadable(shape, dtype)
                else:
                    check_attribute(shape, dtype, name, self._at(path))
                    # As h5py does for `attributes[name]`, which would open it once more.
                    value = np.zeros(shape, dtype)
                    attribute.read(value, mtype=h5t.py_create(dtype))
                    try:
                        found[name] = _plain(value[()] if value.ndim == 0 else value)
                    except UnicodeDecodeError as error:
                        found[name] = Unreadable(f"text that is not UTF-8 ({error})")
            return found

    @override
    def read_column(
        self, path: str, data_type: str, rows: tuple[int, int] | None = None
    ) -> NDArray[Any]:
        (values,) = self._read_each([(path, data_type, rows)])
        return values

    @override
    def read_columns(self, columns: Mapping[str, str]) -> list[NDArray[Any]]:
        return list(self._read_each([(*column, None) for column in columns.items()]))

    @override
    def read_rows(self, wanted: Sequence[Rows]) -> Iterator[NDArray[Any]]:
        return self._read_each(wanted)

    def _read_each(
        self, wanted: Sequence[tuple[str, str, tuple[int, int] | None]]
    ) -> Iterator[NDArray[Any]]:
        with self.held():
            found = [
                (path, self._looked_up(path, data_type), rows) for path, data_type, rows in wanted
            ]
        ranges = [column.ranges(self._key, rows) if column else [] for _, column, rows in found]
        raw = each_exactly(self._reader, [one for some in ranges for one in some])
        for (path, column, rows), some in zip(found, ranges, strict=True):
            if column is None:
                with self._open(path) as dataset:
                    yield self._values(dataset[slice(*rows) if rows else slice(None)], path)
                continue
            try:
                values = column.values(islice(raw, len(some)), rows)
            except ValueError as error:
                raise FormatError(f"{self._at(path)}: cannot be decoded: {error}") from None
            yield self._values(values, path)

    @override
    def check_column(self, path: str, data_type: str, length: int) -> None:
        with self.held():
            self._looked_up(path, data_type)
            with self._open(path) as dataset:
                found = len(dataset)
        if found != length:
            raise FormatError(f"{self._at(path)}: must have {length} values, got {found}")

    def _looked_up(self, path: str, data_type: str) -> ChunkedColumn | None:
        """Return where the chunks of a column are, as `ChunkedColumn.of` does; looked up once."""
        if (path, data_type) not in self._chunked:
            with self._open(path) as dataset:
                file_nbytes = self._reader.size(self._key)
                self._check_column(dataset, path, data_type, file_nbytes)
                found = ChunkedColumn.of(dataset, file_nbytes)
                self._chunked[path, data_type] = found
        return self._chunked[path, data_type]

    def _check_column(self, dataset: Any, path: str, data_type: str, file_nbytes: int) -> None:
        import h5py

        where = self._at(path)
        if not isinstance(dataset, h5py.Dataset) or dataset.ndim != 1:
            raise FormatError(f"{where}: must be a 1-d dataset, got {dataset!r}")
        check_storage(dataset, where)
        check_values(dataset, file_nbytes, where)
        found = dataset.dtype
        if data_type == STRING and found.kind != "S":
            got = unreadable(dataset.shape, found) if found.hasobject else found
            raise FormatError(f"{where}: must hold fixed-length text, got {got}")
        if data_type != STRING and found != np.dtype(data_type):
            raise FormatError(f"{where}: must hold {data_type}, got {found}")

    def _values(self, values: NDArray[Any], path: str) -> NDArray[Any]:
        """Return values as they are, and text as text."""
        if values.dtype.kind != "S":
            return values
        if not (np.ascontiguousarray(values).view(np.uint8) >= 0x80).any():
            return values.astype(np.dtypes.StringDType())
        try:  # not by that cast: NumPy 2.1 lets some of what is no UTF-8 pass
            return as_string_array([value.decode() for value in values.tolist()])
        except UnicodeDecodeError as error:
            raise FormatError(f"{self._at(path)}: must be UTF-8: {error}") from None

    @override
    def manifest(self, path: str, doubted: Collection[str] = ()) -> ChunkManifest:
        import h5py

        with self._open(path) as dataset:
            where = self._at(path)
            if not isinstance(dataset, h5py.Dataset) or dataset.ndim != 1:
                raise FormatError(f"{where}: must be a 1-d dataset, got {dataset!r}")
            check_storage(dataset, where)
            n_filters = dataset.id.get_create_plist().get_nfilters()
            if dataset.dtype != np.uint8 or n_filters:
                raise FormatError(
                    f"{where}: must be uint8 without filters, got {dataset.dtype} with {n_filters}"
                )
            chunk_nbytes, starts = chunk_starts(dataset, self._reader.size(self._key), where)
            zeros = np.zeros(len(starts), dtype=np.int64)
            return ChunkManifest((self._key,), zeros, starts, chunk_nbytes, len(dataset))

    @override
    def faults(self, path: str) -> Iterator[tuple[str, str]]:
        import h5py

        if not path:
            return
        with self._open(path) as dataset:
            if isinstance(dataset, h5py.Dataset) and dataset.ndim == 1:
                faults = layout_faults(dataset, is_payload=path.rpartition("/")[2] == PAYLOAD)
                yield from [(path, fault) for fault in faults]

    @override
    def tree(self) -> Tree:
        import h5py

        groups, columns, others = [], {}, []
        with self._open("") as root:
            for path, node in walk(root, self._where):
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
    def described(self, path: str) -> Column:
        with self._open(path) as dataset:
            return described(dataset, path, self._at(path))

    @override
    def as_zarr(self) -> NoReturn:
        raise TypeError(
            escaped(f"{self._where}: is an HDF5 file, not a Zarr store; use store.h5py()")
        )

    @override
    def as_h5py(self) -> Any:
        import h5py

        root = self._reader.root
        if isinstance(root, str):
            return h5py.File(f"{root}/{self._key}", "r", locking=False)
        from arraystore.storage.objects.event_loop import check_process

        check_process()
        return h5py.File(_RangeFile(self._reader, self._key), "r")

    def _at(self, path: str) -> str:
        return f"{self._where}/{path}" if path else self._where

    @contextmanager
    def _open(self, path: str) -> Iterator[Any]:
        """Open a group or dataset, and tell libhdf5's errors as ours."""
        try:
            with self._file() as file:
                yield find(file["/"], path, self._at)
        except (ArrayStoreError, FileNotFoundError):
            raise
        except _RAISED as error:
            if isinstance(error, OSError) and error.errno:
                raise  # the operating system's, not libhdf5's
            self._reader.check_unchanged()
            ours = ShortReadError if "truncated file" in str(error) else FormatError
            raise ours(f"{self._at(path)}: HDF5 cannot read it: {error}") from error

    @contextmanager
    def _file(self) -> Iterator[Any]:
        """Open the file, unless it is held open."""
        import h5py

        session = self._session
        file = session.file or h5py.File(_RangeFile(self._reader, self._key), "r")
        if session.is_held:
            session.file = file
            yield file
        else:
            with file:
                yield file


class _Session(threading.local):
    """What one thread has open while it asks several questions."""

    is_held = False
    file: Any = None


def _plain(value: Any) -> Any:
    """Turn what h5py returns for an attribute into plain Python values."""
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.int8) and value in (0, 1):
        return bool(value)
    return value.item() if isinstance(value, np.generic) else value


class _RangeFile(io.RawIOBase):
    """A stored object as a file for h5py."""

    def __init__(self, reader: RangeReader, key: str) -> None:
        self._reader = reader
        self._key = key
        self._size = reader.size(key)
        self._at = 0

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    @override
    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        stop = min(self._at + len(view), self._size)
        if stop <= self._at:
            return 0
        (data,) = self._reader.read_ranges([ByteRange(self._key, self._at, stop)])
        view[: len(data)] = data
        self._at += len(data)
        return len(data)
