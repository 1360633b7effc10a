"""The header of an encoded image: its size and format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from arraystore.images import jpeg
from arraystore.images.jpeg import Colours
from arraystore.images.pillow import check_pixel_count, open_image

if TYPE_CHECKING:
    from arraystore.images.jpeg import ReadBytes

IMAGE_SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".avif", ".bmp", ".gif", ".jp2"}
    | {".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
"""Suffixes, in lower case, of files that are treated as images."""

_MAX_NBYTES: Final = 2**30  # of an image that is read whole to find its header


class ImageHeader(NamedTuple):
    """Size and format of an encoded image.

    Attributes
    ----------
    height, width : int
        Size in pixels, before any rotation that EXIF requests.
    components : int
        Numbers in one pixel as stored: 1 gray or palette, 3 colour, 4 CMYK or with alpha.
    format : str
        Pillow's name of the format: ``"JPEG"``, ``"PNG"``, ``"WEBP"``, …
    colours : Colours
        Whether the file says what its components mean.
    """

    height: int
    width: int
    components: int
    format: str
    colours: Colours = Colours.STATED


def probe(read: ReadBytes, nbytes: int) -> ImageHeader:
    """Read the header of an encoded image.

    A JPEG is read in pieces of 2 KiB up to its frame header, which is nearly always in the first
    piece. Images of other formats are read whole.

    Parameters
    ----------
    read : callable
        ``read(start, stop)`` returns the bytes ``[start, stop)`` of the image.
    nbytes : int
        Size of the whole image.

    Raises
    ------
    ValueError
        If the bytes are not an image, or the header shows that it cannot be decoded. Decoding the
        pixels may still fail.

    Warns
    -----
    PIL.Image.DecompressionBombWarning
        By Pillow's own rule, except for JPEG. Images over twice the limit are a `ValueError`.

    Examples
    --------
    >>> data = bytes.fromhex("FFD8 FFC0 000B 08 0020 0030 01 011100")
    >>> probe(lambda start, stop: data[start:stop], len(data))[:4]
    (32, 48, 1, 'JPEG')
    """
    if nbytes == 0:
        raise ValueError("is empty (0 bytes)")
    start = bytes(read(0, min(nbytes, jpeg.PIECE_NBYTES)))
    if start.startswith(jpeg.SIGNATURE):
        if plain := jpeg.plain_frame_header(start):
            check_pixel_count(plain.height * plain.width)
            return ImageHeader(plain.height, plain.width, plain.components, "JPEG")
        header = jpeg.find_frame_header(read, nbytes, start)
        check_pixel_count(header.height * header.width)
        colours = jpeg.colours_of(read, nbytes, header)
        return ImageHeader(header.height, header.width, header.components, "JPEG", colours)
    if nbytes > _MAX_NBYTES:
        raise ValueError(f"has {nbytes:,} bytes; at most {_MAX_NBYTES:,} are read of a file")
    with open_image(read(0, nbytes)) as picture:
        width, height = picture.size
        return ImageHeader(height, width, len(picture.getbands()), str(picture.format))
