"""Images re-encoded as JPEG."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from arraystore.images.decode import decode
from arraystore.images.reencode import needs_reencoding, reencode_as_jpeg
from tests.images.encoded_images import (
    CMYK,
    EVERY,
    PNG,
    encoded,
    header_of,
)
from tests.wild import YCCK, without

GRADIENT = bytes.fromhex(  # 16 x 16 pixels of CMYK, quality 40
    "ffd8ffee000e41646f626500640000000000ffdb004300140e0f120f0d14121012171514181e32211e1c1c1e3d2c"
    "2e243249404c4b47404645505a736250556d5645466488656d777b8182814e608d978c7d96737e817cffc0001408"
    "00100010044311004d11005911004b1100ffc40017000003010000000000000000000000000000040605ffc4002a"
    "100000040404040700000000000000000000010203040511211531426206124151131423243361b1ffda000e0443"
    "004d0059004b00003f00dc9aea1bd896e1491d1be5eb7a505538e08c9aea0625b8622e7f10ebde0c2a56eb9d93d2"
    "f4a9f62be661671c16735d423f12dc0e215baec5a6198f91c57296742fb3a742ccc0e382326ba81896e0bad7c9ec"
    "25de932dddd7557a6e3eea3a65f845655c707fffd9"
)
BY_TFDS = 882, 0xC81E584E
"""Size and CRC-32 of `GRADIENT`, decoded and encoded by TensorFlow 2.21 as TFDS does."""

named = pytest.mark.parametrize


@named(("name", "expected"), [("420", False), ("gray", False), ("CMYK", True), ("PNG", True)])
def test_cmyk_and_png_need_reencoding(name: str, expected: bool) -> None:
    assert needs_reencoding(header_of(EVERY[name])) is expected


@named("name", ["CMYK", "PNG", "gray"])
def test_reencoded_image_is_baseline_jpeg(name: str) -> None:
    data = reencode_as_jpeg(EVERY[name])
    assert simplejpeg.decode_jpeg_header(data) == (45, 70, "YCbCr", "420")
    assert b"\xff\xc0" in data
    assert not needs_reencoding(header_of(data))


def test_reencoding_has_quality_100() -> None:
    tables = Image.open(io.BytesIO(reencode_as_jpeg(PNG))).quantization  # type: ignore[attr-defined] # JPEG's own
    assert {step for table in tables.values() for step in table} == {1}


@named("data", [CMYK, YCCK])
def test_reencoding_keeps_colour(data: bytes) -> None:
    assert np.abs(decode(reencode_as_jpeg(data)).astype(int) - decode(data)).max() <= 2


def test_reencoded_cmyk_has_bytes_of_tfds() -> None:
    data = reencode_as_jpeg(GRADIENT)
    assert (len(data), zlib.crc32(data)) == BY_TFDS


@named("data", [GRADIENT, YCCK], ids=["CMYK", "YCCK"])
def test_inks_without_adobe_marker_are_not_inverted(data: bytes) -> None:
    unmarked = without(data, 0xEE)
    stored = simplejpeg.decode_jpeg(unmarked, "CMYK", fastdct=True).astype(int)
    right = (255 - stored[:, :, :3]) * (255 - stored[:, :, 3:]) // 255
    assert np.abs(decode(reencode_as_jpeg(unmarked)).astype(int) - right).mean() < 4


def test_cmyk_of_unusual_subsampling_keeps_colour() -> None:
    drawn = Image.new("CMYK", (70, 45), (55, 195, 235, 0))
    data = encoded(drawn, "JPEG", subsampling=2)
    with pytest.raises(ValueError, match="subsampling"):
        simplejpeg.decode_jpeg(data, "CMYK")
    assert np.abs(decode(reencode_as_jpeg(data)).astype(int) - decode(data)).max() <= 2


def test_reencoding_truncated_cmyk_raises() -> None:
    with pytest.raises(ValueError, match="cannot be decoded"):
        reencode_as_jpeg(GRADIENT[:-60])


def test_reencoding_is_deterministic() -> None:
    assert reencode_as_jpeg(CMYK) == reencode_as_jpeg(CMYK)


def test_reencoding_too_long_a_side_raises() -> None:
    with pytest.raises(ValueError, match="65500"):
        reencode_as_jpeg(encoded(Image.new("L", (65_501, 1)), "PNG"))
