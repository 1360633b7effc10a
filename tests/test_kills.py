"""Conversions that are killed: nothing lost, nothing wrong. `benchmarks.kills` does more of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import SUFFIXES

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_killed_conversion_leaves_nothing_or_all_and_is_resumed_to_the_same_bytes(
    suffix: str, tmp_path: Path
) -> None:
    # In a process of its own, because it forks.
    module = [sys.executable, "-m", "benchmarks.kills"]
    options = ["--rounds", "20", "--suffix", suffix, "--folder", str(tmp_path)]
    done = subprocess.run(
        [*module, *options], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["rounds"] == 20
    assert counts["process_kills"] + counts["power_kills"] >= 20
    assert min(counts["process_kills"], counts["power_kills"], counts["resumes"]) > 5
