"""Images like ImageNet's, drawn from a fixed seed: the source of every format.

A pool of pictures is drawn and encoded; each file is one of them with its own comment in the
header, so that all files differ and a GB is made in seconds. As in ImageNet, most pictures are 500
pixels wide or high, files have 110 KB on average with a long tail, and one in fifty is gray. (The
few CMYK files are left out, because formats do not parse images.)
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from arraystore.indexing.layout import hash_numbers

Ints = NDArray[np.int64]

N_POOL: Final = 256
"""Number of pictures that are drawn."""

IMAGES_PER_CLASS: Final = 100

_SHAPES: Final = ((375, 500), (333, 500), (500, 375), (500, 333), (375, 500), (500, 500))
_N_ODD: Final = 4
"""One picture in so many has a random shape, one in four times as many is large."""
_N_GRAY: Final = 50
_INDEX: Final = "index.json"
_OCTAVES: Final = (6, 24, 96)
_QUALITY: Final = 88
_COMMENT: Final = b"\xff\xfe\x00\x0a"
"""Marker and length of a comment of eight bytes."""


class Sample(NamedTuple):
    """One image as formats receive it."""

    name: str
    label: int
    data: bytes


@dataclass(frozen=True)
class Source:
    """A folder of images, ``images/class/file``, with an index.

    Attributes
    ----------
    folder : Path
        Folder of ``images`` and the index.
    names : list of str
        Path of each image below ``images``, in the order in which arraystore stores them, which is
        shuffled by a hash; all formats use this order.
    label, nbytes : ndarray of int64, shape (n,)
    """

    folder: Path
    names: list[str]
    label: Ints
    nbytes: Ints

    def __len__(self) -> int:
        return len(self.names)

    @property
    def images(self) -> Path:
        """The folder that is converted."""
        return self.folder / "images"

    @cached_property
    def n_classes(self) -> int:
        """Number of classes; each has at least one image."""
        return int(self.label.max()) + 1

    @property
    def total_nbytes(self) -> int:
        """Bytes in all images."""
        return int(self.nbytes.sum())

    def read(self, position: int) -> bytes:
        """Return one encoded image."""
        return (self.images / self.names[position]).read_bytes()

    def samples(self) -> Iterator[Sample]:
        """Yield all samples in order."""
        for position, (name, label) in enumerate(zip(self.names, self.label.tolist(), strict=True)):
            yield Sample(name, label, self.read(position))


def make_source(folder: Path, *, nbytes: int, seed: int = 0, n_pool: int = N_POOL) -> Source:
    """Draw a source, unless the folder already has it.

    Parameters
    ----------
    folder : Path
        Folder of the source; created if it does not exist.
    nbytes : int
        Approximate number of bytes in all images.
    seed : int, default 0
        Determines every byte (for one version of NumPy, Pillow and libjpeg).
    n_pool : int
        Number of pictures to draw.

    Returns
    -------
    Source
    """
    wanted = {"nbytes": nbytes, "seed": seed, "n_pool": n_pool}
    index = folder / _INDEX
    if not index.exists():
        index.write_text(json.dumps(wanted | _write(folder / "images", **wanted)))
    elif {key: json.loads(index.read_text())[key] for key in wanted} != wanted:
        raise FileExistsError(f"{folder}: holds another source; delete it or choose another folder")
    return load_source(folder)


def load_source(folder: Path) -> Source:
    """Return the source in a folder."""
    index = json.loads((folder / _INDEX).read_text())
    names = index["names"]
    label = np.array([int(name[1:4]) for name in names], np.int64)
    return Source(folder, names, label, np.array(index["sizes"], np.int64))


def _write(images: Path, *, nbytes: int, seed: int, n_pool: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    pool = [_picture(rng, number) for number in range(n_pool)]
    n_images = max(2, round(nbytes / np.mean([len(data) for data in pool])))
    n_classes = min(1_000, max(2, n_images // IMAGES_PER_CLASS))
    for label in range(n_classes):
        (images / f"c{label:03}").mkdir(parents=True, exist_ok=True)
    sizes: dict[str, int] = {}
    for number in range(n_images):
        name = f"c{number % n_classes:03}/{number:07}.jpg"
        data = commented(pool[int(rng.integers(n_pool))], number)
        (images / name).write_bytes(data)
        sizes[name] = len(data)
    names = sorted(sizes)
    order = np.argsort(hash_numbers(names, 0), kind="stable").tolist()
    return {"names": [names[i] for i in order], "sizes": [sizes[names[i]] for i in order]}


def commented(jpeg: bytes, number: int) -> bytes:
    """Return a JPEG with a number as a comment behind its first marker."""
    return jpeg[:2] + _COMMENT + number.to_bytes(8, "big") + jpeg[2:]


def _picture(rng: np.random.Generator, number: int) -> bytes:
    """Draw and encode a picture: clouds of several sizes, and noise that determines the size."""
    height, width = _SHAPES[number % len(_SHAPES)]
    if number % _N_ODD == 1:
        height, width = (int(side) for side in rng.integers(150, 500, 2))
    if number % (4 * _N_ODD) == 1 + _N_ODD:
        height, width = (int(side) for side in rng.integers(700, 1_200, 2))
    picture = np.full((height, width, 3), 128.0)
    for octave in _OCTAVES:
        coarse = rng.integers(0, 256, (octave, octave, 3), dtype=np.uint8)
        clouds = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        picture += (np.asarray(clouds) - 128.0) * 2 / octave**0.5
    picture += rng.normal(0, rng.gamma(3.0, 6.0), (height, width, 1))
    pixels = np.clip(picture, 0, 255).astype(np.uint8)
    if number % _N_GRAY == 2:
        gray = np.ascontiguousarray(pixels[:, :, :1])
        return bytes(simplejpeg.encode_jpeg(gray, quality=_QUALITY, colorspace="GRAY"))
    return bytes(simplejpeg.encode_jpeg(pixels, quality=_QUALITY, colorsubsampling="420"))
