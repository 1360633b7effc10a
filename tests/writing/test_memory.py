"""Memory of a conversion per sample."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Final

import numpy as np
import pytest

import arraystore
from arraystore.sources.imagenet2012 import TRAIN_ARCHIVE
from benchmarks.bench_table import small_images, write_archive, write_lists
from tests.support import SUFFIXES

if TYPE_CHECKING:
    from pathlib import Path

PIECES: Final = (
    "sources.tar._BATCH",
    "indexing.packed_names._PIECE",
    "indexing.layout._PIECE",
    "writing.image_source._PREFETCH_ROWS",
    "containers.hdf5.writer.COLUMN_CHUNK_ROWS",
    "containers.zarr.writer.COLUMN_CHUNK_ROWS",
)
"""Numbers of rows that a conversion holds at a time; made small, since the samples are few."""

FEW, MANY = 2_000, 5_000
"""Both are enough samples for the columns, not the imports, to determine the peak."""

MOST_NBYTES: Final = {".h5": 90, ".zarr": 160}
"""Bytes per sample; HDF5 takes 57, Zarr 112 to 135. A Python string alone takes 60 and more."""


def peak_nbytes(folder: Path, suffix: str, n: int) -> int:
    """Convert `n` small images with both lists of subsets; return the peak of memory."""
    folder.mkdir()
    (image,) = small_images(1)
    write_archive(folder / TRAIN_ARCHIVE, np.full(n, len(image)), [image])
    write_lists(folder, n)
    target = folder / f"a{suffix}"
    tracemalloc.start()
    try:
        report = arraystore.convert("imagenet2012", target, manual_dir=folder, partial=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert report.splits["train"].num_samples == n
    assert set(arraystore.open(target).info.selections) == {"1pct", "10pct"}
    return peak


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_conversion_memory_per_sample(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in PIECES:
        monkeypatch.setattr(f"arraystore.{name}", 256)
    # Whether one thread or several hold a buffer at the peak is chance.
    monkeypatch.setattr("arraystore.writing.fill.BUFFER_NBYTES", 4096)
    peak_nbytes(tmp_path / "imports", suffix, 100)
    few, many = [], []
    # The interpreter doubles its tables amid one of the conversions: others do without.
    for i in range(3):
        few.append(peak_nbytes(tmp_path / f"few-{i}", suffix, FEW))
        many.append(peak_nbytes(tmp_path / f"many-{i}", suffix, MANY))
        if min(many) - min(few) < MOST_NBYTES[suffix] * (MANY - FEW):
            return
    assert min(many) - min(few) < MOST_NBYTES[suffix] * (MANY - FEW)
