"""Time queries and draws at the size of ImageNet: 1,281,167 labels and names, no images.

    python -m benchmarks.bench_query FOLDER

FOLDER keeps the two stores for the next run. Each container is measured in its own process. Each
line has one figure for both containers, and its goal if there is one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

import arraystore
from tests.support import SUFFIXES, write_store

if TYPE_CHECKING:
    from collections.abc import Callable

N_SAMPLES: Final = 1_281_167
N_CLASSES: Final = 1000
N_WARM: Final = 200

GOALS: Final = {
    "open and first where(label=…), libraries imported": "100 ms",
    "where(label=int), warm": "100 µs",
    "where(label='goldfish'), warm": "100 µs",
    "per_label(5), first": "500 ms",
    "per_label(5), after": "50 ms",
    "find(name), warm": "50 µs",
}


def make(path: Path, n_samples: int) -> None:
    """Write a store with the names and class sizes of ImageNet, and images of one byte."""
    label = np.arange(n_samples) % N_CLASSES
    classes = [f"n{1440764 + 11673 * k:08d}" for k in range(N_CLASSES)]
    names = [f"{classes[k]}_{i * 7919 % n_samples}.JPEG" for i, k in enumerate(label.tolist())]
    words = [f"thing {k}, Res {k}" for k in range(N_CLASSES)]
    words[1] = "goldfish, Carassius auratus"
    write_store(path, names, label, classes=classes, words=words)


def measure(path: Path) -> dict[str, float]:
    """Return seconds for each figure."""
    arraystore.open(path)["train[:1]"].file_name.tolist()  # imports what reading needs
    seconds: dict[str, float] = {}

    def timed(what: str, act: Callable[[], Any], repeats: int = 1) -> Any:
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            result = act()
            times.append(time.perf_counter() - began)
        seconds[what] = float(np.median(times))
        return result

    store, fresh = arraystore.open(path), []
    for _ in range(5):
        began = time.perf_counter()
        store = arraystore.open(path)
        store["train"].where(label=500)
        fresh.append(time.perf_counter() - began)
    seconds["open and first where(label=…), libraries imported"] = float(np.median(fresh))
    train = store["train"]
    for k in range(N_CLASSES):
        train.where(label=k)  # reads all chunks of the index
    timed("where(label=int), warm", lambda: train.where(label=77), N_WARM)
    timed("where(label='goldfish'), warm", lambda: train.where(label="goldfish"), N_WARM)
    timed("where(label=…) of 100 labels, warm", lambda: train.where(label=range(100)), 10)
    timed("per_label(5), first", lambda: train.per_label(5))
    timed("per_label(5), after", lambda: train.per_label(5), 10)
    name = timed("load the column of names", lambda: train.file_name)[4321]
    timed("per_label(5, seed=1), first: hashes all names", lambda: train.per_label(5, seed=1))
    timed("per_label(5, seed=1), after", lambda: train.per_label(5, seed=1), 10)
    timed("per_label(fraction=0.1), after", lambda: train.per_label(fraction=0.1), 10)
    timed("find(name), first: sorts all names", lambda: train.find(name))
    timed("find(name), warm", lambda: train.find(name), N_WARM)
    timed("where(file_name='n0144*'), warm", lambda: train.where(file_name="n0144*"), 5)
    timed("sample(256)", lambda: train.sample(256), 5)
    few = train.per_label(5)
    timed("selection(), warm", few.selection, 5)
    for shuffle in ("full", "block"):
        positions = partial(first_positions, train, shuffle=shuffle)
        timed(f"positions of the first batch, {shuffle}", positions, 3)
    positions = partial(first_positions, train, balanced=True)
    timed("positions of the first batch, balanced", positions, 3)
    episodes = train.episodes(5, 1, 15)
    timed("positions of an episode", lambda: episodes.positions(9), 20)
    return seconds


def first_positions(split: arraystore.Split, **options: Any) -> Any:
    """Return the positions of the first batch of an epoch."""
    return next(split.batches(256, **options).positions())


def format_seconds(seconds: float) -> str:
    """Return a time with a suitable unit."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.1f} µs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=N_SAMPLES)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    found = []
    for suffix in SUFFIXES:
        path = options.folder / f"columns-{options.samples}{suffix}"
        if not path.exists():
            make(path, options.samples)
        command = [sys.executable, "-m", "benchmarks.bench_query", str(options.folder)]
        done = subprocess.run(
            [*command, "--measure", str(path)], check=True, capture_output=True, text=True
        )
        found.append(json.loads(done.stdout))
    print(f"{options.samples:,} samples, {N_CLASSES:,} classes")
    print(f"{'':52}{'Zarr':>12}{'HDF5':>12}   goal")
    for what in found[0]:
        row = "".join(f"{format_seconds(some[what]):>12}" for some in found)
        print(f"{what:52}{row}   {GOALS.get(what, '')}".rstrip())


if __name__ == "__main__":
    main()
