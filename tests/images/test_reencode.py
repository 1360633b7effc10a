"""Images re-encoded as JPEG."""

from __future__ import annotations

import io

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


def test_reencoding_keeps_colour() -> None:
    assert np.abs(decode(reencode_as_jpeg(CMYK)).astype(int) - decode(CMYK)).max() <= 2


def test_reencoding_is_deterministic() -> None:
    assert reencode_as_jpeg(CMYK) == reencode_as_jpeg(CMYK)


def test_reencoding_too_long_a_side_raises() -> None:
    with pytest.raises(ValueError, match="65500"):
        reencode_as_jpeg(encoded(Image.new("L", (65_501, 1)), "PNG"))
