"""Fixtures that several test files share."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import settings

import arraystore
from arraystore import _threads
from arraystore.cli.synthetic_archives import DrawnArchives, write_archives
from arraystore.reading import image_reader, large_blocks
from tests.support import SUFFIXES

MEMORY: Final = Path("/dev/shm")

IS_SOAK: Final = "ARRAYSTORE_SOAK" in os.environ
"""Whether to run all parameters, and as many examples as Hypothesis does by default."""


def pytest_configure() -> None:
    """Keep temporary files in memory, unless ``TMPDIR`` is set.

    The tests create many small files, which takes less CPU time there than on a disk. They need
    half a gigabyte.
    """
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 2**31:
        os.environ.setdefault("TMPDIR", str(MEMORY))
        tempfile.tempdir = None  # where pytest keeps output: chosen, and kept, before this


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run a test that has further parameters in one container for each of their values, in turn.

    The checkerboard of values and containers has each value and, where there are several
    parameters, each value in each container. ``ARRAYSTORE_SOAK=1``, as in `make soak`, runs all.
    """
    if IS_SOAK:
        return
    tests: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if hasattr(item, "callspec"):
            tests[item.nodeid.partition("[")[0]].append(item)
    left_out = {item for cases in tests.values() for item in _left_out(cases)}
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]


def _left_out(cases: list[Any]) -> list[pytest.Item]:
    """Return the cases of a test that another container is chosen for."""
    parameters = [case.callspec.params for case in cases]
    containers = [
        name
        for name in parameters[0]
        if all(isinstance(some[name], str) and some[name] in SUFFIXES for some in parameters)
    ]
    axes = set()  # parameters that are given together are one
    for name in parameters[0].keys() - containers:
        numbers: dict[int, int] = {}  # of the values; some cannot be hashed
        axes.add(tuple(numbers.setdefault(id(some[name]), len(numbers)) for some in parameters))
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i in sorted(range(len(cases)), key=lambda i: [parameters[i][name] for name in containers]):
        alike[tuple(axis[i] for axis in sorted(axes))].append(i)
    return [
        cases[i]
        for members in alike.values()
        for number, i in enumerate(members)
        if (number - sum(axis[i] for axis in axes)) % min(len(alike), len(members)) != 0
    ]


settings.register_profile("any machine", deadline=None, max_examples=100 if IS_SOAK else 30)
settings.load_profile("any machine")

large_blocks.keep_large_blocks()  # now, or a test that measures memory counts its block


@pytest.fixture(autouse=True)
def no_subset_lists(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keep subset lists out of the cache and the network, unless a test provides one."""
    monkeypatch.setattr("arraystore.sources.subset_list._BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "no-cache"))


@pytest.fixture(autouse=True)
def no_trusted_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check files before each single image, so that no test depends on its speed."""
    monkeypatch.setattr(image_reader, "SECONDS_TRUSTED", -1)
    monkeypatch.setattr(image_reader, "SLOW_SECONDS", 1e9)


@pytest.fixture(autouse=True)
def no_idle_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """End idle threads soon, so that tests can wait for them, and new ones start often."""
    monkeypatch.setattr(_threads, "IDLE_SECONDS", 0.02)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> DrawnArchives:
    """Archives like the real ones: 6 classes of 5 drawn training images, 20 of validation."""
    folder = tmp_path_factory.mktemp("archives")
    return write_archives(folder, n_classes=6, per_class=5, n_validation=20)


@pytest.fixture(scope="session", params=SUFFIXES)
def path(
    request: pytest.FixtureRequest, drawn: DrawnArchives, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A store of the drawn archives in each container; it must not be changed."""
    target = tmp_path_factory.mktemp("store") / f"drawn{request.param}"
    arraystore.convert(
        "imagenet2012_subset/1pct", target, manual_dir=drawn.folder, partial=True, sync=False
    )
    return target


@pytest.fixture
def store(path: Path) -> arraystore.Store:
    """The store of `path`, opened for this test."""
    return arraystore.open(path)


@pytest.fixture
def train(store: arraystore.Store) -> arraystore.Split:
    """The train split of `store`: 30 samples, shuffled."""
    return store["train"]
