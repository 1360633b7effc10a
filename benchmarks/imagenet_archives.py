"""Make replicas of the ImageNet 2012 archives, with the real number and sizes of images.

::

    python -m benchmarks.imagenet_archives OUTDIR --subset-list 1percent.txt [--scale 1.0]

writes ``ILSVRC2012_img_train.tar``, a tar of class tars with every listed name, and
``ILSVRC2012_img_val.tar`` with 50,000 images in shuffled order. A few hundred noisy pictures are
encoded; each image is one of them with a comment segment of its own, so that all differ and all
can be decoded. The same arguments give the same bytes. Existing files are not overwritten.
"""

from __future__ import annotations

import argparse
import io
import math
import sys
import tarfile
import zlib
from bisect import bisect_left
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, BinaryIO, Final

import numpy as np
import simplejpeg
from PIL import Image

from benchmarks.archive_images import N_VALIDATION, TRAIN, VALIDATION

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

N_PICTURES: Final = 256
"""Number of pictures that are drawn and encoded."""

MEAN_NBYTES: Final = 110_000
SIGMA: Final = 0.55
"""Sizes are log-normal: with 256 pictures, from about 20 to 460 kB."""

SHAPES: Final = ((40_000, (240, 320)), (200_000, (375, 500)), (math.inf, (768, 1024)))
"""Upper limit of the size in bytes, and height and width of such images."""

MTIME: Final = 1_339_000_000


def draw(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Return a picture of soft blobs and noise, shape (height, width, 3)."""
    blobs = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    soft = np.asarray(blobs.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    noise = rng.standard_normal((height, width, 1), dtype=np.float32) * 16
    pixels: NDArray[np.uint8] = np.clip(soft + noise, 0, 255).astype(np.uint8)
    return pixels


def make_pictures(seed: int) -> list[bytes]:
    """Return `N_PICTURES` JPEG files whose sizes are spread like those of ImageNet."""
    rng = np.random.default_rng(seed)
    size = NormalDist(math.log(MEAN_NBYTES) - SIGMA**2 / 2, SIGMA)
    pictures = []
    for index in range(N_PICTURES):
        nbytes = math.exp(size.inv_cdf((index + 0.5) / N_PICTURES))
        shape = next(shape for limit, shape in SHAPES if nbytes < limit)
        pixels = draw(rng, *shape)
        quality = bisect_left(range(99), nbytes, lo=1, key=lambda q: len(_encode(pixels, q)))
        pictures.append(_encode(pixels, quality))
    return pictures


def make_oddities(seed: int) -> list[bytes]:
    """Return the unusual images of ImageNet: a CMYK JPEG, a gray JPEG and a PNG."""
    picture = Image.fromarray(draw(np.random.default_rng([seed, 1]), 240, 320))
    files = [io.BytesIO() for _ in range(3)]
    picture.convert("CMYK").save(files[0], "JPEG", quality=90)
    picture.convert("L").save(files[1], "JPEG", quality=90)
    picture.save(files[2], "PNG")
    return [file.getvalue() for file in files]


class ImageMaker:
    """Makes the encoded image for each file name.

    Parameters
    ----------
    odd_names : sequence of str
        Names whose images are a CMYK JPEG, a gray JPEG and a PNG, in this order.
    seed : int
        Determines the pictures, and which name gets which one.
    """

    def __init__(self, odd_names: Sequence[str], *, seed: int) -> None:
        self._seed = seed
        self._pictures = make_pictures(seed)
        self._oddities = dict(zip(odd_names, make_oddities(seed), strict=True))

    def image(self, name: str) -> bytes:
        """Return the image of a name: a picture with a comment after its first marker."""
        if name in self._oddities:
            return self._oddities[name]
        comment = f"{name} {self._seed}".encode()
        picture = self._pictures[zlib.crc32(comment) % len(self._pictures)]
        segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
        return picture[:2] + segment + picture[2:]


def write_train(path: Path, names: Iterable[str], maker: ImageMaker) -> None:
    """Write a tar of one tar per class, sorted by class; names keep their order in a class."""
    classes: dict[str, list[str]] = {}
    for name in names:
        classes.setdefault(name.partition("_")[0], []).append(name)
    with path.open("xb") as file, _open_tar(file) as archive:
        for wnid in sorted(classes):
            class_file = io.BytesIO()
            with _open_tar(class_file) as class_archive:
                for name in classes[wnid]:
                    _add(class_archive, name, maker.image(name))
            _add(archive, f"{wnid}.tar", class_file.getvalue())


def write_validation(path: Path, n_images: int, maker: ImageMaker, *, seed: int) -> None:
    """Write a flat tar of the first `n_images` validation names, in a shuffled order."""
    numbers = np.random.default_rng([seed, 2]).permutation(n_images) + 1
    with path.open("xb") as file, _open_tar(file) as archive:
        for number in numbers:
            name = f"ILSVRC2012_val_{number:08d}.JPEG"
            _add(archive, name, maker.image(name))


def _encode(pixels: NDArray[np.uint8], quality: int) -> bytes:
    data: bytes = simplejpeg.encode_jpeg(pixels, quality=quality, colorsubsampling="420")
    return data


def _open_tar(file: BinaryIO) -> tarfile.TarFile:
    # tarfile pads to records of 10,240 bytes, as GNU tar does.
    return tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime = len(data), MTIME
    archive.addfile(member, io.BytesIO(data))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.imagenet_archives",
        description="Make replicas of the ImageNet 2012 archives.",
    )
    parser.add_argument("outdir", type=Path, help="folder for both archives")
    parser.add_argument("--subset-list", type=Path, required=True, help="one file name per line")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the images to write")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    names = options.subset_list.read_text().split()
    names = names[: max(3, round(len(names) * options.scale))]
    maker = ImageMaker(names[:3], seed=options.seed)
    n_validation = round(N_VALIDATION * options.scale)
    options.outdir.mkdir(parents=True, exist_ok=True)
    try:
        write_train(options.outdir / TRAIN, names, maker)
        write_validation(options.outdir / VALIDATION, n_validation, maker, seed=options.seed)
    except FileExistsError as error:
        print(f"{error.filename}: exists; delete it or choose another folder", file=sys.stderr)
        return 1
    for name in (TRAIN, VALIDATION):
        print(f"{options.outdir / name}: {(options.outdir / name).stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
