"""Which part of an image a training loop sees: centred, or drawn at random as torchvision does.

The random crops follow ``torchvision.transforms.v2.RandomResizedCrop`` and
``RandomHorizontalFlip(0.5)``, which are after Szegedy et al., "Going deeper with convolutions",
2014, arXiv:1409.4842. Their numbers come from the words of `arraystore.indexing.sampling`, so they
follow from the seed, the epoch and the sample alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from arraystore.indexing.sampling import words_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from arraystore._typing import Pixels, Size

CROPS: Final = ("center", "random")
"""Kinds of crop; the first is the default."""

RESIZES: Final = ("pillow", "opencv")
"""Libraries that scale; the first is the default."""

LAYOUTS: Final = ("NHWC", "NCHW")
"""Order of the dimensions of a batch; the first is the default."""

SCALE: Final = (0.08, 1.0)
RATIO: Final = (3 / 4, 4 / 3)

_ATTEMPTS: Final = 10
_STEPS_PER_VIEW: Final = 6
"""Of four words: two for each attempt, two for the place, one for the flip; one is not used."""

_FIRST_STEP: Final = 2**64
"""Steps before it order epochs; see `arraystore.indexing.sampling.permutation`."""


class Crop(NamedTuple):
    """A part of an image.

    Attributes
    ----------
    top, left, height, width : float
        In pixels.
    is_flipped : bool
        Whether it is mirrored.
    is_cut : bool
        Whether it is cut out before it is scaled, as by torchvision, so that pixels around it have
        no influence on those at its edges.
    """

    top: float
    left: float
    height: float
    width: float
    is_flipped: bool = False
    is_cut: bool = False

    def reduced(self, by: int) -> Crop:
        """Return the same part of the image at a fraction of its size."""
        if by == 1:
            return self
        return self._replace(
            top=self.top / by,
            left=self.left / by,
            height=self.height / by,
            width=self.width / by,
        )


@dataclass(frozen=True, slots=True)
class Framing:
    """How decoded images become arrays of one size.

    Attributes
    ----------
    size : (int, int)
        Height and width.
    crop : {"center", "random"}
    flip : bool
        Whether half of the views are mirrored, at random.
    scale : (float, float)
        Bounds of the area of a random crop, as a fraction of that of the image.
    ratio : (float, float)
        Bounds of its width divided by its height.
    views : int
        Crops of each image.
    layout : {"NHWC", "NCHW"}
    seed, epoch : int
    resize : {"pillow", "opencv"}
    """

    size: Size
    crop: str = CROPS[0]
    flip: bool = False
    scale: tuple[float, float] = SCALE
    ratio: tuple[float, float] = RATIO
    views: int = 1
    layout: str = LAYOUTS[0]
    seed: int = 0
    epoch: int = 0
    resize: str = RESIZES[0]

    def empty(self, n: int) -> Pixels:
        """Return an array for n images."""
        return np.empty(self.shape(n), dtype=np.uint8)

    def shape(self, n: int) -> tuple[int, ...]:
        """Return the shape of n images: (n, …), or (views, n, …) if there are several views."""
        shape = (*self.size, 3) if self.layout == LAYOUTS[0] else (3, *self.size)
        lead = (n,) if self.views == 1 else (self.views, n)
        return (*lead, *shape)

    @property
    def axis(self) -> int:
        """The dimension of the samples in the result of `empty`."""
        return 0 if self.views == 1 else 1

    def places(self, images: Pixels, i: int) -> list[Pixels]:
        """Return the place of each view of image i in the result of `empty`: (height, width, 3)."""
        found = [images[i]] if self.views == 1 else [view[i] for view in images]
        return found if self.layout == LAYOUTS[0] else [np.moveaxis(one, 0, -1) for one in found]

    def numbers(self, indices: Sequence[int]) -> NDArray[np.float64]:
        """Return the random numbers of samples, uniform in [0, 1).

        Parameters
        ----------
        indices : sequence of int, length n
            Of the samples in their split.

        Returns
        -------
        ndarray of float64, shape (n, views, 24), or (n, views, 0) if nothing is random
        """
        if self.crop == CROPS[0] and not self.flip:
            return np.empty((len(indices), self.views, 0))
        n_steps = self.views * _STEPS_PER_VIEW
        steps = (_FIRST_STEP + index * n_steps for index in indices)
        found = words_at(self.seed, self.epoch, steps, n_steps)
        uniform = (found >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return uniform.reshape(len(indices), self.views, -1)

    def crops(self, numbers: NDArray[np.float64], height: int, width: int) -> list[Crop]:
        """Return the crop of each view of an image.

        Parameters
        ----------
        numbers : ndarray of float64, shape (views, 24 or 0)
            Those of its sample, from `numbers`.
        height, width : int
            Of the image in pixels.
        """
        if not numbers.size:
            return [centred(height, width, self.size)] * self.views
        return [self._crop(height, width, some) for some in numbers.tolist()]

    def _crop(self, height: int, width: int, numbers: list[float]) -> Crop:
        if self.crop == CROPS[0]:
            found = centred(height, width, self.size)
        else:
            found = random_crop(height, width, self.scale, self.ratio, numbers)
        is_flipped = self.flip and numbers[2 * _ATTEMPTS + 2] < 1 / 2
        return found._replace(is_flipped=True) if is_flipped else found


def centred(height: float, width: float, size: Size) -> Crop:
    """Return the largest centred part with the aspect ratio of a size.

    Examples
    --------
    >>> centred(300, 400, (100, 100))
    Crop(top=0.0, left=50.0, height=300, width=300.0, is_flipped=False, is_cut=False)
    """
    ratio = size[1] / size[0]
    if width / height > ratio:
        crop_height, crop_width = height, ratio * height
    elif width / height < ratio:
        crop_height, crop_width = width / ratio, width
    else:
        crop_height, crop_width = height, width
    top, left = (height - crop_height) * 0.5, (width - crop_width) * 0.5
    return Crop(top, left, crop_height, crop_width)


def random_crop(
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    numbers: list[float],
) -> Crop:
    """Return a part of random area and aspect ratio, as torchvision's RandomResizedCrop does.

    Parameters
    ----------
    height, width : int
        Of the image in pixels.
    scale, ratio
        See `Framing`.
    numbers : list of float, length 22
        Uniform in [0, 1): area and aspect ratio of each of 10 attempts, then the place.

    Examples
    --------
    >>> random_crop(300, 400, (0.25, 0.25), (1, 1), [0.5] * 22)
    Crop(top=64, left=114, height=173, width=173, is_flipped=False, is_cut=True)
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for attempt in range(_ATTEMPTS):
        area = height * width * (scale[0] + numbers[2 * attempt] * (scale[1] - scale[0]))
        aspect = math.exp(low + numbers[2 * attempt + 1] * (high - low))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = numbers[2 * _ATTEMPTS : 2 * _ATTEMPTS + 2]
            place = int(top * (height - h + 1)), int(left * (width - w + 1))
            return Crop(*place, h, w, is_cut=True)
    if width / height < ratio[0]:
        w, h = width, round(width / ratio[0])
    elif width / height > ratio[1]:
        w, h = round(height * ratio[1]), height
    else:
        w, h = width, height
    return Crop((height - h) // 2, (width - w) // 2, h, w, is_cut=True)
