"""Headers of images of every format, and of bytes that are not an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from arraystore.images.decode import decode
from arraystore.images.jpeg import plain_frame_header, plain_frame_sizes
from arraystore.images.probe import IMAGE_SUFFIXES, ImageHeader, probe
from tests.images.encoded_images import (
    CMYK,
    COLOUR,
    EVERY,
    FRAME,
    GRAY,
    JPEG,
    JPEGS,
    LOSSLESS,
    LOSSY,
    PNG,
    SCAN,
    after_start,
    encoded,
    header_of,
    patched,
    png_that_states,
    segment,
)

if TYPE_CHECKING:
    from collections.abc import Callable

named = pytest.mark.parametrize


@named("name", EVERY)
def test_probed_size_is_size_of_pixels(name: str) -> None:
    header = header_of(EVERY[name])
    assert (header.height, header.width, 3) == decode(EVERY[name]).shape


@named(
    ("data", "components", "form"),
    [
        (JPEG, 3, "JPEG"),
        (JPEGS["gray"], 1, "JPEG"),
        (CMYK, 4, "JPEG"),
        (PNG, 3, "PNG"),
        (encoded(COLOUR.convert("RGBA"), "PNG"), 4, "PNG"),
        (LOSSLESS["WEBP"], 3, "WEBP"),
        (LOSSY["AVIF"], 3, "AVIF"),
    ],
)
def test_probe_returns_format_and_components(data: bytes, components: int, form: str) -> None:
    assert header_of(data) == ImageHeader(45, 70, components, form)


class CountingRead:
    """Read pieces of `data`, and count reads and bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.n_bytes = 0
        self.n_reads = 0

    def __call__(self, start: int, stop: int) -> memoryview:
        assert 0 <= start <= stop <= len(self.data)
        self.n_bytes += stop - start
        self.n_reads += 1
        return memoryview(self.data)[start:stop]


def test_probing_a_jpeg_reads_one_piece() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (375, 500, 3), dtype=np.uint8)
    read = CountingRead(encoded(Image.fromarray(noise), "JPEG", progressive=True))
    assert probe(read, len(read.data)) == ImageHeader(375, 500, 3, "JPEG")
    assert (read.n_reads, read.n_bytes) == (1, 2048)


@named("count", [1, 2, 5])
def test_probe_skips_metadata_and_its_thumbnail(count: int) -> None:
    thumbnail = encoded(COLOUR.resize((16, 12)), "JPEG")
    exif = segment(0xE1, b"Exif\0\0" + thumbnail + bytes(60_000 - len(thumbnail)))
    read = CountingRead(after_start(JPEG, *[exif] * count))
    assert probe(read, len(read.data)) == ImageHeader(45, 70, 3, "JPEG")
    assert read.n_bytes <= 2048 * (count + 1)


segments = st.builds(
    lambda fill, marker, nbytes: b"\xff" * fill + segment(marker, b"\xff\xc0" * nbytes),
    st.integers(0, 30),
    st.sampled_from([0xDB, 0xC4, 0xDD, 0xE0, 0xEF, 0xFE]),
    st.integers(0, 1500),
)


@settings(deadline=None)
@given(st.lists(segments, max_size=6), st.integers(0, 5000))
def test_frame_header_is_found_at_any_offset(parts: list[bytes], fill: int) -> None:
    data = after_start(JPEG, *parts, b"\xff" * fill)
    assert header_of(data) == ImageHeader(45, 70, 3, "JPEG")


@named("marker", [0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF])
@named("act", [header_of, decode])
def test_lossless_or_hierarchical_jpeg_raises(marker: int, act: Callable[[bytes], object]) -> None:
    with pytest.raises(ValueError, match=f"lossless or hierarchical JPEG .0x{marker:02X}"):
        act(patched(JPEG, FRAME + 1, bytes([marker])))


@named(
    ("data", "message"),
    [
        (patched(JPEG, FRAME + 4, b"\x0c"), "JPEG of 12 bits"),
        (patched(JPEG, FRAME + 5, b"\0\0"), "DNL"),
        (patched(JPEG, FRAME + 7, b"\0\0"), "height 45 and width 0"),
        (patched(JPEG, FRAME + 5, b"\xff\xdd"), "height 65501 and width 70"),
        (patched(JPEG, FRAME + 9, b"\x02"), "2 components"),
        (after_start(JPEG, b"\xff\xe0\0\x01"), "FF E0 00 01 at byte 2 begins no segment"),
        (JPEG[:FRAME] + JPEG[SCAN:], "FF DA 00 0C at byte [0-9]+ begins no segment"),
        (JPEG[:FRAME] + b"\xff\xd9" + bytes(100), "FF D9 00 00 at byte [0-9]+ begins no segment"),
        (after_start(JPEG, b"\xff\xd8"), "FF D8 FF E0 at byte 2 begins no segment"),
        (after_start(JPEG, b"\xff\x00"), "FF 00 FF E0 at byte 2 begins no segment"),
        (JPEG[:20] + b"\0\xc3" + JPEG[20:], "00 C3 FF DB at byte 20 begins no segment"),
        (patched(JPEG, 20, b"\x12"), "12 DB 00 43 at byte 20 begins no segment"),
        (JPEG[: FRAME + 9], "truncated JPEG: no frame header in its [0-9]+ bytes"),
        (patched(JPEG, 4, b"\xff\xff"), "truncated JPEG: no frame header"),
        (b"\xff\xd8\xff", "truncated JPEG: no frame header in its 3 bytes"),
        (b"\xff" + b"\xd8" + b"\xff" * 5000, "truncated JPEG: no frame header in its 5002 bytes"),
    ],
)
@named("act", [header_of, decode])
def test_jpeg_with_wrong_header_raises(
    data: bytes, message: str, act: Callable[[bytes], object]
) -> None:
    with pytest.raises(ValueError, match=message):
        act(data)


@named(
    ("data", "message"),
    [
        (b"", r"^is empty \(0 bytes\)$"),
        (b"<html><body>404</body>", "^is not an image .*; it begins with b'<html><body>404<'$"),
        (b"hello", "^is not an image .*; it begins with b'hello'$"),
        (b"\xff\xd8", r"^is not an image .*; it begins with b'\\xff\\xd8'$"),
        (PNG[:4], r"^is not an image .*; it begins with b'\\x89PNG'$"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "is not an image"),
        (bytes(1000), "is not an image"),
    ],
)
@named("act", [header_of, decode])
def test_bytes_that_are_not_an_image_raise(
    data: bytes, message: str, act: Callable[[bytes], object]
) -> None:
    with pytest.raises(ValueError, match=message):
        act(data)


def test_probe_raises_errors_of_reader() -> None:
    def read(start: int, stop: int) -> bytes:
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match="gone"):
        probe(read, 100)


@named("act", [header_of, decode])
def test_decompression_bomb_raises(act: Callable[[bytes], object]) -> None:
    with pytest.raises(ValueError, match="decompression bomb"):
        act(png_that_states(20_000, 20_000))


def test_probing_a_large_image_warns() -> None:
    with pytest.warns(Image.DecompressionBombWarning):
        assert header_of(png_that_states(10_000, 10_000))[:4] == (10_000, 10_000, 3, "PNG")


@named("suffix", sorted(IMAGE_SUFFIXES))
def test_every_image_suffix_can_be_decoded(suffix: str) -> None:
    form = Image.registered_extensions()[suffix]
    picture = GRAY.convert("1") if suffix == ".pbm" else COLOUR
    assert decode(encoded(picture, form)).shape == (45, 70, 3)


markers = st.sampled_from([0xC0, 0xC2, 0xC3, 0xDB, 0xE0, 0xFE, 0xD8, 0xFF]) | st.integers(0, 255)
frames = st.builds(
    lambda marker, length, fields, rest: bytes([0xFF, marker, 0, length]) + bytes(fields) + rest,
    markers,
    st.integers(0, 30),
    st.tuples(
        st.sampled_from([8, 12]), *[st.sampled_from([0, 1, 255])] * 4, st.sampled_from([1, 3, 4])
    ),
    st.binary(max_size=22),
)


@settings(deadline=None, max_examples=300)
@given(
    pieces=st.lists(
        st.builds(
            lambda start, parts: start + b"".join(parts),
            st.sampled_from([b"\xff\xd8", b"\xff\xd8\xff\xe0\x00\x04ab", b"GIF89a", b""]),
            st.lists(frames | st.binary(max_size=12), max_size=5),
        ),
        max_size=6,
    )
)
def test_frame_sizes_of_many_are_those_of_each(pieces: list[bytes]) -> None:
    expected = []
    for piece in pieces:
        header = plain_frame_header(piece) if piece.startswith(b"\xff\xd8\xff") else None
        expected.append([0, 0] if header is None else [header.height, header.width])
    assert plain_frame_sizes(pieces).tolist() == expected
