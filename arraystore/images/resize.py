"""Scale decoded images to a size, cropped to its aspect ratio."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from arraystore.images.crops import Crop, centred

if TYPE_CHECKING:
    from arraystore._typing import Pixels, Size


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
    """Scale a part of an image to a size; mirror it if the crop says so.

    Returns
    -------
    ndarray of uint8, shape (*size, 3)
        Read-only.
    """
    from PIL import Image

    box = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
    picture = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR, box)
    found = np.asarray(picture)
    return found[:, ::-1] if crop.is_flipped else found
