"""Zarr and HDF5 through their usual libraries: ragged arrays, and variable-length types."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from typing_extensions import override

from benchmarks.suite.data import Ints, Source
from benchmarks.suite.peers.base import Peer, groups, positions_of

_SHARD = 2**26
_INNER = 2**17
_VLEN_CHUNK = 16
"""Number of images in a chunk of a variable-length array."""
_WRITTEN_AT_ONCE = 2**26


def _runs(source: Source) -> Iterator[bytes]:
    """Yield all bytes of a source, `_WRITTEN_AT_ONCE` at a time."""
    waiting = bytearray()
    for sample in source.samples():
        waiting += sample.data
        while len(waiting) >= _WRITTEN_AT_ONCE:
            yield bytes(waiting[:_WRITTEN_AT_ONCE])
            del waiting[:_WRITTEN_AT_ONCE]
    yield bytes(waiting)


class _Slices(Peer):
    """Images end to end in a one-dimensional array, one slice per image."""

    _array: Any

    def _open(self, array: Any, nbytes: Any, labels: Any) -> None:
        self._array = array
        stop = np.cumsum(nbytes)
        self._bounds = list(zip((stop - nbytes).tolist(), stop.tolist(), strict=True))
        self._labels = np.asarray(labels)

    def _slice(self, start: int, stop: int) -> Any:
        return self._array[start:stop]

    @override
    def one(self, position: int) -> bytes:
        found: bytes = self._slice(*self._bounds[position]).tobytes()
        return found

    @override
    def batch(self, positions: Ints) -> list[bytes]:
        return [self.one(position) for position in positions.tolist()]

    @override
    def label(self, label: int) -> list[bytes]:
        return self.batch(positions_of(self._labels, label))

    @override
    def scan(self) -> Iterator[bytes]:
        for group in groups(len(self._bounds)):
            bounds = self._bounds[group[0] : group[-1] + 1]
            first = bounds[0][0]
            span = self._slice(first, bounds[-1][1])
            yield from (span[start - first : stop - first].tobytes() for start, stop in bounds)


class H5pyRagged(_Slices):
    """One contiguous dataset, the fastest layout of HDF5."""

    name = "h5py, ragged"
    modules = ("h5py",)

    @override
    def prepare(self, source: Source) -> None:
        import h5py

        with h5py.File(self.folder / "images.h5", "w") as file:
            payload = file.create_dataset("payload", source.total_nbytes, np.uint8)
            start = 0
            for run in _runs(source):
                payload[start : start + len(run)] = np.frombuffer(run, np.uint8)
                start += len(run)
            file["nbytes"], file["label"] = source.nbytes, source.label

    @override
    def open(self) -> None:
        import h5py

        self._file = h5py.File(self.folder / "images.h5")
        self._open(self._file["payload"], self._file["nbytes"][:], self._file["label"][:])

    @override
    def close(self) -> None:
        self._file.close()


class ZarrRagged(_Slices):
    """One array in shards of 64 MiB with inner chunks of 128 KiB, uncompressed."""

    name = "zarr-python, ragged"
    modules = ("zarr",)

    @override
    def prepare(self, source: Source) -> None:
        import zarr

        group = zarr.create_group(self.folder / "images.zarr")
        payload: Any = group.create_array(
            "payload",
            shape=(source.total_nbytes,),
            dtype="uint8",
            shards=(_SHARD,),
            chunks=(_INNER,),
            compressors=None,
        )
        start = 0
        for run in _runs(source):
            payload[start : start + len(run)] = np.frombuffer(run, np.uint8)
            start += len(run)
        for name in ("nbytes", "label"):
            group.create_array(name, data=getattr(source, name))

    @override
    def open(self) -> None:
        import zarr

        group: Any = zarr.open_group(self.folder / "images.zarr", mode="r")
        self._open(group["payload"], group["nbytes"][:], group["label"][:])


class TensorStore(ZarrRagged):
    """The store of `ZarrRagged`, read with TensorStore; a batch is read at once."""

    name = "TensorStore, Zarr"
    modules = ("tensorstore",)
    modules_to_prepare = ("zarr",)

    shares = ZarrRagged

    @override
    def open(self) -> None:
        arrays = {name: self._array_at(name) for name in ("payload", "nbytes", "label")}
        columns = [arrays[name][:].read().result() for name in ("nbytes", "label")]
        self._open(arrays["payload"], *columns)

    def _array_at(self, name: str) -> Any:
        import tensorstore

        place = {"driver": "file", "path": f"{self.folder / 'images.zarr' / name}/"}
        return tensorstore.open({"driver": "zarr3", "kvstore": place}, read=True).result()

    @override
    def _slice(self, start: int, stop: int) -> Any:
        return self._array[start:stop].read().result()

    @override
    def batch(self, positions: Ints) -> list[bytes]:
        bounds = (self._bounds[position] for position in positions.tolist())
        reads = [self._array[start:stop].read() for start, stop in bounds]
        return [read.result().tobytes() for read in reads]


class _Vlen(Peer):
    """An array of images."""

    _images: Any
    _labels: Any

    @override
    def one(self, position: int) -> bytes:
        return bytes(self._images[position])

    @override
    def label(self, label: int) -> list[bytes]:
        return self.batch(positions_of(self._labels, label))

    @override
    def scan(self) -> Iterator[bytes]:
        for group in groups(len(self._labels)):
            yield from map(bytes, self._images[int(group[0]) : int(group[-1]) + 1])


class H5pyVlen(_Vlen):
    """HDF5's own variable-length type, written sample by sample."""

    name = "h5py, vlen"
    modules = ("h5py",)

    @override
    def prepare(self, source: Source) -> None:
        import h5py

        with h5py.File(self.folder / "images.h5", "w") as file:
            images = file.create_dataset("image", len(source), h5py.vlen_dtype(np.uint8))
            for position, sample in enumerate(source.samples()):
                images[position] = np.frombuffer(sample.data, np.uint8)
            file["label"] = source.label

    @override
    def open(self) -> None:
        import h5py

        self._file = h5py.File(self.folder / "images.h5")
        self._images, self._labels = self._file["image"], self._file["label"][:]

    @override
    def close(self) -> None:
        self._file.close()

    @override
    def batch(self, positions: Ints) -> list[bytes]:
        # h5py needs unique positions in ascending order.
        ascending, back = np.unique(positions, return_inverse=True)
        found = list(map(bytes, self._images[ascending]))
        return [found[i] for i in back.tolist()]


class ZarrVlen(_Vlen):
    """Zarr's ``variable_length_bytes``, which has no stable specification, 16 images a chunk."""

    name = "zarr-python, vlen"
    modules = ("zarr",)

    @override
    def prepare(self, source: Source) -> None:
        import zarr

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zarr warns that the type has no specification
            group = zarr.create_group(self.folder / "images.zarr")
            images: Any = group.create_array(
                "image",
                shape=(len(source),),
                dtype="variable_length_bytes",
                chunks=(_VLEN_CHUNK,),
                compressors=None,
            )
            waiting: list[bytes] = []
            for position, sample in enumerate(source.samples(), 1):
                waiting.append(sample.data)
                if position % _VLEN_CHUNK == 0 or position == len(source):
                    images[position - len(waiting) : position] = np.array(waiting, dtype=object)
                    waiting.clear()
            group.create_array("label", data=source.label)

    @override
    def open(self) -> None:
        import zarr

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as above
            group: Any = zarr.open_group(self.folder / "images.zarr", mode="r")
            self._images, self._labels = group["image"], group["label"][:]

    @override
    def one(self, position: int) -> bytes:
        return bytes(self._images[position : position + 1][0])

    @override
    def batch(self, positions: Ints) -> list[bytes]:
        return list(map(bytes, self._images.oindex[positions]))
