"""Pixels of images of every format, whole, damaged and resized."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from arraystore.images.decode import check_decodes, decode, decode_resized
from arraystore.images.resize import resize
from benchmarks.photographs import encode, photograph
from tests.images.encoded_images import (
    ARITHMETIC,
    BLUE,
    CMYK,
    COLOUR,
    COLUMNS,
    DRAWN,
    EVERY,
    FRAME,
    GRAY,
    JPEG,
    JPEGS,
    LOSSLESS,
    LOSSY,
    PNG,
    RED,
    ROWS,
    SCAN,
    WIDE,
    after_start,
    encoded,
    header_of,
    patched,
    png_of_16_bit_colour,
    segment,
)
from tests.wild import YCCK, without

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from arraystore._typing import Pixels

named = pytest.mark.parametrize


def by_pillow(data: bytes) -> Pixels:
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def test_importing_modules_imports_no_decoder() -> None:
    code = (
        "import sys, arraystore.images.probe, arraystore.images.reencode\n"
        "print({'PIL', 'simplejpeg'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.strip() == b"set()"


# JPEG


@named("name", JPEGS)
def test_jpeg_pixels_equal_pillows(name: str) -> None:
    np.testing.assert_array_equal(decode(JPEGS[name]), by_pillow(JPEGS[name]))


@named("name", JPEGS)
def test_jpeg_is_decoded_by_simplejpeg(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Image, "open")
    assert decode(JPEGS[name]).dtype == np.uint8


@named("transform", ["YCbCr", "RGB"])
def test_jpeg_colours_are_those_drawn(transform: str) -> None:
    data = encoded(Image.new("RGB", (16, 8), RED), "JPEG", keep_rgb=transform == "RGB")
    assert np.abs(decode(data) - np.array(RED)).max() <= 2


def test_arithmetic_jpeg_colours_are_those_drawn() -> None:
    pixels = decode(ARITHMETIC).astype(int)
    assert np.abs(pixels[:, :6] - RED).max() <= 2
    assert np.abs(pixels[:, 10:] - BLUE).max() <= 2


def test_gray_jpeg_has_three_equal_channels() -> None:
    pixels = decode(JPEGS["gray"])
    np.testing.assert_array_equal(pixels, np.repeat(pixels[:, :, :1], 3, axis=2))
    assert np.abs(pixels[:, :, 0].astype(int) - np.asarray(GRAY)).max() < 40


def test_cmyk_jpeg_of_adobe_has_right_colour() -> None:
    assert b"Adobe" in CMYK
    assert np.abs(decode(CMYK) - np.array(RED)).max() <= 2


def test_cmyk_jpeg_pixels_equal_pillows() -> None:
    assert (simplejpeg.decode_jpeg(CMYK) != by_pillow(CMYK)).any()  # it rounds otherwise
    np.testing.assert_array_equal(decode(CMYK), by_pillow(CMYK))


def test_ycck_jpeg_of_adobe_has_right_colour() -> None:
    assert simplejpeg.decode_jpeg_header(YCCK)[2] == "YCCK"
    assert np.abs(decode(YCCK) - np.array(RED)).max() <= 2


def test_cmyk_without_adobe_marker_decodes_as_pillow_does() -> None:
    data = without(CMYK, 0xEE)
    np.testing.assert_array_equal(decode(data), by_pillow(data))


@named("data", [YCCK, CMYK.replace(b"\4C\x11\0M", b"\4R\x11\0M").replace(b"\4C\0M", b"\4R\0M")])
def test_four_components_of_unknown_meaning_raise(data: bytes) -> None:
    assert decode(data).shape == (45, 70, 3)
    with pytest.raises(ValueError, match=r"Adobe marker.*save it as RGB"):
        decode(without(data, 0xEE))


def test_adobe_marker_after_frame_header_is_found() -> None:
    scan = without(YCCK, 0xEE).index(b"\xff\xda")
    adobe = YCCK[YCCK.index(b"\xff\xee") :][:16]
    moved = without(YCCK, 0xEE)[:scan] + adobe + without(YCCK, 0xEE)[scan:]
    np.testing.assert_array_equal(decode(moved), decode(YCCK))


def test_four_components_without_a_scan_raise() -> None:
    data = without(YCCK, 0xEE)
    with pytest.raises(ValueError, match="no scan"):
        decode(data[: data.index(b"\xff\xda")])


def test_short_adobe_marker_does_not_count() -> None:
    data = after_start(without(YCCK, 0xEE), segment(0xEE, b"Adobe" + bytes(6)))
    with pytest.raises(ValueError, match="Adobe marker"):
        decode(data)


def test_exif_orientation_is_ignored() -> None:
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
def test_harmless_oddities_of_jpeg_are_ignored(data: bytes, whole: bytes) -> None:
    with pytest.raises(ValueError, match=r"JFIF revision|extraneous bytes"):
        simplejpeg.decode_jpeg(data, strict=True)
    np.testing.assert_array_equal(decode(data), decode(whole))


def test_bytes_after_end_of_jpeg_are_ignored() -> None:
    np.testing.assert_array_equal(decode(JPEG + b"rubbish"), decode(JPEG))


DAMAGED_EXIF = segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x05\0\x10\0\0\0\xff\xff\0\0")
DAMAGED_INDEX = segment(0xE2, b"MPF\0II*\0\xff\0\0\0")


@named("metadata", [DAMAGED_EXIF, DAMAGED_INDEX])
def test_damaged_metadata_of_jpeg_does_not_warn(metadata: bytes) -> None:
    data = after_start(CMYK, metadata)
    with pytest.warns(UserWarning, match=r"EXIF|Truncated|larger than file|malformed MPO"):
        Image.open(io.BytesIO(data))
    np.testing.assert_array_equal(decode(data), decode(CMYK))


@named("part", [0.1, 0.5, 0.9])
@named("name", EVERY)
def test_truncated_image_raises(name: str, part: float) -> None:
    data = EVERY[name]
    with pytest.raises(ValueError, match=r"cannot be decoded|truncated|damaged|is not an image"):
        decode(data[: int(len(data) * part)])


# Other formats


@named("name", LOSSLESS)
def test_lossless_pixels_equal_those_drawn(name: str) -> None:
    np.testing.assert_array_equal(decode(LOSSLESS[name]), DRAWN)


@named("name", LOSSY)
def test_lossy_pixels_are_close_to_those_drawn(name: str) -> None:
    drawn = np.full_like(DRAWN, RED) if name == "CMYK" else DRAWN
    assert np.abs(decode(LOSSY[name]).astype(int) - drawn).mean() < 20


@named("name", EVERY)
def test_pixels_are_writable_and_contiguous(name: str) -> None:
    pixels = decode(EVERY[name])
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    assert pixels.flags.c_contiguous


@named("form", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_dropped(form: str) -> None:
    picture = COLOUR.copy()
    picture.putalpha(Image.fromarray(DRAWN[:, :, 0]))
    data = encoded(picture, form, **({"lossless": True, "exact": True} if form == "WEBP" else {}))
    np.testing.assert_array_equal(decode(data), DRAWN)


def test_gray_with_alpha_is_gray() -> None:
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
def test_transparent_palette_has_its_colours(form: str, options: dict[str, Any]) -> None:
    picture = COLOUR.quantize(256)
    data = encoded(picture, form, **options)
    np.testing.assert_array_equal(decode(data), np.array(picture.convert("RGB")))


def test_gray_with_transparent_value_is_gray() -> None:
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
def test_gray_of_16_bits_keeps_higher_8(data: bytes) -> None:
    expected = np.repeat((WIDE >> 8)[:, :, np.newaxis], 3, axis=2)
    np.testing.assert_array_equal(decode(data), expected)


def test_colour_of_16_bits_keeps_higher_8() -> None:
    samples = np.stack([WIDE, WIDE[::-1], WIDE + 77], axis=2)
    np.testing.assert_array_equal(decode(png_of_16_bit_colour(samples)), samples >> 8)


@named("form", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_one_bit_becomes_black_and_white(form: str) -> None:
    picture = Image.fromarray((COLUMNS + ROWS) % 3 == 0)
    pixels = decode(encoded(picture, form))
    np.testing.assert_array_equal(pixels, np.array(picture.convert("RGB")))
    assert set(pixels.ravel().tolist()) == {0, 255}


@named("form", ["GIF", "WEBP", "TIFF", "PNG"])
def test_first_of_several_images_is_decoded(form: str) -> None:
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
def test_pixels_of_more_than_16_bits_raise(values: NDArray[np.generic], message: str) -> None:
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
def test_empty_buffer_raises(empty: Any) -> None:
    with pytest.raises(ValueError, match="is empty"):
        decode(empty)


# Limits


def test_jpeg_of_too_many_pixels_is_not_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(simplejpeg, "decode_jpeg")
    with pytest.raises(ValueError, match="decompression bomb"):
        decode(patched(JPEG, FRAME + 5, struct.pack(">HH", 60_000, 60_000)))


# Threads


def test_many_threads_decode_every_format() -> None:
    transparent = encoded(COLOUR.quantize(256), "PNG", transparency=bytes(range(200)))
    data = [*EVERY.values(), transparent] * 8
    expected = [decode(one) for one in data]
    filters = list(warnings.filters)
    with ThreadPoolExecutor(8) as executor:
        for pixels, one in zip(executor.map(decode, data), expected, strict=True):
            np.testing.assert_array_equal(pixels, one)
    assert warnings.filters == filters


# Damaged bytes: a result or a ValueError, and nothing else


def check_decodes_or_raises(data: bytes) -> None:
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
def test_random_bytes_decode_or_raise_value_error(begin: bytes, data: bytes) -> None:
    check_decodes_or_raises(begin + data)


@settings(deadline=None, max_examples=400)
@given(
    name=st.sampled_from(sorted(EVERY)),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), max_size=4),
    early=st.booleans(),
    part=st.just(1.0) | st.floats(0, 1),
)
def test_damaged_images_decode_or_raise_value_error(
    name: str, flips: list[tuple[float, int]], early: bool, part: float
) -> None:
    data = bytearray(EVERY[name])
    reach = min(700, len(data)) if early else len(data)
    for where, bit in flips:
        data[int(where * reach)] ^= 1 << bit
    check_decodes_or_raises(bytes(data[: int(len(data) * part)]))


LARGE = {
    "baseline": encode(photograph(np.random.default_rng(0), 130, 200), 80),
    "progressive": encoded(COLOUR.resize((200, 130)), "JPEG", progressive=True),
    "restarts": encoded(COLOUR.resize((200, 130)), "JPEG", restart_marker_blocks=4),
    "gray": encoded(GRAY.resize((200, 130)), "JPEG"),
}
"""JPEGs that are decoded at 1/8 to be checked."""


def decodes(function: Callable[[bytes], object], data: bytes) -> bool:
    try:
        function(data)
    except ValueError:
        return False
    return True


@settings(deadline=None, max_examples=200)
@given(
    name=st.sampled_from(sorted(LARGE)),
    kind=st.sampled_from(["cut", "changed", "shortened", "cut with an end marker"]),
    place=st.floats(0.05, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
def test_check_finds_what_decoding_finds(name: str, kind: str, place: float, bit: int) -> None:
    data, at = LARGE[name], int(len(LARGE[name]) * place)
    damaged = {
        "cut": data[:at],
        "changed": patched(data, at, bytes([data[at] ^ 1 << bit])),
        "shortened": data[:at] + data[at + 20 * bit :],
        "cut with an end marker": data[:at] + b"\xff\xd9",
    }[kind]
    assert decodes(check_decodes, damaged) == decodes(decode, damaged)


# Resized while decoding


def resized(data: bytes, size: int) -> Pixels:
    out = np.empty((size, size, 3), np.uint8)
    decode_resized(data, out)
    return out


@named(("name", "size"), [("420", 16), ("420", 60), ("gray", 20), ("CMYK", 9), ("PNG", 9)])
def test_small_reductions_decode_whole_image(name: str, size: int) -> None:
    np.testing.assert_array_equal(resized(EVERY[name], size), resize(decode(EVERY[name]), size))


@named("factor", [3, 3.3, 4.5, 6, 9.1, 12, 20])
@named("shape", [(375, 500), (501, 377)])
def test_reduced_decoding_is_close_to_resize(factor: float, shape: tuple[int, int]) -> None:
    data = encode(photograph(np.random.default_rng(0), *shape), 90)
    size = int(375 / factor)
    distance = np.abs(resized(data, size).astype(int) - resize(decode(data), size))
    assert 0 < distance.mean() <= 2
    assert distance.max() <= 20


@named("size", [32, (30, 61)])
def test_reduced_decoding_crops_same_region(size: Any) -> None:
    rows, columns = np.mgrid[0:401, 0:303]
    drawn = np.stack([rows / 2, columns / 2, rows / 4 + columns / 4], axis=2).astype(np.uint8)
    data = simplejpeg.encode_jpeg(drawn, quality=100, colorsubsampling="444")
    whole = resize(decode(data), size)
    out = np.empty_like(whole)
    decode_resized(data, out)
    assert np.abs(out.astype(int) - whole).max() <= 1


def test_reduced_decoding_of_truncated_jpeg_raises() -> None:
    data = encode(photograph(np.random.default_rng(0), 200, 200), 90)
    out = np.full((20, 20, 3), 7, np.uint8)
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode_resized(data[: len(data) // 2], out)
    assert (out == 7).all()


def test_decode_resized_allocates_only_its_result() -> None:
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
