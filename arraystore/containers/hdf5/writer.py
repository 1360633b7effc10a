"""Write an HDF5 file: each payload at an offset that is known before it is filled.

Everything written here has a fixed length: text is fixed-length UTF-8, so that nothing depends on
HDF5's global heap. Dimensions are stored like netCDF-4 dimensions without a variable, so that
netCDF4, h5netcdf and xarray show their names.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from typing_extensions import override

from arraystore.containers.hdf5.redo import SIGNATURE
from arraystore.containers.protocol import ContainerWriter
from arraystore.errors import FormatError, brief
from arraystore.indexing.byte_range import ChunkManifest
from arraystore.indexing.packed_names import PackedNames
from arraystore.schema import COLUMN_CHUNK_ROWS, MIN_TEXT_WIDTH, STRING, ArraySpec, Column
from arraystore.storage.open_files import reserve

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_LIBVER: Final = ("v110", "v110")
_PIECE_NBYTES: Final = 2**20
_START_NBYTES: Final = 4
"""Bytes of the signature that identify a file, even if what follows is damaged."""

_GZIP_LEVEL: Final = 4
"""Level that h5py uses by default."""

_WORTH: Final = 0.75
"""Arrays of several dimensions are compressed if they take at most this part of their size."""

_METADATA_NBYTES: Final = 2**16
"""More than the metadata of a dataset, or of a group's attributes without their values."""


class HDF5Writer(ContainerWriter):
    """Write an HDF5 file on the local disk.

    Parameters
    ----------
    path, is_skeleton
        See `ContainerWriter`.
    """

    root_key = ""
    root_nbytes = len(SIGNATURE)

    def __init__(self, path: Path, *, is_skeleton: bool = False) -> None:
        self._path = path
        self._is_skeleton = is_skeleton
        self._opened: Any = None
        self._end = 0

    @property
    def _file(self) -> Any:
        self._open()
        return self._opened

    def _open(self) -> None:
        """Open the file if it is not open: it was not used yet, or released."""
        if self._opened is None:
            import h5py

            self._opened = h5py.File(self._path, "a", libver=_LIBVER)
            self._end = self._opened.id.get_filesize()
            self._make_room(0)

    @override
    @staticmethod
    def is_at(path: Path) -> bool:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(_START_NBYTES) == SIGNATURE[:_START_NBYTES]

    @override
    @staticmethod
    def import_libraries() -> None:
        import h5py  # noqa: F401 - later imports are then fast

    @override
    @staticmethod
    def is_root(data: bytes) -> bool:
        return data == SIGNATURE

    @override
    @staticmethod
    def libraries() -> dict[str, str]:
        from h5py import version

        return {"h5py": version.version, "HDF5": version.hdf5_version}

    @override
    @staticmethod
    def payload_object(path: str, start: int, stop: int) -> tuple[str, bytes]:
        raise TypeError("payloads of HDF5 are not objects of their own")

    @override
    @staticmethod
    def root_with_part(
        root: bytes, other: bytes, group: str, attributes: Mapping[str, Any]
    ) -> bytes:
        raise TypeError("the root of HDF5 is not an object of its own")

    @override
    def create_group(self, path: str) -> None:
        self._make_room(0)
        self._file.create_group(path)

    @override
    def create_payload(self, path: str, nbytes: int) -> ChunkManifest:
        from h5py import h5d, h5p, h5s, h5t

        self._make_room(0, payload_nbytes=nbytes)
        properties = h5p.create(h5p.DATASET_CREATE)
        properties.set_obj_track_times(False)
        # Not chunked: libhdf5 and netCDF-C read a whole chunk if it fits into their caches.
        properties.set_layout(h5d.CONTIGUOUS)
        properties.set_alloc_time(h5d.ALLOC_TIME_EARLY)
        properties.set_fill_time(h5d.FILL_TIME_NEVER)
        group, name = self._parent(path)
        space = h5s.create_simple((nbytes,))
        payload = h5d.create(group.id, name.encode(), h5t.STD_U8LE, space, properties)
        offset = payload.get_offset() if nbytes else 0  # allocated early, so it is final
        del payload
        self._attach_dimension(path, "byte", nbytes)
        self._file[path].attrs["dense"] = np.int8(1)
        chunks = np.zeros(min(nbytes, 1), np.int64)
        return ChunkManifest((str(self._path),), chunks, chunks + offset, max(nbytes, 1), nbytes)

    @override
    def reset_layout(self, payloads: Mapping[str, int], scratch: Path) -> list[ChunkManifest]:
        with HDF5Writer(scratch, is_skeleton=True) as skeleton:
            manifests = skeleton.create_payloads(payloads)
        nbytes, found = scratch.stat().st_size, self._path.stat().st_size
        if found < nbytes:
            raise FormatError(f"{self._path}: must have {nbytes:,} bytes or more, got {found:,}")
        with scratch.open("rb") as source, self._path.open("r+b") as target:
            for start, stop in _gaps(manifests, nbytes):
                source.seek(start)
                target.seek(start)
                for offset in range(start, stop, _PIECE_NBYTES):
                    target.write(source.read(min(_PIECE_NBYTES, stop - offset)))
        os.truncate(self._path, nbytes)
        scratch.unlink()
        return [replace(manifest, keys=(str(self._path),)) for manifest in manifests]

    @override
    def write_column(self, path: str, values: NDArray[Any] | Sequence[str], column: Column) -> None:
        n = len(values)
        is_text = column.data_type == STRING
        data_type = _text_type(values) if is_text else np.dtype(column.data_type)
        self._make_room(n * data_type.itemsize)
        fill: Any = column.fill  # text such as "NaN" if it was read from a Zarr store
        if isinstance(fill, str):
            fill = None if is_text else float(fill)
        spec = ArraySpec(column.data_type, (n,), (column.dimension,))
        array = self._create(path, spec, data_type, fill, chunk_rows=COLUMN_CHUNK_ROWS)
        for start in range(0, n, COLUMN_CHUNK_ROWS):
            rows = values[start : start + COLUMN_CHUNK_ROWS]
            data = _fixed_width(rows, data_type) if is_text else np.asarray(rows, data_type)
            array[start : start + len(data)] = data
        del array  # libhdf5 writes its metadata when it is closed; the order of bytes depends on it
        self._attach_dimension(path, column.dimension, n)

    @override
    def write_array(self, path: str, spec: ArraySpec, blocks: Iterable[NDArray[Any]]) -> None:
        is_text = spec.data_type == STRING
        data_type = _text_of_width(spec.text_nbytes) if is_text else np.dtype(spec.data_type)
        array, start = None, 0
        for block in blocks:
            data = block
            if is_text:
                data = _fixed_width(block.ravel(), data_type).reshape(block.shape)
            self._make_room(data.nbytes)
            if array is None:
                is_packed = len(spec.shape) == 1 or _is_compressible(data)
                array = self._create(path, spec, data_type, is_packed=is_packed)
            array[start : start + len(data)] = data
            start += len(data)
        if array is None:
            self._make_room(0)
            array = self._create(path, spec, data_type)
        del array
        for axis, (dimension, length) in enumerate(zip(spec.dimensions, spec.shape, strict=True)):
            self._attach_dimension(path, dimension, length, axis)

    def _create(
        self,
        path: str,
        spec: ArraySpec,
        data_type: np.dtype[Any],
        fill: Any = None,
        *,
        is_packed: bool = True,
        chunk_rows: int = 0,
    ) -> Any:
        options: dict[str, Any] = {"dtype": data_type, "track_times": False}
        if spec.shape[0]:
            rows = min(chunk_rows or spec.chunk_rows, spec.shape[0])
            options["chunks"] = (rows, *spec.shape[1:])
            if is_packed:
                options |= {"shuffle": True, "compression": "gzip"}
        if fill is not None:
            options["fillvalue"] = fill
        return self._file.create_dataset(path, spec.shape, **options)

    @override
    def set_attributes(self, path: str, attributes: Mapping[str, Any]) -> None:
        node = self._file[path or "/"]
        self._make_room(len(str(attributes).encode()))
        for name, value in attributes.items():
            try:
                _set_attribute(node, name, value)
            except UnicodeEncodeError:
                raise FormatError(
                    f"{path or '/'}@{name}: has a lone surrogate, which no text in HDF5 can hold, "
                    f"got {brief(value)}; correct the attribute, or write a .zarr store"
                ) from None

    @override
    def release(self) -> None:
        if self._opened is None:
            return
        file, self._opened = self._opened, None
        try:
            file.flush()
            nbytes = file.id.get_filesize()
        finally:
            file.close()
        # Closing may give back space at the end, and then cuts the file itself.
        os.truncate(self._path, min(nbytes, self._path.stat().st_size))

    @override
    def close(self) -> None:
        self.release()

    def _make_room(self, nbytes: int, payload_nbytes: int = 0) -> None:
        """Reserve space for the next write of libhdf5, which does not survive a full disk."""
        if self._is_skeleton:
            return
        self._open()
        self._end += payload_nbytes + nbytes + nbytes // 4 + _METADATA_NBYTES
        reserve(self._path, self._end)

    def _parent(self, path: str) -> tuple[Any, str]:
        parent, _, name = path.rpartition("/")
        return self._file[parent or "/"], name

    def _attach_dimension(self, path: str, dimension: str, length: int, axis: int = 0) -> None:
        """Attach a dimension of the same group, like a netCDF-4 dimension without a variable."""
        from h5py import h5d, h5ds, h5p, h5s, h5t

        group, name = self._parent(path)
        if dimension not in group:
            properties = h5p.create(h5p.DATASET_CREATE)
            properties.set_obj_track_times(False)
            space = h5s.create_simple((length,))
            scale = h5d.create(group.id, dimension.encode(), h5t.IEEE_F32BE, space, properties)
            text = f"This is a netCDF dimension but not a netCDF variable.{length:10d}"
            h5ds.set_scale(scale, text.encode())
        h5ds.attach_scale(group[name].id, group[dimension].id, axis)


def _gaps(manifests: Iterable[ChunkManifest], nbytes: int) -> Iterator[tuple[int, int]]:
    """Yield the bytes ``[start, stop)`` of a file of `nbytes` that lie outside of payloads."""
    gap_start = 0
    for start, length in sorted((m.start.item(0), m.nbytes) for m in manifests if m.nbytes):
        yield gap_start, start
        gap_start = start + length
    yield gap_start, nbytes


def _set_attribute(node: Any, name: str, value: Any) -> None:
    if isinstance(value, bool):
        node.attrs[name] = np.int8(value)
    elif isinstance(value, str):
        text = _fixed_width([value])
        node.attrs.create(name, text[0], dtype=text.dtype)
    elif isinstance(value, int | float):
        node.attrs[name] = np.asarray(value)[()]
    else:
        is_text = all(isinstance(item, str) for item in value)
        node.attrs[name] = _fixed_width(value) if is_text else np.asarray(value)


def _text_type(values: Sequence[str] | NDArray[Any]) -> np.dtype[Any]:
    """Return the type of fixed-length UTF-8 that is as wide as the longest text."""
    if isinstance(values, PackedNames):
        return _text_of_width(int(values.nbytes.max(initial=0)))
    return _text_of_width(max(map(len, map(str.encode, values)), default=0))


def _text_of_width(nbytes: int) -> np.dtype[Any]:
    import h5py

    data_type: np.dtype[Any] = h5py.string_dtype("utf-8", max(MIN_TEXT_WIDTH, nbytes))
    return data_type


def _is_compressible(values: NDArray[Any]) -> bool:
    """Return whether compressing values is worth the time, from their first megabyte.

    Of random fractions, deflate saves a tenth at a hundredth of the speed of a disk.
    """
    some = np.ascontiguousarray(values).ravel()[: _PIECE_NBYTES // max(1, values.dtype.itemsize)]
    if values.dtype.kind == "S" or not len(some):
        return True
    shuffled = some.view(np.uint8).reshape(len(some), -1).T.tobytes()
    return len(zlib.compress(shuffled, _GZIP_LEVEL)) <= _WORTH * len(shuffled)


def _fixed_width(
    values: Sequence[str] | NDArray[Any], data_type: np.dtype[Any] | None = None
) -> NDArray[Any]:
    """Return texts as fixed-length UTF-8, by default as wide as the longest."""
    if data_type is None:
        data_type = _text_type(values)
    return np.fromiter(map(str.encode, values), data_type, len(values))
