"""Cost of reading: system calls, bytes, and Python calls per sample.

Unlike times, these can be tested on a busy machine. The limits have little slack: a change that
needs a larger one should say why.
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
from arraystore.reading import image_reader
from arraystore.reading.image_reader import READS_AFTER_SLOW
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
    """Number of calls of Python functions, and of each system call."""

    def __init__(self) -> None:
        self.python = 0
        self.system: Counter[str] = Counter()

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        """Count an event of `sys.setprofile`."""
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
    """Return a list that records calls of functions of `os`, with their arguments."""
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
    """The split after a first read: its columns are loaded and its file is open."""
    train = arraystore.open(path)["train"]
    _ = train.image_bytes[0], train.image_bytes[[0, 1]]
    return train


def test_single_image_needs_no_system_call(
    warm: arraystore.Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seconds, calls in ((-1, {"stat": 100, "fstat": 100}), (1e9, {})):
        monkeypatch.setattr(image_reader, "SECONDS_TRUSTED", seconds)
        _ = warm.image_bytes[0]
        with counted() as counts:
            for i in range(100):
                _ = warm.image_bytes[i]
        assert counts.system == calls


def test_single_images_are_read_after_slow_copy(
    warm: arraystore.Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_reader, "SECONDS_TRUSTED", 1e9)
    _ = warm.image_bytes[0]
    expected = [warm.image_bytes[i % N] for i in range(READS_AFTER_SLOW + 1)]
    monkeypatch.setattr(image_reader, "SLOW_SECONDS", -1)
    with counted() as counts:
        found = [warm.image_bytes[i % N] for i in range(READS_AFTER_SLOW + 1)]
    # The first is copied, slowly; the last of the reads is followed by a copy again.
    assert counts.system["pread"] == READS_AFTER_SLOW
    monkeypatch.setattr(image_reader, "SLOW_SECONDS", 1e9)
    with counted() as counts:
        found += [warm.image_bytes[i] for i in range(100)]
    assert "pread" not in counts.system
    assert found == expected + expected[:100]


@named("form", ["image_bytes", "image_views"])
def test_cached_batch_needs_no_call_per_sample(warm: arraystore.Split, form: str) -> None:
    costs = []
    for n in (64, 1024):
        positions = np.random.default_rng(0).integers(0, N, n)
        with counted() as counts:
            _ = getattr(warm, form)[positions]
        # One check of the root and of the file, and eight probes of the page cache.
        assert counts.system == {"stat": 1, "fstat": 1, "preadv": 8}
        costs.append(counts.python)
    assert costs[1] <= costs[0] + 10  # garbage may be collected meanwhile


def test_single_image_without_map_system_calls(path: Path) -> None:
    train = arraystore.open(path, mmap=False)["train"]
    _ = train.image_bytes[0], train.image_bytes[0]
    with counted() as counts:
        for i in range(100):
            _ = train.image_bytes[i]
    assert counts.system == {"stat": 100, "fstat": 100, "pread": 100}


def test_batch_without_map_system_calls(
    path: Path,
) -> None:
    train = arraystore.open(path, mmap=False)["train"]
    _ = train.image_bytes[[0, 1]]
    with counted() as counts:
        _ = train.image_bytes[::2]
    calls = {"stat": 1, "fstat": 2, "posix_fadvise": N // 2, "pread": N // 2}
    assert counts.system == calls


OPENING: Final = {
    # Opens the root, two columns and a shard; announces the columns before it reads the first, and
    # probes the page cache eight times.
    ".zarr": ({"stat": 22, "fstat": 7, "open": 4, "posix_fadvise": 2, "preadv": 9, "pread": 2}, 0),
    # libhdf5 opens the file for the root, for the split, and for payload and columns, and makes
    # small reads; the ends of the file and the columns are announced before.
    ".h5": ({"stat": 60, "fstat": 45, "open": 1, "posix_fadvise": 4, "preadv": 50, "pread": 2}, 3),
}
"""Most system calls to open a store and read a batch, and openings by libhdf5."""


def test_opening_and_batch_system_calls(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _ = arraystore.open(path)["train"].image_bytes[::2]  # imports libraries, and compiles
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


def test_columns_are_announced_before_reading(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = arraystore.open(path).stored("train")
    called = noted(monkeypatch, "posix_fadvise", "pread")
    stored.columns.load(COLUMNS)
    n = len(COLUMNS)
    assert [name for name, *_ in called] == ["posix_fadvise"] * n + ["pread"] * n


def test_hdf5_ends_are_announced_before_reading(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path.is_dir():
        pytest.skip("a file for each column and each shard")
    called = noted(monkeypatch, "posix_fadvise", "preadv")
    arraystore.open(path)
    size = path.stat().st_size
    ends = [("posix_fadvise", 0, HEAD_NBYTES), ("posix_fadvise", size - TAIL_NBYTES, TAIL_NBYTES)]
    assert [(name, *args[1:3]) for name, *args in called[:2]] == ends
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
def test_reading_imports_only_decoders(path: Path, act: str) -> None:
    """Imports would take longer than everything else before the first image."""
    code = (
        "import sys, arraystore, numcodecs.zstd, h5py\n"
        "before = {*sys.modules}\n"
        f"arraystore.open({str(path)!r})['train'].{act}\n"
        "late = sorted({*sys.modules} - before)\n"
        "assert not late, late"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@named("selection", [slice(100, 900), np.arange(0, N, 3), np.arange(5)[::-1]], ids=str)
def test_no_extra_byte_is_read(path: Path, selection: Any) -> None:
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
def test_no_loop_over_samples(
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
    for place in (fewer, path, fewer, path):  # the first calls import more
        with counted() as counts:
            act(arraystore.open(place))
        costs.append(counts.python)
    assert costs[3] <= costs[2] * 1.1
