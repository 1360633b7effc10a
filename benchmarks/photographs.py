"""Pictures with the statistics of photographs, as JPEGs with the sizes of ImageNet's."""

from __future__ import annotations

import math
from bisect import bisect_left
from statistics import NormalDist
from typing import TYPE_CHECKING, Final

import numpy as np
import simplejpeg

if TYPE_CHECKING:
    from numpy.typing import NDArray

MEAN_NBYTES: Final = 110_000
SIGMA: Final = 0.55
"""Sizes are log-normal."""

SHAPES: Final = ((40_000, (240, 320)), (200_000, (375, 500)), (math.inf, (768, 1024)))
"""Upper limit of the size in bytes, and height and width of such images."""

_EXPONENT: Final = 1.1
"""The amplitudes of a photograph decrease with about this power of the frequency."""


def photograph(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Return noise whose amplitudes decrease with frequency, shape (height, width, 3)."""
    rows, columns = np.fft.fftfreq(height)[:, np.newaxis], np.fft.rfftfreq(width)
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf
    waves = rng.standard_normal((3, *frequency.shape, 2)) @ np.array([1, 1j])
    noise = np.fft.irfft2(waves / frequency**_EXPONENT, (height, width))
    gray = noise.mean(axis=0)
    colour = 1.5 * gray + 0.4 * (noise - gray)
    pixels = 120 + 50 * colour / colour.std()
    for _ in range(6):  # rectangles, for edges
        top, left = rng.integers(0, height), rng.integers(0, width)
        high, wide = rng.integers(height // 8, height // 2), rng.integers(width // 8, width // 2)
        thing = pixels[:, top : top + high, left : left + wide]
        thing *= 0.6
        thing += 0.4 * rng.integers(0, 255, (3, 1, 1))
    clipped: NDArray[np.uint8] = np.clip(pixels, 0, 255).astype(np.uint8).transpose(1, 2, 0)
    return np.ascontiguousarray(clipped)


def encode(pixels: NDArray[np.uint8], quality: int) -> bytes:
    """Encode a picture as most photographs are: with colour at half the resolution."""
    data: bytes = simplejpeg.encode_jpeg(pixels, quality=quality, colorsubsampling="420")
    return data


def jpegs(n: int, *, seed: int = 0) -> list[bytes]:
    """Return JPEGs with the distribution of ImageNet's sizes and shapes, in shuffled order."""
    rng = np.random.default_rng(seed)
    size = NormalDist(math.log(MEAN_NBYTES) - SIGMA**2 / 2, SIGMA)
    encoded = []
    for index in range(n):
        nbytes = math.exp(size.inv_cdf((index + 0.5) / n))
        shape = next(shape for limit, shape in SHAPES if nbytes < limit)
        pixels = photograph(rng, *(shape if index % 3 else shape[::-1]))
        quality = bisect_left(range(99), nbytes, lo=1, key=lambda q: len(encode(pixels, q)))
        encoded.append(encode(pixels, quality))
    return [encoded[i] for i in rng.permutation(n)]
