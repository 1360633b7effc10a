"""What filling tells the kernel: what will be read, in its order, and what to write."""

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

Told = list[tuple[int, int, int]]

pytestmark = pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="not on this system")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """Offset, length and advice of each call of `posix_fadvise`."""
    calls: Told = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _, *advice: calls.append(advice))
    monkeypatch.setattr(OpenFile, "is_cached", lambda *_, unknown=True: False)
    return calls


def ranges(path: Path, offset: list[int], nbytes: list[int]) -> FileRanges:
    path.write_bytes(b"x")
    file = np.zeros(len(offset), np.int64)
    return FileRanges((str(path),), file, np.array(offset), np.array(nbytes))


def test_images_are_announced_in_the_order_of_the_source_and_neighbours_together(
    tmp_path: Path, told: Told
) -> None:
    far = 10**8
    ranges(tmp_path / "a.tar", [far, 512, 2048], [100, 1000, 300]).announce()
    assert told == [(512, 1836, os.POSIX_FADV_WILLNEED), (far, 100, os.POSIX_FADV_WILLNEED)]


def test_long_ones_are_announced_in_pieces_that_linux_reads(tmp_path: Path, told: Told) -> None:
    ranges(tmp_path / "a.tar", [0], [1_200_000]).announce()
    assert [(start, nbytes) for start, nbytes, _ in told] == [
        (0, 524_288),
        (524_288, 524_288),
        (1_048_576, 151_424),
    ]


@pytest.mark.parametrize(("room", "is_told"), [(999, False), (2_000, True)])
def test_a_split_is_announced_as_a_whole_if_half_of_the_page_cache_holds_it(
    tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch, room: int, is_told: bool
) -> None:
    monkeypatch.setattr("arraystore.writing.image_source.page_cache_nbytes", lambda: room)
    assert ranges(tmp_path / "a.tar", [0], [1000]).announce_all() is is_told
    assert bool(told) is is_told


@pytest.mark.parametrize("cached_from", [0, 500, 1001])
def test_what_is_in_the_page_cache_is_not_announced(
    tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch, cached_from: int
) -> None:
    def is_cached(_: OpenFile, offset: int, **__: bool) -> bool:
        return offset >= cached_from

    monkeypatch.setattr(OpenFile, "is_cached", is_cached)
    images = ranges(tmp_path / "a.tar", [0, 1000], [1000, 100])
    is_announced = cached_from > 500  # the middle of the first: its begin was read with the header
    assert images.announce_all() is is_announced
    assert bool(told) is is_announced
    told.clear()
    images.announce()
    assert bool(told) is is_announced


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="not on this system")
def test_what_nobody_knows_of_is_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def preadv(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "no such flag on this file system")

    calls: Told = []
    images = ranges(tmp_path / "a.tar", [0], [1])
    monkeypatch.setattr(os, "posix_fadvise", lambda _, *advice: calls.append(advice))
    monkeypatch.setattr(os, "preadv", preadv)
    images.announce()
    assert [(start, nbytes) for start, nbytes, _ in calls] == [(0, 1)]


@pytest.mark.parametrize("room", [0, 2**40])
@pytest.mark.parametrize("sync", [False, True])
def test_a_conversion_announces_each_byte_once_and_hastens_the_disk_only_to_sync(
    drawn: DrawnArchives,
    tmp_path: Path,
    told: Told,
    monkeypatch: pytest.MonkeyPatch,
    room: int,
    sync: bool,
) -> None:
    monkeypatch.setattr("arraystore.writing.image_source.page_cache_nbytes", lambda: room)
    # The store is opened in the end, which asks for its own bytes.
    monkeypatch.setattr(LocalReader, "read_ahead", lambda *_: None)
    arraystore.convert(
        "imagenet2012_subset/1pct",
        tmp_path / "store.h5",
        manual_dir=drawn.folder,
        partial=True,
        sync=sync,
    )
    announced = sum(nbytes for _, nbytes, advice in told if advice == os.POSIX_FADV_WILLNEED)
    images = sum(map(len, (drawn.train | drawn.validation).values()))
    assert 0.9 * images < announced < 1.2 * images  # with headers between, and what is encoded anew
    assert (os.POSIX_FADV_DONTNEED in [advice for *_, advice in told]) is sync
