"""Unusual images, by their names in docs/images.md."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import simplejpeg
from PIL import Image

from tests.images.encoded_images import (
    ARITHMETIC,
    BLUE,
    CMYK,
    COLOUR,
    DRAWN,
    FRAME,
    GRAY,
    JPEG,
    JPEGS,
    PNG,
    RED,
    SCAN,
    WIDE,
    after_start,
    encoded,
    patched,
    png_of_16_bit_colour,
    png_that_states,
    segment,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


def png_interlaced() -> bytes:
    """Write `DRAWN` as a PNG with Adam7 interlace, which Pillow cannot write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    height, width, _ = DRAWN.shape
    rows = b""
    for top, left, down, across in (
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ):
        rows += b"".join(b"\0" + row.tobytes() for row in DRAWN[top::down, left::across])
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1))
    return PNG[:8] + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def mpo() -> bytes:
    file = io.BytesIO()
    COLOUR.save(file, "MPO", save_all=True, append_images=[GRAY.convert("RGB")])
    return file.getvalue()


def animated(form: str, **options: Any) -> bytes:
    frames = [Image.new("RGB", (16, 8), colour) for colour in (RED, BLUE)]
    return encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)


def without(jpeg: bytes, marker: int) -> bytes:
    """Remove all segments of a marker before the scan."""
    at, kept = 2, jpeg[:2]
    while jpeg[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        kept += b"" if jpeg[at + 1] == marker else jpeg[at:end]
        at = end
    return kept + jpeg[at:]


def of_scans(n: int) -> bytes:
    """Write a progressive JPEG with `n` more scans, all empty."""
    jpeg = JPEGS["gray progressive"]
    end = jpeg.rindex(b"\xff\xd9")
    return jpeg[:end] + jpeg[jpeg.rindex(b"\xff\xda") : end] * n + jpeg[end:]


def of_separate_scans() -> bytes:
    """Write a baseline JPEG with a scan for each component, which Pillow cannot write."""
    grays = [encoded(band, "JPEG") for band in COLOUR.convert("YCbCr").split()]
    frame, scan = grays[0].index(b"\xff\xc0"), grays[0].index(b"\xff\xda")
    components = bytes.fromhex("03 011100 021100 031100")
    head = grays[0][:frame] + segment(0xC0, grays[0][frame + 4 : frame + 9] + components)
    head += grays[0][frame + 2 + 11 : scan]
    scans = [
        segment(0xDA, bytes([1, number, 0, 0, 63, 0])) + gray[gray.index(b"\xff\xda") + 10 : -2]
        for number, gray in enumerate(grays, start=1)
    ]
    return b"".join([head, *scans, b"\xff\xd9"])


YCCK = simplejpeg.encode_jpeg(
    np.full((45, 70, 4), (*RED, 255), np.uint8), quality=95, colorspace="CMYK"
)
HUFFMAN = JPEG.index(b"\xff\xc4")
EXIF = segment(0xE1, b"Exif\0\0" + bytes(65_000))
PROFILE = segment(0xE2, b"ICC_PROFILE\0\x01\x02" + bytes(65_000))
INDEX = PNG.index(b"IDAT")
ONE = encoded(Image.new("RGB", (1, 1), RED), "JPEG")
WIDEST = encoded(Image.new("L", (65_500, 1), 77), "JPEG")
GREY16 = encoded(Image.fromarray(WIDE), "PNG")
PALETTE = COLOUR.quantize(256)
ALPHA = COLOUR.copy()
ALPHA.putalpha(Image.fromarray(DRAWN[:, :, 0]))

FAR = np.full((45, 70, 3), RED, np.uint8)
ROTATED = Image.Exif()
ROTATED[0x0112] = 6

DECODED: dict[str, tuple[bytes, NDArray[np.integer] | bytes, float]] = {
    "JPEG without its end marker": (JPEG[:-2], JPEG, 0),
    "JPEG with rubbish behind its end": (JPEG + b"rubbish" * 300, JPEG, 0),
    "JPEG with the wrong Huffman table": (
        JPEG.replace(table := JPEG[HUFFMAN + 21 : HUFFMAN + 33], table[::-1], 1),
        JPEG,
        255,
    ),
    "JPEG without Huffman tables": (without(JPEG, 0xC4), JPEG, 0),
    "JPEG whose Adobe marker is empty": (after_start(JPEG, segment(0xEE, b"")), JPEG, 0),
    "JPEG whose Adobe marker is cut short": (after_start(JPEG, segment(0xEE, b"Adobe")), JPEG, 0),
    "JPEG of 1 x 1": (ONE, np.full((1, 1, 3), RED), 2),
    "JPEG, 65,500 wide": (WIDEST, np.full((1, 65_500, 3), 77), 2),
    "JPEG, arithmetic coding": (
        ARITHMETIC,
        np.repeat([[RED, BLUE]], 8, axis=1).repeat(8, axis=0),
        60,  # at the edge between red and blue
    ),
    "JPEG with 130 kB of EXIF and 130 kB of ICC profile": (
        after_start(JPEG, EXIF, EXIF, PROFILE, PROFILE),
        JPEG,
        0,
    ),
    "JPEG with another orientation in EXIF": (encoded(COLOUR, "JPEG", exif=ROTATED), JPEG, 0),
    "MPO": (mpo(), JPEG, 0),
    "CMYK with Adobe marker": (CMYK, FAR, 2),
    "CMYK without Adobe marker": (without(CMYK, 0xEE), FAR, 2),
    "YCCK with Adobe marker": (YCCK, FAR, 2),
    "PNG of 16 bit gray": (GREY16, np.repeat((WIDE >> 8)[:, :, np.newaxis], 3, axis=2), 0),
    "PNG of 16 bit colour": (
        png_of_16_bit_colour(np.stack([WIDE, WIDE[::-1], WIDE], 2)),
        np.stack([WIDE, WIDE[::-1], WIDE], 2) >> 8,
        0,
    ),
    "PNG with palette": (encoded(PALETTE, "PNG"), np.array(PALETTE.convert("RGB")), 0),
    "PNG with alpha": (encoded(ALPHA, "PNG"), DRAWN, 0),
    "PNG, interlaced": (png_interlaced(), DRAWN, 0),
    "PNG without its end chunk": (PNG[:-12], DRAWN, 0),
    "PNG that is named .jpg": (PNG, DRAWN, 0),
    "GIF, animated": (animated("GIF"), np.full((8, 16, 3), RED), 0),
    "WebP, animated": (animated("WEBP", lossless=True), np.full((8, 16, 3), RED), 0),
}
"""Encoded bytes, the pixels or another image with the same pixels, and the allowed difference."""

TALLER = "JPEG whose header says more rows than there are"
TALL = patched(JPEG, FRAME + 5, struct.pack(">H", 450))

PROGRESSIVE = JPEGS["progressive"]
REPORTED = {
    "JPEG, truncated in its pixels": JPEG[: (SCAN + len(JPEG)) // 2],
    "JPEG, progressive, truncated between two scans": PROGRESSIVE[
        : PROGRESSIVE.rindex(b"\xff\xda")
    ],
    "JPEG, progressive, without its end marker": PROGRESSIVE[:-2],
    "JPEG with an impossible Huffman table": patched(JPEG, HUFFMAN + 5, b"\xff" * 16),
    "JPEG without quantization tables": without(JPEG, 0xDB),
    "JPEG of 600 scans": of_scans(600),
    "PNG, truncated in its pixels": PNG[: len(PNG) // 2],
    "PNG with a wrong checksum in its pixels": patched(PNG, INDEX + 10, b"xxxx"),
    "GIF, truncated": encoded(COLOUR, "GIF")[:1500],
    "TIFF of floating-point numbers": encoded(Image.fromarray(WIDE.astype(np.float32)), "TIFF"),
}

REFUSED = {
    "JPEG, truncated in its header": JPEG[: FRAME - 3],
    "JPEG with rubbish before its start": bytes(10) + JPEG,
    "JPEG of height 0": patched(JPEG, FRAME + 5, b"\0\0"),
    "JPEG of width 0": patched(JPEG, FRAME + 7, b"\0\0"),
    "JPEG, 65,501 wide": patched(WIDEST, WIDEST.index(b"\xff\xc0") + 7, b"\xff\xdd"),
    "JPEG of 60,000 x 60,000": patched(JPEG, FRAME + 5, struct.pack(">HH", 60_000, 60_000)),
    "JPEG of 12 bits": patched(JPEG, FRAME + 4, b"\x0c"),
    "JPEG, lossless": patched(JPEG, FRAME + 1, b"\xc3"),
    "JPEG of 2 components": patched(JPEG, FRAME + 9, b"\2"),
    "YCCK without Adobe marker": without(YCCK, 0xEE),
    "YCbCr with alpha, without Adobe marker": without(
        simplejpeg.encode_jpeg(
            np.full((45, 70, 4), (*RED, 255), np.uint8), colorspace="CMYK", colorsubsampling="420"
        ),
        0xEE,
    ),
    "PNG, truncated in its header": PNG[:20],
    "PNG of 60,000 x 60,000": png_that_states(60_000, 60_000),
    "WebP, truncated": animated("WEBP", lossless=True)[:-30],
    "empty file": b"",
    "web page in the place of an image": b"<html><body>404</body></html>",
}
