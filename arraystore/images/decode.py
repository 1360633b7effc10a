"""Encoded bytes: probe a header, decode, resize, re-encode.

Pixels are uint8 of shape (height, width, 3), in the order red, green, blue. All functions may
be called from many threads at once, and raise `ValueError` alone for bytes that are no image or a
damaged one. Its message says what is wrong but not where: the caller knows the place.

simplejpeg decodes JPEG, because it is fast. Pillow decodes everything else, and what simplejpeg
is too strict for; for the JPEG that both can decode their pixels are the same. A JPEG that is to
become much smaller is decoded at 1/2, 1/4 or 1/8, which is less work; see `decode_resized`.
"""

from __future__ import annotations

import contextlib
import threading
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from arraystore.errors import escaped
from arraystore.images import jpeg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from PIL import Image
    from typing_extensions import Buffer

    from arraystore._typing import Pixels

    Read = Callable[[int, int], Buffer]
    Size = tuple[int, int]

IMAGE_SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".avif", ".bmp", ".gif", ".jp2"}
    | {".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
"""Suffixes, in lower case, of the files that are taken for images."""

# Pillow knows more formats. Among them are those that start another program (EPS), that have no
# signature, so that they accept nearly anything (TGA), or that are only recognised (HDF5).
# AVIF stands last, because Pillow before 11.3 fails when it comes to that name.
_FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")

# Pillow's own limit. Larger JPEG are left to Pillow, which a program may tell to allow more.
_FAST_MAX_PIXELS: Final = 89_478_485

_MAX_WHOLE_NBYTES: Final = 2**30  # of an image that is read whole to look at its header

# libjpeg decodes to these fractions faster than whole, to those between more slowly.
_REDUCTIONS: Final = (8, 4, 2)
_MARGIN: Final = 1.5  # the least that is left to scale down; less would be seen
_MIN_REDUCED_SIDE: Final = 64  # below it there is nothing to gain

_SCRATCH_NBYTES: Final = 2**24  # 2,300 x 2,400 pixels; what is larger takes memory of its own
_scratch: Final = threading.local()


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


@cache
def import_decoders() -> None:
    """Import simplejpeg, and Pillow with its modules for `_FORMATS`; to be called before threads.

    A thread that imports holds a lock. If Ctrl-C ends the program meanwhile, whoever needs that
    module waits for ever.
    """
    import simplejpeg  # noqa: F401
    from PIL import (  # noqa: F401
        AvifImagePlugin,
        Image,
        Jpeg2KImagePlugin,
        TiffImagePlugin,
        WebPImagePlugin,
    )

    Image.preinit()  # those for the other formats


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
    piece = bytes(read(0, min(nbytes, jpeg.PIECE_NBYTES)))
    if piece.startswith(jpeg.SIGNATURE):
        frame = jpeg.frame_of(read, nbytes, piece)
        _check_pixels(frame.height * frame.width)
        return ImageHeader(frame.height, frame.width, frame.components, "JPEG")
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
    return _decode(data)[0]


def decode_resized(data: Buffer, out: Pixels) -> None:
    """Decode an image, and resize it into an array.

    The same as ``out[...] = resize(decode(data), out.shape[:2])``, but for a JPEG that has 3 or
    more pixels in each direction for one of the result: it is decoded at 1/2, 1/4 or 1/8, so
    that 1.5 or more are left, and then scaled. What comes of a photograph is, or is less than, 2
    of 255 away from what would have come of all its pixels in the mean, and 20 in the worst.

    Parameters
    ----------
    data : bytes, or any contiguous buffer
        The encoded image.
    out : ndarray of uint8, shape (height, width, 3)
        Where the result is put, whose shape it takes.

    Raises
    ------
    ValueError
        As `decode` does; what is in `out` then is as it was.
    """
    size = (out.shape[0], out.shape[1])
    out[...] = _fit(*_decode(data, size), size)


def resize(pixels: Pixels, size: int | Size) -> Pixels:
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
    height, width = size if isinstance(size, tuple) else (size, size)
    if height < 1 or width < 1:
        raise ValueError(f"size must be 1 or more pixels, got {size!r}")
    return np.array(_fit(pixels, pixels.shape[:2], (height, width)))


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


def _decode(data: Buffer, size: Size | None = None) -> tuple[Pixels, tuple[float, float]]:
    """Return pixels, and how many of them are the height and width of the image.

    If the image is to be resized, they may be fewer than it has, and lie in memory that this
    thread uses again for the next.
    """
    view = memoryview(data).cast("B")
    if view.nbytes == 0:
        raise ValueError("is empty (0 bytes)")
    if bytes(view[:3]) == jpeg.SIGNATURE:
        return _decode_jpeg(view, size)
    with _opened(view) as picture:
        return _whole(_pixels(picture))


def _decode_jpeg(view: memoryview, size: Size | None) -> tuple[Pixels, tuple[float, float]]:
    import simplejpeg

    frame = jpeg.frame_of(lambda start, stop: view[start:stop], view.nbytes)
    _check_pixels(frame.height * frame.width)
    jpeg.check_scans(view, frame)
    if frame.components != 4 and frame.height * frame.width <= _FAST_MAX_PIXELS:
        # Any oddity makes simplejpeg raise, be it an unknown JFIF version. Pillow, which decodes
        # next, raises if the image is truncated.
        with contextlib.suppress(ValueError):
            if size is None:
                return _whole(simplejpeg.decode_jpeg(view, "rgb", strict=True))
            return _decode_reduced(view, frame.height, frame.width, size)
        if jpeg.lacks_only_its_end(view, frame):
            with contextlib.suppress(ValueError):
                return _whole(simplejpeg.decode_jpeg(bytes(view) + jpeg.END, "rgb", strict=True))
    with _opened(jpeg.without_metadata(view)) as picture:
        return _whole(_pixels(picture))


def _decode_reduced(
    view: memoryview, height: int, width: int, size: Size
) -> tuple[Pixels, tuple[float, float]]:
    """Decode a JPEG that is to be resized to no more pixels than that takes."""
    import simplejpeg

    by = _reduction(height, width, size)
    least = {"min_height": -(-height // by), "min_width": -(-width // by), "min_factor": 2}
    nbytes = 3 * least["min_height"] * least["min_width"]
    pixels = simplejpeg.decode_jpeg(view, "rgb", buffer=_scratch_of(nbytes), strict=True, **least)
    return pixels, (height / by, width / by)


def _reduction(height: int, width: int, size: Size) -> int:
    """Return by how much a JPEG is made smaller while it is decoded.

    Examples
    --------
    >>> [_reduction(500, 375, (side, side)) for side in (224, 125, 84, 32)]
    [1, 2, 2, 4]
    """
    if min(height, width) < _MIN_REDUCED_SIDE:
        return 1
    factor = min(height / size[0], width / size[1]) / _MARGIN
    return next((by for by in _REDUCTIONS if by <= factor), 1)


def _scratch_of(nbytes: int) -> Pixels:
    if nbytes > _SCRATCH_NBYTES:
        return np.empty(nbytes, dtype=np.uint8)
    if not hasattr(_scratch, "buffer"):
        _scratch.buffer = np.empty(_SCRATCH_NBYTES, dtype=np.uint8)
    buffer: Pixels = _scratch.buffer
    return buffer


def _whole(pixels: Pixels) -> tuple[Pixels, tuple[float, float]]:
    height, width, _ = pixels.shape
    return pixels, (height, width)


def _fit(pixels: Pixels, extent: tuple[float, float], size: Size) -> NDArray[np.uint8]:
    """Scale the largest centred region of an image, as Pillow's `ImageOps.fit` does.

    Of reduced pixels those of the last row and column may reach beyond the image, `extent`.
    """
    from PIL import Image

    (height, width), ratio = extent, size[1] / size[0]
    if width / height > ratio:
        crop_height, crop_width = height, ratio * height
    elif width / height < ratio:
        crop_height, crop_width = width / ratio, width
    else:
        crop_height, crop_width = height, width
    top, left = (height - crop_height) * 0.5, (width - crop_width) * 0.5
    box = (left, top, left + crop_width, top + crop_height)
    picture = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR, box)
    return np.asarray(picture)


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
        raise ValueError(escaped(f"cannot be decoded: {reason}")) from error


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
