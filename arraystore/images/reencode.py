"""Re-encode images as TFDS does: CMYK JPEG becomes RGB, and PNG becomes JPEG."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore.images import jpeg
from arraystore.images.decode import check_size, decode
from arraystore.images.jpeg import Colours
from arraystore.images.pillow import open_image

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Buffer

    from arraystore._typing import Pixels
    from arraystore.images.probe import ImageHeader

_DENSITY: Final = slice(13, 18)  # of the JFIF header that every JPEG of simplejpeg begins with
_DENSITY_OF_TENSORFLOW: Final = b"\1" + 2 * (300).to_bytes(2, "big")  # 300 dots per inch


def needs_reencoding(header: ImageHeader) -> bool:
    """Return whether version 3.0.0 of ImageNet re-encodes an image.

    It does so for CMYK, and for a PNG whose name ends like that of a JPEG.
    """
    return header.format != "JPEG" or header.components == 4


def reencode_as_jpeg(data: Buffer) -> bytes:
    """Decode an image of any format to RGB, and encode it as baseline JPEG.

    As in TFDS: quality 100, chroma at half the resolution, no metadata. For CMYK and PNG the bytes
    are those that TFDS gets from TensorFlow 2.21. Equal input gives equal output with one version
    of the decoders.

    Raises
    ------
    ValueError
        If the image cannot be decoded, or has a side of more than 65,500 pixels.
    """
    import simplejpeg

    view = memoryview(data).cast("B")
    is_jpeg = bytes(view[:3]) == jpeg.SIGNATURE
    header = check_size(view) if is_jpeg else None
    pixels = _of_cmyk(view, header) if header and header.components == 4 else decode(view)
    encoded: bytes = simplejpeg.encode_jpeg(pixels, quality=100, colorsubsampling="420")
    return encoded[: _DENSITY.start] + _DENSITY_OF_TENSORFLOW + encoded[_DENSITY.stop :]


def _of_cmyk(view: memoryview, header: jpeg.FrameHeader) -> Pixels:
    """Return the pixels of a JPEG of four components as TensorFlow computes them.

    TensorFlow takes inks for inverted if the JPEG has an Adobe marker, and only then.
    """
    colours = jpeg.colours_of(lambda start, stop: view[start:stop], view.nbytes, header)
    inks = _inks(view)
    if colours is not Colours.STATED:
        np.subtract(255, inks, out=inks)
    return (np.multiply(inks[:, :, :3], inks[:, :, 3:], dtype=np.uint16) // 255).astype(np.uint8)


def _inks(view: memoryview) -> NDArray[np.uint8]:
    """Return the components of a CMYK or YCCK JPEG as they are stored, as CMYK."""
    import simplejpeg

    with contextlib.suppress(ValueError):
        # TensorFlow's default is the fast DCT, which differs by up to 11 from the accurate one.
        stored: Any = simplejpeg.decode_jpeg(view, "CMYK", fastdct=True, strict=True)
        return np.asarray(stored)
    # What simplejpeg is too strict for, and subsampling that only libjpeg itself understands.
    with open_image(jpeg.without_metadata(view)) as picture:
        return 255 - np.asarray(picture)  # Pillow inverts them
