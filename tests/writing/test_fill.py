"""Advice to the kernel while blocks are filled: prefetching and writeback."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

import arraystore
from arraystore.storage.open_files import OpenFile
from arraystore.storage.range_reader import LocalReader
from arraystore.writing.image_source import FileRanges

if TYPE_CHECKING:
    from pathlib import Path

    from arraystore.cli.synthetic_archives import DrawnArchives

Calls = list[tuple[int, int, int]]

pytestmark = pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="not on this system")


@pytest.fixture
def advice(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Offset, length and advice of each call of `posix_fadvise`."""
    calls: Calls = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _, *call: calls.append(call))
    monkeypatch.setattr(OpenFile, "is_cached", lambda *_, unknown=True: False)
    return calls


def ranges(path: Path, offset: list[int], nbytes: list[int]) -> FileRanges:
    path.write_bytes(b"x")
    file = np.zeros(len(offset), np.int64)
    return FileRanges((str(path),), file, np.array(offset), np.array(nbytes))


def test_prefetch_merges_ranges_in_source_order(tmp_path: Path, advice: Calls) -> None:
    far = 10**8
    ranges(tmp_path / "a.tar", [far, 512, 2048], [100, 1000, 300]).prefetch()
    assert advice == [(512, 1836, os.POSIX_FADV_WILLNEED), (far, 100, os.POSIX_FADV_WILLNEED)]


def test_prefetch_splits_long_ranges(tmp_path: Path, advice: Calls) -> None:
    ranges(tmp_path / "a.tar", [0], [1_200_000]).prefetch()
    assert [(start, nbytes) for start, nbytes, _ in advice] == [
        (0, 524_288),
        (524_288, 524_288),
        (1_048_576, 151_424),
    ]


@pytest.mark.parametrize(("nbytes", "is_called"), [(999, False), (2_000, True)])
def test_prefetch_all_needs_half_of_page_cache(
    tmp_path: Path, advice: Calls, monkeypatch: pytest.MonkeyPatch, nbytes: int, is_called: bool
) -> None:
    monkeypatch.setattr("arraystore.writing.image_source.page_cache_nbytes", lambda: nbytes)
    assert ranges(tmp_path / "a.tar", [0], [1000]).prefetch_all() is is_called
    assert bool(advice) is is_called


@pytest.mark.parametrize("cached_from", [0, 500, 1001])
def test_prefetch_skips_cached_images(
    tmp_path: Path, advice: Calls, monkeypatch: pytest.MonkeyPatch, cached_from: int
) -> None:
    def is_cached(_: OpenFile, offset: int, **__: bool) -> bool:
        return offset >= cached_from

    monkeypatch.setattr(OpenFile, "is_cached", is_cached)
    images = ranges(tmp_path / "a.tar", [0, 1000], [1000, 100])
    is_prefetched = cached_from > 500  # the middle of the first; its header was read before
    assert images.prefetch_all() is is_prefetched
    assert bool(advice) is is_prefetched
    advice.clear()
    images.prefetch()
    assert bool(advice) is is_prefetched


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="not on this system")
def test_prefetch_without_cache_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def preadv(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "no such flag on this file system")

    calls: Calls = []
    images = ranges(tmp_path / "a.tar", [0], [1])
    monkeypatch.setattr(os, "posix_fadvise", lambda _, *call: calls.append(call))
    monkeypatch.setattr(os, "preadv", preadv)
    images.prefetch()
    assert [(start, nbytes) for start, nbytes, _ in calls] == [(0, 1)]


@pytest.mark.parametrize("nbytes", [0, 2**40])
@pytest.mark.parametrize("sync", [False, True])
def test_conversion_prefetches_each_byte_once(
    drawn: DrawnArchives,
    tmp_path: Path,
    advice: Calls,
    monkeypatch: pytest.MonkeyPatch,
    nbytes: int,
    sync: bool,
) -> None:
    monkeypatch.setattr("arraystore.writing.image_source.page_cache_nbytes", lambda: nbytes)
    # Opening the store at the end reads ahead as well.
    monkeypatch.setattr(LocalReader, "read_ahead", lambda *_: None)
    arraystore.convert(
        "imagenet2012_subset/1pct",
        tmp_path / "store.h5",
        manual_dir=drawn.folder,
        partial=True,
        sync=sync,
    )
    prefetched = sum(nbytes for _, nbytes, kind in advice if kind == os.POSIX_FADV_WILLNEED)
    images = sum(map(len, (drawn.train | drawn.validation).values()))
    assert 0.9 * images < prefetched < 1.2 * images  # with gaps, and re-encoded images
    assert (os.POSIX_FADV_DONTNEED in [kind for *_, kind in advice]) is sync
