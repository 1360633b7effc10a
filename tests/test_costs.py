"""What reading costs, counted: calls of the operating system, bytes, and calls of Python.

Times cannot be tested on a busy machine; these can. A number here is what the code needs, with
little to spare: whoever makes it larger should know why.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest

import arraystore
from arraystore import payload
from tests.support import SUFFIXES, count_reads, write_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType

N: Final = 2048

named = pytest.mark.parametrize


class Counts:
    """Calls while something ran: of functions written in Python, and of the system by name."""

    def __init__(self) -> None:
        self.python = 0
        self.system: Counter[str] = Counter()

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        """Note what the interpreter tells of."""
        if event == "call":
            self.python += 1
        elif event == "c_call" and arg.__module__ == "posix":
            self.system[arg.__name__] += 1


@contextmanager
def counted() -> Iterator[Counts]:
    counts = Counts()
    sys.setprofile(counts)
    try:
        yield counts
    finally:
        sys.setprofile(None)
        counts.python -= 1  # the end of this function


@pytest.fixture(scope="module", params=SUFFIXES)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of many images, small enough to be in the page cache."""
    rng = np.random.default_rng(0)
    names = [f"{i:06d}.jpg" for i in range(N)]
    images = [rng.bytes(200 + i % 97) for i in range(N)]
    target = tmp_path_factory.mktemp("costs") / f"store{request.param}"
    return write_store(
        target, names, np.arange(N) % 16, images, classes=[f"n{i}" for i in range(16)]
    )


@pytest.fixture
def warm(path: Path) -> arraystore.Split:
    """The split, after a first image: its columns are read and its file is open."""
    train = arraystore.open(path)["train"]
    _ = train.image_bytes[0], train.image_bytes[[0, 1]]
    return train


def test_one_image_costs_no_system_call_but_for_a_look_now_and_then(
    warm: arraystore.Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seconds, calls in ((-1, {"stat": 100, "fstat": 100}), (1e9, {})):
        monkeypatch.setattr(payload, "SECONDS_TRUSTED", seconds)
        _ = warm.image_bytes[0]
        with counted() as counts:
            for i in range(100):
                _ = warm.image_bytes[i]
        assert counts.system == calls
        assert counts.python <= (5 if seconds > 0 else 20) * 100 + 5


@named("form", ["image_bytes", "image_views"])
def test_a_batch_from_the_page_cache_costs_no_calls_a_sample(
    warm: arraystore.Split, form: str
) -> None:
    costs = []
    for n in (64, 1024):
        positions = np.random.default_rng(0).integers(0, N, n)
        with counted() as counts:
            _ = getattr(warm, form)[positions]
        # The root is looked at, the file for the look into the page cache and once to be read.
        assert counts.system == {"stat": 1, "fstat": 2, "preadv": 8}
        costs.append(counts.python)
    assert costs[1] <= costs[0] + 10 < 150  # ten, if garbage happens to be collected meanwhile


def test_a_batch_read_without_a_map_costs_a_read_for_each_image_and_no_other_system_calls(
    path: Path,
) -> None:
    train = arraystore.open(path, mmap=False)["train"]
    _ = train.image_bytes[[0, 1]]
    with counted() as counts:
        _ = train.image_bytes[::2]
    calls = {"stat": 1, "fstat": 2, "posix_fadvise": N // 2, "pread": N // 2}
    assert counts.system == calls
    assert counts.python < 15 * N // 2


@named("selection", [slice(100, 900), np.arange(0, N, 3), np.arange(5)[::-1]], ids=str)
def test_no_byte_is_read_that_is_not_wanted(path: Path, selection: Any) -> None:
    train = arraystore.open(path)["train"]
    reads = count_reads(train)
    data = train.image_bytes[selection]
    assert reads.nbytes == sum(map(len, data))
    plan = train.read_plan(selection)
    assert (len(reads.ranges), reads.nbytes) == (plan.requests, plan.nbytes)


@named(
    "act",
    [
        lambda store: store["train"].where(label=3),
        lambda store: store["train"].image_bytes[7],
        lambda store: next(iter(store["train"].batches(8, shuffle="block").positions())),
    ],
    ids=["where", "image_bytes", "block shuffle"],
)
def test_python_does_not_loop_over_the_samples(
    path: Path, tmp_path: Path, act: Callable[[arraystore.Store], Any]
) -> None:
    names = [f"{i:06d}.jpg" for i in range(N // 8)]
    fewer = write_store(
        tmp_path / path.name,
        names,
        np.arange(len(names)) % 16,
        classes=[f"n{i}" for i in range(16)],
    )
    costs = []
    for place in (fewer, path, fewer, path):  # the first time more is imported
        with counted() as counts:
            act(arraystore.open(place))
        costs.append(counts.python)
    assert costs[3] <= costs[2] * 1.1
