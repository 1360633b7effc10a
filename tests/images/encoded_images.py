"""Encoded images of many formats, and functions that change their bytes."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from arraystore.images.probe import ImageHeader, probe

if TYPE_CHECKING:
    from numpy.typing import NDArray

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


def png_of_16_bit_colour(samples: NDArray[np.uint16]) -> bytes:
    """Return a PNG that Pillow cannot write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    height, width, _ = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    return PNG[:8] + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def png_that_states(width: int, height: int) -> bytes:
    """Return a PNG whose header states a size that its pixels do not have."""
    head = b"IHDR" + struct.pack(">II", width, height) + PNG[24:29]
    return PNG[:12] + head + struct.pack(">I", zlib.crc32(head)) + PNG[33:]
