"""Contact sheets of the command ``show``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

import arraystore
from arraystore.cli.commands import main
from tests.support import picture, write_folder

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_undecodable_image_leaves_gap_in_sheet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = picture(64, 64)
    folder = write_folder(tmp_path / "in", {"a/1.jpg": whole, "a/2.jpg": whole[: len(whole) // 2]})
    arraystore.convert(f"folder:{folder}", tmp_path / "a.zarr", order="source")
    sheet = tmp_path / "sheet.png"
    assert main(["show", str(tmp_path / "a.zarr"), "-o", str(sheet), "--size", "32"]) == 0
    with Image.open(sheet) as drawn_sheet:
        assert drawn_sheet.getpixel((8 + 32 + 8 + 20, 8 + 4)) == (200, 200, 200)


def test_sheet_shows_every_class_and_must_be_png(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(path)
    sheet = str(tmp_path / "sheet.png")
    assert main(["show", store, "validation+train+train+train", "--size", "16", "-o", sheet]) == 0
    assert "64 of 110 samples" in capsys.readouterr().out
    assert main(["show", store, "--per-label", "5", "--size", "16", "-o", sheet]) == 0
    assert "30 of 30 samples" in capsys.readouterr().out
    assert main(["show", store, "-o", str(tmp_path / "sheet.jpg")]) == 2
    assert "must end in .png" in capsys.readouterr().err
