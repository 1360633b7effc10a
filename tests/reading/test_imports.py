"""Libraries are imported when they are needed, and never in a thread that may be given up."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from arraystore.images.decode import import_decoders
from tests.reading.imports_child import ACTS, REMOTE
from tests.support import SUFFIXES, write_folder, write_store
from tests.web import WebServer

if TYPE_CHECKING:
    from pathlib import Path

FORMATS = {
    "JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif",
    "PPM": "ppm", "JPEG2000": "jp2", "AVIF": "avif",
}  # fmt: skip


def photos() -> dict[str, bytes]:
    """Return an image of each format, and a JPEG that only Pillow decodes."""
    rng = np.random.default_rng(0)
    found = {}
    for name, suffix in FORMATS.items():
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (80, 90, 3), dtype=np.uint8)).save(file, name)
        found[f"a/{name}.{suffix}"] = file.getvalue()
    file = io.BytesIO()
    Image.frombytes("CMYK", (90, 80), rng.bytes(80 * 90 * 4)).save(file, "JPEG")
    return {**found, "a/CMYK.jpg": file.getvalue()}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_thread_imports_what_the_caller_could_have(suffix: str, tmp_path: Path) -> None:
    images = photos()
    store = tmp_path / f"a{suffix}"
    write_store(store, list(images), [0] * len(images), list(images.values()), classes=["a"])
    write_folder(tmp_path / f"{store.name}-photos", images)
    with WebServer() as web:
        web.put(store, store.name)
        command = [
            sys.executable,
            "-m",
            "tests.reading.imports_child",
            str(store),
            f"{web.url}/{store.name}",
        ]
        ran = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    found = dict(line.partition(": ")[::2] for line in ran.stderr.splitlines())
    assert found == dict.fromkeys([*ACTS, *(f"{name} of a web server" for name in REMOTE)], "")


def test_decoders_are_those_of_every_format() -> None:
    import_decoders()
    code = (
        "import sys\n"
        "from arraystore.images.decode import import_decoders\n"
        "from arraystore.images.pillow import _FORMATS\n"
        "import_decoders()\n"
        "from PIL import Image\n"
        "assert {*_FORMATS} <= {*Image.OPEN}, Image.OPEN.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
