"""arraystore, in both containers."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from benchmarks.suite.data import Ints, Source
from benchmarks.suite.peers.base import Arena, Peer, groups


class _Store(Peer):
    modules = ("arraystore", "numcodecs.zstd")
    packages = ("arraystore",)
    suffix: ClassVar[str]
    mmap: ClassVar[bool] = True

    @override
    def prepare(self, source: Source) -> None:
        import arraystore

        target = self.folder / f"images{self.suffix}"
        arraystore.convert(f"folder:{source.images}", target, sync=False)

    @override
    def open(self) -> None:
        import arraystore

        path = self.folder / f"images{self.suffix}"
        self._split = arraystore.open(path, mmap=self.mmap)["train"]

    @override
    def one(self, position: int) -> bytes:
        return self._split.image_bytes[position]

    @override
    def batch(self, positions: Ints) -> list[bytes]:
        return self._split.image_bytes[positions]

    @override
    def views(self, positions: Ints) -> Sequence[Any]:
        return self._split.image_views[positions]

    @override
    def arena(self, positions: Ints) -> Arena:
        buffer, offsets = self._split.image_arena(positions)
        return buffer, offsets

    @override
    def label(self, label: int) -> list[bytes]:
        return self._split.where(label=label).image_bytes[:]

    @override
    def scan(self) -> Iterator[bytes]:
        images = self._split.image_bytes
        for group in groups(len(self._split)):
            yield from images[int(group[0]) : int(group[-1]) + 1]

    @override
    def decode(self, positions: Ints) -> list[NDArray[np.uint8]]:
        return self._split.image[positions]


class InZarr(_Store):
    """A Zarr store."""

    name = "arraystore, Zarr"
    modules_to_prepare = ("zarr",)
    suffix = ".zarr"


class InHDF5(_Store):
    """An HDF5 store."""

    name = "arraystore, HDF5"
    modules = ("arraystore", "h5py")
    suffix = ".h5"


class InZarrUnmapped(InZarr):
    """A Zarr store that is read with ``pread`` only."""

    name = "arraystore, no map"
    mmap = False
    shares = InZarr
