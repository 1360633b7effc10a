"""Paths of many files: packed, and handed on without the memory of the others."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from arraystore.errors import SourceChangedError
from arraystore.storage.file_states import NO_FILES, FileState, FileStates
from arraystore.storage.packed_paths import PackedPaths, PathView
from arraystore.writing.image_source import FileRanges

PATHS = [f"/data/train/n{i // 100:08}/{i}.JPEG" for i in range(1000)] + ["/data/\udcff/é.jpg"]


def states_of(paths: list[str]) -> FileStates:
    return FileStates.known([(path, FileState(i, 0, 0, 0, i)) for i, path in enumerate(paths)])


def test_packed_paths_are_the_paths() -> None:
    packed = PackedPaths.of(PATHS)
    assert list(packed) == PATHS
    assert packed[-1] == PATHS[-1]
    assert list(packed[3:5].joined(packed[-1:])) == [*PATHS[3:5], PATHS[-1]]
    assert list(packed.take(np.array([1000, 2, 2]))) == [PATHS[1000], PATHS[2], PATHS[2]]
    assert PackedPaths.of(packed) is packed


def test_packed_paths_are_small() -> None:
    packed = PackedPaths.of(PATHS)
    assert len(packed.data) + packed.start.nbytes < sum(map(sys.getsizeof, PATHS)) / 2


def test_view_makes_paths_when_asked() -> None:
    view = PathView(PackedPaths.of(PATHS))
    assert view[7] == Path(PATHS[7])
    assert tuple(view) == tuple(map(Path, PATHS))
    assert list(view[-2:]) == [Path(PATHS[-2]), Path(PATHS[-1])]


def test_states_are_joined_and_taken_with_their_paths() -> None:
    states = states_of(PATHS)
    joined = states.first(2).joined(NO_FILES).joined(states.take(np.array([1000, 5])))
    assert list(joined.paths) == [PATHS[0], PATHS[1], PATHS[1000], PATHS[5]]
    assert [state.nbytes for state in joined] == [0, 1, 1000, 5]


def test_file_with_a_name_that_is_not_utf8_is_compared(tmp_path: Path) -> None:
    path = tmp_path / "\udcff.jpg"
    path.write_bytes(b"1")
    states = FileStates.of([str(path)])
    states.check()
    path.unlink()
    with pytest.raises(SourceChangedError, match="no longer exists"):
        states.check()


def test_task_of_few_images_is_sent_without_the_other_paths() -> None:
    states = states_of(PATHS)
    numbers = np.arange(len(PATHS))
    ranges = FileRanges(states.paths, numbers, numbers, numbers, states)
    rows = ranges.rows(10, 12)
    assert [rows.location(i) for i in range(2)] == [f"{PATHS[i]} (at byte {i})" for i in (10, 11)]
    assert len(pickle.dumps(rows)) < 5000
