"""Pixels become an encoded image: PNG, which keeps every pixel, or JPEG."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore._arguments import as_count, check_choice
from arraystore.errors import brief, escaped

if TYPE_CHECKING:
    from numpy.typing import NDArray

ENCODINGS: Final = ("png", "jpeg")
"""What arrays and pictures may be encoded as; the first is the default, and lossless."""

_PNG_MODES: Final = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
_JPEG_MODES: Final = frozenset({"L", "RGB"})


@dataclass(frozen=True, slots=True)
class Encoding:
    """How arrays and pictures are encoded.

    Attributes
    ----------
    format : {"png", "jpeg"}
    quality : int
        Of JPEG, 1 to 100.
    """

    format: str = ENCODINGS[0]
    quality: int = 95

    def encode(self, image: Any) -> bytes:
        """Return an array or picture of Pillow, encoded.

        Raises
        ------
        ValueError
            If it cannot be encoded without a change of its pixels, or not at all.
        """
        from PIL import Image

        picture = image if hasattr(image, "save") else Image.fromarray(_pixels(image))
        modes = _PNG_MODES if self.format == "png" else _JPEG_MODES
        if picture.mode not in modes:
            raise ValueError(
                f"is a picture of mode {brief(picture.mode)}, which {brief(self.format)} cannot "
                "hold; convert it first, such as with .convert('RGB')"
            )
        out = io.BytesIO()
        if self.format == "png":
            picture.save(out, "PNG")
        else:
            picture.save(out, "JPEG", quality=self.quality)
        return out.getvalue()


LOSSLESS: Final = Encoding()
"""PNG."""


def _pixels(image: Any) -> NDArray[np.uint8]:
    array = np.asarray(image)
    if array.dtype != np.uint8:
        raise ValueError(f"is an array of {brief(array.dtype)}, expected uint8")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if 0 in array.shape or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        hint = "; transpose it" if array.ndim == 3 and array.shape[0] == 3 else ""
        raise ValueError(
            escaped(
                f"is an array of shape {array.shape}, expected (height, width, 3) or "
                f"(height, width){hint}"
            )
        )
    return np.ascontiguousarray(array)


def as_encoding(encoding: str, quality: int) -> Encoding:
    """Return how arrays are encoded; `ValueError` if it is not one of `ENCODINGS`."""
    check_choice(encoding, "encoding", ENCODINGS)
    return Encoding(encoding, as_count(quality, "quality", least=1, most=100))
