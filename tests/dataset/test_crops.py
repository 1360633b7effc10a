"""Crops of training loops: as in torchvision, and the same however the work is divided."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import arraystore
from arraystore.images.crops import Framing, centred, random_crop
from arraystore.images.decode import decode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from arraystore._typing import Pixels


def by_name(train: arraystore.Split, **options: Any) -> dict[str, Pixels]:
    """Return the views of each sample, by its file name; the first dimension is the view."""
    found = {}
    for batch in train.batches(7, size=(20, 30), crop="random", flip=True, views=2, **options):
        for i, name in enumerate(batch.file_name.tolist()):
            found[name] = batch.image[:, i]
    return found


# What is drawn


def torchvision_crop(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], draws: Any
) -> tuple[int, int, int, int]:
    """Return top, left, height and width as RandomResizedCrop.make_params of torchvision does."""
    area = height * width
    for _ in range(10):
        target_area = area * (scale[0] + next(draws) * (scale[1] - scale[0]))
        low, high = np.log(ratio)
        aspect_ratio = math.exp(low + next(draws) * (high - low))
        w = round(math.sqrt(target_area * aspect_ratio))
        h = round(math.sqrt(target_area / aspect_ratio))
        if 0 < w <= width and 0 < h <= height:
            return -1, -1, h, w
    in_ratio = width / height
    if in_ratio < min(ratio):
        w, h = width, round(width / min(ratio))
    elif in_ratio > max(ratio):
        w, h = round(height * max(ratio)), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@given(
    height=st.integers(1, 600),
    width=st.integers(1, 600),
    scale=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
    ratio=st.tuples(st.floats(0.2, 5), st.floats(0.2, 5)).map(sorted),
    numbers=st.lists(st.floats(0, 1, exclude_max=True), min_size=22, max_size=22),
)
def test_random_crop_is_torchvisions(
    height: int, width: int, scale: Any, ratio: Any, numbers: list[float]
) -> None:
    found = random_crop(height, width, tuple(scale), tuple(ratio), numbers)
    top, left, h, w = torchvision_crop(height, width, scale, ratio, iter(numbers))
    assert (found.height, found.width) == (h, w)
    if top >= 0:
        assert (found.top, found.left) == (top, left)
    else:  # any place, each as probable as the others
        assert 0 <= found.top <= height - h
        assert 0 <= found.left <= width - w
        assert found.top == int(numbers[20] * (height - h + 1))


def test_random_crops_have_the_stated_distribution() -> None:
    framing = Framing((224, 224), "random", flip=True, seed=1)
    numbers = framing.numbers(range(4_000))
    crops = [framing.crops(some, 375, 500)[0] for some in numbers]
    area = np.array([crop.height * crop.width for crop in crops]) / (375 * 500)
    # Uniform in [0.08, 1], less those that do not fit; the bounds are five standard errors.
    assert 0.08 - 0.01 < area.min() < 0.1
    fits = np.random.default_rng(0)
    expected: list[float] = []
    while len(expected) < 4_000:
        draws = iter(fits.random(22).tolist())
        _, _, h, w = torchvision_crop(375, 500, (0.08, 1), (3 / 4, 4 / 3), draws)
        expected.append(h * w / (375 * 500))
    error = 5 * np.std(expected) * math.sqrt(2 / 4_000)
    assert abs(area.mean() - np.mean(expected)) < error
    left = np.array([crop.left / max(1, 500 - crop.width) for crop in crops])
    assert abs(left.mean() - 0.5) < 5 * 0.3 / math.sqrt(4_000)
    flips = np.mean([crop.is_flipped for crop in crops])
    assert abs(flips - 0.5) < 5 * 0.5 / math.sqrt(4_000)


def test_views_and_epochs_differ() -> None:
    framings = [Framing((8, 8), "random", views=2, seed=s, epoch=e) for s in (0, 1) for e in (0, 1)]
    crops = [
        crop
        for framing in framings
        for numbers in framing.numbers(range(3))
        for crop in framing.crops(numbers, 90, 120)
    ]
    assert len(set(crops)) == len(crops) == 24


# What is decoded


def expected_views(train: arraystore.Split, framing: Framing) -> Iterator[NDArray[Any]]:
    """Yield the views of each sample in order, scaled with Pillow from the whole image."""
    for i, numbers in enumerate(framing.numbers(range(len(train)))):
        pixels = decode(train.image_bytes[i])
        views = []
        for crop in framing.crops(numbers, *pixels.shape[:2]):
            box = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
            picture = Image.fromarray(pixels)
            if framing.crop == "random":  # as torchvision does
                picture = picture.crop(box).resize(framing.size[::-1], 2)
            else:
                picture = picture.resize(framing.size[::-1], 2, box)
            views.append(np.asarray(picture)[:, :: -1 if crop.is_flipped else 1])
        yield np.stack(views)


@pytest.mark.parametrize("crop", ["center", "random"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_batches_have_the_crops(train: arraystore.Split, crop: str, layout: str) -> None:
    size = (150, 200)  # so large that no JPEG is decoded at a fraction of its size
    options: Any = {"crop": crop, "flip": True, "views": 2, "layout": layout}
    batches = train.batches(11, size=size, shuffle=False, seed=4, epoch=2, **options)
    images = np.concatenate([batch.image for batch in batches], axis=1)
    framing = Framing(size, crop, flip=True, views=2, seed=4, epoch=2)
    expected = np.stack(list(expected_views(train, framing)), axis=1)
    if layout == "NCHW":
        expected = np.moveaxis(expected, -1, 2)
    np.testing.assert_array_equal(images, expected)


def test_one_view_has_no_dimension_of_views(train: arraystore.Split) -> None:
    one, two = (
        next(iter(train.batches(9, size=32, crop="random", views=views, shuffle=False))).image
        for views in (1, 2)
    )
    assert one.shape == (9, 32, 32, 3)
    assert two.shape == (2, 9, 32, 32, 3)
    assert np.ptp(two.astype(int) - one[np.newaxis]) > 0


def test_centre_is_the_same_as_resized(train: arraystore.Split) -> None:
    (batch,) = train.batches(30, size=32, shuffle=False, layout="NCHW")
    assert np.array_equal(batch.image, np.moveaxis(train.resized(32)[:], -1, 1))
    (flipped,) = train.batches(30, size=32, shuffle=False, flip=True)
    mirrored = train.resized(32)[:][:, :, ::-1]
    is_flipped = [np.array_equal(a, b) for a, b in zip(flipped.image, mirrored, strict=True)]
    assert 5 < sum(is_flipped) < 25
    others = np.flatnonzero(~np.array(is_flipped))
    assert np.array_equal(flipped.image[others], train.resized(32)[others])


@settings(max_examples=10)
@given(world_size=st.integers(1, 3), shuffle=st.sampled_from(["full", "block", False]))
def test_pixels_depend_on_seed_epoch_and_sample_alone(
    world_size: int, shuffle: Any, train_of_module: arraystore.Split
) -> None:
    train = train_of_module
    whole = by_name(train, seed=3, epoch=5, shuffle=False)
    parts: dict[str, Pixels] = {}
    for rank in range(world_size):
        how = {"seed": 3, "epoch": 5, "shuffle": shuffle, "rank": rank, "world_size": world_size}
        parts |= by_name(train, **how)
        resumed = by_name(train, start_batch=1, **how)
        assert all(np.array_equal(views, parts[name]) for name, views in resumed.items())
    assert len(parts) == len(train) - len(train) % world_size
    assert all(np.array_equal(views, whole[name]) for name, views in parts.items())
    other = by_name(train, seed=3, epoch=6, shuffle=False)
    assert sum(np.array_equal(views, whole[name]) for name, views in other.items()) < 3


@pytest.fixture(scope="module")
def train_of_module(path: Any) -> arraystore.Split:
    return arraystore.open(path)["train"]


def test_skipped_images_are_left_out_of_all_views(tmp_path: Any) -> None:
    from tests.support import picture

    samples = [
        {"image": picture(40, 60, seed=i), "label": "a", "file_name": f"{i}.jpg"} for i in range(6)
    ]
    samples[2]["image"] = picture(40, 60)[:-300]
    arraystore.write(tmp_path / "a.zarr", {"train": samples}, classes=["a"])
    train = arraystore.open(tmp_path / "a.zarr")["train"]
    for views, shape in ((1, (5, 16, 16, 3)), (2, (2, 5, 16, 16, 3))):
        batches = train.batches(6, size=16, crop="random", views=views, on_error="skip")
        (batch,) = batches
        assert batch.image.shape == shape
        assert batch.num_samples == 5
        assert "2.jpg" not in batch.file_name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": "random"}, "need a size"),
        ({"views": 2}, "need a size"),
        ({"size": 8, "crop": "corner"}, "crop must be"),
        ({"size": 8, "layout": "CHW"}, "layout must be"),
        ({"size": 8, "views": 0}, "views must be"),
        ({"size": 8, "scale": (0.5, 0.1)}, "scale must be two ascending numbers"),
        ({"size": 8, "scale": (0.5, 2)}, "scale must be two ascending numbers"),
        ({"size": 8, "ratio": (0, 1)}, "ratio must be two ascending numbers"),
    ],
    ids=repr,
)
def test_wrong_options_raise(train: arraystore.Split, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train.batches(4, **options)


def test_centred_part_has_the_aspect_ratio() -> None:
    for height, width, size in ((10, 30, (5, 5)), (30, 10, (5, 5)), (7, 7, (3, 9))):
        crop = centred(height, width, size)
        assert math.isclose(crop.width / crop.height, size[1] / size[0])
        assert math.isclose(2 * crop.top + crop.height, height)
        assert math.isclose(2 * crop.left + crop.width, width)
