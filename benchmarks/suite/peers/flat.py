"""The limit, a file with images end to end; and each image as a file."""

import io
import json
import mmap
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from typing_extensions import override

from benchmarks.suite.data import Ints, Source
from benchmarks.suite.peers.base import Arena, Peer, positions_of

Pixels = NDArray[np.uint8]


def n_cpus() -> int:
    """Return the number of processors."""
    return os.cpu_count() or 1


class BlobPread(Peer):
    """One ``pread`` per image; for an arena, one ``preadv`` per image into a reused buffer.

    Threads decode images with simplejpeg, which is the limit of decoding.
    """

    name = "flat blob, pread"
    modules = ("simplejpeg",)

    @override
    def prepare(self, source: Source) -> None:
        with (self.folder / "blob").open("wb") as file:
            for sample in source.samples():
                file.write(sample.data)
        np.save(self.folder / "nbytes.npy", source.nbytes)
        np.save(self.folder / "label.npy", source.label)

    @override
    def open(self) -> None:
        self._fd = os.open(self.folder / "blob", os.O_RDONLY)
        self._nbytes = np.load(self.folder / "nbytes.npy")
        self._labels = np.load(self.folder / "label.npy")
        start = np.cumsum(self._nbytes) - self._nbytes
        self._places = list(zip(self._nbytes.tolist(), start.tolist(), strict=True))
        self._buffer = np.empty(0, np.uint8)
        self._pool = ThreadPoolExecutor(n_cpus())

    @override
    def close(self) -> None:
        os.close(self._fd)
        self._pool.shutdown()

    @override
    def one(self, position: int) -> bytes:
        return os.pread(self._fd, *self._places[position])

    @override
    def batch(self, positions: Ints) -> list[bytes]:
        fd, places = self._fd, self._places
        return [os.pread(fd, *places[position]) for position in positions.tolist()]

    @override
    def arena(self, positions: Ints) -> Arena:
        offsets = np.concatenate(([0], np.cumsum(self._nbytes[positions])))
        if len(self._buffer) < offsets[-1]:
            self._buffer = np.empty(int(offsets[-1] * 1.5), np.uint8)
        view, bounds = memoryview(self._buffer), offsets.tolist()
        for number, position in enumerate(positions.tolist()):
            into = view[bounds[number] : bounds[number + 1]]
            os.preadv(self._fd, [into], self._places[position][1])
        return self._buffer, offsets

    @override
    def label(self, label: int) -> list[bytes]:
        return self.batch(positions_of(self._labels, label))

    @override
    def scan(self) -> Iterator[bytes]:
        return (os.pread(self._fd, *place) for place in self._places)

    @override
    def decode(self, positions: Ints) -> list[Pixels]:
        return list(self._pool.map(simplejpeg.decode_jpeg, self.batch(positions)))


class BlobMap(BlobPread):
    """One slice of a memory map per image, copied or not."""

    name = "flat blob, memory map"
    shares = BlobPread

    @override
    def open(self) -> None:
        super().open()
        self._map = memoryview(mmap.mmap(self._fd, 0, prot=mmap.PROT_READ))
        self._slices = [slice(start, start + nbytes) for nbytes, start in self._places]

    @override
    def one(self, position: int) -> bytes:
        return bytes(self._map[self._slices[position]])

    @override
    def batch(self, positions: Ints) -> list[bytes]:
        whole, slices = self._map, self._slices
        return [bytes(whole[slices[position]]) for position in positions.tolist()]

    @override
    def views(self, positions: Ints) -> list[memoryview]:
        whole, slices = self._map, self._slices
        return [whole[slices[position]] for position in positions.tolist()]

    @override
    def arena(self, positions: Ints) -> Arena:
        offsets = np.concatenate(([0], np.cumsum(self._nbytes[positions])))
        if len(self._buffer) < offsets[-1]:
            self._buffer = np.empty(int(offsets[-1] * 1.5), np.uint8)
        view, bounds = memoryview(self._buffer), offsets.tolist()
        for number, position in enumerate(positions.tolist()):
            view[bounds[number] : bounds[number + 1]] = self._map[self._slices[position]]
        return self._buffer, offsets

    @override
    def scan(self) -> Iterator[bytes]:
        return (bytes(self._map[one]) for one in self._slices)


class Files(Peer):
    """One file per image, one folder per class; decoded by Pillow, as in ImageFolder."""

    name = "files, Pillow"
    modules = ("PIL",)
    packages = ("pillow",)

    @override
    def prepare(self, source: Source) -> None:
        for sample in source.samples():
            path = self.folder / sample.name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(sample.data)
        index = {"names": source.names, "labels": source.label.tolist()}
        (self.folder / "index.json").write_text(json.dumps(index))

    @override
    def open(self) -> None:
        index = json.loads((self.folder / "index.json").read_text())
        self._paths = [str(self.folder / name) for name in index["names"]]
        self._labels = np.array(index["labels"])
        self._pool = ThreadPoolExecutor(n_cpus())

    @override
    def close(self) -> None:
        self._pool.shutdown()

    @override
    def one(self, position: int) -> bytes:
        with open(self._paths[position], "rb") as file:  # noqa: PTH123 - faster than Path.open
            return file.read()

    @override
    def batch(self, positions: Ints) -> list[bytes]:
        return [self.one(position) for position in positions.tolist()]

    @override
    def label(self, label: int) -> list[bytes]:
        return self.batch(positions_of(self._labels, label))

    @override
    def scan(self) -> Iterator[bytes]:
        return map(self.one, range(len(self._paths)))

    @override
    def decode(self, positions: Ints) -> list[Pixels]:
        return list(self._pool.map(_by_pillow, self.batch(positions)))


def _by_pillow(data: bytes) -> Pixels:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))
