"""Resized images, compared with Pillow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from arraystore.images.resize import resize
from tests.images.encoded_images import (
    DRAWN,
)

named = pytest.mark.parametrize


@named("axis", [0, 1])
def test_resize_crops_centre_and_keeps_aspect_ratio(axis: int) -> None:
    ramp = np.broadcast_to(np.arange(100, dtype=np.uint8)[:, np.newaxis, np.newaxis], (100, 40, 3))
    resized = resize(ramp.swapaxes(0, axis), 20).swapaxes(0, axis)
    middle = np.arange(30.5, 70, 2)[:, np.newaxis, np.newaxis]
    assert np.abs(resized - middle).max() <= 0.5


def test_resize_averages_over_all_pixels() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, ::2] = 200
    assert np.abs(resize(pixels, 8).astype(int) - 100).max() <= 12


def test_resize_to_same_size_changes_nothing() -> None:
    np.testing.assert_array_equal(resize(DRAWN, (45, 70)), DRAWN)


sides = st.integers(1, 60)


@settings(deadline=None)
@given(shape=st.tuples(sides, sides), size=st.tuples(sides, sides))
def test_resize_equals_pillows_fit(shape: tuple[int, int], size: tuple[int, int]) -> None:
    pixels = np.resize(DRAWN, (*shape, 3))
    picture = ImageOps.fit(Image.fromarray(pixels), size[::-1], Image.Resampling.BILINEAR)
    resized = resize(pixels, size)
    np.testing.assert_array_equal(resized, np.asarray(picture))
    assert resized.flags.writeable


@named("size", [0, -1, (0, 5), (5, 0)])
def test_resize_to_less_than_a_pixel_raises(size: int | tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="size must be 1 or more pixels, got"):
        resize(DRAWN, size)
