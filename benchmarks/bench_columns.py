"""Time and memory of adding a column to a store, and of reading it, against zarr-python and h5py.

Run it with the number of samples, in millions::

    python -m benchmarks.bench_columns --samples 1.28 --width 512

Each way of writing runs in a new process, so that its peak memory is its own. The values are a
`numpy.memmap` of normally distributed float32, made before.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import zarr

import arraystore
from tests.support import write_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BATCH = 256
_BLOCK = 2**14
_MOST_SECONDS = 3
"""A reader stops earlier if it takes longer."""

_PART = 10
"""With gzip, h5py writes only one part of so many, and its time is multiplied by it."""

WAYS = (
    *("plain file", "zarr-python", "h5py", "h5py, gzip"),
    *("add_column, Zarr", "add_column, HDF5"),
)


def rss() -> int:
    """Return the peak of the memory of this process that is not of files, in MB."""
    with Path("/proc/self/status").open() as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields["RssAnon"].split()[0]) // 1024


class Peak:
    """Samples the anonymous memory of this process in a thread."""

    def __enter__(self) -> Peak:
        import threading

        self.mb, self._done = rss(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.mb = max(self.mb, rss())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def write_plain(values: Any, path: Path) -> None:
    with path.open("wb") as file:
        for start in range(0, len(values), _BLOCK):
            file.write(np.ascontiguousarray(values[start : start + _BLOCK]))
        file.flush()
        os.fsync(file.fileno())


def write_zarr(values: Any, path: Path) -> None:
    rows = max(1, 2**20 // values[0].nbytes)
    array = zarr.create_array(
        path, shape=values.shape, dtype=values.dtype, chunks=(rows, values.shape[1])
    )
    for start in range(0, len(values), 16 * rows):
        array[start : start + 16 * rows] = values[start : start + 16 * rows]
    os.sync()


def write_h5py(values: Any, path: Path, **options: Any) -> None:
    rows = max(1, 2**20 // values[0].nbytes)
    with h5py.File(path, "w") as file:
        array = file.create_dataset(
            "values", values.shape, values.dtype, chunks=(rows, values.shape[1]), **options
        )
        for start in range(0, len(values), 16 * rows):
            array[start : start + 16 * rows] = values[start : start + 16 * rows]
    os.sync()


def add(values: Any, path: Path) -> None:
    arraystore.add_column(path, "train", "features", values)


def run_one(way: str, source: Path, shape: tuple[int, int], folder: Path) -> dict[str, Any]:
    """Write the values one way; return seconds and peak memory."""
    values = np.memmap(source, np.float32, "r", shape=shape)
    writers: dict[str, Callable[[], None]] = {
        "plain file": lambda: write_plain(values, folder / "plain.bin"),
        "zarr-python": lambda: write_zarr(values, folder / "other.zarr"),
        "h5py": lambda: write_h5py(values, folder / "other.h5"),
        "h5py, gzip": lambda: write_h5py(
            values[: len(values) // 10], folder / "gzip.h5", compression="gzip", shuffle=True
        ),
        "add_column, Zarr": lambda: add(values, folder / "store.zarr"),
        "add_column, HDF5": lambda: add(values, folder / "store.h5"),
    }
    with Peak() as peak:
        began = time.perf_counter()
        writers[way]()
        seconds = time.perf_counter() - began
    return {"seconds": seconds * (_PART if way == "h5py, gzip" else 1), "MB": peak.mb}


def batches(n: int, *, shuffled: bool) -> Iterator[np.ndarray]:
    if not shuffled:
        for start in range(0, n, BATCH):
            yield np.arange(start, min(start + BATCH, n))
        return
    rng = np.random.default_rng(0)
    for _ in range(20):
        yield np.sort(rng.choice(n, BATCH, replace=False))


def read(folder: Path, n: int) -> dict[str, Any]:
    """Return rows per second of each reader, in order and at random places."""
    found: dict[str, float] = {}
    train = {s: arraystore.open(folder / f"store{s}")["train"] for s in (".zarr", ".h5")}
    features: Any = zarr.open_group(folder / "store.zarr", mode="r")["train/columns/features"]
    with h5py.File(folder / "store.h5") as file:
        readers = {
            "arraystore, Zarr": train[".zarr"].columns["features"],
            "zarr-python": features.oindex,
            "arraystore, HDF5": train[".h5"].columns["features"],
            "h5py": file["train/columns/features"],
        }
        for shuffled, _ in itertools.product((False, True), range(2)):  # the better of two
            for name, reader in readers.items():
                began, rows = time.perf_counter(), 0
                for positions in batches(n, shuffled=shuffled):
                    some = (
                        positions if shuffled else slice(int(positions[0]), int(positions[-1]) + 1)
                    )
                    whole = name == "zarr-python" and not shuffled  # it has two ways to index
                    rows += len((features if whole else reader)[some])
                    if time.perf_counter() - began > _MOST_SECONDS:
                        break
                label = f"{name}, {'random' if shuffled else 'in order'}"
                rate = rows / (time.perf_counter() - began)
                found[label] = max(rate, found.get(label, 0))
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=float, default=0.1, help="millions")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--way", help="internal")
    options = parser.parse_args()
    n = int(options.samples * 1e6)
    shape = n, options.width
    if options.way:
        folder = options.folder
        print(json.dumps(run_one(options.way, folder / "values.bin", shape, folder)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Path(scratch)
        rng = np.random.default_rng(0)
        with (folder / "values.bin").open("wb") as file:
            for start in range(0, n, _BLOCK):
                some = min(_BLOCK, n - start)
                file.write(rng.standard_normal((some, options.width), dtype=np.float32))
        names = [f"{i}.jpg" for i in range(n)]
        for suffix in (".zarr", ".h5"):
            write_store(
                folder / f"store{suffix}",
                names,
                np.arange(n) % 100,
                classes=list(map(str, range(100))),
            )
        for way in (
            "plain file",
            "zarr-python",
            "h5py",
            "h5py, gzip",
            "add_column, Zarr",
            "add_column, HDF5",
        ):
            command = [sys.executable, "-m", "benchmarks.bench_columns", "--way", way]
            command += ["--folder", str(folder), "--samples", str(options.samples)]
            command += ["--width", str(options.width)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            result = json.loads(done.stdout)
            print(f"{way:20} {result['seconds']:8.2f} s {result['MB']:6} MB", flush=True)
            for leftover in ("plain.bin", "other.h5", "gzip.h5"):
                (folder / leftover).unlink(missing_ok=True)
        for name, rate in read(folder, n).items():
            print(f"{name:30} {rate:12,.0f} rows/s")


if __name__ == "__main__":
    main()
