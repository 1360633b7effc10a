"""Archives like those of ILSVRC 2012, with drawn images, for ``arraystore demo`` and for tests.

ImageNet's own images may not be redistributed. These are polygons: the class determines the number
of corners and the colour, the image its position and rotation. They include the oddities of the
real archives: a CMYK JPEG, a gray JPEG, and a PNG with the suffix .JPEG. The module is part of the
package because an installed ``arraystore demo`` has no other source of images.
"""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from arraystore.sources.imagenet2012 import TRAIN_ARCHIVE, VALIDATION_ARCHIVE
from arraystore.sources.imagenet2012_tables import validation_labels, wnids
from arraystore.sources.subset_list import SUBSETS

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

_TILES: Final = 40
_SIZES: Final = ((375, 500), (333, 500), (500, 375), (180, 240), (240, 180))


@dataclass(frozen=True, slots=True)
class DrawnArchives:
    """Archives that were drawn.

    Attributes
    ----------
    folder : Path
        Contains both archives, and the list of the training images.
    train, validation : dict of str to bytes
        Encoded images by file name, in the order of the archive.
    cmyk, gray, png : str
        File names of the unusual images, all in train.
    """

    folder: Path
    train: dict[str, bytes]
    validation: dict[str, bytes]
    cmyk: str
    gray: str
    png: str


def draw(label: int, number: int) -> Image.Image:
    """Draw one image: a polygon whose shape and colour depend on the class.

    Parameters
    ----------
    label : int
        Class, in ``range(1000)``.
    number : int
        Number of the image in its class.
    """
    from PIL import Image, ImageColor, ImageDraw

    rng = np.random.default_rng((label, number))
    height, width = _SIZES[int(rng.integers(len(_SIZES)))]
    hue = label * 137 % 360  # steps of the golden angle give similar classes different colours
    coarse = rng.integers(150, 250, (_TILES, _TILES, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    radius = float(rng.uniform(0.25, 0.42)) * min(height, width)
    center = (width * float(rng.uniform(0.4, 0.6)), height * float(rng.uniform(0.4, 0.6)))
    pen.regular_polygon(
        (center, radius),
        n_sides=3 + label % 7,
        rotation=int(rng.integers(360)),
        fill=ImageColor.getrgb(f"hsl({hue}, 75%, 45%)"),
        outline=ImageColor.getrgb(f"hsl({(hue + 180) % 360}, 80%, 25%)"),
    )
    return picture


def encode(picture: Image.Image, kind: str = "JPEG") -> bytes:
    """Encode a picture as ``"JPEG"`` or ``"PNG"``."""
    file = io.BytesIO()
    picture.save(file, kind, **({"quality": 85} if kind == "JPEG" else {}))
    return file.getvalue()


def write_archives(
    folder: Path, *, n_classes: int = 20, per_class: int = 8, n_validation: int = 60
) -> DrawnArchives:
    """Write a training archive, a validation archive and a subset list.

    Parameters
    ----------
    folder : Path
        Created if it does not exist.
    n_classes : int, default 20
        Classes in the training archive, spread over all 1000; 3 or more.
    per_class : int, default 8
        Training images of each class.
    n_validation : int, default 60
        Validation images: the first ones, with their real names and labels.

    Returns
    -------
    DrawnArchives
    """
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.linspace(0, len(wnids()) - 1, n_classes).astype(int).tolist()
    pictures = {
        _train_name(label, number): draw(label, number)
        for label in labels
        for number in range(per_class)
    }
    cmyk, gray, png = (_train_name(label, 0) for label in labels[:3])
    train = {name: encode(picture) for name, picture in pictures.items()}
    train[cmyk] = encode(pictures[cmyk].convert("CMYK"))
    train[gray] = encode(pictures[gray].convert("L"))
    train[png] = encode(pictures[png], "PNG")
    validation = {
        f"ILSVRC2012_val_{i + 1:08d}.JPEG": encode(draw(int(validation_labels()[i]), -i % 2**32))
        for i in range(n_validation)
    }
    with tarfile.open(folder / TRAIN_ARCHIVE, "w", format=tarfile.GNU_FORMAT) as archive:
        for label in labels:
            wnid = wnids()[label]
            members = {name: data for name, data in train.items() if name.startswith(wnid)}
            _add(archive, f"{wnid}.tar", _tar(members))
    (folder / VALIDATION_ARCHIVE).write_bytes(_tar(validation))
    (folder / SUBSETS["1pct"].file_name).write_text("".join(f"{name}\n" for name in train))
    return DrawnArchives(folder, train, validation, cmyk, gray, png)


def _train_name(label: int, number: int) -> str:
    return f"{wnids()[label]}_{number + 1}.JPEG"


def _tar(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in members.items():
            _add(archive, name, data)
    return file.getvalue()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
