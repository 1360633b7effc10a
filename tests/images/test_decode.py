"""Encoded images of every kind, whole and damaged, against what was drawn."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from arraystore.images.decode import (
    IMAGE_SUFFIXES,
    ImageHeader,
    decode,
    decode_resized,
    needs_reencoding,
    probe,
    reencode_jpeg,
    resize,
)
from benchmarks.photographs import encode, photograph

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

RED, BLUE = (200, 60, 20), (20, 60, 200)
ROWS, COLUMNS = np.mgrid[0:45, 0:70]
DRAWN = np.stack([ROWS * 5, COLUMNS * 3, (ROWS * COLUMNS) % 251], axis=2).astype(np.uint8)
COLOUR = Image.fromarray(DRAWN)
GRAY = COLOUR.convert("L")
WIDE = (np.arange(45 * 70, dtype=np.uint16) * 20).reshape(45, 70)


def encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def after_start(jpeg: bytes, *parts: bytes) -> bytes:
    return b"".join([jpeg[:2], *parts, jpeg[2:]])


def patched(data: bytes, position: int, new: bytes) -> bytes:
    return data[:position] + new + data[position + len(new) :]


def header_of(data: bytes) -> ImageHeader:
    return probe(lambda start, stop: data[start:stop], len(data))


def by_pillow(data: bytes) -> Pixels:
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


JPEG = encoded(COLOUR, "JPEG")
ARITHMETIC = (
    b"".join(  # neither Pillow nor simplejpeg writes this: red on the left, blue on the right
        [
            b"\xff\xd8",
            segment(0xDB, b"\0" + b"\1" * 64),
            segment(0xDB, b"\1" + b"\1" * 64),
            segment(0xC9, bytes.fromhex("08 0008 0010 03 012200 021101 031101")),
            segment(0xCC, bytes.fromhex("0010 1005 0110 1105")),
            segment(0xDA, bytes.fromhex("03 0100 0211 0311 003f00")),
            bytes.fromhex("ff00e478311b9df2ce2400415cb18d273f1bc89ad5db10dd19277ebd779c ffd9"),
        ]
    )
)
PNG = encoded(COLOUR, "PNG")
CMYK = encoded(Image.new("CMYK", (70, 45), (55, 195, 235, 0)), "JPEG")
FRAME = JPEG.index(b"\xff\xc0")
SCAN = JPEG.index(b"\xff\xda")
JPEGS = {
    "420": JPEG,
    "422": encoded(COLOUR, "JPEG", subsampling=1),
    "444": encoded(COLOUR, "JPEG", subsampling=0, quality=100),
    "progressive": encoded(COLOUR, "JPEG", progressive=True),
    "progressive 444": encoded(COLOUR, "JPEG", progressive=True, subsampling=0),
    "restarts": encoded(COLOUR, "JPEG", restart_marker_blocks=3),
    "RGB": encoded(COLOUR, "JPEG", keep_rgb=True),
    "gray": encoded(GRAY, "JPEG"),
    "gray progressive": encoded(GRAY, "JPEG", progressive=True),
    "arithmetic": ARITHMETIC,
}
LOSSLESS = {
    "PNG": PNG,
    "WEBP": encoded(COLOUR, "WEBP", lossless=True),
    "BMP": encoded(COLOUR, "BMP"),
    "TIFF": encoded(COLOUR, "TIFF"),
    "TIFF deflate": encoded(COLOUR, "TIFF", compression="tiff_deflate"),
    "PPM": encoded(COLOUR, "PPM"),
    "JPEG2000": encoded(COLOUR, "JPEG2000"),
}
LOSSY = {
    "GIF": encoded(COLOUR, "GIF"),
    "AVIF": encoded(COLOUR, "AVIF", quality=95),
    "WEBP lossy": encoded(COLOUR, "WEBP", quality=95),
    "CMYK": CMYK,
}
EVERY = JPEGS | LOSSLESS | LOSSY

named = pytest.mark.parametrize


def test_importing_the_module_imports_no_decoder() -> None:
    code = "import sys, arraystore.images.decode; print({'PIL', 'simplejpeg'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.strip() == b"set()"


# Probing


@named("name", EVERY)
def test_the_probed_size_is_the_size_of_the_pixels(name: str) -> None:
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
def test_probe_names_the_format_and_counts_components(
    data: bytes, components: int, form: str
) -> None:
    assert header_of(data) == ImageHeader(45, 70, components, form)


class CountingRead:
    """Hands out pieces of `data`, and remembers how many bytes they had."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.n_bytes = 0
        self.n_reads = 0

    def __call__(self, start: int, stop: int) -> memoryview:
        assert 0 <= start <= stop <= len(self.data)
        self.n_bytes += stop - start
        self.n_reads += 1
        return memoryview(self.data)[start:stop]


def test_one_short_read_finds_the_frame_header_of_a_normal_jpeg() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (375, 500, 3), dtype=np.uint8)
    read = CountingRead(encoded(Image.fromarray(noise), "JPEG", progressive=True))
    assert probe(read, len(read.data)) == ImageHeader(375, 500, 3, "JPEG")
    assert (read.n_reads, read.n_bytes) == (1, 2048)


@named("count", [1, 2, 5])
def test_metadata_is_jumped_over_and_its_thumbnail_does_not_pass_for_the_image(count: int) -> None:
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
def test_the_frame_header_is_found_wherever_it_lies(parts: list[bytes], fill: int) -> None:
    data = after_start(JPEG, *parts, b"\xff" * fill)
    assert header_of(data) == ImageHeader(45, 70, 3, "JPEG")


@named("marker", [0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF])
@named("act", [header_of, decode])
def test_a_lossless_or_hierarchical_jpeg_is_refused(
    marker: int, act: Callable[[bytes], object]
) -> None:
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
def test_a_jpeg_with_a_wrong_header_is_refused(
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
def test_what_is_no_image_is_refused_with_its_first_bytes(
    data: bytes, message: str, act: Callable[[bytes], object]
) -> None:
    with pytest.raises(ValueError, match=message):
        act(data)


def test_an_error_of_the_reader_is_not_disguised() -> None:
    def read(start: int, stop: int) -> bytes:
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match="gone"):
        probe(read, 100)


# Decoding JPEG


@named("name", JPEGS)
def test_jpeg_decodes_to_the_pixels_that_pillow_gives(name: str) -> None:
    np.testing.assert_array_equal(decode(JPEGS[name]), by_pillow(JPEGS[name]))


@named("name", JPEGS)
def test_jpeg_is_decoded_by_simplejpeg(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Image, "open")
    assert decode(JPEGS[name]).dtype == np.uint8


@named("transform", ["YCbCr", "RGB"])
def test_the_colours_of_a_jpeg_are_those_drawn(transform: str) -> None:
    data = encoded(Image.new("RGB", (16, 8), RED), "JPEG", keep_rgb=transform == "RGB")
    assert np.abs(decode(data) - np.array(RED)).max() <= 2


def test_an_arithmetic_jpeg_decodes_to_its_colours() -> None:
    pixels = decode(ARITHMETIC).astype(int)
    assert np.abs(pixels[:, :6] - RED).max() <= 2
    assert np.abs(pixels[:, 10:] - BLUE).max() <= 2


def test_a_gray_jpeg_has_three_equal_channels() -> None:
    pixels = decode(JPEGS["gray"])
    np.testing.assert_array_equal(pixels, np.repeat(pixels[:, :, :1], 3, axis=2))
    assert np.abs(pixels[:, :, 0].astype(int) - np.asarray(GRAY)).max() < 40


def test_a_cmyk_jpeg_marked_by_adobe_decodes_to_its_colour() -> None:
    assert b"Adobe" in CMYK
    assert np.abs(decode(CMYK) - np.array(RED)).max() <= 2


def test_a_cmyk_jpeg_decodes_to_the_pixels_that_pillow_gives() -> None:
    assert (simplejpeg.decode_jpeg(CMYK) != by_pillow(CMYK)).any()  # it rounds otherwise
    np.testing.assert_array_equal(decode(CMYK), by_pillow(CMYK))


def test_a_ycck_jpeg_marked_by_adobe_decodes_to_its_colour() -> None:
    stored = np.full((45, 70, 4), (*RED, 255), np.uint8)  # Adobe stores ink inverted
    data = simplejpeg.encode_jpeg(stored, quality=95, colorspace="CMYK")
    assert simplejpeg.decode_jpeg_header(data)[2] == "YCCK"
    assert np.abs(decode(data) - np.array(RED)).max() <= 2


def test_the_exif_orientation_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(COLOUR, "JPEG", exif=exif)
    assert ImageOps.exif_transpose(Image.open(io.BytesIO(data))).size == (45, 70)
    np.testing.assert_array_equal(decode(data), decode(JPEG))


PROGRESSIVE = JPEGS["progressive"]
SECOND_SCAN = PROGRESSIVE.index(b"\xff\xda", PROGRESSIVE.index(b"\xff\xda") + 2)


@named(
    ("data", "whole"),
    [
        (patched(JPEG, 11, b"\x02"), JPEG),  # a later version of JFIF
        (JPEG[:SCAN] + b"\0\0" + JPEG[SCAN:], JPEG),
        (PROGRESSIVE[:SECOND_SCAN] + b"\1\2" + PROGRESSIVE[SECOND_SCAN:], PROGRESSIVE),
    ],
)
def test_oddities_that_cost_no_pixels_are_passed_over(data: bytes, whole: bytes) -> None:
    with pytest.raises(ValueError, match=r"JFIF revision|extraneous bytes"):
        simplejpeg.decode_jpeg(data, strict=True)
    np.testing.assert_array_equal(decode(data), decode(whole))


def test_bytes_behind_the_end_of_a_jpeg_are_passed_over() -> None:
    np.testing.assert_array_equal(decode(JPEG + b"rubbish"), decode(JPEG))


DAMAGED_EXIF = segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x05\0\x10\0\0\0\xff\xff\0\0")
DAMAGED_INDEX = segment(0xE2, b"MPF\0II*\0\xff\0\0\0")


@named("metadata", [DAMAGED_EXIF, DAMAGED_INDEX])
def test_damaged_metadata_of_a_jpeg_is_not_warned_about(metadata: bytes) -> None:
    data = after_start(CMYK, metadata)
    with pytest.warns(UserWarning, match=r"EXIF|Truncated|larger than file|malformed MPO"):
        Image.open(io.BytesIO(data))
    np.testing.assert_array_equal(decode(data), decode(CMYK))


@named("part", [0.1, 0.5, 0.9])
@named("name", EVERY)
def test_a_truncated_image_is_an_error_and_never_a_partial_image(name: str, part: float) -> None:
    data = EVERY[name]
    with pytest.raises(ValueError, match=r"cannot be decoded|truncated|damaged|is not an image"):
        decode(data[: int(len(data) * part)])


# Decoding the other formats


@named("name", LOSSLESS)
def test_a_lossless_format_gives_back_what_was_drawn(name: str) -> None:
    np.testing.assert_array_equal(decode(LOSSLESS[name]), DRAWN)


@named("name", LOSSY)
def test_a_lossy_format_gives_back_nearly_what_was_drawn(name: str) -> None:
    drawn = np.full_like(DRAWN, RED) if name == "CMYK" else DRAWN
    assert np.abs(decode(LOSSY[name]).astype(int) - drawn).mean() < 20


@named("name", EVERY)
def test_pixels_are_writable_and_contiguous(name: str) -> None:
    pixels = decode(EVERY[name])
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    assert pixels.flags.c_contiguous


@named("form", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_dropped_and_the_colour_beneath_is_shown(form: str) -> None:
    picture = COLOUR.copy()
    picture.putalpha(Image.fromarray(DRAWN[:, :, 0]))
    data = encoded(picture, form, **({"lossless": True, "exact": True} if form == "WEBP" else {}))
    np.testing.assert_array_equal(decode(data), DRAWN)


def test_gray_with_alpha_shows_the_gray() -> None:
    picture = GRAY.copy()
    picture.putalpha(7)
    np.testing.assert_array_equal(decode(encoded(picture, "PNG")), np.array(GRAY.convert("RGB")))


@named(
    ("form", "options"),
    [
        ("PNG", {}),
        ("PNG", {"transparency": 3}),
        ("PNG", {"transparency": bytes(range(200))}),
        ("GIF", {}),
        ("GIF", {"transparency": 3}),
    ],
)
def test_a_palette_shows_its_colours_also_where_transparent(
    form: str, options: dict[str, Any]
) -> None:
    picture = COLOUR.quantize(256)
    data = encoded(picture, form, **options)
    np.testing.assert_array_equal(decode(data), np.array(picture.convert("RGB")))


def test_gray_with_a_transparent_value_shows_the_gray() -> None:
    data = encoded(GRAY, "PNG", transparency=17)
    np.testing.assert_array_equal(decode(data), np.array(GRAY.convert("RGB")))


@named(
    "data",
    [
        encoded(Image.fromarray(WIDE), "PNG"),
        encoded(Image.fromarray(WIDE), "TIFF"),
        encoded(Image.fromarray(WIDE.astype(">u2")), "TIFF"),
        encoded(Image.fromarray(WIDE.astype(np.int32)), "TIFF"),
        encoded(Image.fromarray(WIDE.astype(np.int32)), "PPM"),
    ],
)
def test_gray_of_16_bits_keeps_the_higher_8(data: bytes) -> None:
    expected = np.repeat((WIDE >> 8)[:, :, np.newaxis], 3, axis=2)
    np.testing.assert_array_equal(decode(data), expected)


def png_of_16_bit_colour(samples: NDArray[np.uint16]) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    height, width, _ = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    return PNG[:8] + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_colour_of_16_bits_keeps_the_higher_8() -> None:
    samples = np.stack([WIDE, WIDE[::-1], WIDE + 77], axis=2)
    np.testing.assert_array_equal(decode(png_of_16_bit_colour(samples)), samples >> 8)


@named("form", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_one_bit_becomes_black_and_white(form: str) -> None:
    picture = Image.fromarray((COLUMNS + ROWS) % 3 == 0)
    pixels = decode(encoded(picture, form))
    np.testing.assert_array_equal(pixels, np.array(picture.convert("RGB")))
    assert set(pixels.ravel().tolist()) == {0, 255}


@named("form", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_first_of_several_images_is_taken(form: str) -> None:
    red, blue = Image.new("RGB", (16, 8), RED), Image.new("RGB", (16, 8), BLUE)
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(red, form, save_all=True, append_images=[blue], **options)
    np.testing.assert_array_equal(decode(data), np.full((8, 16, 3), RED))


@named(
    ("values", "message"),
    [
        (WIDE.astype(np.float32), "floating-point"),
        (WIDE.astype(np.int32) * 2, "more than 16 bits"),
        (-WIDE.astype(np.int32), "more than 16 bits"),
    ],
)
def test_pixels_that_are_no_8_or_16_bits_are_refused(
    values: NDArray[np.generic], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        decode(encoded(Image.fromarray(values), "TIFF"))


@named(
    "wrap",
    [
        memoryview,
        bytearray,
        lambda data: np.frombuffer(data, np.uint8),
        lambda data: memoryview(np.frombuffer(data, np.uint8)),
    ],
)
@named("name", ["420", "PNG", "CMYK"])
def test_any_buffer_is_decoded(name: str, wrap: Callable[[bytes], Any]) -> None:
    np.testing.assert_array_equal(decode(wrap(EVERY[name])), decode(EVERY[name]))


@named("empty", [b"", memoryview(b""), np.empty(0, np.uint8)])
def test_an_empty_buffer_of_any_kind_is_refused(empty: Any) -> None:
    with pytest.raises(ValueError, match="is empty"):
        decode(empty)


# Bombs


def png_that_claims(width: int, height: int) -> bytes:
    head = b"IHDR" + struct.pack(">II", width, height) + PNG[24:29]
    return PNG[:12] + head + struct.pack(">I", zlib.crc32(head)) + PNG[33:]


@named("act", [header_of, decode])
def test_a_decompression_bomb_is_refused(act: Callable[[bytes], object]) -> None:
    with pytest.raises(ValueError, match="decompression bomb"):
        act(png_that_claims(20_000, 20_000))


def test_a_jpeg_that_claims_too_many_pixels_is_refused_before_memory_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(simplejpeg, "decode_jpeg")
    with pytest.raises(ValueError, match="decompression bomb"):
        decode(patched(JPEG, FRAME + 5, struct.pack(">HH", 60_000, 60_000)))


def test_a_large_image_is_probed_with_the_warning_of_pillow() -> None:
    with pytest.warns(Image.DecompressionBombWarning):
        assert header_of(png_that_claims(10_000, 10_000)) == (10_000, 10_000, 3, "PNG")


# Threads


def test_many_threads_decode_every_format_without_a_warning() -> None:
    transparent = encoded(COLOUR.quantize(256), "PNG", transparency=bytes(range(200)))
    data = [*EVERY.values(), transparent] * 8
    expected = [decode(one) for one in data]
    filters = list(warnings.filters)
    with ThreadPoolExecutor(8) as executor:
        for pixels, one in zip(executor.map(decode, data), expected, strict=True):
            np.testing.assert_array_equal(pixels, one)
    assert warnings.filters == filters


# Hostile bytes: a result or a ValueError, and nothing else


def decodes_or_refuses(data: bytes) -> None:
    try:
        header = header_of(data)
    except ValueError:
        header = None
    try:
        pixels = decode(data)
    except ValueError:
        return
    assert header is not None
    assert pixels.shape == (header.height, header.width, 3)


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from([b"", b"\xff\xd8\xff", JPEG[:FRAME], PNG[:8], PNG[:33], b"RIFF", b"II*\0"]),
    st.binary(max_size=400),
)
def test_random_bytes_raise_nothing_but_a_value_error(begin: bytes, data: bytes) -> None:
    decodes_or_refuses(begin + data)


@settings(deadline=None, max_examples=400)
@given(
    name=st.sampled_from(sorted(EVERY)),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), max_size=4),
    early=st.booleans(),
    part=st.just(1.0) | st.floats(0, 1),
)
def test_flipped_bits_and_lost_ends_raise_nothing_but_a_value_error(
    name: str, flips: list[tuple[float, int]], early: bool, part: float
) -> None:
    data = bytearray(EVERY[name])
    reach = min(700, len(data)) if early else len(data)
    for where, bit in flips:
        data[int(where * reach)] ^= 1 << bit
    decodes_or_refuses(bytes(data[: int(len(data) * part)]))


# Resizing


@named("axis", [0, 1])
def test_resizing_takes_the_middle_and_keeps_the_aspect_ratio(axis: int) -> None:
    ramp = np.broadcast_to(np.arange(100, dtype=np.uint8)[:, np.newaxis, np.newaxis], (100, 40, 3))
    resized = resize(ramp.swapaxes(0, axis), 20).swapaxes(0, axis)
    middle = np.arange(30.5, 70, 2)[:, np.newaxis, np.newaxis]
    assert np.abs(resized - middle).max() <= 0.5


def test_resizing_averages_over_all_pixels() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, ::2] = 200
    assert np.abs(resize(pixels, 8).astype(int) - 100).max() <= 12


def test_resizing_to_the_same_size_changes_nothing() -> None:
    np.testing.assert_array_equal(resize(DRAWN, (45, 70)), DRAWN)


sides = st.integers(1, 60)


@settings(deadline=None)
@given(shape=st.tuples(sides, sides), size=st.tuples(sides, sides))
def test_resizing_is_what_pillow_calls_fit(shape: tuple[int, int], size: tuple[int, int]) -> None:
    pixels = np.resize(DRAWN, (*shape, 3))
    picture = ImageOps.fit(Image.fromarray(pixels), size[::-1], Image.Resampling.BILINEAR)
    resized = resize(pixels, size)
    np.testing.assert_array_equal(resized, np.asarray(picture))
    assert resized.flags.writeable


@named("size", [0, -1, (0, 5), (5, 0)])
def test_resizing_to_less_than_a_pixel_is_refused(size: int | tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="size must be 1 or more pixels, got"):
        resize(DRAWN, size)


def resized(data: bytes, size: int) -> Pixels:
    out = np.empty((size, size, 3), np.uint8)
    decode_resized(data, out)
    return out


@named(("name", "size"), [("420", 16), ("420", 60), ("gray", 20), ("CMYK", 9), ("PNG", 9)])
def test_what_becomes_little_smaller_or_is_no_plain_jpeg_is_decoded_whole(
    name: str, size: int
) -> None:
    np.testing.assert_array_equal(resized(EVERY[name], size), resize(decode(EVERY[name]), size))


@named("factor", [3, 3.3, 4.5, 6, 9.1, 12, 20])
@named("shape", [(375, 500), (501, 377)])
def test_of_photographs_reduced_decoding_gives_nearly_the_same(
    factor: float, shape: tuple[int, int]
) -> None:
    data = encode(photograph(np.random.default_rng(0), *shape), 90)
    size = int(375 / factor)
    distance = np.abs(resized(data, size).astype(int) - resize(decode(data), size))
    assert 0 < distance.mean() <= 2
    assert distance.max() <= 20


@named("size", [32, (30, 61)])
def test_reduced_decoding_shows_the_same_region(size: Any) -> None:
    rows, columns = np.mgrid[0:401, 0:303]
    drawn = np.stack([rows / 2, columns / 2, rows / 4 + columns / 4], axis=2).astype(np.uint8)
    data = simplejpeg.encode_jpeg(drawn, quality=100, colorsubsampling="444")
    whole = resize(decode(data), size)
    out = np.empty_like(whole)
    decode_resized(data, out)
    assert np.abs(out.astype(int) - whole).max() <= 1


def test_reduced_decoding_of_a_jpeg_cut_short_is_an_error_and_leaves_the_array() -> None:
    data = encode(photograph(np.random.default_rng(0), 200, 200), 90)
    out = np.full((20, 20, 3), 7, np.uint8)
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode_resized(data[: len(data) // 2], out)
    assert (out == 7).all()


def test_resizing_takes_memory_for_nothing_but_the_result() -> None:
    data = encode(photograph(np.random.default_rng(0), 800, 800), 90)
    out = np.empty((280, 280, 3), np.uint8)
    decode_resized(data, out)
    tracemalloc.start()
    try:
        decode_resized(data, out)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * out.nbytes  # Pillow hands its pixels over as bytes, in pieces


# Re-encoding


@named(("name", "expected"), [("420", False), ("gray", False), ("CMYK", True), ("PNG", True)])
def test_cmyk_and_what_is_no_jpeg_need_reencoding(name: str, expected: bool) -> None:
    assert needs_reencoding(header_of(EVERY[name])) is expected


@named("name", ["CMYK", "PNG", "gray"])
def test_reencoding_gives_a_baseline_jpeg_that_needs_no_more(name: str) -> None:
    data = reencode_jpeg(EVERY[name])
    assert simplejpeg.decode_jpeg_header(data) == (45, 70, "YCbCr", "420")
    assert b"\xff\xc0" in data
    assert not needs_reencoding(header_of(data))


def test_reencoding_has_quality_100() -> None:
    tables = Image.open(io.BytesIO(reencode_jpeg(PNG))).quantization  # type: ignore[attr-defined] # JPEG's own
    assert {step for table in tables.values() for step in table} == {1}


def test_reencoding_keeps_the_colour() -> None:
    assert np.abs(decode(reencode_jpeg(CMYK)).astype(int) - decode(CMYK)).max() <= 2


def test_reencoding_twice_gives_the_same_bytes() -> None:
    assert reencode_jpeg(CMYK) == reencode_jpeg(CMYK)


def test_reencoding_a_side_that_jpeg_cannot_have_is_refused() -> None:
    with pytest.raises(ValueError, match="65500"):
        reencode_jpeg(encoded(Image.new("L", (65_501, 1)), "PNG"))


# Suffixes


@named("suffix", sorted(IMAGE_SUFFIXES))
def test_a_file_with_an_image_suffix_can_be_decoded(suffix: str) -> None:
    form = Image.registered_extensions()[suffix]
    picture = GRAY.convert("1") if suffix == ".pbm" else COLOUR
    assert decode(encoded(picture, form)).shape == (45, 70, 3)
