"""Memory-mapped stores: LMDB, and HF datasets with its Arrow files."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from typing_extensions import override

from benchmarks.suite.data import Ints, Source
from benchmarks.suite.peers.base import GROUP, Peer, groups, positions_of

_COMMIT_NBYTES = 2**28


class LMDB(Peer):
    """Positions as keys, images as values; one read transaction stays open."""

    name = "LMDB"
    modules = ("lmdb",)

    @override
    def prepare(self, source: Source) -> None:
        import lmdb

        room = 2 * source.total_nbytes + len(source) * 8_192 + 2**24
        with lmdb.open(str(self.folder), map_size=room, sync=False) as environment:
            transaction, waiting = environment.begin(write=True), 0
            for position, sample in enumerate(source.samples()):
                transaction.put(_key(position), sample.data, append=True)
                waiting += len(sample.data)
                if waiting > _COMMIT_NBYTES:
                    transaction.commit()
                    transaction, waiting = environment.begin(write=True), 0
            transaction.put(b"label", source.label.tobytes(), append=True)
            transaction.commit()

    @override
    def open(self) -> None:
        import lmdb

        self._environment = lmdb.open(str(self.folder), readonly=True, lock=False)
        self._bytes: Any = self._environment.begin()
        self._views: Any = self._environment.begin(buffers=True)
        labels: Any = self._bytes.get(b"label")
        self._labels = np.frombuffer(labels, np.int64)

    @override
    def close(self) -> None:
        self._environment.close()

    @override
    def one(self, position: int) -> bytes:
        found: bytes = self._bytes.get(_key(position))
        return found

    @override
    def batch(self, positions: Ints) -> list[bytes]:
        get = self._bytes.get
        return [get(_key(position)) for position in positions.tolist()]

    @override
    def views(self, positions: Ints) -> Sequence[Any]:
        get = self._views.get
        return [get(_key(position)) for position in positions.tolist()]

    @override
    def label(self, label: int) -> list[bytes]:
        return self.batch(positions_of(self._labels, label))

    @override
    def scan(self) -> Iterator[bytes]:
        values = self._bytes.cursor().iternext(keys=False, values=True)
        return (value for value, _ in zip(values, range(len(self._labels)), strict=False))


def _key(position: int) -> bytes:
    return position.to_bytes(8, "big")


class HFDatasets(Peer):
    """Encoded images as a binary column, memory-mapped."""

    name = "HF datasets (Arrow)"
    modules = ("datasets",)
    packages = ("datasets", "pyarrow")

    @override
    def prepare(self, source: Source) -> None:
        import datasets
        from datasets.arrow_writer import ArrowWriter

        features = datasets.Features(
            {
                "image": datasets.Value("binary"),
                "label": datasets.Value("int64"),
                "file_name": datasets.Value("string"),
            }
        )
        path = str(self.folder / "data.arrow")
        with ArrowWriter(features=features, path=path, writer_batch_size=GROUP) as writer:
            for name, label, data in source.samples():
                writer.write({"image": data, "label": label, "file_name": name})
            writer.finalize()

    @override
    def open(self) -> None:
        import datasets

        self._dataset = datasets.Dataset.from_file(str(self.folder / "data.arrow"))
        self._labels = np.array(self._dataset.with_format("numpy")["label"][:])

    @override
    def one(self, position: int) -> bytes:
        found: bytes = self._dataset[position]["image"]
        return found

    @override
    def batch(self, positions: Ints) -> list[bytes]:
        found: list[bytes] = self._dataset[positions]["image"]
        return found

    @override
    def label(self, label: int) -> list[bytes]:
        return self.batch(positions_of(self._labels, label))

    @override
    def scan(self) -> Iterator[bytes]:
        for group in groups(len(self._dataset)):
            yield from self._dataset[int(group[0]) : int(group[-1]) + 1]["image"]
