"""What reading costs, counted: calls of the operating system, bytes, and calls of Python.

Times cannot be tested on a busy machine; these can. A number here is what the code needs, with
little to spare: whoever makes it larger should know why.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest

import arraystore
from arraystore.containers.hdf5.cached_object import HEAD_NBYTES
from arraystore.containers.hdf5.range_file import RangeFile
from arraystore.containers.open_container import TAIL_NBYTES
from arraystore.reading import image_reader as payload
from arraystore.schema import COLUMNS
from arraystore.storage.open_files import close_idle_files
from tests.support import SUFFIXES, count_reads, write_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType

    from arraystore.storage.range_reader import RangeReader

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


def noted(monkeypatch: pytest.MonkeyPatch, *names: str) -> list[Any]:
    """Return a list to which calls of functions of `os` are added, with their arguments."""
    called: list[Any] = []
    for name in names:
        real = getattr(os, name)

        def call(*args: Any, name: str = name, real: Any = real) -> Any:
            called.append((name, *args))
            return real(*args)

        monkeypatch.setattr(os, name, call)
    return called


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
        assert counts.python <= (3 if seconds > 0 else 17) * 100 + 5


@named("form", ["image_bytes", "image_views"])
def test_a_batch_from_the_page_cache_costs_no_calls_a_sample(
    warm: arraystore.Split, form: str
) -> None:
    costs = []
    for n in (64, 1024):
        positions = np.random.default_rng(0).integers(0, N, n)
        with counted() as counts:
            _ = getattr(warm, form)[positions]
        # The root and the file are looked at once, and eight images for whether they are cached.
        assert counts.system == {"stat": 1, "fstat": 1, "preadv": 8}
        costs.append(counts.python)
    assert costs[1] <= costs[0] + 10 < 150  # ten, if garbage happens to be collected meanwhile


def test_one_image_read_without_a_map_costs_a_look_at_both_files_and_a_read(path: Path) -> None:
    train = arraystore.open(path, mmap=False)["train"]
    _ = train.image_bytes[0], train.image_bytes[0]
    with counted() as counts:
        for i in range(100):
            _ = train.image_bytes[i]
    assert counts.system == {"stat": 100, "fstat": 100, "pread": 100}


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


OPENING: Final = {
    # The root, two columns and a shard are opened; the columns are asked for before the first is
    # read, and eight looks tell that the batch is in the page cache.
    ".zarr": ({"stat": 22, "fstat": 7, "open": 4, "posix_fadvise": 2, "preadv": 9, "pread": 2}, 0),
    # libhdf5 opens the file for the root, for the split, and for payload and columns, and reads
    # a little here and there; the ends of the file are asked for before, and the columns.
    ".h5": ({"stat": 60, "fstat": 45, "open": 1, "posix_fadvise": 4, "preadv": 50, "pread": 2}, 3),
}
"""System calls from opening a store until a batch is there, and openings by libhdf5, at most."""


def test_opening_a_store_and_reading_a_batch_cost_few_calls(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ = arraystore.open(path)["train"].image_bytes[::2]  # what is imported, and compiled, once
    close_idle_files()
    opened = []
    made = RangeFile.__init__

    def note(self: RangeFile, reader: RangeReader, key: str) -> None:
        opened.append(key)
        made(self, reader, key)

    monkeypatch.setattr(RangeFile, "__init__", note)
    with counted() as counts:
        _ = arraystore.open(path)["train"].image_bytes[::2]
    system = {name: n for name, n in counts.system.items() if "path" not in name}
    most, n_openings = OPENING[path.suffix]
    assert system.keys() == most.keys()
    assert {name: n for name, n in system.items() if n > most[name]} == {}
    assert len(opened) == n_openings
    assert counts.python < {".zarr": 650, ".h5": 2700}[path.suffix]


def test_the_disk_is_asked_for_all_that_is_known_before_any_of_it_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = arraystore.open(path).stored("train")
    called = noted(monkeypatch, "posix_fadvise", "pread")
    stored.columns.load(COLUMNS)
    n = len(COLUMNS)
    assert [name for name, *_ in called] == ["posix_fadvise"] * n + ["pread"] * n


def test_the_ends_of_an_hdf5_file_are_asked_for_before_it_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path.is_dir():
        pytest.skip("a file for each column and each shard")
    called = noted(monkeypatch, "posix_fadvise", "preadv")
    arraystore.open(path)
    size = path.stat().st_size
    asked = [("posix_fadvise", 0, HEAD_NBYTES), ("posix_fadvise", size - TAIL_NBYTES, TAIL_NBYTES)]
    assert [(name, *args[1:3]) for name, *args in called[:2]] == asked
    assert {name for name, *_ in called[2:]} == {"preadv"}


@named(
    "act",
    [
        "image_bytes[0]",
        "image_bytes[::2]",
        "image_arena(slice(9))",
        "where(label=3).label",
    ],
)
def test_opening_and_reading_import_no_more_than_what_decodes_columns(path: Path, act: str) -> None:
    """An import takes longer than all else until the first image is there."""
    code = (
        "import sys, arraystore, numcodecs.zstd, h5py\n"
        "before = {*sys.modules}\n"
        f"arraystore.open({str(path)!r})['train'].{act}\n"
        "late = sorted({*sys.modules} - before)\n"
        "assert not late, late"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


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
