"""Compare re-encoded images with those of TFDS, byte for byte.

::

    python -m scripts.compare_reencoding

TFDS decodes an image with TensorFlow and encodes it as JPEG of quality 100. This needs
`tensorflow-cpu`, which no extra of the package installs, and draws the images: PNG, and CMYK and
YCCK with and without Adobe marker, at several qualities and subsamplings. The exit status is 1 if
an image that is to be equal differs.
"""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg
from PIL import Image

from arraystore.images.decode import decode
from arraystore.images.reencode import reencode_as_jpeg
from benchmarks.photographs import photograph

if TYPE_CHECKING:
    from collections.abc import Iterator

ODD = "CMYK, subsampled as simplejpeg cannot decode"
"""The only kind that may differ."""


def drawn() -> Iterator[tuple[str, bytes]]:
    """Yield encoded images with their kinds."""
    rng = np.random.default_rng(0)
    for height, width in ((375, 500), (333, 499), (200, 301)):
        pixels = photograph(rng, height, width)
        black = (255 - pixels.max(axis=2) // 2) // 3
        inks = np.dstack([255 - pixels, black]).astype(np.uint8)
        yield "PNG", saved(Image.fromarray(pixels), "PNG")
        for quality in (75, 90, 98):
            picture = Image.fromarray(inks, "CMYK")
            data = saved(picture, "JPEG", quality=quality)
            yield "CMYK", data
            yield "CMYK without Adobe marker", without_adobe(data)
            yield ODD, saved(picture, "JPEG", quality=quality, subsampling=2)
            for sampling in ("444", "422", "420"):
                ycck = simplejpeg.encode_jpeg(
                    255 - inks, quality=quality, colorspace="CMYK", colorsubsampling=sampling
                )
                yield "YCCK", ycck
                yield "YCCK without Adobe marker", without_adobe(ycck)


def saved(picture: Image.Image, form: str, **options: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def without_adobe(data: bytes) -> bytes:
    at = data.index(b"\xff\xee\x00\x0eAdobe")
    return data[:at] + data[at + 16 :]


def of_tfds(data: bytes) -> bytes:
    """Re-encode an image as TFDS does."""
    import tensorflow as tf

    is_png = data.startswith(b"\x89PNG")
    pixels = tf.image.decode_png(data, channels=3) if is_png else tf.image.decode_jpeg(data)
    encoded: bytes = tf.image.encode_jpeg(pixels, format="rgb", quality=100).numpy()
    return encoded


def main() -> int:
    """Print how many images of each kind are equal, and how far the others differ."""
    rows: dict[str, list[tuple[bool, float, int]]] = {}
    for kind, data in drawn():
        ours, theirs = reencode_as_jpeg(data), of_tfds(data)
        off = np.abs(decode(ours).astype(int) - decode(theirs))
        rows.setdefault(kind, []).append((ours == theirs, float(off.mean()), int(off.max())))
    print(f"{'kind':45} {'images':>6} {'equal':>6} {'mean':>6} {'most':>5}")
    for kind, some in rows.items():
        equal, mean, most = zip(*some, strict=True)
        average = float(np.mean(mean))
        print(f"{kind:45} {len(some):6} {sum(equal):6} {average:6.2f} {max(most):5}")
    return int(any(not equal for kind, some in rows.items() if kind != ODD for equal, *_ in some))


if __name__ == "__main__":
    sys.exit(main())
