"""Re-encode images that are not plain JPEG: CMYK becomes RGB, and PNG becomes JPEG."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arraystore.images.decode import decode

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from arraystore.images.probe import ImageHeader


def needs_reencoding(header: ImageHeader) -> bool:
    """Return whether version 3.0.0 of ImageNet re-encodes an image.

    It does so for CMYK, and for a PNG whose name ends like that of a JPEG.
    """
    return header.format != "JPEG" or header.components == 4


def reencode_as_jpeg(data: Buffer) -> bytes:
    """Decode an image of any format to RGB, and encode it as baseline JPEG.

    As in TFDS: quality 100, chroma at half the resolution, no metadata. Equal input gives equal
    output with one version of the decoders.

    Raises
    ------
    ValueError
        If the image cannot be decoded, or has a side of more than 65,500 pixels.
    """
    import simplejpeg

    encoded: bytes = simplejpeg.encode_jpeg(decode(data), quality=100, colorsubsampling="420")
    return encoded
