"""The command ``demo``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arraystore.cli.commands import main
from tests.support import write_folder

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_demo_leaves_foreign_folder_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(tmp_path, {"demo.zarr/zarr.json": b"{}"})
    assert main(["demo", str(tmp_path)]) == 1
    assert "neither empty nor from an earlier demo" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["demo.zarr", "zarr.json"]
