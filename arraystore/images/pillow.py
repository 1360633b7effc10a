"""Open encoded images with Pillow, within limits."""

from __future__ import annotations

import contextlib
from io import BytesIO
from typing import TYPE_CHECKING, Final

from arraystore.errors import escaped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image
    from typing_extensions import Buffer

DEFAULT_MAX_PIXELS: Final = 89_478_485
"""Pillow's default for the number of pixels above which it warns; twice as many are an error."""

# Pillow knows more formats. Some of them start another program (EPS), have no signature and so
# accept nearly anything (TGA), or are only recognised (HDF5). AVIF is last, because Pillow before
# 11.3 fails when it reaches that name.
_FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")


@contextlib.contextmanager
def open_image(data: Buffer) -> Iterator[Image.Image]:
    """Open an image with Pillow, and raise `ValueError` for every error until it is closed."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as picture:
            yield picture
    except UnidentifiedImageError:
        start = bytes(memoryview(data)[:16])
        raise ValueError(f"is not an image that can be decoded; it begins with {start!r}") from None
    except Exception as error:
        # Damaged bytes make Pillow raise nearly anything: OSError, RuntimeError, SyntaxError,
        # TypeError, struct.error, MemoryError, its own DecompressionBombError, …
        reason = str(error) or type(error).__name__
        raise ValueError(escaped(f"cannot be decoded: {reason}")) from error


def check_pixel_count(n_pixels: int) -> None:
    """Raise `ValueError` for an image that Pillow would refuse to open because of its size."""
    if n_pixels > 2 * DEFAULT_MAX_PIXELS:
        from PIL import Image

        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and n_pixels > 2 * limit:
            raise ValueError(
                f"cannot be decoded: {n_pixels:,} pixels, more than {2 * limit:,}; could be a "
                "decompression bomb"
            )
