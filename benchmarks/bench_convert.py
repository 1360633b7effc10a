"""Time conversion against copying the same bytes, and against the usual loop, in one run.

::

    python -m benchmarks.bench_convert [DIR --subset-list LIST] [--verify] [--json FILE]

DIR holds the archives; ``python -m benchmarks.imagenet_archives`` makes some. Without DIR, archives
of 1 GB with invented names are made in a temporary folder. The acts take turns. Before each one the
archives are copied once untimed, they are in the page cache, and no write is pending. Each act
creates a new target, which is deleted afterwards:

- ``cp`` of both archives, alone and followed by ``sync`` of the copies. The archives are a
  little larger than the images in them, so the time is scaled to the bytes of the images;
- `arraystore.convert` to both containers, with ``sync=False`` and with the defaults;
- the usual loop: `tarfile`, and an h5py variable-length dataset written sample by sample,
  without a sync.

Each act except ``cp`` runs in a new Python process; its start and imports count. CPU time is that
of all threads; divided by the wall time it is the number of busy cores. Both times are also
reported for each step of a conversion, as its progress bar shows them.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Final, NamedTuple, TypeVar
from unittest.mock import patch

from benchmarks.archive_images import (
    N_VALIDATION,
    TRAIN,
    VALIDATION,
    Archives,
    Count,
    count,
    label_of,
    verify,
)

T = TypeVar("T")

COPY: Final = "cp"
COPY_SYNC: Final = "cp, sync"
LOOP: Final = "tarfile + h5py vlen"
ZARR: Final = "convert .zarr"
ZARR_NO_SYNC: Final = "convert .zarr, sync=False"
HDF5: Final = "convert .h5"
HDF5_NO_SYNC: Final = "convert .h5, sync=False"

RATIOS: Final = (
    (ZARR_NO_SYNC, COPY),
    (HDF5_NO_SYNC, COPY),
    (ZARR, COPY_SYNC),
    (HDF5, COPY_SYNC),
    (LOOP, ZARR),
    (LOOP, HDF5),
    (LOOP, ZARR_NO_SYNC),
    (LOOP, HDF5_NO_SYNC),
)
"""Acts whose times are divided, the first by the second."""


class Step(NamedTuple):
    """Wall time and CPU time of a part of a conversion."""

    seconds: float
    cpu_seconds: float


class Run(NamedTuple):
    """One run of an act: wall time, CPU time and, if it had a Python process, memory and steps.

    The memory is the peak of the resident memory, including pages of mapped files.
    """

    seconds: float
    cpu_seconds: float
    peak_nbytes: int = 0
    steps: Mapping[str, Step] = {}


class Act(NamedTuple):
    """Something to time: `run` creates the target at the given path."""

    name: str
    target_name: str
    run: Callable[[Path], Run]


def acts_on(archives: Archives, *, partial_archives: bool) -> list[Act]:
    """Return all acts, in the order they take turns."""
    convert = partial(_convert, archives, partial_archives)
    return [
        Act(COPY, "copies", partial(_copy, archives.paths, False)),
        Act(ZARR_NO_SYNC, "1pct.zarr", partial(_in_new_process, partial(convert, False))),
        Act(HDF5_NO_SYNC, "1pct.h5", partial(_in_new_process, partial(convert, False))),
        Act(COPY_SYNC, "copies", partial(_copy, archives.paths, True)),
        Act(ZARR, "1pct.zarr", partial(_in_new_process, partial(convert, True))),
        Act(HDF5, "1pct.h5", partial(_in_new_process, partial(convert, True))),
        Act(LOOP, "vlen.h5", partial(_in_new_process, partial(_write_vlen, archives))),
    ]


def _cpu_seconds() -> float:
    """Return the CPU time of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _copy(paths: Iterable[Path], sync: bool, target: Path) -> Run:
    start, cpu = perf_counter(), _cpu_seconds()
    target.mkdir()
    subprocess.run(["cp", "--reflink=never", *paths, target], check=True)
    if sync:
        subprocess.run(["sync", *target.iterdir(), target], check=True)
    return Run(perf_counter() - start, _cpu_seconds() - cpu)


class Steps:
    """Replaces the progress meter of a conversion, and records the time of each step."""

    def __init__(self) -> None:
        self.found: dict[str, Step] = {}
        self._now = "import"
        self._began = perf_counter(), process_time()

    def status(self, message: str) -> None:
        """End a step and begin another; steps of all splits and archives count together."""
        began, self._began = self._began, (perf_counter(), process_time())
        before = self.found.get(self._now, Step(0, 0))
        spent = (now - then for now, then in zip(self._began, began, strict=True))
        self.found[self._now] = Step(*map(sum, zip(before, spent, strict=True)))
        self._now = message.rpartition(": ")[2].partition(" of ")[0]

    def start(self, message: str, *numbers: int, **done: object) -> None:
        """See `status`."""
        del numbers, done
        self.status(message)

    def advance(self, *numbers: int) -> None:
        """Ignore progress within a step."""
        del numbers

    @contextmanager
    def meter(self, show: bool | None) -> Iterator["Steps"]:
        """Replace `arraystore.writing.progress.meter`."""
        del show
        yield self


def _convert(
    archives: Archives, partial_archives: bool, sync: bool, target: Path
) -> dict[str, Step]:
    steps = Steps()
    import arraystore

    with patch.object(sys.modules["arraystore.convert"], "meter", steps.meter):
        steps.status("begin")
        arraystore.convert(
            "imagenet2012_subset/1pct",
            target,
            manual_dir=archives.folder,
            subset_list=archives.subset_list,
            partial=partial_archives,
            sync=sync,
        )
    steps.status("")
    return steps.found


def _write_vlen(archives: Archives, target: Path) -> dict[str, Step]:
    import h5py
    import numpy as np

    with h5py.File(target, "w") as file:
        for split, n_samples in (("train", len(archives.names)), ("validation", N_VALIDATION)):
            group = file.create_group(split)
            image = group.create_dataset("image", n_samples, h5py.vlen_dtype(np.uint8))
            label = group.create_dataset("label", n_samples, np.int64)
            file_name = group.create_dataset("file_name", n_samples, h5py.string_dtype())
            for position, (name, data) in enumerate(archives.images(split)):
                image[position] = np.frombuffer(data, np.uint8)
                label[position] = label_of(name)
                file_name[position] = name
    return {}


def _in_new_process(function: Callable[[Path], dict[str, Step]], target: Path) -> Run:
    start, cpu = perf_counter(), _cpu_seconds()
    peak, steps = _call_in_new_process(partial(_peak_and_steps, function, target))
    return Run(perf_counter() - start, _cpu_seconds() - cpu, peak, steps)


def _call_in_new_process(function: Callable[[], T]) -> T:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        return executor.submit(function).result()


def _peak_and_steps(
    function: Callable[[Path], dict[str, Step]], target: Path
) -> tuple[int, dict[str, Step]]:
    steps = function(target)
    # getrusage returns the peak of the parent if that is higher.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024, steps


def measure(
    acts: Sequence[Act], archives: Archives, *, n_rounds: int, scratch: Path, check: bool
) -> dict[str, list[Run]]:
    """Run every act once per round.

    Parameters
    ----------
    acts : sequence of Act
        Acts to run.
    archives : Archives
        Read into the page cache before each act.
    n_rounds : int
        Number of rounds.
    scratch : Path
        Folder for the targets.
    check : bool
        Whether to compare the images of both stores with the archives in the first round.

    Returns
    -------
    dict of str to list of Run
        Runs of each act, by its name.
    """
    runs: dict[str, list[Run]] = {act.name: [] for act in acts}
    for number in range(1, n_rounds + 1):
        for act in acts:
            _settle(archives.paths, scratch)
            with TemporaryDirectory(dir=scratch) as folder:
                target = Path(folder) / act.target_name
                run = act.run(target)
                runs[act.name].append(run)
                print(f"round {number}, {act.name}: {run.seconds:.2f} s", flush=True)
                if check and number == 1 and act.name in {ZARR, HDF5}:
                    found = _call_in_new_process(partial(verify, archives, target))
                    print(
                        f"verified {found.n_images:,} images of {act.target_name}, "
                        f"{found.n_reencoded} of them re-encoded",
                        flush=True,
                    )
    return runs


def _settle(paths: Sequence[Path], scratch: Path) -> None:
    # Times depend on what ran before: a copy after the loop took twice as long as a copy after a
    # copy. Therefore an untimed copy precedes every act.
    with TemporaryDirectory(dir=scratch) as folder:
        _copy(paths, False, Path(folder) / "copies")
    os.sync()
    buffer = bytearray(2**22)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def _busy(some: Sequence[Run] | Sequence[Step]) -> str:
    """Return the median number of busy cores."""
    return f"{median(one.cpu_seconds / max(one.seconds, 1e-9) for one in some):.2f}"


def _peak_of(runs: Iterable[Run]) -> int:
    return max(run.peak_nbytes for run in runs)


def scaled(runs: Mapping[str, Sequence[Run]], *, share: float) -> dict[str, list[float]]:
    """Return the seconds of each act, those of ``cp`` multiplied by `share`."""
    return {
        name: [run.seconds * (share if name in {COPY, COPY_SYNC} else 1) for run in done]
        for name, done in runs.items()
    }


def ratios(seconds: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, float]]:
    """Return ratios of the best and of the median times, by name."""
    return {
        f"{above} : {below}": (
            min(seconds[above]) / min(seconds[below]),
            median(seconds[above]) / median(seconds[below]),
        )
        for above, below in RATIOS
    }


def show(
    seconds: Mapping[str, Sequence[float]], runs: Mapping[str, Sequence[Run]], counted: Count
) -> None:
    """Print the figures as three tables."""
    from rich.console import Console
    from rich.table import Table

    times = Table("act", title=f"{counted.n_images:,} images, {counted.n_bytes:,} bytes")
    headings = ("best s", "median s", "best GB/s", "CPU s", "busy", "peak MB")
    for heading in headings:
        times.add_column(heading, justify="right")
    for name, values in seconds.items():
        best, peak = min(values), _peak_of(runs[name])
        cells = [f"{best:.2f}", f"{median(values):.2f}", f"{counted.n_bytes / best / 1e9:.2f}"]
        cells += [f"{median(run.cpu_seconds for run in runs[name]):.2f}", _busy(runs[name])]
        times.add_row(name, *cells, f"{peak / 1e6:.0f}" if peak else "")
    steps = Table("step", title="median s, and busy cores")
    acts = [name for name, done in runs.items() if done[0].steps]
    for name in acts:
        steps.add_column(name, justify="right")
    for step in runs[acts[0]][0].steps:
        found = {name: [run.steps[step] for run in runs[name]] for name in acts}
        cells = [
            f"{median(one.seconds for one in some):.3f} ({_busy(some)})" for some in found.values()
        ]
        steps.add_row(step, *cells)
    quotients = Table("ratio of times")
    for heading in ("best", "median"):
        quotients.add_column(heading, justify="right")
    for name, (of_best, of_median) in ratios(seconds).items():
        quotients.add_row(name, f"{of_best:.2f}", f"{of_median:.2f}")
    Console(width=120).print(times, steps, quotients)
    print("cp: seconds are scaled from the bytes of the archives to those of the images")


def make_archives(folder: Path, n_train: int = 2_000, n_validation: int = 7_500) -> Path:
    """Write small archives with invented names; return the file that lists the names."""
    from arraystore.sources.imagenet2012_tables import wnids
    from benchmarks.imagenet_archives import ImageMaker, write_train, write_validation

    names = [f"{wnids()[i % len(wnids())]}_{i}.JPEG" for i in range(n_train)]
    maker = ImageMaker(names[:3], seed=0)
    write_train(folder / TRAIN, names, maker)
    write_validation(folder / VALIDATION, n_validation, maker, seed=0)
    listed = folder / "names.txt"
    listed.write_text("\n".join(names))
    return listed


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_convert",
        description="Time conversion against cp and against the usual loop.",
    )
    parser.add_argument("folder", type=Path, nargs="?", metavar="DIR", help="has both archives")
    parser.add_argument("--subset-list", type=Path, help="one file name per line")
    parser.add_argument("--partial", action="store_true", help="the archives may lack images")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scratch", type=Path, help="folder for the targets, by default DIR")
    parser.add_argument("--verify", action="store_true", help="compare every image of the stores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    options = parser.parse_args()
    if (options.folder is None) != (options.subset_list is None):
        parser.error("give both a folder and a subset list, or neither")
    with TemporaryDirectory() as made:
        if options.folder is None:
            options.folder, options.partial = Path(made), True
            options.subset_list = _call_in_new_process(partial(make_archives, Path(made)))
        return compare(parser, options)


def compare(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Run the comparison that the command line describes."""
    archives = Archives(options.folder, options.subset_list)
    counted = _call_in_new_process(partial(count, archives))
    expected = len(archives.names) + N_VALIDATION
    if counted.n_images != expected and not options.partial:
        parser.error(f"the archives hold {counted.n_images} of {expected} images; add --partial")
    archive_nbytes = sum(path.stat().st_size for path in archives.paths)
    runs = measure(
        acts_on(archives, partial_archives=options.partial),
        archives,
        n_rounds=options.rounds,
        scratch=options.scratch or options.folder,
        check=options.verify,
    )
    seconds = scaled(runs, share=counted.n_bytes / archive_nbytes)
    show(seconds, runs, counted)
    if options.json:
        figures = {
            "n_images": counted.n_images,
            "image_nbytes": counted.n_bytes,
            "archive_nbytes": archive_nbytes,
            "seconds": seconds,
            "cpu_seconds": {n: [run.cpu_seconds for run in done] for n, done in runs.items()},
            "steps": {n: [run.steps for run in done] for n, done in runs.items()},
            "peak_nbytes": {name: peak for name in runs if (peak := _peak_of(runs[name]))},
            "ratios_of_best_and_median": ratios(seconds),
        }
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
