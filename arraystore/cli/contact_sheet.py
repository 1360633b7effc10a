"""Contact sheets: the images of a split on one sheet, with the names of their classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from arraystore._threads import in_threads
from arraystore.errors import escaped
from arraystore.images.decode import decode_resized, import_decoders

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image, ImageFont

    from arraystore._typing import Ints
    from arraystore.dataset.split import Split

_GAP: Final = 8
_BACKGROUND: Final = (255, 255, 255)
_INK: Final = (40, 40, 40)
_BLANK: Final = (200, 200, 200)


def contact_sheet(
    split: Split, positions: Ints, *, size: int = 144, columns: int = 8
) -> Image.Image:
    """Draw samples side by side, each with the words for its class below.

    Parameters
    ----------
    split : Split
    positions : ndarray of int64, shape (n,)
        Positions of the samples, in the order in which they are drawn.
    size : int, default 144
        Height and width of each picture in pixels.
    columns : int, default 8
        Pictures in a row.

    Returns
    -------
    PIL.Image.Image
        An image that cannot be decoded is a gray square with a dark diagonal and a caption.

    Raises
    ------
    ValueError
        If there are no samples.
    FormatError, StorageError
        If encoded images cannot be read, or differ from their checksums.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not len(positions):
        raise ValueError(escaped(f"{split.name}: no sample was selected"))
    columns = min(columns, len(positions))
    rows = -(-len(positions) // columns)
    font = ImageFont.load_default(max(9, size // 11))
    line = int(font.size * 1.4) if hasattr(font, "size") else 12
    across, down = size + _GAP, size + line + _GAP
    sheet = Image.new("RGB", (columns * across + _GAP, rows * down + _GAP), _BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    names = captions(split, positions)
    for row in range(rows):
        shown = positions[row * columns : (row + 1) * columns]
        for column, pixels in enumerate(_pictures(split, shown, size)):
            x, y = _GAP + column * across, _GAP + row * down
            name = names[row * columns + column]
            if pixels is None:
                name = f"{name} (cannot be decoded)"
                pen.rectangle((x, y, x + size - 1, y + size - 1), fill=_BLANK)
                pen.line((x, y, x + size - 1, y + size - 1), fill=_INK)
            else:
                sheet.paste(Image.fromarray(pixels), (x, y))
            name = _fitted(name, size, font)
            pen.text((x, y + size + 1), name, fill=_INK, font=font)
    return sheet


def _pictures(split: Split, positions: Ints, size: int) -> list[NDArray[np.uint8] | None]:
    """Return samples as squares; None for an image that cannot be decoded."""
    encoded = split._reader.checked(positions)

    def picture(i: int) -> NDArray[np.uint8] | None:
        pixels = np.empty((size, size, 3), np.uint8)
        try:
            decode_resized(encoded[i], pixels)
        except ValueError:
            return None
        return pixels

    import_decoders()
    return in_threads(picture, len(encoded))


def captions(split: Split, positions: Ints) -> list[str]:
    """Return the caption of each sample: the first word for its class, or its id."""
    words, ids = split.label_words, split.label_names
    return [
        "no label" if label < 0 else escaped(words[label].split(", ")[0] or ids[label])
        for label in split.label[positions].tolist()
    ]


def _fitted(text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """Shorten a text until it fits into `width` pixels."""
    text = text[:width]
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
