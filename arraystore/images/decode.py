"""Decode images to RGB pixels, whole or resized.

simplejpeg decodes JPEG, because it is fast. Pillow decodes all other formats, and the JPEG files
that simplejpeg is too strict for; where both can decode a JPEG, their pixels are equal. A JPEG that
is to become much smaller is decoded at 1/2, 1/4 or 1/8 of its size, which is less work.
"""

from __future__ import annotations

import contextlib
import threading
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np

from arraystore.images import jpeg
from arraystore.images.crops import centred
from arraystore.images.jpeg import Colours
from arraystore.images.pillow import DEFAULT_MAX_PIXELS, check_pixel_count, open_image
from arraystore.images.resize import scale

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL import Image
    from typing_extensions import Buffer

    from arraystore._typing import Pixels, Size
    from arraystore.images.crops import Crop

# libjpeg decodes to these fractions faster than to the full size, to those between more slowly.
_REDUCTIONS: Final = (8, 4, 2)
_MARGIN: Final = 1.5  # how much is left to scale down, at least; less would be visible
_MIN_REDUCED_SIDE: Final = 64  # below it, decoding at a fraction saves nothing

UNKNOWN_COLOURS: Final = (
    "cannot be decoded: a JPEG of four components without an Adobe marker, which could be CMYK, "
    "YCCK, or YCbCr with alpha; save it as RGB"
)

_SCRATCH_NBYTES: Final = 2**24  # 2,300 x 2,400 pixels; larger images allocate memory of their own
_scratch: Final = threading.local()


@cache
def import_decoders() -> None:
    """Import simplejpeg, and Pillow with the modules of all formats; call it before threads start.

    A thread holds a lock while it imports. If Ctrl-C ends the program meanwhile, whoever needs that
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

    Image.preinit()  # the modules of the other formats


def decode(data: Buffer) -> Pixels:
    """Decode an image to red, green and blue.

    Gray becomes three equal channels, and CMYK becomes RGB. A JPEG of four components without an
    Adobe marker is CMYK if its components are named C, M, Y, K, and an error otherwise. The higher
    8 of 16 bits are kept. Alpha and transparency are dropped, showing the colours beneath. Of
    several images in one file, the first is decoded. The EXIF orientation is ignored (TIFF has an
    orientation of its own, which is applied).

    Parameters
    ----------
    data : bytes, or any contiguous buffer
        The encoded image. A JPEG is decoded without copying it.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)
        Writable and C-contiguous.

    Raises
    ------
    ValueError
        If the bytes are not an image, the image is truncated, or the meaning of its components is
        not known. (Wrong bytes inside a JPEG that libjpeg can skip are not detected, and
        ``PIL.ImageFile.LOAD_TRUNCATED_IMAGES`` is respected.)
    """
    return _decode(data).pixels


def decode_resized(data: Buffer, out: Pixels) -> None:
    """Decode an image, and resize it into an array.

    The result equals ``resize(decode(data), out.shape[:2])``, except for a JPEG with at least 3
    pixels in each direction for one of the result: it is decoded at 1/2, 1/4 or 1/8, so that 1.5
    or more are left, and then scaled. For photographs the difference is at most 2 of 255 on
    average and 20 of 255 at worst.

    Parameters
    ----------
    data : bytes, or any contiguous buffer
        The encoded image.
    out : ndarray of uint8, shape (height, width, 3)
        Array that receives the result, and determines its size.

    Raises
    ------
    ValueError
        As in `decode`; `out` is then unchanged.
    """
    size = (out.shape[0], out.shape[1])
    decode_crops(data, [out], lambda height, width: [centred(height, width, size)])


def decode_crops(
    data: Buffer, outs: Sequence[Pixels], crops_of: Callable[[int, int], Sequence[Crop]]
) -> None:
    """Decode an image once, and scale several parts of it into arrays.

    A JPEG is decoded at a fraction of its size if all parts are to become much smaller, as in
    `decode_resized`.

    Parameters
    ----------
    data : bytes, or any contiguous buffer
        The encoded image.
    outs : sequence of ndarray of uint8, shape (height, width, 3)
        Arrays of one size that receive the results.
    crops_of : callable
        Returns the part for each of them, given height and width of the image.

    Raises
    ------
    ValueError
        As in `decode`; `outs` are then unchanged.
    """
    size = (outs[0].shape[0], outs[0].shape[1])
    crops: Sequence[Crop] = ()

    def reduction(height: int, width: int) -> int:
        nonlocal crops
        crops = crops_of(height, width)
        least = min(height, width)
        return min(_reduction(crop.height, crop.width, size, least) for crop in crops)

    decoded = _decode(data, reduction)
    by, (height, width) = decoded.by, decoded.extent
    # Without a header that was read before, the crops are not known yet.
    for out, crop in zip(outs, crops or crops_of(round(height), round(width)), strict=True):
        part = crop._replace(
            top=crop.top / by,
            left=crop.left / by,
            height=crop.height / by,
            width=crop.width / by,
        )
        out[...] = scale(decoded.pixels, part, size)


def check_decodes(data: Buffer) -> bool:
    """Decode an image, and return whether the decoder had nothing to object to.

    A large JPEG is decoded at 1/8 of its size. This reads all of its data, and so finds the same
    faults in about half the time and in little memory. libjpeg objects to missing and wrong data,
    which it fills with gray or skips, and to harmless oddities. Objections to CMYK are not known.

    Raises
    ------
    ValueError
        As in `decode`.
    """
    return not _decode(data, lambda h, w: _reduction(h, w, (1, 1), min(h, w))).has_warnings


class _Decoded(NamedTuple):
    """Pixels, and the height and width of the image in them.

    Attributes
    ----------
    pixels : ndarray of uint8, shape (height, width, 3)
    extent : (float, float)
        The last row and column can extend beyond the image.
    by : int
        Denominator of the fraction at which the image was decoded.
    has_warnings : bool
        Whether libjpeg warned.
    """

    pixels: Pixels
    extent: tuple[float, float]
    by: int = 1
    has_warnings: bool = False


_Reduction: TypeAlias = "Callable[[int, int], int]"
"""Function from the height and width of a JPEG to the denominator of a fraction of its size."""


def _decode(data: Buffer, reduction: _Reduction | None = None) -> _Decoded:
    """Decode an image.

    With a reduction there may be fewer pixels than the image has, and they may be in memory that
    this thread uses again for the next image.
    """
    view = memoryview(data).cast("B")
    if view.nbytes == 0:
        raise ValueError("is empty (0 bytes)")
    if bytes(view[:3]) == jpeg.SIGNATURE:
        return _decode_jpeg(view, reduction)
    with open_image(view) as picture:
        return _with_extent(_to_rgb(picture))


def _decode_jpeg(view: memoryview, reduction: _Reduction | None) -> _Decoded:
    import simplejpeg

    header = check_size(view)
    n_pixels = header.height * header.width
    if jpeg.colours_of(_reading(view), view.nbytes, header) is Colours.UNKNOWN:
        raise ValueError(UNKNOWN_COLOURS)
    # simplejpeg decodes CMYK to nothing else. Larger images are left to Pillow, whose limit users
    # can set.
    is_strict = header.components != 4 and n_pixels <= DEFAULT_MAX_PIXELS
    if is_strict:
        # simplejpeg raises for any oddity, even an unknown JFIF version. Pillow, which decodes
        # next, raises if the image is truncated.
        with contextlib.suppress(ValueError):
            if reduction is None:
                return _with_extent(simplejpeg.decode_jpeg(view, "rgb", strict=True))
            by = reduction(header.height, header.width)
            return _decode_reduced(view, header.height, header.width, by)
        if jpeg.lacks_only_end_marker(view, header):
            with contextlib.suppress(ValueError):
                whole = bytes(view) + jpeg.END
                return _with_extent(simplejpeg.decode_jpeg(whole, "rgb", strict=True))
    with open_image(jpeg.without_metadata(view)) as picture:
        return _with_extent(_to_rgb(picture))._replace(has_warnings=is_strict)


def check_size(view: memoryview) -> jpeg.FrameHeader:
    """Return the header of a JPEG; `ValueError` if it has too many pixels or scans."""
    header = jpeg.find_frame_header(_reading(view), view.nbytes)
    check_pixel_count(header.height * header.width)
    jpeg.check_scans(view, header)
    return header


def _reading(view: memoryview) -> jpeg.ReadBytes:
    return lambda start, stop: view[start:stop]


def _decode_reduced(view: memoryview, height: int, width: int, by: int) -> _Decoded:
    """Decode a JPEG at a fraction of its size."""
    import simplejpeg

    least = {"min_height": -(-height // by), "min_width": -(-width // by), "min_factor": 2}
    nbytes = 3 * least["min_height"] * least["min_width"]
    buffer = _scratch_buffer(nbytes)
    pixels = simplejpeg.decode_jpeg(view, "rgb", buffer=buffer, strict=True, **least)
    return _Decoded(pixels, (height / by, width / by), by)


def _reduction(height: float, width: float, size: Size, least: int) -> int:
    """Return the denominator of the fraction at which a JPEG is decoded.

    Parameters
    ----------
    height, width : float
        Of the part of the image that becomes an array of `size`.
    size : (int, int)
    least : int
        The shorter side of the image.

    Examples
    --------
    >>> [_reduction(375, 375, (side, side), 375) for side in (224, 125, 84, 32)]
    [1, 2, 2, 4]
    """
    if least < _MIN_REDUCED_SIDE:
        return 1
    factor = min(height / size[0], width / size[1]) / _MARGIN
    return next((by for by in _REDUCTIONS if by <= factor), 1)


def _scratch_buffer(nbytes: int) -> Pixels:
    if nbytes > _SCRATCH_NBYTES:
        return np.empty(nbytes, dtype=np.uint8)
    if not hasattr(_scratch, "buffer"):
        _scratch.buffer = np.empty(_SCRATCH_NBYTES, dtype=np.uint8)
    buffer: Pixels = _scratch.buffer
    return buffer


def _with_extent(pixels: Pixels) -> _Decoded:
    height, width, _ = pixels.shape
    return _Decoded(pixels, (height, width))


def _to_rgb(picture: Image.Image) -> Pixels:
    """Return the pixels of an image of any mode (CMYK, palette, gray, alpha, 16 bits) as RGB."""
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
