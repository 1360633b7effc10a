"""Random reads from stores that memory cannot hold, beside LMDB.

python -m benchmarks.bench_larger_than_memory benchmarks/data/larger --limit-mb 1024

Each reader runs in a process of its own, in a cgroup whose memory includes its page cache; making
one needs root. Its files are dropped from the page cache before.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import numpy as np

import arraystore
from benchmarks.bench_table import small_images

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BATCH: Final = 256

V1: Final = Path("/sys/fs/cgroup/memory")
V2: Final = Path("/sys/fs/cgroup")

READERS: Final = {
    "arraystore, Zarr": ("store.zarr", {}),
    "arraystore, HDF5": ("store.h5", {}),
    "arraystore, Zarr, no map": ("store.zarr", {"mmap": False}),
    "arraystore, HDF5, no map": ("store.h5", {"mmap": False}),
    "LMDB": ("data.lmdb", {}),
    "LMDB, readahead=False": ("data.lmdb", {"readahead": False}),
}


def images(n: int) -> Iterator[bytes]:
    """Yield `n` small JPEGs, followed by random bytes to 104 kB on average."""
    rng = np.random.default_rng(0)
    (image,) = small_images(1)
    for nbytes in np.maximum(rng.normal(104_000, 20_000, n), 20_000).astype(int).tolist():
        yield image + rng.bytes(nbytes)


def make(folder: Path, n: int) -> None:
    """Write the stores and the database that do not exist."""
    import lmdb

    folder.mkdir(parents=True, exist_ok=True)
    for name in ("store.zarr", "store.h5"):
        if not (folder / name).exists():
            records = ({"image": data, "label": i % 100} for i, data in enumerate(images(n)))
            arraystore.write(folder / name, {"train": records}, classes=100, order="source")
    if not (folder / "data.lmdb").exists():
        made = folder / "unfinished.lmdb"
        with (
            lmdb.open(str(made), map_size=n * 2**18, subdir=False, lock=False) as database,
            database.begin(write=True) as transaction,
        ):
            for i, data in enumerate(images(n)):
                transaction.put(b"%012d" % i, data, append=True)
        made.rename(folder / "data.lmdb")


def reader_of(path: Path, options: dict[str, Any]) -> tuple[int, Callable[[Any], Any]]:
    """Return the number of images and a function that reads one image or a batch."""
    if path.suffix != ".lmdb":
        split = arraystore.open(path, **options)["train"]
        return len(split), split.image_bytes.__getitem__
    import lmdb

    database = lmdb.open(str(path), subdir=False, lock=False, readonly=True, **options)
    transaction = database.begin()

    def read(selection: Any) -> Any:
        if isinstance(selection, int):
            return transaction.get(b"%012d" % selection)
        return [transaction.get(b"%012d" % i) for i in selection.tolist()]

    return database.stat()["entries"], read


def measure(path: Path, options: dict[str, Any], seconds: float, seed: int) -> dict[str, float]:
    """Read batches, then single images, for some seconds each."""
    n, read = reader_of(path, options)
    rng = np.random.default_rng(seed)
    found = {}
    for name, size in (("batch", BATCH), ("single", 1)):
        done = nbytes = 0
        before, cpu, began = disk_nbytes(), time.process_time(), time.perf_counter()
        while (took := time.perf_counter() - began) < seconds:
            if size == 1:
                nbytes += len(read(int(rng.integers(n))))
            else:
                nbytes += sum(map(len, read(rng.integers(0, n, size))))
            done += size
        found[f"{name} images/s"] = done / took
        found[f"{name} CPU us"] = (time.process_time() - cpu) / done * 1e6
        found[f"{name} read/wanted"] = (disk_nbytes() - before) / nbytes
    return found


def disk_nbytes() -> int:
    """Return the bytes that this process has read from disks."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["read_bytes"])


def drop(path: Path) -> None:
    """Drop the pages of a file, or of all files of a folder, from the page cache."""
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Cgroup:
    """A memory cgroup of version 1 or 2, removed at the end."""

    def __init__(self, limit_nbytes: int) -> None:
        self._folder = (V1 if V1.is_dir() else V2) / f"arraystore-{os.getpid()}"
        self._limit_nbytes = limit_nbytes

    def __enter__(self) -> Path:
        self._folder.mkdir()
        limits = (self._folder / name for name in ("memory.limit_in_bytes", "memory.max"))
        next(path for path in limits if path.exists()).write_text(str(self._limit_nbytes))
        return self._folder / "cgroup.procs"

    def __exit__(self, *exception: object) -> None:
        self._folder.rmdir()


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--samples", default=40_000, show_default=True)
@click.option("--limit-mb", default=1024, show_default=True, help="Memory of a reader in MiB.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--seconds", default=4.0, show_default=True, help="Of each measurement.")
@click.option("--reader", hidden=True)
@click.option("--seed", default=0, hidden=True)
def main(
    folder: Path,
    samples: int,
    limit_mb: int,
    rounds: int,
    seconds: float,
    reader: str | None,
    seed: int,
) -> None:
    """Measure each reader in turns; print the median of the rounds."""
    if reader is not None:
        name, options = READERS[reader]
        print(json.dumps(measure(folder / name, options, seconds, seed)))
        return
    make(folder, samples)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in READERS}
    with Cgroup(limit_mb * 2**20) as members:
        for seed, name in [(seed, name) for seed in range(rounds) for name in READERS]:
            drop(folder / READERS[name][0])
            program = [sys.executable, "-m", "benchmarks.bench_larger_than_memory", str(folder)]
            program += ["--reader", name, "--seed", str(seed), "--seconds", str(seconds)]
            join = f'echo $$ > {members}; exec "$@"'
            run = subprocess.run(
                ["sh", "-c", join, "sh", *program], check=True, stdout=subprocess.PIPE
            )
            found[name].append(json.loads(run.stdout))
    columns = list(found["LMDB"][0])
    print("|  |", " | ".join(columns), "|")
    print("| --- |", " | ".join(["---:"] * len(columns)), "|")
    for name, rows in found.items():
        values = [float(np.median([row[column] for row in rows])) for column in columns]
        print(f"| {name} |", " | ".join(f"{v:,.{2 if v < 100 else 0}f}" for v in values), "|")


if __name__ == "__main__":
    main()
