"""Arrays and file states that are sent to other processes: equal, and small."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

from arraystore.parallel.compressed import CompressedArray
from arraystore.storage.file_states import FileState, FileStates
from arraystore.writing.fill import FilePlace, FillTask
from arraystore.writing.image_source import FileRanges

if TYPE_CHECKING:
    from numpy.typing import NDArray

DTYPES: list[np.dtype[Any]] = [np.dtype(name) for name in ("i1", "u2", "i4", "i8", ">i4")]


@given(
    np_st.arrays(
        st.sampled_from(DTYPES),
        st.tuples(st.integers(0, 20)) | st.tuples(st.integers(0, 20), st.integers(0, 6)),
    )
)
def test_array_is_restored(array: NDArray[Any]) -> None:
    restored = CompressedArray.of(array).array()
    assert restored.dtype == array.dtype
    np.testing.assert_array_equal(restored, array)


def small_images(n: int) -> FileRanges:
    """Return images of about 800 bytes, each in a file of its own, in an order by chance."""
    rng = np.random.default_rng(0)
    nbytes = rng.integers(600, 1000, n)
    written = 1_700_000_000_000_000_000 + np.cumsum(rng.integers(20_000, 60_000, n))
    states = [
        (
            f"/data/images/train/n{i // 1000:08d}/n{i // 1000:08d}_{i}.JPEG",
            FileState(int(nbytes[i]), *divmod(int(at), 10**9), int(at) + 9_000, 5_000_000 + i),
        )
        for i, at in enumerate(written)
    ]
    order = rng.permutation(n)
    known = FileStates.known(states)
    return FileRanges(known.paths, order, np.zeros(n, np.int64), nbytes[order], known)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_ranges_of_files_are_restored(n: int) -> None:
    images = small_images(5).rows(1, 1 + n)
    restored = pickle.loads(pickle.dumps(images))
    assert list(restored.files) == list(images.files)
    assert list(restored.states) == list(images.states)
    for name in ("file", "offset", "nbytes"):
        np.testing.assert_array_equal(getattr(restored, name), getattr(images, name))


def test_task_of_many_small_images_is_small() -> None:
    n = 80_000  # as many as a block of 64 MiB has
    task = FillTask(small_images(n), 0, FilePlace())
    assert len(pickle.dumps(task)) < 2**20
