"""Allowed outcomes of hostile or damaged input: right data, or a documented error."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import tracemalloc
import warnings
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import arraystore
from arraystore import ArrayStoreError
from tests.support import picture, write_store

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCUMENTED = (ArrayStoreError, KeyError, IndexError, ValueError, FileNotFoundError)
"""Exceptions that any input may raise."""

MEMORY_NBYTES = 2**28
"""Memory limit for each of the small inputs."""

NAMES = [f"{'cat' if i % 2 else 'dog'}/{i}.jpg" for i in range(6)]


@cache
def scratch() -> Path:
    """Return a folder that is removed when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="arraystore-soak-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def images() -> dict[str, bytes]:
    """Return the images of the stores that are damaged, by name."""
    return {name: picture(seed=i) for i, name in enumerate(NAMES)}


@cache
def whole_store(suffix: str) -> Path:
    """Return a small undamaged store; it must not be changed."""
    return write_store(
        scratch() / f"whole{suffix}",
        NAMES,
        [i % 2 for i in range(6)],
        [*images().values()],
        classes=["dog", "cat"],
        selections={"few": [0, 2]},
    )


@contextmanager
def only_documented(memory: int = MEMORY_NBYTES) -> Iterator[None]:
    """Suppress documented errors, but check their message and the memory."""
    is_traced = tracemalloc.is_tracing()
    if not is_traced:
        tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except DOCUMENTED as error:
        _check_message(error)
    finally:
        nbytes = tracemalloc.get_traced_memory()[1] - before
        if not is_traced:
            tracemalloc.stop()
    assert nbytes < memory, f"{nbytes} bytes of memory were allocated"


def _check_message(error: Exception) -> None:
    if isinstance(error, ArrayStoreError):
        assert str(error).isprintable(), f"contains control characters: {error!r}"
        assert len(str(error)) < 5000, "the message is too long"


def use(path: Path) -> None:
    """Read a whole store, and compare all data with what was written."""
    store = arraystore.open(path, checksum="always")
    _ = store.info, repr(store), store.opened[1].tree()
    for name in store:
        split = store[name]
        names = split.file_name.tolist()
        for file_name, data in zip(names, split.image_bytes[:], strict=True):
            assert images().get(file_name) == data, f"wrong bytes of {file_name!r}"
        labels = {name: i % 2 for i, name in enumerate(NAMES)}
        for file_name, label in zip(names, split.label.tolist(), strict=True):
            assert labels[file_name] == label, f"wrong label of {file_name!r}"
        _ = split[:], split.label_counts(), split.where(label=0).positions
