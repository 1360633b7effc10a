"""Killed conversions: nothing is lost or wrong. `benchmarks.kills` does the same for longer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import SUFFIXES

ROOT = Path(__file__).parents[2]


def kills(*options: str) -> dict[str, int]:
    """Run `benchmarks.kills` in a new process, because it forks."""
    module = [sys.executable, "-m", "benchmarks.kills"]
    done = subprocess.run(
        [*module, *options], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    counts: dict[str, int] = json.loads(done.stdout)
    return counts


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_killed_conversion_is_resumed_to_same_bytes(suffix: str, tmp_path: Path) -> None:
    counts = kills("--rounds", "4", "--suffix", suffix, "--folder", str(tmp_path))
    assert counts["rounds"] == 4
    assert counts["process_kills"] + counts["power_kills"] >= 4
    assert min(counts["process_kills"], counts["power_kills"], counts["resumes"]) > 0


def test_killed_append_without_copies_is_resumed(tmp_path: Path) -> None:
    options = "--append", "--no-copy-images", "--suffix", ".h5", "--folder", str(tmp_path)
    assert kills("--rounds", "1", *options)["rounds"] == 1


def test_killed_changes_of_columns_leave_a_whole_store(tmp_path: Path) -> None:
    counts = kills("--rounds", "1", "--columns", "--folder", str(tmp_path), "--suffix", ".h5")
    assert counts["rounds"] == 1


@pytest.mark.parametrize(("suffix", "option"), [(".zarr", ()), (".h5", ("--no-exchange",))])
def test_killed_overwriting_leaves_a_readable_store(
    suffix: str, option: tuple[str, ...], tmp_path: Path
) -> None:
    folder = "--folder", str(tmp_path)
    counts = kills("--rounds", "1", "--suffix", suffix, "--overwrite", *folder, *option)
    assert counts["overwritings_killed"] >= 1
