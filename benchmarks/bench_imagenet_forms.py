"""Convert the same images from each form of ImageNet, and compare with the official archives.

::

    python -m benchmarks.bench_imagenet_forms FOLDER --megabytes 1000 --rounds 3

Every image has true names and 110 kB of random bytes behind the header of a JPEG, which is enough
for a conversion: it does not decode. The forms are drawn first, one at a time, and deleted.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import numpy as np

import arraystore
from arraystore.cli.synthetic_archives import draw, encode
from arraystore.sources.imagenet2012_tables import wnids
from tests.sources.imagenet_forms import FORMS, archives

MEAN_NBYTES: Final = 110_000


def draw_images(megabytes: int) -> dict[str, bytes]:
    """Return images by file name, spread over all classes."""
    rng = np.random.default_rng(0)
    begin = encode(draw(0, 0).resize((64, 48)))
    n_images = max(20, megabytes * 1_000_000 // MEAN_NBYTES)
    return {
        f"{wnids()[i % 1000]}_{i // 1000 + 1}.JPEG": begin
        + rng.bytes(int(rng.integers(MEAN_NBYTES // 2, 3 * MEAN_NBYTES // 2)))
        for i in range(n_images)
    }


def convert_in_new_process(folder: Path, target: Path) -> tuple[float, float, str]:
    """Return seconds, the peak of memory in MB, and the digest of train."""
    began = time.perf_counter()
    output = subprocess.run(
        [sys.executable, "-m", __spec__.name, str(folder), "--into", str(target)],
        check=True,
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - began
    digest, memory = output.stdout.split()[-2:]
    return seconds, float(memory), digest


def main() -> None:
    parser = argparse.ArgumentParser(description="Convert each form of ImageNet.")
    parser.add_argument("folder", type=Path, help="where forms are drawn")
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--forms", nargs="*", default=["archives", *FORMS])
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.into is not None:
        report = arraystore.convert(
            "imagenet2012", options.into, manual_dir=options.folder, partial=True, overwrite=True
        )
        # Not getrusage: its peak begins with the memory of the parent process.
        status = Path("/proc/self/status").read_text()
        memory = int(status.partition("VmHWM:")[2].split()[0]) / 1000
        print(report.splits["train"].content_digest, memory)
        return
    images = draw_images(options.megabytes)
    expected = ""
    for form in options.forms:
        folder = options.folder / form.replace(" ", "-")
        shutil.rmtree(folder, ignore_errors=True)
        (archives if form == "archives" else FORMS[form])(folder, "train", images)
        rounds = [
            convert_in_new_process(folder, options.folder / "store.zarr")
            for _ in range(options.rounds)
        ]
        seconds = statistics.median(round_[0] for round_ in rounds)
        expected = expected or rounds[0][2]
        same = "same digest" if rounds[0][2] == expected else "ANOTHER DIGEST"
        memory = max(round_[1] for round_ in rounds)
        speed = sum(map(len, images.values())) / 1e6 / seconds
        print(f"{form:28} {seconds:6.2f} s {speed:6.0f} MB/s {memory:5.0f} MB peak  {same}")
        shutil.rmtree(folder)
        shutil.rmtree(options.folder / "store.zarr")


if __name__ == "__main__":
    main()
