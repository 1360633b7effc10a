"""Encoded bytes: probe a header, decode, resize, re-encode.

Pixels are uint8 of shape (height, width, 3), in the order red, green, blue. All functions may
be called from many threads at once, and raise `ValueError` alone for bytes that are no image or a
damaged one. Its message says what is wrong but not where: the caller knows the place.

simplejpeg decodes JPEG, because it is fast. Pillow decodes everything else, and what simplejpeg
is too strict for; for the JPEG that both can decode their pixels are the same.
"""

from __future__ import annotations

import contextlib
from io import BytesIO
from itertools import pairwise
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from PIL import Image
    from typing_extensions import Buffer

    Pixels = NDArray[np.uint8]
    Read = Callable[[int, int], Buffer]
    Segment = tuple[int, int, tuple[int, int, int, int]]

IMAGE_SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".avif", ".bmp", ".gif", ".jp2"}
    | {".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
"""Suffixes, in lower case, of the files that are taken for images."""

# Pillow knows more formats. Among them are those that start another program (EPS), that have no
# signature, so that they accept nearly anything (TGA), or that are only recognised (HDF5).
# AVIF stands last, because Pillow before 11.3 fails when it comes to that name.
_FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")

_JPEG_SIGNATURE: Final = b"\xff\xd8\xff"
_SCAN: Final = b"\xff\xda"
_END: Final = b"\xff\xd9"
_PIECE_NBYTES: Final = 2048  # most photographs have their frame header in the first 1 KiB

# Flag 0xFF, marker, length; in a frame header then precision, height, width, components.
_SEGMENT: Final = Struct(">BBHBHHB")
_FRAMES: Final = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_HUFFMAN: Final = frozenset({0xC0, 0xC1})
_PROGRESSIVE: Final = frozenset({0xC2, 0xCA})
_UNDECODABLE_FRAMES: Final = frozenset({0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF})
_SEGMENT_MARKERS: Final = _FRAMES | {0xC4, 0xCC, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)}
_METADATA: Final = frozenset({0xE1, 0xE2})  # EXIF, XMP; colour profile, index of further images
_JPEG_MAX_SIDE: Final = 65_500  # libjpeg's limit

# Pillow's own limit. Larger JPEG are left to Pillow, which a program may tell to allow more.
_FAST_MAX_PIXELS: Final = 89_478_485

_MAX_WHOLE_NBYTES: Final = 2**30  # of an image that is read whole to look at its header
_MAX_SCANS: Final = 500  # of a progressive JPEG; each may take as long as a whole image


class ImageHeader(NamedTuple):
    """What an encoded image says about itself.

    Attributes
    ----------
    height, width : int
        Size in pixels, before any rotation that EXIF asks for.
    components : int
        Numbers in one pixel as stored: 1 gray or palette, 3 colour, 4 CMYK or with alpha.
    format : str
        Pillow's name of the format: ``"JPEG"``, ``"PNG"``, ``"WEBP"``, …
    """

    height: int
    width: int
    components: int
    format: str


def probe(read: Read, nbytes: int) -> ImageHeader:
    """Read the header of an encoded image.

    Of a JPEG only pieces of 2 KiB are read, up to its frame header: as a rule the first piece and
    no other. An image of another format is read whole.

    Parameters
    ----------
    read : callable
        ``read(start, stop)`` returns the bytes ``[start, stop)`` of the image.
    nbytes : int
        Size of the whole image.

    Raises
    ------
    ValueError
        If this is no image, or one whose header shows that it cannot be decoded. That the
        pixels can be decoded is not promised.

    Warns
    -----
    PIL.Image.DecompressionBombWarning
        By Pillow's own rule, but not of JPEG. Over twice the limit all are a `ValueError`.

    Examples
    --------
    >>> data = bytes.fromhex("FFD8 FFC0 000B 08 0020 0030 01 011100")
    >>> probe(lambda start, stop: data[start:stop], len(data))
    ImageHeader(height=32, width=48, components=1, format='JPEG')
    """
    if nbytes == 0:
        raise ValueError("is empty (0 bytes)")
    piece = bytes(read(0, min(nbytes, _PIECE_NBYTES)))
    if piece.startswith(_JPEG_SIGNATURE):
        return _jpeg_frame(read, nbytes, piece)[2]
    if nbytes > _MAX_WHOLE_NBYTES:
        raise ValueError(f"has {nbytes:,} bytes; at most {_MAX_WHOLE_NBYTES:,} are read of a file")
    with _opened(read(0, nbytes)) as picture:
        width, height = picture.size
        return ImageHeader(height, width, len(picture.getbands()), str(picture.format))


def needs_reencoding(header: ImageHeader) -> bool:
    """Tell whether version 3.0.0 of ImageNet re-encodes it: CMYK, and a PNG named like a JPEG."""
    return header.format != "JPEG" or header.components == 4


def decode(data: Buffer) -> Pixels:
    """Decode an image into red, green and blue.

    Gray becomes three equal channels. Of 16 bits the higher 8 are kept. Alpha and transparency
    are dropped, showing the colours beneath. Of several images the first is taken. The EXIF
    orientation is ignored (that of a TIFF is no EXIF, and obeyed).

    Parameters
    ----------
    data : bytes, or any contiguous buffer
        The encoded image. A JPEG is decoded where it lies, without a copy.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)
        Writable and C-contiguous.

    Raises
    ------
    ValueError
        If the bytes are no image, or end before it does. (Wrong bytes inside a JPEG that libjpeg
        can pass over go unnoticed, and ``PIL.ImageFile.LOAD_TRUNCATED_IMAGES`` is obeyed.)
    """
    view = memoryview(data).cast("B")
    if view.nbytes == 0:
        raise ValueError("is empty (0 bytes)")
    if bytes(view[:3]) == _JPEG_SIGNATURE:
        return _decode_jpeg(view)
    with _opened(view) as picture:
        return _pixels(picture)


def resize(pixels: Pixels, size: int | tuple[int, int]) -> Pixels:
    """Cut out the largest centred region of the wanted shape, and scale it.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (height, width, 3)
        Image to resize.
    size : int or (int, int)
        Height and width of the result in pixels; a single number means a square.

    Returns
    -------
    ndarray of uint8, shape (*size, 3)
        Scaled with Pillow's bilinear filter, which averages all pixels when it makes smaller.

    Raises
    ------
    ValueError
        If `size` is less than one pixel.

    Examples
    --------
    >>> resize(np.zeros((375, 500, 3), np.uint8), (100, 200)).shape
    (100, 200, 3)
    """
    from PIL import Image, ImageOps

    height, width = size if isinstance(size, tuple) else (size, size)
    if height < 1 or width < 1:
        raise ValueError(f"size must be 1 or more pixels, got {size!r}")
    picture = Image.fromarray(pixels)
    return np.array(ImageOps.fit(picture, (width, height), Image.Resampling.BILINEAR))


def reencode_jpeg(data: Buffer) -> bytes:
    """Encode an image of any format anew, as baseline JPEG.

    As TFDS does: quality 100, chroma at half the resolution, no metadata. The same bytes in give
    the same bytes out, for one version of the decoders.

    Raises
    ------
    ValueError
        If the image cannot be decoded, or has a side of more than 65,500 pixels.
    """
    import simplejpeg

    encoded: bytes = simplejpeg.encode_jpeg(decode(data), quality=100, colorsubsampling="420")
    return encoded


def _jpeg_frame(read: Read, nbytes: int, piece: bytes = b"") -> tuple[int, int, ImageHeader]:
    """Return marker and position of the frame header, and what it says."""
    *_, (marker, position, fields) = _jpeg_segments(read, nbytes, piece)
    precision, height, width, components = fields
    if precision != 8:
        raise ValueError(f"cannot be decoded: a JPEG of {precision} bits, expected 8")
    if height == 0:
        raise ValueError("cannot be decoded: a JPEG whose height comes later, in a DNL marker")
    if height > _JPEG_MAX_SIDE or not 1 <= width <= _JPEG_MAX_SIDE:
        raise ValueError(f"cannot be decoded: a JPEG of height {height} and width {width}")
    if components not in {1, 3, 4}:
        raise ValueError(f"cannot be decoded: a JPEG of {components} components, not 1, 3 or 4")
    _check_pixels(height * width)
    return marker, position, ImageHeader(height, width, components, "JPEG")


def _jpeg_segments(read: Read, nbytes: int, piece: bytes) -> Iterator[Segment]:
    """Yield marker, position and fields of the segments of a JPEG; the frame header is the last.

    `piece` holds first bytes that were read already. Only a frame header has true fields.
    """
    start, position = 0, 2
    while position + _SEGMENT.size <= nbytes:
        if position + _SEGMENT.size > start + len(piece):
            start = position
            piece = bytes(read(start, min(start + _PIECE_NBYTES, nbytes)))
        at = position - start
        flag, marker, length, *fields = _SEGMENT.unpack_from(piece, at)
        if flag == marker == 0xFF:  # a fill byte
            position += 1
            continue
        if flag == 0xFF and marker in _UNDECODABLE_FRAMES:
            raise ValueError(f"cannot be decoded: a lossless or hierarchical JPEG (0x{marker:02X})")
        if flag != 0xFF or marker not in _SEGMENT_MARKERS or length < 2:
            found = piece[at : at + 4].hex(" ").upper()
            raise ValueError(f"is a damaged JPEG: {found} at byte {position} begins no segment")
        yield marker, position, tuple(fields)
        if marker in _FRAMES:
            return
        position += 2 + length
    raise ValueError(f"is a truncated JPEG: no frame header in its {nbytes} bytes")


def _check_pixels(n_pixels: int) -> None:
    """Refuse what Pillow would, without opening the image."""
    if n_pixels > 2 * _FAST_MAX_PIXELS:
        from PIL import Image

        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and n_pixels > 2 * limit:
            raise ValueError(
                f"cannot be decoded: {n_pixels:,} pixels, more than {2 * limit:,}; could be a "
                "decompression bomb"
            )


def _check_scans(view: memoryview) -> None:
    """Refuse a progressive JPEG that would decode the same pixels again and again."""
    n_scans = bytes(view).count(_SCAN)
    if n_scans > _MAX_SCANS:
        raise ValueError(f"cannot be decoded: a JPEG of {n_scans} scans, at most {_MAX_SCANS}")


def _decode_jpeg(view: memoryview) -> Pixels:
    import simplejpeg

    marker, position, header = _jpeg_frame(lambda start, stop: view[start:stop], view.nbytes)
    if marker in _PROGRESSIVE:
        _check_scans(view[position:])
    if header.components != 4 and header.height * header.width <= _FAST_MAX_PIXELS:
        # Any oddity makes simplejpeg raise, be it an unknown JFIF version. Pillow, which decodes
        # next, raises if the image is truncated.
        with contextlib.suppress(ValueError):
            pixels: Pixels = simplejpeg.decode_jpeg(view, "rgb", strict=True)
            return pixels
        if _lacks_only_its_end(view, marker, position, header.components):
            with contextlib.suppress(ValueError):
                whole: Pixels = simplejpeg.decode_jpeg(bytes(view) + _END, "rgb", strict=True)
                return whole
    with _opened(_without_metadata(view)) as picture:
        return _pixels(picture)


def _lacks_only_its_end(view: memoryview, frame: int, position: int, components: int) -> bool:
    """Whether a JPEG has no end marker, and a decoder will notice if anything else is gone.

    Of several scans one that is missing altogether would go unnoticed, and of an
    arithmetic code the end of its only one.
    """
    if frame not in _HUFFMAN or bytes(view[-2:]) == _END:
        return False
    body = bytes(view[position:])
    scan = body.find(_SCAN)
    return 0 <= scan < len(body) - 4 and body.count(_SCAN) == 1 and body[scan + 4] == components


def _without_metadata(view: memoryview) -> bytes:
    """Leave out of a JPEG what Pillow would read for nothing, and warn about if it is damaged."""
    segments = list(_jpeg_segments(lambda start, stop: view[start:stop], view.nbytes, b""))
    kept = [
        view[start:stop]
        for (marker, start, _), (_, stop, _) in pairwise(segments)
        if marker not in _METADATA
    ]
    _, frame, _ = segments[-1]
    return b"".join([view[:2], *kept, view[frame:]])


@contextlib.contextmanager
def _opened(data: Buffer) -> Iterator[Image.Image]:
    """Open an image with Pillow; whatever is raised from then on becomes a `ValueError`."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as picture:
            yield picture
    except UnidentifiedImageError:
        begin = bytes(memoryview(data)[:16])
        raise ValueError(f"is not an image that can be decoded; it begins with {begin!r}") from None
    except Exception as error:
        # Damaged bytes make Pillow raise nearly anything: OSError, RuntimeError, SyntaxError,
        # TypeError, struct.error, MemoryError, its own DecompressionBombError, …
        reason = str(error) or type(error).__name__
        raise ValueError(f"cannot be decoded: {reason}") from error


def _pixels(picture: Image.Image) -> Pixels:
    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers, expected integers")
    if picture.mode.startswith("I"):  # Pillow's own conversion would clip these at 255
        wide = np.asarray(picture)
        if wide.min() < 0 or wide.max() > 0xFFFF:
            raise ValueError("its pixels have more than 16 bits")
        return np.repeat((wide >> 8).astype(np.uint8)[:, :, np.newaxis], 3, axis=2)
    if picture.mode == "P":  # Pillow warns when a palette with transparency becomes RGB directly
        picture = picture.convert("RGBA")
    return np.array(picture.convert("RGB"))
