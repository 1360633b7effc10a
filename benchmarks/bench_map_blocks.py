"""Time of computing features with `map_blocks` in threads, processes and a Dask cluster.

Run it with the number of samples::

    python -m benchmarks.bench_map_blocks --samples 100000

The images are JPEGs of 64 x 64 pixels, drawn from a small pool. The features are the mean colours
of 8 x 8 cells: 192 float32. ``a plain loop`` decodes and computes in this process and keeps the
features in memory. The columns of all executors must be equal. The overhead of a block is the time
of a function that reads no image and returns the labels, divided by the number of blocks; it
includes the start of the call, and the column.
"""

from __future__ import annotations

import argparse
import io
import math
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import distributed
import numpy as np
from PIL import Image

import arraystore
from arraystore.writing.computed_column import _rows_per_block
from tests.support import write_store

if TYPE_CHECKING:
    from collections.abc import Iterator

BATCH = 64
SIDE = 64
CELL = 8
_POOL = 500


def features(batch: Any) -> Any:
    """Return the mean colour of each cell of each image: float32 of shape (n, 192)."""
    n = SIDE // CELL
    cells = batch.image.reshape(-1, n, CELL, n, CELL, 3)
    return cells.mean(axis=(2, 4), dtype=np.float32).reshape(len(cells), -1)


def labels(batch: Any) -> Any:
    return batch.label


def drawn(seed: int) -> bytes:
    """Return a JPEG of smooth random colours."""
    small = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def write(path: Path, n: int) -> None:
    pool = [drawn(i) for i in range(_POOL)]
    names, images = [f"{i:07}.jpg" for i in range(n)], [pool[i % _POOL] for i in range(n)]
    write_store(path, names, [i % 10 for i in range(n)], images, classes="abcdefghij")


def executors(stack: ExitStack) -> Iterator[tuple[str, Any]]:
    """Yield executors by name; each is started, and has imported arraystore, before it is timed."""
    yield "threads", None
    context = multiprocessing.get_context("spawn")
    yield "2 processes", stack.enter_context(ProcessPoolExecutor(2, context))
    started: Any = distributed
    cluster = stack.enter_context(
        started.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0")
    )
    yield "cluster of 2", stack.enter_context(started.Client(cluster)).get_executor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--suffix", default=".zarr", choices=(".zarr", ".h5"))
    options = parser.parse_args()
    n = options.samples
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        path = Path(folder) / f"a{options.suffix}"
        write(path, n)
        train = arraystore.open(path)["train"]
        n_blocks = math.ceil(n / _rows_per_block(train, BATCH))
        print(f"{n:,} images, {path.suffix}, {n_blocks} blocks")
        began = time.perf_counter()
        found = [features(batch) for batch in train.batches(BATCH, shuffle=False, size=SIDE)]
        report("a plain loop", time.perf_counter() - began, n)
        expected = np.concatenate(found)
        for name, executor in executors(stack):
            column = name.replace(" ", "-")
            train.map_blocks(labels, f"l-{column}", images="none", executor=executor)
            began = time.perf_counter()
            train.map_blocks(features, column, size=SIDE, batch_size=BATCH, executor=executor)
            seconds = time.perf_counter() - began
            began = time.perf_counter()
            train.map_blocks(labels, f"m-{column}", images="none", executor=executor)
            overhead = (time.perf_counter() - began) / n_blocks
            report(name, seconds, n, f", {1000 * overhead:.1f} ms for a block without work")
            values = arraystore.open(path)["train"].columns[column][:]
            if not np.array_equal(values, expected):
                raise SystemExit(f"{name}: the features differ from those of a plain loop")


def report(name: str, seconds: float, n: int, more: str = "") -> None:
    print(f"{name:14} {seconds:6.1f} s {n / seconds:8,.0f} images/s{more}")


if __name__ == "__main__":
    main()
