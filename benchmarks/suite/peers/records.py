"""Files of records that are read in order: TFRecord, WebDataset; and array_record."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from typing_extensions import override

from benchmarks.suite.data import Ints, Source
from benchmarks.suite.peers.base import Peer, groups, positions_of


class TFRecord(Peer):
    """``tf.train.Example`` messages, with the package ``tfrecord``, which needs no TensorFlow.

    Reading an image requires reading all before it; reading a label requires reading the file.
    """

    name = "TFRecord"
    modules = ("tfrecord",)

    @override
    def prepare(self, source: Source) -> None:
        import tfrecord

        writer = tfrecord.TFRecordWriter(self._path)
        for name, label, data in source.samples():
            writer.write(
                {"image": (data, "byte"), "label": (label, "int"), "name": (name.encode(), "byte")}
            )
        writer.close()

    @override
    def open(self) -> None:
        """Keep nothing open."""

    @override
    def label(self, label: int) -> list[bytes]:
        return [_image(record) for record in self._records() if record["label"][0] == label]

    @override
    def scan(self) -> Iterator[bytes]:
        return map(_image, self._records())

    @property
    def _path(self) -> str:
        return str(self.folder / "images.tfrecord")

    def _records(self) -> Iterator[dict[str, Any]]:
        import tfrecord

        records: Iterator[dict[str, Any]] = tfrecord.tfrecord_loader(
            self._path, None, {"image": "byte", "label": "int"}
        )
        return records


def _image(record: dict[str, Any]) -> bytes:
    image = record["image"]
    return image if isinstance(image, bytes) else bytes(image)


class WebDataset(Peer):
    """A tar archive with two members per sample. Images can only be read in order."""

    name = "WebDataset (tar)"
    modules = ("webdataset",)

    @override
    def prepare(self, source: Source) -> None:
        import webdataset

        with webdataset.TarWriter(self._path) as writer:
            for position, (_, label, data) in enumerate(source.samples()):
                writer.write({"__key__": f"{position:08}", "jpg": data, "cls": str(label)})

    @override
    def open(self) -> None:
        """Keep nothing open."""

    @override
    def label(self, label: int) -> list[bytes]:
        wanted = str(label).encode()
        return [record["jpg"] for record in self._records() if record["cls"] == wanted]

    @override
    def scan(self) -> Iterator[bytes]:
        return (record["jpg"] for record in self._records())

    @property
    def _path(self) -> str:
        return str(self.folder / "images.tar")

    def _records(self) -> Iterator[dict[str, Any]]:
        import webdataset

        return iter(webdataset.WebDataset(self._path, shardshuffle=False))


class ArrayRecord(Peer):
    """One image per record, with the options that its documentation gives for random access."""

    name = "array_record"
    modules = ("array_record.python.array_record_module",)
    packages = ("array-record",)

    @override
    def prepare(self, source: Source) -> None:
        from array_record.python.array_record_module import ArrayRecordWriter

        writer = ArrayRecordWriter(str(self.folder / "images.array_record"), "group_size:1")
        for sample in source.samples():
            writer.write(sample.data)
        writer.close()
        np.save(self.folder / "label.npy", source.label)

    @override
    def open(self) -> None:
        from array_record.python.array_record_module import ArrayRecordReader

        self._reader = ArrayRecordReader(
            str(self.folder / "images.array_record"), "readahead_buffer_size:0,max_parallelism:0"
        )
        self._labels = np.load(self.folder / "label.npy")

    @override
    def close(self) -> None:
        self._reader.close()

    @override
    def one(self, position: int) -> bytes:
        found: list[bytes] = self._reader.read([position])
        return found[0]

    @override
    def batch(self, positions: Ints) -> list[bytes]:
        found: list[bytes] = self._reader.read(positions.tolist())
        return found

    @override
    def label(self, label: int) -> list[bytes]:
        return self.batch(positions_of(self._labels, label))

    @override
    def scan(self) -> Iterator[bytes]:
        for group in groups(len(self._labels)):
            yield from self._reader.read(int(group[0]), int(group[-1]) + 1)
