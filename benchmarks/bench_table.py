"""Time the sample table of the whole ImageNet training archive: 1,281,167 images in 1,000 tars.

::

    python -m benchmarks.bench_table [--members 1281167] [--rounds 3] [--convert]

An archive with the real number of members is written to a temporary folder. It is a sparse file:
the bytes of images are not read, so only headers take space (5 GB on the disk, because each is in
its own block; deleted at the end). Each round lists the samples in a new Python process.

With ``--convert`` the archive has images: some hundred small ones, repeated (2 GB), with lists of
every 100th and every 10th name for the subsets. Each round converts all of them to both containers
without a sync. This is the cost of the number of images alone.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from arraystore.sources.imagenet2012_tables import wnids
from arraystore.sources.subset_list import SUBSETS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

N_MEMBERS: Final = 1_281_167
MEAN_NBYTES: Final = 110_000
BLOCK: Final = 512

N_IMAGES: Final = 300

ONE_IN: Final = {"1pct": 100, "10pct": 10}
"""One of so many members is in the subset."""

_CODE: Final = """
import sys, time
from pathlib import Path
from arraystore import convert
from arraystore.sources.imagenet2012 import load
start, cpu = time.perf_counter(), time.process_time()
folder, *target = map(Path, sys.argv[1:])
if target:
    splits = convert("imagenet2012", *target, manual_dir=folder, partial=True, sync=False).splits
    done = f"{splits['train'].num_samples:,} images to {target[0].suffix}"
else:
    done = f"{len(load('', '5.0.0', manual_dir=folder, partial=True).splits['train']):,} members"
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
print(f"{done}: {seconds:.2f} s ({cpu:.2f} s CPU), peak {peak / 1e6:.0f} MB")
"""


def header(name: str, nbytes: int) -> bytes:
    """Return the 512-byte tar header of a member."""
    member = tarfile.TarInfo(name)
    member.size, member.mtime = nbytes, 1_339_000_000
    return member.tobuf(tarfile.GNU_FORMAT)


def small_images(n: int) -> list[bytes]:
    """Return JPEGs of 24 x 24 pixels of noise, about 800 bytes each."""
    pixels = np.random.default_rng(0).integers(0, 256, (n, 24, 24, 3), dtype=np.uint8)
    encoded = []
    for image in pixels:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=30)
        encoded.append(file.getvalue())
    return encoded


def write_lists(folder: Path, n: int) -> None:
    """Write the subset lists of an archive of `n` members."""
    shares = np.array_split(np.arange(n), len(wnids()))
    names = [
        f"{wnid}_{number}.JPEG"
        for wnid, share in zip(wnids(), shares, strict=True)
        for number in range(len(share))
    ]
    for subset, step in ONE_IN.items():
        listed = folder / SUBSETS[subset].file_name
        listed.write_text("".join(f"{name}\n" for name in names[::step]))


def write_archive(path: Path, sizes: NDArray[np.int64], images: Sequence[bytes] = ()) -> None:
    """Write a tar of one tar per class; without `images`, members are holes of a sparse file."""
    shares = np.array_split(sizes, len(wnids()))
    with path.open("wb") as file:
        for wnid, share in zip(wnids(), shares, strict=True):
            padded = -(-share // BLOCK) * BLOCK
            end = 20 * BLOCK  # the padding of tar
            file.write(header(f"{wnid}.tar", int(padded.sum()) + BLOCK * len(share) + end))
            for number, (nbytes, padded_nbytes) in enumerate(
                zip(share.tolist(), padded.tolist(), strict=True)
            ):
                file.write(header(f"{wnid}_{number}.JPEG", nbytes))
                data = images[number % len(images)] if images else b""
                file.write(data)
                file.seek(padded_nbytes - len(data), 1)
            file.seek(end, 1)
        file.write(bytes(20 * BLOCK))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_table", description="Time the sample table of ImageNet."
    )
    parser.add_argument("--members", type=int, default=N_MEMBERS)
    parser.add_argument("--nbytes", type=int, default=MEAN_NBYTES, help="mean size of an image")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--convert", action="store_true", help="convert small images")
    options = parser.parse_args(arguments)
    images = small_images(N_IMAGES) if options.convert else []
    if images:
        # Every class starts with the first image.
        counts = [len(share) for share in np.array_split(np.arange(options.members), len(wnids()))]
        sizes = np.array([len(images[i % N_IMAGES]) for count in counts for i in range(count)])
    else:
        rng = np.random.default_rng(0)
        sizes = rng.integers(options.nbytes // 2, options.nbytes * 3 // 2, options.members)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ILSVRC2012_img_train.tar"
        write_archive(path, sizes, images)
        if images:
            write_lists(Path(folder), options.members)
        print(f"{path.stat().st_size:,} bytes", flush=True)
        for _ in range(options.rounds):
            for target in ("a.zarr", "a.h5") if images else ("",):
                with TemporaryDirectory() as made:
                    command = [sys.executable, "-c", _CODE, folder]
                    subprocess.run(command + [f"{made}/{target}"] * bool(target), check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
