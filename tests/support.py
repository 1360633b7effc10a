"""Helpers of several test files."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import numpy as np
from obstore.store import MemoryStore
from typing_extensions import override

from arraystore import _threads
from arraystore._checksum import crc32c
from arraystore.cli.synthetic_archives import encode
from arraystore.images.probe import probe
from arraystore.indexing.byte_range import ByteRange
from arraystore.indexing.layout import image_starts, sample_order
from arraystore.indexing.packed_names import PackedNames, packed
from arraystore.parallel import executors
from arraystore.sources.sample_table import SampleTable, Source
from arraystore.storage.file_states import FileStates
from arraystore.storage.location import Location
from arraystore.storage.range_reader import RangeReader
from arraystore.writing.fill import FillTask
from arraystore.writing.image_source import FileRanges
from arraystore.writing.open_writer import open_writer
from arraystore.writing.plan import SplitPlan
from arraystore.writing.progress import meter
from arraystore.writing.seal import seal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future

    import pytest
    from numpy.typing import NDArray

    from arraystore.dataset.split import Split

SUFFIXES = (".zarr", ".h5")

P = ParamSpec("P")
T = TypeVar("T")


def most_in_flight(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list of the most blocks that each new pool of threads fills at a time.

    The list grows when a pool is created.
    """
    most: list[int] = []
    lock = threading.Lock()

    class Counting(ThreadPoolExecutor):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.number, self.in_flight = len(most), 0
            most.append(0)

        @override
        def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
            if not isinstance(args[-1], FillTask):
                return super().submit(fn, *args, **kwargs)
            with lock:
                self.in_flight += 1
                most[self.number] = max(most[self.number], self.in_flight)
            future = super().submit(fn, *args, **kwargs)
            future.add_done_callback(self._ended)
            return future

        def _ended(self, _: object) -> None:
            with lock:
                self.in_flight -= 1

    monkeypatch.setattr(executors, "ThreadPoolExecutor", Counting)
    return most


@cache
def _files_of(write: Callable[[Path], object], suffix: str) -> dict[str, bytes]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        write(path)
        files = (file for file in (path, *path.rglob("*")) if file.is_file())
        return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


def write_once(write: Callable[[Path], object], path: Path) -> None:
    """Write a store that `write` wrote before, if only to another path.

    For stores that many tests need: copying one takes a tenth of the time.
    """
    for name, data in _files_of(write, path.suffix).items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def copied(path: Path, target: Path) -> Path:
    """Copy a store to the path `target`, and return it."""
    return Path((shutil.copytree if path.is_dir() else shutil.copy)(path, target))


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
    columns: Mapping[str, Sequence[int]] | None = None,
) -> Path:
    """Write a store of one split, train, from columns, as `arraystore.convert` does.

    Nothing is checked: labels, names and positions may be wrong, and images need not be any. Bytes
    that are not an image get a made-up height and width. Without `images` each is one zero byte.
    Positions of `selections` count in the stored order.
    """
    label = np.asarray(labels, dtype=np.int64)
    ranks = sample_order(order, seed, names, label)
    encoded = [b"\0"] * len(names) if images is None else [images[i] for i in ranks]
    shapes = [_shape(data, i) for i, data in enumerate(encoded)]
    nbytes = np.array([*map(len, encoded)], np.int64)
    crc = np.array([*map(crc32c, encoded)], np.uint32)  # filling skips empty images at the ends
    table = SampleTable(
        file_name=PackedNames(packed([names[i] for i in ranks])),
        label=label[ranks],
        file=np.zeros(len(names), np.int32),
        offset=image_starts(nbytes),
        nbytes=nbytes,
        extra={name: np.array(v, np.int64)[ranks] for name, v in (columns or {}).items()},
    )
    kept = {name: np.array(positions, np.int64) for name, positions in (selections or {}).items()}
    height, width = np.array(shapes, np.int32).reshape(-1, 2).T
    plan = SplitPlan(
        table, height, width, skipped=(), reencoded=(), selections=kept, order=order, seed=seed
    )
    source = Source(
        *("columns", "", "", "", "", ""),
        label_name=tuple(classes),
        label_words=tuple(words or classes),
        files=(),
        splits={},
        origins=(),
        selections={name: {"train": positions} for name, positions in kept.items()},
    )
    with open_writer(Location.parse(path), sync=False) as writer, meter(show=False) as shown:
        writer.spool.write_bytes(b"".join(encoded))
        writer.create_arrays({"train": int(nbytes.sum())})
        states = FileStates.of([str(writer.spool)])
        ranges = FileRanges(states.paths, table.file, table.offset, nbytes, states)
        writer.fill("train", ranges, shown)
        with writer.sealing() as container:
            seal(container, source, {"train": plan}, {"train": crc})
        writer.publish(shown)
    return path


def _shape(data: bytes, i: int) -> tuple[int, int]:
    try:
        header = probe(lambda start, stop: data[start:stop], len(data))
    except ValueError:
        return i % 300 + 1, i % 400 + 1
    return header.height, header.width


class CountingReader(RangeReader):
    """Record what is read through another reader, which is never a memory map."""

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
        """Bytes requested so far."""
        return sum(wanted.nbytes for wanted in self.ranges)


def count_reads(split: Split) -> CountingReader:
    """Record every read of images from now on, of a store that has not read one yet.

    Columns are read by the container, with a reader of its own.
    """
    handle = split._root.handle
    counting = CountingReader(handle.reader)
    handle._opened = counting, handle.container
    return counting


def picture(height: int = 12, width: int = 16, seed: int = 0) -> bytes:
    """Return a small JPEG of noise."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    return encode(Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)))


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write files by their paths below a folder."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def set_chunk_rows(patch: pytest.MonkeyPatch, rows: int) -> None:
    """Give all columns chunks of so many rows, so that few samples have several."""
    for name, module in list(sys.modules.items()):
        if name.startswith("arraystore.") and hasattr(module, "COLUMN_CHUNK_ROWS"):
            patch.setattr(module, "COLUMN_CHUNK_ROWS", rows)


def threads_of_arraystore() -> list[threading.Thread]:
    """Return the threads that decode and read ahead."""
    names = ("arraystore-decode", "arraystore-read-ahead")
    return [thread for thread in threading.enumerate() if thread.name.startswith(names)]


def no_threads_are_left() -> bool:
    """Wait for all threads that decode and read ahead; return whether they ended.

    In Python 3.11 a thread can wait in `queue.SimpleQueue.get` beyond its timeout, until the next
    job. So threads that do not end get jobs.
    """
    for _ in range(60):
        for thread in threads_of_arraystore():
            thread.join(1)
        if not threads_of_arraystore():
            return True
        for _ in threads_of_arraystore():
            _threads.readers.submit(lambda: None)
            _threads.decoders.submit(lambda: None)
    return False


class Bucket:
    """An obstore store in memory that records calls, and can fail before or after them.

    Methods go by their names without ``_async``. `before` and `after` run in their own thread.
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
    """Return a complete journal line with a text."""
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
"""Lines of journals and lock objects with a right checksum that arraystore does not write."""
