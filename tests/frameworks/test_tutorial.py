"""The tutorial runs, and the encoder that it trains has learned something."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scripts.draw_tutorial import run_tutorial

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("torch", reason="PyTorch is not installed")


def test_tutorial_runs_as_printed(tmp_path: Path) -> None:
    failed, variables = run_tutorial(tmp_path)
    assert failed == 0
    accuracy = variables["accuracy"]
    for part in ("1 %", "10 %", "100 %", "5-shot"):
        assert accuracy["SimCLR", part] > accuracy["untrained", part] + 0.05
