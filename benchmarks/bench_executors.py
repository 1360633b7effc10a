"""Time conversion with threads, processes and the workers of a cluster, and what tasks cost.

::

    python -m benchmarks.bench_executors [--size GB] [--workers 1 2 4] [--rounds N] [--scratch DIR]

Archives with invented names are drawn in a temporary folder and read once, so that they are in the
page cache. Three tables are printed:

- seconds of `arraystore.convert` to Zarr with ``sync=False``, for each executor and number of
  workers. The executor is started, and has imported arraystore, before the time begins;
- the overhead of a task: tasks without work, and bytes of pickled tasks for archives, and for
  folders of images of 100 and of 1 KB;
- a worker of a cluster that is killed when half of the blocks are filled: blocks that are filled
  again, and seconds, beside a run in which none is killed.
"""

import argparse
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, Final, NamedTuple
from unittest.mock import patch

import numpy as np

import arraystore
from arraystore.indexing.layout import blocks
from arraystore.parallel.executors import Workers
from arraystore.storage.file_states import FileState, FileStates
from arraystore.writing import fill, plan
from arraystore.writing.fill import FilePlace, FillTask
from arraystore.writing.image_source import FileRanges
from arraystore.writing.local import LocalStoreWriter
from benchmarks.archive_images import TRAIN, VALIDATION
from benchmarks.bench_convert import make_archives

KINDS: Final = ("threads", "processes", "LocalCluster")
N_TASKS: Final = {"threads": 20_000, "processes": 5_000, "LocalCluster": 2_000}
TRAIN_IMAGES_PER_GB: Final = 2_000
VALIDATION_IMAGES_PER_GB: Final = 7_500
MOST_VALIDATION: Final = 50_000


class CountingPlugin:
    """Makes a worker append a byte to a file for each block that it begins to fill."""

    def __init__(self, counted: str) -> None:
        self._counted = counted

    def setup(self, worker: object) -> None:
        """Replace the function of the tasks in the process of a worker."""
        del worker
        filling, counted = fill.fill, self._counted

        def counting(task: FillTask) -> fill.Filled:
            with Path(counted).open("ab") as file:
                file.write(b".")
            return filling(task)

        fill.fill = counting


def nothing(number: int) -> int:
    """Do no work."""
    return number


def load(number: int) -> int:
    """Import what tasks need."""
    return number


@contextmanager
def executor_of(kind: str, n_workers: int) -> Iterator[tuple[Executor, Any]]:
    """Start an executor whose workers have imported arraystore; also its client, if it has one."""
    with ExitStack() as stack:
        client: Any = None
        executor: Executor
        if kind == "threads":
            executor = stack.enter_context(ThreadPoolExecutor(n_workers))
        elif kind == "processes":
            executor = stack.enter_context(ProcessPoolExecutor(n_workers, get_context("spawn")))
        else:
            import distributed

            made: Any = distributed
            cluster = stack.enter_context(
                made.LocalCluster(
                    n_workers=n_workers, threads_per_worker=1, dashboard_address="127.0.0.1:0"
                )
            )
            client = stack.enter_context(made.Client(cluster))
            client.run(load, 0)
            executor = client.get_executor()
        run_tasks(executor, load, 4 * n_workers)
        yield executor, client


def run_tasks(executor: Executor, work: Callable[[int], int], n_tasks: int) -> float:
    """Run tasks; return the seconds that they took."""
    began = perf_counter()
    with (
        Workers(executor, n_threads=1, max_in_flight=1) as workers,
        closing(workers.run(work, ((i, i) for i in range(n_tasks)))) as done,
    ):
        n_done = sum(1 for _ in done)
    assert n_done == n_tasks
    return perf_counter() - began


class Archives(NamedTuple):
    """Drawn archives, and the bytes of their images."""

    folder: Path
    names: Path


def convert(archives: Archives, target: Path, executor: Executor) -> float:
    """Convert archives; return the seconds that it took."""
    began = perf_counter()
    arraystore.convert(
        "imagenet2012_subset/1pct",
        target,
        manual_dir=archives.folder,
        subset_list=archives.names,
        partial=True,
        sync=False,
        executor=executor,
        progress=False,
    )
    return perf_counter() - began


def time_conversions(
    archives: Archives, workers: Sequence[int], n_rounds: int, scratch: Path
) -> dict[tuple[str, int], list[float]]:
    """Return the seconds of conversions by kind of executor and number of workers."""
    seconds: dict[tuple[str, int], list[float]] = {}
    for number in range(n_rounds):
        for kind in KINDS:
            for n_workers in workers:
                with (
                    executor_of(kind, n_workers) as (executor, _),
                    TemporaryDirectory(dir=scratch) as folder,
                ):
                    spent = convert(archives, Path(folder) / "a.zarr", executor)
                seconds.setdefault((kind, n_workers), []).append(spent)
                print(f"round {number + 1}, {kind} {n_workers}: {spent:.2f} s", flush=True)
    return seconds


def count_killed(archives: Archives, scratch: Path, *, kill: bool) -> tuple[int, int, float]:
    """Convert on two workers; return blocks, times that one was begun, and seconds."""
    recorded: list[object] = []
    with (
        executor_of("LocalCluster", 2) as (executor, client),
        TemporaryDirectory(dir=scratch) as folder,
    ):
        counted = Path(folder) / "counted"
        client.register_plugin(worker_plugin(str(counted)))
        pids = list(client.run(os.getpid).values())
        n_blocks = n_blocks_of(archives)
        record = LocalStoreWriter.record

        def recording(self: LocalStoreWriter, split: str, block: Any, *rest: Any) -> None:
            record(self, split, block, *rest)
            recorded.append(block)
            if kill and len(recorded) == n_blocks // 2:
                os.kill(pids[0], signal.SIGKILL)

        with patch.object(LocalStoreWriter, "record", recording):
            seconds = convert(archives, Path(folder) / "a.zarr", executor)
        return len(recorded), counted.stat().st_size, seconds


def worker_plugin(counted: str) -> Any:
    """Return a plugin of distributed that counts blocks in a file."""
    import distributed

    made: Any = distributed
    plugin: Any = type("Counting", (CountingPlugin, made.WorkerPlugin), {})
    return plugin(counted)


def n_blocks_of(archives: Archives) -> int:
    """Return the number of blocks of 64 MiB of a store of all images."""
    nbytes = sum((archives.folder / name).stat().st_size for name in (TRAIN, VALIDATION))
    return len(blocks(np.array([nbytes], np.int64)))


def fill_task(n_files: int, nbytes: int) -> FillTask:
    """Return the task of a block of 64 MiB with images of a size, from a number of files."""
    rng = np.random.default_rng(0)
    n_images = 2**26 // nbytes
    sizes = rng.integers(nbytes * 3 // 4, nbytes * 5 // 4, n_images)
    written = 1_700_000_000 * 10**9 + np.cumsum(rng.integers(20_000, 90_000, n_files))
    states = [
        (
            f"/data/imagenet/train/n{i // 1300:08d}/n{i // 1300:08d}_{i}.JPEG",
            FileState(
                int(sizes[i % n_images]), *divmod(int(at), 10**9), int(at) + 9_000, 10**7 + i
            ),
        )
        for i, at in enumerate(written)
    ]
    known = FileStates.known(states)
    file = rng.permutation(np.arange(n_images) % n_files)
    offset = np.zeros(n_images, np.int64) if n_files == n_images else np.cumsum(sizes) // n_files
    return FillTask(
        FileRanges(known.paths, file, offset, sizes, known),
        0,
        FilePlace((("/data/a.zarr/0", 0, 2**26),)),
    )


def show_conversions(seconds: dict[tuple[str, int], list[float]], n_bytes: int) -> None:
    """Print the times of conversions."""
    print(f"\n| {n_bytes / 1e9:.2f} GB to Zarr, `sync=False` | best s (median) | GB/s |")
    print("| --- | ---: | ---: |")
    for (kind, n_workers), spent in seconds.items():
        rate = n_bytes / min(spent) / 1e9
        print(f"| {kind}, {n_workers} | {min(spent):.2f} ({median(spent):.2f}) | {rate:.2f} |")


def show_overhead() -> None:
    """Print what tasks without work cost, and the bytes of tasks."""
    print("\n| two workers, tasks without work | tasks/s | ms/task |\n| --- | ---: | ---: |")
    for kind in KINDS:
        with executor_of(kind, 2) as (executor, _):
            spent = run_tasks(executor, nothing, N_TASKS[kind])
        rate = N_TASKS[kind] / spent
        print(f"| {kind} | {rate:,.0f} | {1000 / rate:.2f} |", flush=True)
    print("\n| pickled task | images | bytes | ms to pickle and unpickle |")
    print("| --- | ---: | ---: | ---: |")
    for name, n_files, nbytes in (
        ("fill, archives, 110 KB", 600, 110_000),
        ("fill, folder, 100 KB", 2**26 // 100_000, 100_000),
        ("fill, folder, 0.8 KB", 2**26 // 839, 839),
    ):
        show_task(name, fill_task(n_files, nbytes))
    images = fill_task(2048, 2**26 // 2048).images
    assert isinstance(images, FileRanges)
    columns = images.file, images.offset, images.nbytes
    task = plan._ProbeTask(images.states, "", 2048, *columns, True, False)
    show_task("probe, folder", task, 2048)


def show_task(name: str, task: Any, n_images: int = 0) -> None:
    """Print the size of a pickled task."""
    began = perf_counter()
    data = pickle.dumps(task)
    pickle.loads(data)
    spent = perf_counter() - began
    n_images = n_images or len(task.images.nbytes)
    print(f"| {name} | {n_images:,} | {len(data):,} | {spent * 1000:.1f} |")


def show_killed(archives: Archives, scratch: Path) -> None:
    """Print what a killed worker costs."""
    print("\n| LocalCluster, two workers | blocks | begun | s |\n| --- | ---: | ---: | ---: |")
    for kill in (False, True):
        n_blocks, n_begun, spent = count_killed(archives, scratch, kill=kill)
        name = "one killed at half of the blocks" if kill else "none killed"
        print(f"| {name} | {n_blocks} | {n_begun} | {spent:.2f} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_executors",
        description="Time conversion with threads, processes and the workers of a cluster.",
    )
    parser.add_argument("--size", type=float, default=1.0, metavar="GB", help="of the archives")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--scratch", type=Path, help="folder for archives and targets")
    options = parser.parse_args()
    n_validation = round(options.size * VALIDATION_IMAGES_PER_GB)
    show_overhead()
    with TemporaryDirectory(dir=options.scratch) as made:
        folder = Path(made)
        names = make_archives(
            folder,
            round(options.size * TRAIN_IMAGES_PER_GB) + max(0, n_validation - MOST_VALIDATION),
            min(n_validation, MOST_VALIDATION),
        )
        archives = Archives(folder, names)
        n_bytes = sum((folder / name).stat().st_size for name in (TRAIN, VALIDATION))
        seconds = time_conversions(archives, options.workers, options.rounds, folder)
        show_conversions(seconds, n_bytes)
        show_killed(archives, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
