"""The suffix of a file name for an encoded image, by its first bytes."""

from __future__ import annotations

from typing import Final

N_BYTES: Final = 12
"""Bytes that `suffix_of` examines."""

_SIGNATURES: Final = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG": ".png",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
    b"\0\0\0\x0cjP": ".jp2",
    b"P4": ".pbm",
    b"P5": ".pgm",
    b"P6": ".ppm",
}


def suffix_of(start: bytes) -> str:
    """Return the suffix for an image that begins with these bytes; ``.bin`` if unknown.

    Examples
    --------
    >>> suffix_of(b"RIFF....WEBPVP8 "), suffix_of(bytes.fromhex("FFD8FFE0"))
    ('.webp', '.jpg')
    """
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return ".webp"
    if start[4:12] in (b"ftypavif", b"ftypavis"):
        return ".avif"
    return next((suffix for sign, suffix in _SIGNATURES.items() if start.startswith(sign)), ".bin")
