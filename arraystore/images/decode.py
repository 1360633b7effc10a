"""Decode images to RGB pixels, whole or resized.

simplejpeg decodes JPEG, because it is fast. Pillow decodes all other formats, and the JPEG files
that simplejpeg is too strict for; where both can decode a JPEG, their pixels are equal. A JPEG that
is to become much smaller is decoded at 1/2, 1/4 or 1/8 of its size, which is less work. Rows below
the part that is needed are not decoded.
"""

from __future__ import annotations

import contextlib
import math
import threading
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np

from arraystore.images import jpeg
from arraystore.images.crops import RESIZES, centred
from arraystore.images.jpeg import Colours
from arraystore.images.pillow import DEFAULT_MAX_PIXELS, check_pixel_count, open_image
from arraystore.images.resize import scale_into

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL import Image
    from typing_extensions import Buffer

    from arraystore._typing import Pixels, Size
    from arraystore.images.crops import Crop

# libjpeg decodes to these fractions faster than to the full size, to those between more slowly.
_REDUCTIONS: Final = (8, 4, 2)
_MARGINS: Final = {"pillow": 1.5, "opencv": 1.0}
"""How much is left to scale down, at least. With Pillow, less would be visible; OpenCV, which mixes
fewer pixels, is better and faster if little is left."""
_MIN_REDUCED_SIDE: Final = 64  # below it, decoding at a fraction saves nothing

UNKNOWN_COLOURS: Final = (
    "cannot be decoded: a JPEG of four components without an Adobe marker, which could be CMYK, "
    "YCCK, or YCbCr with alpha; save it as RGB"
)

_ROWS_STEP: Final = 16  # the rows of a JPEG are coded in blocks of 8 or, with half the colour, 16

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
    data: Buffer,
    outs: Sequence[Pixels],
    crops_of: Callable[[int, int], Sequence[Crop]],
    library: str = RESIZES[0],
) -> None:
    """Decode an image once, and scale several parts of it into arrays.

    A JPEG is decoded at a fraction of its size if all parts are to become much smaller, as in
    `decode_resized`. The rows below the parts are not decoded, so damage there is not detected,
    except that the end is missing.

    Parameters
    ----------
    data : bytes, or any contiguous buffer
        The encoded image.
    outs : sequence of ndarray of uint8, shape (height, width, 3)
        Arrays of one size that receive the results.
    crops_of : callable
        Returns the part for each of them, given height and width of the image.
    library : {"pillow", "opencv"}
        What scales. With OpenCV as little as possible is left to scale down.

    Raises
    ------
    ValueError
        As in `decode`; `outs` are then unchanged.
    """
    size = (outs[0].shape[0], outs[0].shape[1])
    crops: Sequence[Crop] = ()

    def needed(height: int, width: int) -> _Needed:
        nonlocal crops
        crops = crops_of(height, width)
        least, margin = min(height, width), _MARGINS[library]
        by = min(_reduction(crop.height, crop.width, size, least, margin) for crop in crops)
        return _Needed(by, max(_n_rows(crop, size, by) for crop in crops))

    decoded = _decode(data, needed)
    height, width = decoded.extent
    # Without a header that was read before, the crops are not known yet.
    for out, crop in zip(outs, crops or crops_of(round(height), round(width)), strict=True):
        scale_into(out, decoded.pixels, crop.reduced(decoded.by), library)


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

    def needed(height: int, width: int) -> _Needed:
        return _Needed(_reduction(height, width, (1, 1), min(height, width)), height)

    return not _decode(data, needed).has_warnings


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


class _Needed(NamedTuple):
    """What is needed of a JPEG.

    Attributes
    ----------
    by : int
        Denominator of the fraction of its size at which it can be decoded.
    n_rows : int
        Rows from the top that are needed, at full size.
    """

    by: int
    n_rows: int


_NeededOf: TypeAlias = "Callable[[int, int], _Needed]"
"""Function from the height and width of a JPEG to what is needed of it."""


def _decode(data: Buffer, needed: _NeededOf | None = None) -> _Decoded:
    """Decode an image.

    If less is `needed` there may be fewer pixels than the image has, and they may be in memory that
    this thread uses again for the next image.
    """
    view = memoryview(data).cast("B")
    if view.nbytes == 0:
        raise ValueError("is empty (0 bytes)")
    if bytes(view[:3]) == jpeg.SIGNATURE:
        return _decode_jpeg(view, needed)
    with open_image(view) as picture:
        return _with_extent(_to_rgb(picture))


def _decode_jpeg(view: memoryview, needed: _NeededOf | None) -> _Decoded:
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
            if needed is None:
                return _with_extent(simplejpeg.decode_jpeg(view, "rgb", strict=True))
            return _decode_needed(view, header, needed(header.height, header.width))
        if jpeg.lacks_only_end_marker(view, header):
            with contextlib.suppress(ValueError):
                whole = bytes(view) + jpeg.END
                return _with_extent(simplejpeg.decode_jpeg(whole, "rgb", strict=True))
    with open_image(jpeg.without_metadata(view)) as picture:
        return _with_extent(_to_rgb(picture))._replace(has_warnings=is_strict)


def check_size(view: memoryview) -> jpeg.FrameHeader:
    """Return the header of a JPEG; `ValueError` if it has too many pixels or scans."""
    header = jpeg.plain_frame_header(bytes(view[: jpeg.PIECE_NBYTES]))
    if header is None:
        header = jpeg.find_frame_header(_reading(view), view.nbytes)
    check_pixel_count(header.height * header.width)
    jpeg.check_scans(view, header)
    return header


def _reading(view: memoryview) -> jpeg.ReadBytes:
    return lambda start, stop: view[start:stop]


def _decode_needed(view: memoryview, header: jpeg.FrameHeader, needed: _Needed) -> _Decoded:
    """Decode a JPEG at a fraction of its size, without rows at its end that are not needed."""
    import simplejpeg

    by, (height, width) = needed.by, (header.height, header.width)
    data: memoryview | bytearray = view
    # The colour of the last rows follows from the rows after them.
    n_rows = _ROWS_STEP * -(-(needed.n_rows + 2 * by) // _ROWS_STEP)
    is_cut = n_rows < height and jpeg.can_be_cut(view, header)
    if is_cut:
        data, height = jpeg.with_height(view, header, n_rows), n_rows
    least = {"min_height": -(-height // by), "min_width": -(-width // by), "min_factor": 2}
    nbytes = 3 * least["min_height"] * least["min_width"]
    buffer = _scratch_buffer(nbytes)
    # libjpeg warns of the rows that it skips. Other warnings are of no interest: for an image with
    # warnings, Pillow would decode the same pixels.
    pixels = simplejpeg.decode_jpeg(data, "rgb", buffer=buffer, strict=not is_cut, **least)
    return _Decoded(pixels, (header.height / by, width / by), by)


def _n_rows(crop: Crop, size: Size, by: int) -> int:
    """Return how many rows of an image can have an influence on a part that is scaled."""
    return math.ceil(crop.top + crop.height + max(crop.height / size[0], by))


def _reduction(
    height: float, width: float, size: Size, least: int, margin: float = _MARGINS[RESIZES[0]]
) -> int:
    """Return the denominator of the fraction at which a JPEG is decoded.

    Parameters
    ----------
    height, width : float
        Of the part of the image that becomes an array of `size`.
    size : (int, int)
    least : int
        The shorter side of the image.
    margin : float
        How much is left to scale down, at least.

    Examples
    --------
    >>> [_reduction(375, 375, (side, side), 375) for side in (224, 125, 84, 32)]
    [1, 2, 2, 4]
    """
    if least < _MIN_REDUCED_SIDE:
        return 1
    factor = min(height / size[0], width / size[1]) / margin
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
