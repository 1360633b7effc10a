"""Odd numbers and selections: as in NumPy, or a documented error, and never all memory."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arraystore.errors import brief
from arraystore.indexing.sampling import BLOCKS_IN_BUFFER, block_buffers
from arraystore.indexing.selection import as_positions
from tests.support import SUFFIXES, picture, write_store

if TYPE_CHECKING:
    from pathlib import Path

    import arraystore

HUGE = 10**5000
bounds = st.none() | st.integers(-40, 40) | st.sampled_from([-HUGE, -(10**30), 10**30, HUGE])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_odd_number_is_accepted_or_raises(suffix: str, tmp_path: Path) -> None:
    store = write_store(
        tmp_path / f"a{suffix}",
        [f"{i}.jpg" for i in range(30)],
        [i % 3 for i in range(30)],
        [picture(seed=i % 2) for i in range(30)],
        classes=["a", "b", "c"],
    )
    command = [sys.executable, "-m", "tests.odd_numbers", str(store)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    assert run.stdout == ""


@given(bounds, bounds, bounds.filter(lambda step: step != 0), st.integers(0, 30))
def test_slice_with_huge_bounds_is_as_numpy(
    start: int | None, stop: int | None, step: int | None, length: int
) -> None:
    wanted = slice(start, stop, step)
    assert as_positions(wanted, length).tolist() == np.arange(length)[wanted].tolist()


@pytest.mark.parametrize(
    "selection",
    [
        [np.True_, 3],
        [True, 3],
        [3, False],
        [np.array(True), np.int64(3)],
        [np.int8(0), np.bool_(False)],
    ],
    ids=repr,
)
def test_list_of_bools_and_integers_raises(selection: list[Any], train: arraystore.Split) -> None:
    with pytest.raises(IndexError, match="must be of integers or of bools, got both"):
        as_positions(selection, 5)
    for take in (train.image_bytes, train.select, train.read_plan):
        with pytest.raises(IndexError, match="got both"):
            take[selection] if hasattr(take, "__getitem__") else take(selection)


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ([True, np.False_, np.True_, False, True], [0, 2, 4]),
        ([np.int64(3), 1, np.uint8(0)], [3, 1, 0]),
        ([np.array(3), -1], [3, 4]),
    ],
    ids=repr,
)
def test_list_of_one_kind_is_as_numpy(selection: list[Any], expected: list[int]) -> None:
    assert as_positions(selection, 5).tolist() == np.arange(5)[selection].tolist() == expected


@pytest.mark.parametrize("n", [0, 1, 7, 100])
def test_buffer_larger_than_split_is_one_block(n: int) -> None:
    expected = [
        b.tolist() for b in block_buffers(n, 1, 2, buffer_size=BLOCKS_IN_BUFFER * max(n, 1))
    ]
    for buffer_size in (BLOCKS_IN_BUFFER * n + 1000, 10**30):
        found = [b.tolist() for b in block_buffers(n, 1, 2, buffer_size=buffer_size)]
        assert found == expected


def test_even_splits_into_empty_parts_has_limit(train: arraystore.Split) -> None:
    assert [len(part) for part in train.even_splits(40)] == [1] * 30 + [0] * 10
    with pytest.raises(ValueError, match="n must be 65,536 or less, got 1000000"):
        train.even_splits(10**6)


def test_brief_is_printable_and_short() -> None:
    for value in (HUGE, [HUGE], {"a": HUGE}, "\x1b\ud800" * 1000, np.array(["\u202e"] * 9999)):
        assert brief(value).isprintable()
        assert len(brief(value)) < 1300
