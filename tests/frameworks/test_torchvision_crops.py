"""Random crops compared with torchvision itself; skipped where it is not installed."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from arraystore.images.crops import Framing
from arraystore.images.decode import decode, decode_crops
from benchmarks.photographs import encode, photograph

torch: Any = pytest.importorskip("torch")
v2: Any = pytest.importorskip("torchvision.transforms.v2")

N_DRAWS = 100_000


def test_crops_have_torchvisions_distribution() -> None:
    from torchvision.transforms import RandomResizedCrop

    shape = (375, 500)
    torch.manual_seed(0)
    image = torch.empty(3, *shape)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, [0.08, 1], [3 / 4, 4 / 3]) for _ in range(N_DRAWS)]
    )
    framing = Framing((224, 224), "random", seed=0)
    numbers = framing.numbers(range(N_DRAWS))
    ours = np.array([framing.crops(some, *shape)[0][:4] for some in numbers])
    for of in (area, ratio, position(0, shape), position(1, shape)):
        assert distance(of(ours), of(theirs)) < 2.7 * np.sqrt(2 / N_DRAWS)  # probability 10^-6


def area(crops: Any) -> Any:
    return crops[:, 2] * crops[:, 3]


def ratio(crops: Any) -> Any:
    return crops[:, 3] / crops[:, 2]


def position(axis: int, shape: tuple[int, int]) -> Any:
    return lambda crops: crops[:, axis] / np.maximum(1, shape[axis] - crops[:, 2 + axis])


def distance(a: Any, b: Any) -> float:
    """Return the largest distance of two empirical distributions (Kolmogorov and Smirnov)."""
    values = np.concatenate([a, b])
    ranks = [np.searchsorted(np.sort(some), values, side="right") / len(some) for some in (a, b)]
    return float(np.abs(ranks[0] - ranks[1]).max())


def test_distribution_that_differs_is_noticed() -> None:
    numbers = Framing((224, 224), "random", seed=0).numbers(range(20_000))
    crops = [
        np.array([framing.crops(some, 375, 500)[0][:4] for some in numbers])
        for framing in (
            Framing((224, 224), "random"),
            Framing((224, 224), "random", scale=(0.1, 1)),
        )
    ]
    assert distance(area(crops[0]), area(crops[1])) > 2.7 * np.sqrt(2 / 20_000)


@pytest.mark.parametrize(
    ("resize", "kind", "mean", "most"),
    [
        ("pillow", "Pillow", 0.0, 0),
        ("pillow", "tensor", 0.1, 1),
        ("opencv", "Pillow", 3.0, 40),
        ("opencv", "tensor", 3.0, 40),
    ],
)
def test_pixels_are_close_to_torchvisions(resize: str, kind: str, mean: float, most: int) -> None:
    from PIL import Image

    framing = Framing((128, 128), "random", flip=True, resize=resize)
    distances = []
    for seed, some in enumerate(framing.numbers(range(16))):
        data = encode(photograph(np.random.default_rng(seed), 250, 333), 90)
        pixels = decode(data)
        crop = framing.crops(some, *pixels.shape[:2])[0]
        if max(crop.height, crop.width) >= 3 * 128:
            continue  # decoded at a fraction of its size
        out = np.empty((128, 128, 3), np.uint8)
        decode_crops(data, [out], partial(framing.crops, some), resize)
        image = Image.fromarray(pixels)
        if kind == "tensor":
            image = torch.from_numpy(pixels).permute(2, 0, 1)
        box = (crop.top, crop.left, crop.height, crop.width)
        theirs = v2.functional.resized_crop(image, *box, [128, 128], antialias=True)
        if crop.is_flipped:
            theirs = v2.functional.horizontal_flip(theirs)
        if kind == "tensor":
            theirs = theirs.permute(1, 2, 0)
        distances.append(np.abs(out.astype(int) - np.asarray(theirs)))
    assert np.mean(distances) <= mean
    assert np.max(distances) <= most
