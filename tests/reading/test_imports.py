"""Libraries are imported when they are needed, and never in a thread that may be given up."""

from __future__ import annotations

import ast
import inspect
import io
import pickle
import pydoc
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

import arraystore
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

NOT_FOR_READING = (
    *("arraystore.convert", "arraystore.sources", "arraystore.verifying", "arraystore.cli"),
    "arraystore.exporting",
    *("arraystore.writing.add_column", "arraystore.writing.computed_column"),
    *("arraystore.writing.progress", "arraystore.writing.report"),
    *("arraystore.containers.hdf5.editor", "arraystore.containers.hdf5.writer"),
    *("arraystore.containers.zarr.bucket_editor", "arraystore.containers.zarr.editor"),
    "arraystore.containers.zarr.writer",
    *("concurrent.futures", "logging", "shutil", "tempfile", "csv", "tarfile", "zipfile"),
)
"""Modules that programs which only read never need."""


def run(code: str, *arguments: str) -> str:
    """Run code in an interpreter of its own, and return what it prints."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout


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


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_reading_a_batch_imports_nothing_that_writes(suffix: str, tmp_path: Path) -> None:
    images = photos()
    store = tmp_path / f"a{suffix}"
    write_store(store, list(images), [0] * len(images), list(images.values()), classes=["a"])
    code = (
        "import sys, arraystore\n"
        f"unwanted = {NOT_FOR_READING!r}\n"
        # Libraries that decode or read columns may import some of these themselves.
        "own = [name for name in unwanted if name.startswith('arraystore')]\n"
        "print([name for name in unwanted if name in sys.modules])\n"
        "train = arraystore.open(sys.argv[1])['train']\n"
        "train[train.where(label=0).positions], train.image_bytes[0]\n"
        "next(iter(train.batches(2)))\n"
        "print([name for name in own if name in sys.modules])"
    )
    assert run(code, str(store)) == "[]\n[]\n"


def test_lazy_names_are_those_that_type_checkers_see() -> None:
    tree = ast.parse(inspect.getsource(arraystore))
    (typed,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    names = {
        name.name: node.module
        for node in typed.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    assert names == arraystore._MODULES
    assert names.keys() <= {*arraystore.__all__}


def test_missing_name_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'arraystore' has no attribute 'convrt'"):
        _ = arraystore.convrt  # type: ignore[attr-defined]
    assert {*dir(arraystore)} == {*arraystore.__all__}


@pytest.mark.parametrize(
    "first",
    [
        "import arraystore.convert",
        "from arraystore.convert import write",
        "import arraystore; arraystore.write",
        "import importlib, arraystore.convert; importlib.reload(arraystore)",
    ],
)
def test_convert_is_the_function_whatever_was_imported_first(first: str) -> None:
    code = (
        "import arraystore; print(type(arraystore.convert).__name__, arraystore.convert.__module__)"
    )
    assert run(f"{first}\n{code}") == "function arraystore.convert\n"


def test_convert_can_be_replaced_and_pickled(monkeypatch: pytest.MonkeyPatch) -> None:
    convert = arraystore.convert
    assert pickle.loads(pickle.dumps(convert)) is convert
    monkeypatch.setattr(arraystore, "convert", print)
    assert vars(arraystore)["convert"] is print


def test_help_shows_lazy_functions() -> None:
    assert "convert(" in pydoc.plain(pydoc.render_doc(arraystore))
