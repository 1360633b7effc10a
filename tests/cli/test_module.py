"""The command as a module: ``python -m arraystore``."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def test_module_runs_the_command(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "arraystore", "ls", str(path), "--limit", "1"],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert b"1 of 30 samples of train" in done.stdout
