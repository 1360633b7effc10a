"""The stores and operations of the benchmark of growth, with few samples."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pytest

import arraystore
from benchmarks.bench_growth import OPERATIONS, acts
from benchmarks.grown_stores import make
from tests.support import SUFFIXES

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_grown_store_has_a_right_index(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"grown{suffix}"
    make(path, 2000)
    train = arraystore.open(path)["train"]
    for operation in OPERATIONS:
        for act in islice(acts(train, operation), 2):
            act()
    assert train.where(label=77).positions.tolist() == np.flatnonzero(train.label == 77).tolist()
    assert len(np.unique(train.file_name)) == 2000
