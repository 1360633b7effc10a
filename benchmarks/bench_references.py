"""Time a store whose images stay in the ImageNet archive, and compare reading it with a copy.

::

    python -m benchmarks.bench_references [--members 1281167] [--images 8000] [--folder DIR]

First an archive with the real number of members and the real size is written to a temporary folder.
It is a sparse file: each member begins with a small image (6 GB on the disk, deleted at the end).
It is converted with ``copy_images=False`` in a new Python process, to both containers, also with a
pool of two processes. In the first round references to its images are exported in each format, and
opened with zarr-python (in Python 3.12 or newer, which Icechunk needs).

Then an archive of `--images` images of ordinary sizes is converted with and without copies, and
batches of random images are read from both, in turns.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import numpy as np

import arraystore
from arraystore.sources.imagenet2012_tables import wnids
from benchmarks.archive_images import TRAIN
from benchmarks.bench_table import MEAN_NBYTES, N_IMAGES, N_MEMBERS, small_images, write_archive
from benchmarks.imagenet_archives import ImageMaker, write_train

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_CODE: Final = """
import sys, time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from arraystore import convert
start, cpu = time.perf_counter(), time.process_time()
folder, target = map(Path, sys.argv[1:3])
n_processes = int(sys.argv[3])
pool = ProcessPoolExecutor(n_processes) if n_processes else None
report = convert(
    "imagenet2012",
    target,
    manual_dir=folder,
    partial=True,
    copy_images=False,
    sync=False,
    executor=pool,
)
done = f"{report.splits['train'].num_samples:,} images to {target.suffix}"
if pool is not None:
    pool.shutdown()
    done += f", {n_processes} processes"
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
print(f"{done}: {seconds:.2f} s ({cpu:.2f} s CPU), peak {peak / 1e6:.0f} MB", flush=True)
"""

_EXPORT: Final = """
import sys, time
from pathlib import Path
import arraystore
from arraystore.integrations.references import export_references
from arraystore.storage.location import Location
start, cpu = time.perf_counter(), time.process_time()
target = Path(sys.argv[2])
export_references(arraystore.open(sys.argv[1]), Location.parse(target))
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
files = [path for path in (target, *target.rglob("*")) if path.is_file()]
size = sum(path.stat().st_size for path in files)
what = f"{target.suffix}: {len(files)} files, {size / 1e6:.1f} MB"
print(f"{what}: {seconds:.2f} s ({cpu:.2f} s CPU), peak {peak / 1e6:.0f} MB", flush=True)
"""

_READ: Final = """
import sys, time
from pathlib import Path
import fsspec, icechunk, zarr
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.implementations.reference import LazyReferenceMapper
zarr.config.set({"array.rectilinear_chunks": True})
path = sys.argv[1]
start = time.perf_counter()
if path.endswith(".icechunk"):
    storage = icechunk.local_filesystem_storage(path)
    access = icechunk.credentials.LocalFileSystemAccess
    prefixes = icechunk.Repository.fetch_config(storage).virtual_chunk_containers
    allowed = icechunk.containers_credentials(dict.fromkeys(prefixes, access))
    repository = icechunk.Repository.open(storage, authorize_virtual_chunk_access=allowed)
    store = repository.readonly_session("main").store
else:
    files = AsyncFileSystemWrapper(fsspec.filesystem("file"), asynchronous=True)
    where = LazyReferenceMapper(path, engine="pyarrow") if path.endswith("parquet") else path
    refs = fsspec.filesystem("reference", fo=where, fs=files, asynchronous=True)
    store = zarr.storage.FsspecStore(refs, read_only=True, path="")
train = zarr.open_group(store, mode="r")["train"]
starts, payload = train["image_start"][:], train["image_payload"]
opened = time.perf_counter()
def read(i):
    return payload[int(starts[i]) : int(starts[i + 1])].tobytes()
read(0)
first = time.perf_counter()
for i in range(0, 8000, 80):
    read(i)
more = time.perf_counter()
peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
print(
    f"{path[-9:]}: opened in {opened - start:.2f} s, first image {(first - opened) * 1e3:.0f} ms, "
    f"each of 100 more {(more - first) * 10:.2f} ms, peak {peak / 1e6:.0f} MB", flush=True
)
"""

_BATCH: Final = 256
_ROUNDS: Final = 7


def whole_archive(folder: Path, n_members: int, rounds: int) -> None:
    """Time conversions of an archive of the real size."""
    sizes = np.random.default_rng(0).integers(MEAN_NBYTES // 2, MEAN_NBYTES * 3 // 2, n_members)
    write_archive(folder / TRAIN, sizes, small_images(N_IMAGES))
    print(f"{(folder / TRAIN).stat().st_size:,} bytes", flush=True)
    os.sync()
    for done in range(rounds):
        for suffix, n_processes in product((".zarr", ".h5"), (0, 2)):
            with TemporaryDirectory(dir=folder) as made:
                options = [str(folder), f"{made}/a{suffix}", str(n_processes)]
                subprocess.run([sys.executable, "-c", _CODE, *options], check=True)
                if suffix == ".zarr" and not done and not n_processes:
                    exports(Path(made) / "a.zarr")


def exports(store: Path) -> None:
    """Time exports of references to the images of a store, and reading with them."""
    for suffix in (".json", ".parquet", ".icechunk"):
        target = store.with_suffix(suffix)
        environment = {**os.environ, "ARRAYSTORE_ALLOW_REFERENCES": "1", "ICECHUNK_LOG": "error"}
        for code, arguments in ((_EXPORT, (store, target)), (_READ, (target,))):
            command = [sys.executable, "-c", code, *map(str, arguments)]
            subprocess.run(command, check=True, env=environment)


def batches(folder: Path, n_images: int) -> None:
    """Compare reading of random batches, and decoded ones, with a store that has copies."""
    names = [f"{wnid}_{i}.JPEG" for wnid in wnids()[:100] for i in range(n_images // 100)]
    write_train(folder / TRAIN, names, ImageMaker(names[:3], seed=0))
    options = {"manual_dir": folder, "partial": True, "sync": False}
    rng = np.random.default_rng(1)
    positions = [rng.integers(0, len(names), _BATCH) for _ in range(16)]
    for suffix in (".zarr", ".h5"):
        splits = {}
        for name, copies in (("copied", True), ("in place", False)):
            path = folder / f"{name.replace(' ', '-')}{suffix}"
            arraystore.convert("imagenet2012", path, copy_images=copies, **options)  # type: ignore[arg-type] # any options
            splits[name] = arraystore.open(path)["train"]
        reads: dict[str, Callable[[arraystore.Split, np.ndarray], object]] = {
            "image_bytes[256 random]": lambda split, some: split.image_bytes[some],
            "image_views[256 random]": lambda split, some: split.image_views[some],
            "image_arena(256 random)": lambda split, some: split.image_arena(some),
            "image_bytes[i], one by one": lambda split, some: [
                split.image_bytes[i] for i in some.tolist()
            ],
            "decoded, 32 random": lambda split, some: split.image[some[:32]],
        }
        for what, read in reads.items():
            best = dict.fromkeys(splits, float("inf"))
            for _ in range(_ROUNDS):
                for name, split in splits.items():
                    start = time.perf_counter()
                    for some in positions:
                        read(split, some)
                    best[name] = min(best[name], time.perf_counter() - start)
            ratio = best["copied"] / best["in place"]
            each = ", ".join(f"{n} {s / len(positions) * 1e3:.2f} ms" for n, s in best.items())
            print(f"{suffix} {what}: {each}; speed {ratio:.2f} of the copy", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_references", description="Time images left in place."
    )
    parser.add_argument("--members", type=int, default=N_MEMBERS, help="0 leaves it out")
    parser.add_argument("--images", type=int, default=8000, help="0 leaves it out")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    options = parser.parse_args(arguments)
    if options.members:
        with TemporaryDirectory(dir=options.folder) as folder:
            whole_archive(Path(folder), options.members, options.rounds)
    if options.images:
        with TemporaryDirectory(dir=options.folder) as folder:
            batches(Path(folder), options.images)
    return 0


if __name__ == "__main__":
    sys.exit(main())
