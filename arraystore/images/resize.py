"""Scale decoded images to a size, cropped to its aspect ratio.

Pillow's bilinear filter averages over all pixels when it reduces. OpenCV is several times as fast:
it mixes 2 x 2 pixels, which leaves none out up to a reduction of 2, and averages beyond that.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from arraystore._arguments import need
from arraystore.images.crops import RESIZES, Crop, centred

if TYPE_CHECKING:
    from arraystore._typing import Pixels, Size

_MAX_LINEAR_REDUCTION: Final = 2.0
"""Beyond it, bilinear interpolation leaves out pixels."""


def resize(pixels: Pixels, size: int | Size) -> Pixels:
    """Crop the largest centred region with the aspect ratio of a size, and scale it.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (height, width, 3)
        Image to resize.
    size : int or (int, int)
        Height and width of the result in pixels; a single number means a square.

    Returns
    -------
    ndarray of uint8, shape (*size, 3)
        Scaled with Pillow's bilinear filter, which averages over all pixels when it reduces.

    Raises
    ------
    ValueError
        If `size` is less than one pixel.

    Examples
    --------
    >>> resize(np.zeros((375, 500, 3), np.uint8), (100, 200)).shape
    (100, 200, 3)
    """
    height, width = size if isinstance(size, tuple) else (size, size)
    if height < 1 or width < 1:
        raise ValueError(f"size must be 1 or more pixels, got {size!r}")
    return np.array(fit(pixels, pixels.shape[:2], (height, width)))


def fit(pixels: Pixels, extent: tuple[float, float], size: Size) -> Pixels:
    """Scale the largest centred region of an image, as Pillow's `ImageOps.fit` does.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (height, width, 3)
    extent : (float, float)
        Height and width of the image in these pixels. If a JPEG was decoded at a fraction of its
        size, the last row and column of pixels can extend beyond the image.
    size : (int, int)
        Height and width of the result.

    Returns
    -------
    ndarray of uint8, shape (*size, 3)
        Read-only.
    """
    return scale(pixels, centred(*extent, size), size)


def scale(pixels: Pixels, crop: Crop, size: Size) -> Pixels:
    """Scale a part of an image to a size with Pillow; mirror it if the crop says so.

    Returns
    -------
    ndarray of uint8, shape (*size, 3)
        Read-only.
    """
    from PIL import Image

    if crop.is_cut:
        pixels, crop = _cut(pixels, crop)
    box = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
    picture = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR, box)
    if crop.is_flipped:  # NumPy would take as long for it as decoding a small image
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(picture)


def scale_into(out: Pixels, pixels: Pixels, crop: Crop, library: str = RESIZES[0]) -> None:
    """Scale a part of an image into an array.

    Parameters
    ----------
    out : ndarray of uint8, shape (height, width, 3)
        Array that receives the result, and determines its size.
    pixels : ndarray of uint8, shape (any height, any width, 3)
    crop : Crop
    library : {"pillow", "opencv"}
        OpenCV scales whole pixels: those that the part covers by half or more.
    """
    if library == RESIZES[0]:
        out[...] = scale(pixels, crop, (out.shape[0], out.shape[1]))
    else:
        _scale_with_opencv(out, pixels, crop)


def import_resizer(library: str) -> None:
    """Import what scales, before threads do; `SourceError` names what to install."""
    if library != RESIZES[0]:
        need("cv2", "opencv", "resize='opencv'")


def _scale_with_opencv(out: Pixels, pixels: Pixels, crop: Crop) -> None:
    import cv2

    height, width, _ = out.shape
    top, bottom = _whole(crop.top, crop.height, pixels.shape[0])
    left, right = _whole(crop.left, crop.width, pixels.shape[1])
    reduction = max((bottom - top) / height, (right - left) / width)
    # The exact kind computes with integers: every processor gives the same pixels.
    kind = cv2.INTER_AREA if reduction > _MAX_LINEAR_REDUCTION else cv2.INTER_LINEAR_EXACT
    part = pixels[top:bottom, left:right]
    has_planes = not out.flags.c_contiguous
    found = np.empty(out.shape, np.uint8) if has_planes else out
    cv2.resize(part, (width, height), dst=found, interpolation=kind)
    if crop.is_flipped:
        cv2.flip(found, 1, dst=found)
    if has_planes:  # of the layout NCHW; NumPy takes eight times as long
        cv2.split(found, list(np.moveaxis(out, -1, 0)))


def _whole(start: float, length: float, n: int) -> tuple[int, int]:
    """Return the half-open range of the pixels nearest to a part of n pixels; at least one."""
    first = min(round(start), n - 1)
    return first, max(first + 1, min(round(start + length), n))


def _cut(pixels: Pixels, crop: Crop) -> tuple[Pixels, Crop]:
    """Return the pixels that a part touches, and the part relative to them."""
    top, left = math.floor(crop.top), math.floor(crop.left)
    bottom, right = math.ceil(crop.top + crop.height), math.ceil(crop.left + crop.width)
    within = crop._replace(top=crop.top - top, left=crop.left - left)
    return pixels[top:bottom, left:right], within
