"""Paths that are neither a Zarr group nor an HDF5 file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import arraystore
from arraystore import FormatError

if TYPE_CHECKING:
    from pathlib import Path


def test_pipe_raises_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.h5")
    with pytest.raises(FormatError, match="neither a folder nor a file"):
        arraystore.open(tmp_path / "a.h5")
