"""Measurements at 10^5 to 10^7 samples beside the predictions of `scaling_model`.

    python -m benchmarks.scaling_model --check DIR

DIR keeps the stores for the next run: those of `grown_stores`, with sparse payloads of images of
6.5 kB, and archives of small images to convert (2 GB in all). Memory is measured in a new process
for each figure, beyond what the process had before. Times are those of the processor.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from itertools import islice
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

import numpy as np
from obstore.store import LocalStore

import arraystore
from arraystore.indexing.layout import blocks, content_digest, sample_order
from arraystore.indexing.packed_names import PackedNames, repeated
from arraystore.indexing.sampling import permutation
from arraystore.schema import COLUMN_CHUNK_ROWS
from arraystore.sources.imagenet2012_tables import wnids
from arraystore.storage.file_states import FileStates
from arraystore.storage.objects.reader import ObjectReader
from arraystore.writing.fill import FilePlace, FillTask
from arraystore.writing.image_source import FileRanges
from arraystore.writing.journal import as_line, as_text
from benchmarks import scaling_model as model
from benchmarks.bench_growth import in_a_process
from benchmarks.bench_table import N_IMAGES, small_images, write_archive, write_lists
from benchmarks.grown_stores import BATCH, BUFFER, _names, make
from benchmarks.scaling_model import DataSet, Rates, duration, quantity

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES: Final = (10**5, 10**6, 10**7)
CONVERTED: Final = (10**5, 10**6)
GROWN_NBYTES: Final = 6504
"""Mean size of the images of `grown_stores`."""

Row = tuple[str, int, float, float, str]


def grown(folder: Path, n: int) -> Path:
    """Return a store with real columns, which is made if it does not exist."""
    path = folder / f"grown-{n}.zarr"
    if not path.exists():
        make(path, n)
    return path


def stored(path: Path, n: int) -> list[Row]:
    """Compare objects and columns of a store."""
    data = DataSet(n, GROWN_NBYTES)
    files = [
        file
        for file in path.rglob("*")
        if file.is_file() and "image_payload/c/" not in file.as_posix()
    ]
    columns = [file for file in files if file.parent.name == "c" and "train" in file.parts]
    nbytes = sum(file.stat().st_size for file in columns)
    return [
        ("objects without shards", n, model.n_column_objects(data), len(files), ""),
        ("columns, stored", n, model.compressed_nbytes(data), nbytes, "B"),
    ]


def opened(folder: Path, n: int) -> list[Row]:
    """Compare the bytes and times of opening a store and of its first query by label."""
    path, data = grown(folder, n), DataSet(n)
    grown(folder, 10**4)
    runs = {name: [in_a_process(path, name) for _ in range(3)] for name in ("open", "label")}
    found = {name: min(some, key=itemgetter("first")) for name, some in runs.items()}
    chunks = 1 + n / data.n_classes / COLUMN_CHUNK_ROWS
    chunk = model.COMPRESSED["label_order"] * min(n, COLUMN_CHUNK_ROWS)
    return [
        ("opening", n, 13.4e3, found["open"]["first read"], "B"),
        ("opening", n, 0.3e-3, found["open"]["first"], "s"),
        ("first `where(label=k)`", n, chunk * chunks, found["label"]["first read"], "B"),
        ("first `where(label=k)`", n, 3.4e-3, found["label"]["first"], "s"),
    ]


def recorded(n: int) -> list[Row]:
    """Compare a journal, and the task of a shard, of images of 100 kB."""
    data = DataSet(n)
    nbytes = np.random.default_rng(0).integers(50_000, 150_000, n)
    nbytes[-1] += n * data.mean_nbytes - int(nbytes.sum())
    found = 0
    some = blocks(nbytes)
    for block in some:
        checksums = np.full(block.last - block.first - (block.skip > 0), 2**31, np.uint32)
        found += len(as_line([["train", block.start, block.stop, as_text(checksums)]]))
    middle = some[len(some) // 2]
    file = FileStates.of([__file__])
    offset = np.random.default_rng(1).permutation(np.cumsum(nbytes) - nbytes)  # shuffled
    images = FileRanges(file.paths, np.zeros(n, np.int32), offset, nbytes, file)
    task = FillTask(images.rows(middle.first, middle.last), middle.skip, FilePlace((("a", 0, 1),)))
    return [
        ("journal", n, model.journal_nbytes(data), found, "B"),
        ("task, pickled", n, model.task_nbytes(data), len(pickle.dumps(task)), "B"),
    ]


def requested(path: Path, n: int) -> list[Row]:
    """Compare the requests of the first buffers of a block shuffle of a remote store."""
    data, n_buffers = DataSet(n, GROWN_NBYTES), 5
    counted = 0

    def counting(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal counted
            counted += 1
            return method(*arguments)

        return call

    (path / "zarr.json").touch()  # a root that is not the last object is requested more often
    split = arraystore.open((LocalStore(path.parent), path.name))["train"]
    batches = split.batches(BATCH, shuffle="block", buffer_size=BUFFER)
    with (
        patch.object(ObjectReader, "_response", counting(ObjectReader._response)),
        patch.object(ObjectReader, "_head", counting(ObjectReader._head)),
    ):
        for buffer in islice(batches._buffers(), n_buffers):  # without the one that is read ahead
            batches._reader.read(buffer)
    predicted = model.buffers_traffic(data, n_buffers).requests
    return [("requests of 5 buffers", n, predicted, counted, "")]


# In a process for each figure


def names_of(n: int) -> PackedNames:
    """Return names as those of ImageNet, made without Python objects, whose memory would remain."""
    text = np.zeros((n, 25), dtype=np.uint8)
    numbers = np.arange(n, dtype=np.int64)
    text[:, :24] = (
        _names(range(n), (numbers % 1000).astype(np.uint16)).view(np.uint8).reshape(n, 24)
    )
    return PackedNames(text.tobytes(), (numbers * 25).astype(np.uint32 if n < 10**8 else np.uint64))


def step(name: str, n: int) -> Callable[[], object]:
    """Return a step of planning or sampling, with its arguments prepared."""
    if name == "full shuffle":
        return lambda: permutation(n, 0)
    if name == "block shuffle":
        return lambda: permutation(n // 64, 0)
    label = np.arange(n, dtype=np.int64) % 1000
    names = names_of(n)
    if name == "unique names":
        return lambda: repeated(names)
    if name == "order":
        return lambda: sample_order("shuffled", 0, names, label)
    crc = np.arange(n, dtype=np.uint32)
    return lambda: content_digest(names, label, label, crc)


RATES: Final = Rates()

STEPS: Final = {
    # bytes and seconds per sample, predicted
    "order": (8 + 8 + 4, RATES.order_seconds),
    "unique names": (8, RATES.names_seconds),
    "digest": (16 + 8 + 4, RATES.digest_seconds),
    "full shuffle": (8 + 8 + 4, RATES.full_shuffle_seconds),
    "block shuffle": (20 / 64, RATES.full_shuffle_seconds / 64),
}


def peak() -> int:
    """Return the peak resident size of this process since it was last reset."""
    return 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])


def measure(name: str, n: int) -> dict[str, float]:
    """Return seconds, and memory in bytes, of a step in this process."""
    act = step(name, n)
    step(name, 1000)()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before, began = peak(), time.process_time()
    act()
    return {"seconds": time.process_time() - began, "memory": peak() - before}


def measured(name: str, n: int) -> list[Row]:
    """Compare memory and time of a step, in a new process."""
    code = f"import benchmarks.scaling_check as c; print(c.json.dumps(c.measure({name!r}, {n})))"
    # Otherwise arrays take the place of freed ones, and the peak does not show them.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    nbytes, seconds = STEPS[name]
    return [
        (name, n, nbytes * n, found["memory"], "B"),
        (name, n, seconds * n, found["seconds"], "s"),
    ]


def archive(folder: Path, n: int) -> Path:
    """Return a folder with an archive of ImageNet's form, of `n` images of 0.8 kB."""
    source = folder / f"archive-{n}"
    if source.exists():
        return source
    partial = folder / f"archive-{n}-partial"
    partial.mkdir(parents=True, exist_ok=True)
    images = small_images(N_IMAGES)
    counts = [len(share) for share in np.array_split(np.arange(n), len(wnids()))]
    sizes = np.array([len(images[i % N_IMAGES]) for count in counts for i in range(count)])
    write_archive(partial / "ILSVRC2012_img_train.tar", sizes, images)
    write_lists(partial, n)
    partial.rename(source)
    return source


_CONVERT: Final = """
import sys, time
import arraystore
from benchmarks.scaling_check import peak
folder, target = sys.argv[1:]
began = time.process_time()
arraystore.convert("imagenet2012", target, manual_dir=folder, partial=True, sync=False)
print(peak(), time.process_time() - began)
"""


def converted(folder: Path) -> list[Row]:
    """Compare conversions: time, and the memory that the larger one needs beyond the smaller."""
    few, many = CONVERTED
    found = {}
    for n in CONVERTED:
        with TemporaryDirectory(dir=folder) as target:
            command = [sys.executable, "-c", _CONVERT, str(archive(folder, n)), f"{target}/a.zarr"]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[n] = [float(word) for word in done.stdout.split()]
    sets = {n: DataSet(n, 800, 18) for n in CONVERTED}
    predicted = model.planning_nbytes(sets[many]) - model.planning_nbytes(sets[few])
    memory = found[many][0] - found[few][0]
    rows: list[Row] = [("conversion, beyond the smaller", many, predicted, memory, "B")]
    for n, data in sets.items():
        seconds = model.planning_seconds(data, RATES)
        seconds += n * (RATES.header_seconds + RATES.probe_seconds)
        rows.append(("conversion", n, seconds, found[n][1], "s"))
    return rows


def check(folder: Path) -> None:
    """Print predictions and measurements as a table."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    rows = [row for n in SIZES for row in (*stored(grown(folder, n), n), *recorded(n))]
    rows += [row for n in SIZES for row in (*opened(folder, n), *requested(grown(folder, n), n))]
    rows += [row for name in STEPS for n in SIZES for row in measured(name, n)]
    rows += converted(folder)

    def shown(value: float, unit: str) -> str:
        if unit == "s":
            return duration(value)
        return quantity(value, unit) if unit else f"{value:,.0f}"

    cells: dict[str, dict[int, list[str]]] = {}
    for what, n, predicted, found, unit in rows:
        cell = f"{shown(predicted, unit)} / {shown(found, unit)}"
        cells.setdefault(what, {}).setdefault(n, []).append(cell)
    model.print_table(
        ["predicted / measured", *(f"10^{len(str(n)) - 1}" for n in SIZES)],
        [[what, *(", ".join(of.get(n, [])) for n in SIZES)] for what, of in cells.items()],
    )
