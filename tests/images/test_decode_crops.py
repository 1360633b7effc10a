"""Parts of images, decoded and scaled in one step: rows that are left out, and both libraries."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import example, given
from hypothesis import strategies as st

from arraystore.errors import SourceError
from arraystore.images.crops import RESIZES, Crop, Framing
from arraystore.images.decode import decode, decode_crops
from arraystore.images.resize import import_resizer, scale_into
from benchmarks.photographs import encode, photograph
from tests.images.encoded_images import encoded, patched

if TYPE_CHECKING:
    from arraystore._typing import Pixels

PICTURE = photograph(np.random.default_rng(0), 200, 152)
SAMPLINGS = ("420", "422", "444", "440", "411", "Gray")
PICTURES = {
    name: simplejpeg.encode_jpeg(
        PICTURE if name != "Gray" else PICTURE[:, :, :1].copy(),
        quality=90,
        colorspace="RGB" if name != "Gray" else "Gray",
        colorsubsampling=name,
    )
    for name in SAMPLINGS
}


def _add_others() -> None:
    from PIL import Image

    picture = Image.fromarray(PICTURE)
    PICTURES["restarts"] = encoded(picture, "JPEG", restart_marker_blocks=5)
    PICTURES["progressive"] = encoded(picture, "JPEG", progressive=True)
    PICTURES["PNG"] = encoded(picture, "PNG")


_add_others()


def decoded(data: bytes, size: tuple[int, int], crop: Crop, library: str = "pillow") -> Pixels:
    out = np.empty((*size, 3), np.uint8)
    decode_crops(data, [out], lambda height, width: [crop], library)
    return out


@given(
    name=st.sampled_from(sorted(PICTURES)),
    library=st.sampled_from(RESIZES),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    place=st.tuples(st.integers(0, 199), st.integers(0, 151)),
    sides=st.tuples(st.integers(1, 200), st.integers(1, 152)),
    fraction=st.sampled_from([0, 0.25, 0.5]),
    is_cut=st.booleans(),
)
@example(
    name="420",
    library="pillow",
    size=(40, 40),
    place=(0, 0),
    sides=(100, 100),
    fraction=0,
    is_cut=False,
)
@example(
    name="420",
    library="opencv",
    size=(12, 12),
    place=(4, 7),
    sides=(123, 100),
    fraction=0,
    is_cut=True,
)
def test_rows_that_are_left_out_have_no_influence(
    name: str, library: str, size: Any, place: Any, sides: Any, fraction: float, is_cut: bool
) -> None:
    height, width = min(sides[0], 200 - place[0]), min(sides[1], 152 - place[1])
    crop = Crop(place[0], place[1], height - fraction, width - fraction, is_cut=is_cut)
    found = decoded(PICTURES[name], size, crop, library)
    # With a second part that ends in the last row, all rows are decoded.
    outs = np.empty((2, *size, 3), np.uint8)
    whole = crop._replace(top=200 - crop.height)
    decode_crops(PICTURES[name], list(outs), lambda height, width: [crop, whole], library)
    # Pillow 13 rounds some sizes differently for images of other heights.
    np.testing.assert_allclose(found, outs[0], rtol=0, atol=1 if library == "pillow" else 0)


def test_rows_below_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    heights = []
    decode_jpeg = simplejpeg.decode_jpeg

    def spy(*arguments: Any, **options: Any) -> Any:
        found = decode_jpeg(*arguments, **options)
        heights.append(len(found))
        return found

    monkeypatch.setattr(simplejpeg, "decode_jpeg", spy)
    for name, expected in (("420", 64), ("444", 64), ("restarts", 64), ("progressive", 200)):
        decoded(PICTURES[name], (40, 40), Crop(5, 0, 50, 50, is_cut=True))
        assert heights.pop() == expected
    decoded(PICTURES["420"], (40, 40), Crop(150, 0, 50, 50, is_cut=True))
    assert heights.pop() == 200


@pytest.mark.parametrize("library", RESIZES)
def test_truncated_image_raises_for_every_part(library: str) -> None:
    data = PICTURES["420"]
    for nbytes in (len(data) // 2, len(data) - 200):
        with pytest.raises(ValueError, match="cannot be decoded"):
            decoded(data[:nbytes], (8, 8), Crop(0, 0, 16, 16, is_cut=True), library)


def test_damage_in_decoded_rows_gives_the_pixels_of_full_decoding() -> None:
    data = PICTURES["420"]
    for at in range(700, len(data) - 2, len(data) // 20):
        damaged = patched(data, at, b"\0\0\0")
        crop = Crop(0, 0, 100, 100, is_cut=True)
        try:
            expected = np.empty((100, 100, 3), np.uint8)
            scale_into(expected, decode(damaged), crop)
        except ValueError:
            continue
        np.testing.assert_array_equal(decoded(damaged, (100, 100), crop), expected)


# Libraries


@pytest.mark.parametrize("is_flipped", [False, True])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_opencv_fills_any_array(layout: str, is_flipped: bool) -> None:
    framing = Framing((40, 30), layout=layout, resize="opencv")
    images = framing.empty(2)
    images[...] = 7
    crop = Crop(10, 20, 80, 61, is_flipped, is_cut=True)
    (place,) = framing.places(images, 1)
    scale_into(place, PICTURE, crop, "opencv")
    plain = np.empty((40, 30, 3), np.uint8)
    scale_into(plain, PICTURE, crop._replace(is_flipped=False), "opencv")
    np.testing.assert_array_equal(place, plain[:, ::-1] if is_flipped else plain)
    assert (images[0] == 7).all()


def test_opencv_is_close_to_pillow() -> None:
    framing = Framing((96, 96), "random")
    distances = []
    for seed in range(8):
        data = encode(photograph(np.random.default_rng(seed), 187, 250), 90)
        for numbers in framing.numbers(range(4)):
            outs = np.empty((2, 96, 96, 3), np.uint8)
            for out, library in zip(outs, RESIZES, strict=True):
                decode_crops(data, [out], partial(framing.crops, numbers), library)
            distances.append(np.abs(outs[0].astype(int) - outs[1]).mean())
    assert np.mean(distances) <= 4
    assert max(distances) <= 8


@pytest.mark.parametrize("factor", [2.5, 7, 20])
def test_opencv_averages_over_all_pixels(factor: float) -> None:
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 200
    out = np.empty((int(400 / factor), int(400 / factor), 3), np.uint8)
    scale_into(out, stripes, Crop(0, 0, 400, 400), "opencv")
    assert abs(out.mean() - 100) < 2
    assert np.ptp(out.astype(int)) <= 200 / factor + 20


def test_missing_opencv_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(
        SourceError, match=r"resize='opencv' needs cv2.*install arraystore\[opencv\]"
    ):
        import_resizer("opencv")
    import_resizer("pillow")
