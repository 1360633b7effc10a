"""What several test files need."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from obstore.store import MemoryStore
from typing_extensions import override

from arraystore._checksum import crc32c
from arraystore.cli.synthetic_archives import encode
from arraystore.containers import open_local, writer_for
from arraystore.images.probe import probe
from arraystore.indexing.byte_range import ByteRange
from arraystore.indexing.layout import content_digest, image_starts, label_index, sample_order
from arraystore.reading.stored_split import SAMPLE_COLUMNS
from arraystore.schema import COLUMNS, ROOT_COLUMNS, SELECTIONS, Column, DatasetInfo, SplitInfo
from arraystore.storage.range_reader import RangeReader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from arraystore.dataset.split import Split

SUFFIXES = (".zarr", ".h5")


def write_store(
    path: Path,
    names: Sequence[str],
    labels: Sequence[int] | NDArray[np.int64],
    images: Sequence[bytes] | None = None,
    *,
    classes: Sequence[str],
    words: Sequence[str] = (),
    order: str = "shuffled",
    seed: int = 0,
    selections: Mapping[str, Sequence[int]] | None = None,
) -> Path:
    """Write a store of one split, train, from columns; without images, of one zero byte each.

    What is no image has a made-up size.
    Positions of `selections` are those of the order stored.
    """
    label = np.asarray(labels, dtype=np.int64)
    ranks = sample_order(order, seed, names, label)
    label, names = label[ranks], [names[i] for i in ranks]
    encoded = None if images is None else [images[i] for i in ranks]
    sizes = [1] * len(names) if encoded is None else [len(data) for data in encoded]
    nbytes = np.array(sizes, dtype=np.int64)
    crc = np.array(
        [crc32c(b"\0")] * len(names) if encoded is None else list(map(crc32c, encoded)), np.uint32
    )
    shapes = [_shape(data, i) for i, data in enumerate(encoded or [b""] * len(names))]
    writer = writer_for(path)(path)
    writer.create_group("train")
    writer.create_payload("train/image_payload", int(nbytes.sum()))
    writer.close()
    if encoded is not None:
        _fill(path, b"".join(encoded))
    writer = writer_for(path)(path)
    for name, texts in (("label_name", classes), ("label_words", words or classes)):
        writer.write_column(name, texts, ROOT_COLUMNS[name])
    label_order, label_indptr = label_index(label, len(classes))
    values: dict[str, Any] = {
        "image_start": image_starts(nbytes),
        "image_nbytes": nbytes,
        "image_height": [height for height, _ in shapes],
        "image_width": [width for _, width in shapes],
        "image_crc32c": crc,
        "label": label,
        "file_name": names,
        "label_order": label_order,
        "label_indptr": label_indptr,
    }
    for name, column in COLUMNS.items():
        writer.write_column(f"train/{name}", values[name], column)
    writer.set_attributes("train/image_nbytes", {"sample_dimension": "byte"})
    digest = content_digest(names, label, nbytes, crc)
    info = SplitInfo(len(names), int(nbytes.sum()), order, seed, digest)
    writer.set_attributes("train", info.attributes())
    kept = selections or {}
    if kept:
        writer.create_group(SELECTIONS)
    for name, positions in kept.items():
        writer.create_group(f"{SELECTIONS}/{name}")
        column = Column("int64", "selected_train")
        writer.write_column(f"{SELECTIONS}/{name}/train", np.array(positions, np.int64), column)
    dataset = DatasetInfo(
        "columns", "", "", "", "", "", splits=("train",), selections=dict.fromkeys(kept, ("train",))
    )
    writer.set_attributes("", dataset.attributes())
    writer.close()
    return path


def _shape(data: bytes, i: int) -> tuple[int, int]:
    try:
        header = probe(lambda start, stop: data[start:stop], len(data))
    except ValueError:
        return i % 300 + 1, i % 400 + 1
    return header.height, header.width


def _fill(path: Path, payload: bytes) -> None:
    _, container = open_local(path)
    manifest = container.manifest("train/image_payload")
    root = path if path.is_dir() else path.parent
    pieces = manifest.locate(np.array([0]), np.array([len(payload)]))
    done = 0
    for key, start, nbytes in zip(pieces.object, pieces.start, pieces.nbytes, strict=True):
        with (root / manifest.keys[key]).open("r+b") as file:
            file.seek(start)
            file.write(payload[done : done + nbytes])
        done += int(nbytes)


class CountingReader(RangeReader):
    """Pass reads on, and note them."""

    def __init__(self, inner: RangeReader) -> None:
        self.is_remote = inner.is_remote
        self.max_gap = inner.max_gap
        self.max_request = inner.max_request
        self._inner = inner
        self.ranges: list[ByteRange] = []

    @override
    def size(self, key: str) -> int:
        return self._inner.size(key)

    @override
    def read_ranges(self, ranges: Sequence[ByteRange]) -> list[memoryview]:
        self.ranges += ranges
        return self._inner.read_ranges(ranges)

    @override
    def read_objects(self, keys: Sequence[str]) -> list[memoryview]:
        objects = self._inner.read_objects(keys)
        self.ranges += [ByteRange(key, 0, len(o)) for key, o in zip(keys, objects, strict=True)]
        return objects

    @property
    def nbytes(self) -> int:
        """Bytes asked for so far."""
        return sum(wanted.nbytes for wanted in self.ranges)


def count_reads(split: Split) -> CountingReader:
    """Let the reads of images of a split with one part go through a counter, from now on.

    Columns and the chunk manifest are loaded first, so that only images are counted. A memory
    map is done without, since nobody can count what is read through it.
    """
    (part,) = split._parts
    stored = part.stored
    stored.load(SAMPLE_COLUMNS)
    _ = stored._payload.manifest, stored._ranges
    counting = CountingReader(stored._reader)
    stored._reader = stored._payload._reader = counting
    stored._payload._local = None
    return counting


def picture(height: int = 12, width: int = 16, seed: int = 0) -> bytes:
    """Return a small JPEG of noise."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    return encode(Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)))


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write files, by their paths below a folder."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def threads_of_arraystore() -> list[threading.Thread]:
    """Return the threads that decode and read ahead."""
    names = ("arraystore-decode", "arraystore-read-ahead")
    return [thread for thread in threading.enumerate() if thread.name.startswith(names)]


def no_threads_are_left() -> bool:
    """Whether all threads that decode and read ahead end, as they do when there is no work."""
    for thread in threads_of_arraystore():
        thread.join(60)
    return not threads_of_arraystore()


class Bucket:
    """A store of obstore's, in memory, that notes what is done to it and fails when told to.

    Methods go by their names without ``_async``; `before` and `after` run in a thread of their own.
    """

    def __init__(self) -> None:
        self.inner = MemoryStore()
        self.calls: list[tuple[str, Any, dict[str, Any]]] = []
        self.before: Callable[[str, Any], None] = lambda method, key: None
        self.after: Callable[[str, Any], None] = lambda method, key: None

    def __getattr__(self, method: str) -> Any:
        name = method.removesuffix("_async")

        def call(key: Any, *args: Any, **keywords: Any) -> Any:
            self.calls.append((name, key, keywords))
            self.before(name, key)
            result = getattr(self.inner, method)(key, *args, **keywords)
            self.after(name, key)
            return result

        async def call_async(key: Any, *args: Any, **keywords: Any) -> Any:
            self.calls.append((name, key, keywords))
            await asyncio.to_thread(self.before, name, key)
            result = await getattr(self.inner, method)(key, *args, **keywords)
            await asyncio.to_thread(self.after, name, key)
            return result

        return call_async if method.endswith("_async") else call

    @property
    def objects(self) -> dict[str, bytes]:
        keys = sorted(meta["path"] for page in self.inner.list() for meta in page)
        return {key: bytes(self.inner.get(key).bytes()) for key in keys}

    def keys_of(self, method: str) -> list[Any]:
        return [key for called, key, _ in self.calls if called == method]


def objects_on_disk(store: Path) -> dict[str, bytes]:
    if store.is_file():
        return {store.name: store.read_bytes()}
    files = (path for path in store.rglob("*") if path.is_file())
    return {path.relative_to(store.parent).as_posix(): path.read_bytes() for path in sorted(files)}


def checked(text: bytes) -> bytes:
    """Return a line of a journal that holds a text, and is not torn."""
    return f"{crc32c(text):08x} ".encode() + text + b"\n"


HOSTILE_LINES: Final = {
    "nested deeply": b"[" * 200_000 + b"]" * 200_000,
    "nested": b"[" * 65 + b"]" * 65,
    "digits": b'[["train", 0, ' + b"9" * 5000 + b', ""]]',
    "number": json.dumps([["train", 0, 10**30, ""]]).encode(),
    "text": b'"train"',
    "not hexadecimal": b'[["train", 0, 1, "zz"]]',
    "too many": b'[["train", 0, 1, "", "", ""]]',
    "no JSON": b"\xff",
}
"""Lines of journals and claims that are not torn, and that arraystore does not write."""
