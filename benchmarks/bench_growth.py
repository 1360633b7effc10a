"""Time and memory of opening, images, queries and batches at 10^4, 10^6 and 10^8 samples.

    python -m benchmarks.bench_growth FOLDER --plot docs/growth.png

FOLDER keeps the stores for the next run; `grown_stores` makes them. Every figure is the minimum of
several processes. Each process does the same with a small store first, so that all libraries are
imported. The files are in the page cache. The table is printed in the form of docs/growth.md.
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
from benchmarks.grown_stores import BATCH, BUFFER, SIZES, batches, images, make
from tests.support import SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from arraystore import Split

    Results = dict[str, dict[int, dict[str, dict[str, float]]]]

OPERATIONS: Final = {
    "open": "open",
    "image": "one random image (`image_bytes[i]`)",
    "sample": "one random sample, decoded",
    "label": "`where(label=k)`",
    "block": f'{BUFFER:,} samples of `shuffle="block"`, decoded',
    "batch": f"{BATCH} random images",
}
FIRST: Final = "first"
NEXT: Final = "next"


def acts(split: Split, operation: str) -> Iterator[Callable[[], Any]]:
    """Yield calls to time: the same operation at different places of the split."""
    n = len(split)
    if operation == "image":
        yield from (partial(split.image_bytes.__getitem__, p) for p in images(n).tolist())
    elif operation == "sample":
        yield from (partial(split.__getitem__, p) for p in images(n)[:16].tolist())
    elif operation == "label":
        yield from (partial(split.where, label=k) for k in range(0, 1000, 29))
    elif operation == "batch":
        yield from (partial(split.image_bytes.__getitem__, batch) for batch in batches(n)[:4])
    elif operation == "block":
        loop = iter(split.batches(BATCH, shuffle="block", buffer_size=BUFFER, size=64))
        yield from (lambda: [next(loop) for _ in range(BUFFER // BATCH)] for _ in range(4))


def measure(path: Path, operation: str) -> dict[str, float]:
    """Return seconds, bytes read and peak memory in bytes of an operation in this process."""
    small = arraystore.open(path.with_stem(f"grown-{SIZES[0]}"))["train"]
    for act in acts(small, operation):
        act()
        break
    del small
    seconds = []
    read = [counter("/proc/self/io", "rchar:")]
    began = time.perf_counter()
    split = arraystore.open(path)["train"]
    assert len(split)
    seconds.append(time.perf_counter() - began)
    read.append(counter("/proc/self/io", "rchar:"))
    for act in acts(split, operation):
        began = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - began)
        read.append(counter("/proc/self/io", "rchar:"))
    sizes = np.diff(read).tolist()
    if operation != "open":
        seconds, sizes = seconds[1:], sizes[1:]
    return {
        FIRST: seconds[0],
        NEXT: float(np.median(seconds[1:] or seconds)),
        f"{FIRST} read": sizes[0],
        f"{NEXT} read": float(np.median(sizes[1:] or sizes)),
        "memory": 1024.0 * counter("/proc/self/status", "VmHWM:"),
    }


def counter(path: str, name: str) -> int:
    """Return a counter of the kernel for this process."""
    words = Path(path).read_text().split()
    return int(words[words.index(name) + 1])


def in_a_process(path: Path, operation: str) -> dict[str, float]:
    """Measure in a new process."""
    command = [sys.executable, "-m", "benchmarks.bench_growth", str(path), "--measure", operation]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measured(paths: dict[tuple[str, int], Path], rounds: int) -> Results:
    """Measure all operations in rounds, so that other load affects all of them equally."""
    found: dict[tuple[str, int, str], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for operation in OPERATIONS:
            for place, path in paths.items():
                found.setdefault((*place, operation), []).append(in_a_process(path, operation))
    results: Results = {suffix: {} for suffix in SUFFIXES}
    for (suffix, n, operation), some in found.items():
        least = {name: min(one[name] for one in some) for name in some[0]}
        results[suffix].setdefault(n, {})[operation] = least
    return results


def format_seconds(seconds: float) -> str:
    """Return a time in milliseconds or microseconds."""
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"


def format_nbytes(nbytes: float) -> str:
    """Return a size in megabytes or kilobytes."""
    return f"{nbytes / 1e6:.1f} MB" if nbytes >= 1e5 else f"{nbytes / 1e3:.1f} kB"


def print_table(results: Results) -> None:
    """Print the times of all sizes, and bytes read and memory at the largest."""
    sizes = results[SUFFIXES[0]]
    print("| | | " + " | ".join(f"{n:,}" for n in sizes) + " | read | memory |")
    print("|---|---|" + "---|" * (len(sizes) + 2))
    for operation, what in OPERATIONS.items():
        for when in (FIRST, NEXT) if operation != "open" else (FIRST,):
            for suffix in SUFFIXES:
                of = results[suffix]
                times = " | ".join(format_seconds(of[n][operation][when]) for n in of)
                last = of[max(of)][operation]
                read, memory = format_nbytes(last[f"{when} read"]), format_nbytes(last["memory"])
                print(f"| {what}, {when} | {suffix[1:]} | {times} | {read} | {memory} |")


def plot(results: Results, path: Path) -> None:
    """Draw times and memory over the number of samples."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt
    from PIL import Image

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 4.2), layout="constrained")
    for axes, title in ((left, "first, in a store just opened"), (middle, "next, elsewhere in it")):
        axes.set(xscale="log", yscale="log", title=title, xlabel="samples", ylabel="milliseconds")
    right.set(xscale="log", title="memory of the process", xlabel="samples", ylabel="MB")
    right.axhline(200, color="gray", linewidth=0.8, linestyle=":")
    names = {**OPERATIONS, "image": "one random image", "label": "where(label=k)"}
    names["block"] = f"{BUFFER:,} samples, block shuffle"
    for color, (operation, name) in enumerate(names.items()):
        for suffix, style in zip(SUFFIXES, ("o-", "s--"), strict=True):
            of = {n: found[operation] for n, found in results[suffix].items()}
            line = {"color": f"C{color}", "markersize": 4, "linewidth": 1.2}
            label = name if style == "o-" else None
            left.plot([*of], [1e3 * one[FIRST] for one in of.values()], style, label=label, **line)
            if operation != "open":
                middle.plot([*of], [1e3 * one[NEXT] for one in of.values()], style, **line)
            right.plot([*of], [one["memory"] / 1e6 for one in of.values()], style, **line)
    right.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=3, title="solid: Zarr, dashed: HDF5")
    figure.savefig(path, dpi=90, metadata={"Software": None})
    with Image.open(path) as drawn:
        few_colors = drawn.convert("RGB").quantize(32, dither=Image.Dither.NONE)
    few_colors.save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--plot", type=Path, help="PNG file to draw")
    parser.add_argument("--samples", type=int, nargs="*", default=SIZES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.folder, options.measure)))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    paths = {(s, n): options.folder / f"grown-{n}{s}" for n in options.samples for s in SUFFIXES}
    for (_, n), path in paths.items():
        if not path.exists():
            make(path, n)
    results = measured(paths, options.rounds)
    print_table(results)
    if options.plot:
        plot(results, options.plot)


if __name__ == "__main__":
    main()
