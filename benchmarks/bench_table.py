"""Time the sample table of ImageNet's whole training archive: 1,281,167 members of 1,000 archives.

::

    python -m benchmarks.bench_table [--members 1281167] [--rounds 3]

An archive of the true shape is written to a temporary folder, with a sparse file for the images:
nothing of theirs is read, so that only headers take space (5 GB on the disk, since each is in a
block of its own; deleted at the end). Each round lists the samples in a new Python.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import numpy as np

from arraystore.sources.imagenet2012_tables import wnids

if TYPE_CHECKING:
    from collections.abc import Sequence

N_MEMBERS: Final = 1_281_167
MEAN_NBYTES: Final = 110_000
BLOCK: Final = 512

_CODE: Final = """
import sys, time
from pathlib import Path
from arraystore.sources.imagenet2012 import load
start, cpu = time.perf_counter(), time.process_time()
source = load("", "5.0.0", manual_dir=Path(sys.argv[1]), partial=True)
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024
print(f"{len(source.splits['train']):,} members: {seconds:.2f} s ({cpu:.2f} s of processors), "
      f"peak {peak} MB")
"""


def header(name: str, nbytes: int) -> bytes:
    """Return the 512 bytes before a member."""
    member = tarfile.TarInfo(name)
    member.size, member.mtime = nbytes, 1_339_000_000
    return member.tobuf(tarfile.GNU_FORMAT)


def write_archive(path: Path, n_members: int, mean_nbytes: int) -> None:
    """Write a tar of one tar a class, whose members are holes of the file."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(mean_nbytes // 2, mean_nbytes * 3 // 2, n_members)
    shares = np.array_split(sizes, len(wnids()))
    with path.open("wb") as file:
        for wnid, share in zip(wnids(), shares, strict=True):
            padded = -(-share // BLOCK) * BLOCK
            end = 20 * BLOCK  # as tar pads
            file.write(header(f"{wnid}.tar", int(padded.sum()) + BLOCK * len(share) + end))
            for number, (nbytes, room) in enumerate(
                zip(share.tolist(), padded.tolist(), strict=True)
            ):
                file.write(header(f"{wnid}_{number}.JPEG", nbytes))
                file.seek(room, 1)
            file.seek(end, 1)
        file.write(bytes(20 * BLOCK))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_table", description="Time the sample table of ImageNet."
    )
    parser.add_argument("--members", type=int, default=N_MEMBERS)
    parser.add_argument("--nbytes", type=int, default=MEAN_NBYTES, help="mean size of an image")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ILSVRC2012_img_train.tar"
        write_archive(path, options.members, options.nbytes)
        print(f"{path.stat().st_size:,} bytes", flush=True)
        for _ in range(options.rounds):
            subprocess.run([sys.executable, "-c", _CODE, folder], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
