"""Batches in arrays of the caller."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import arraystore
from tests.support import picture

if TYPE_CHECKING:
    from pathlib import Path

SIZE = (12, 16)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("shuffle", ["full", "block"])
def test_batches_are_in_the_arrays_in_turn(
    train: arraystore.Split, layout: str, views: int, shuffle: str
) -> None:
    how: Any = {"size": SIZE, "crop": "random", "flip": True, "layout": layout, "views": views}
    expected = list(train.batches(7, shuffle=shuffle, **how))
    outs = [np.empty_like(expected[0].image) for _ in range(3)]
    n = 0
    batches = train.batches(7, shuffle=shuffle, out=outs, **how)
    for batch, own in zip(batches, expected, strict=True):
        np.testing.assert_array_equal(batch.image, own.image)
        np.testing.assert_array_equal(batch.label, own.label)
        assert batch.file_name.tolist() == own.file_name.tolist()
        places = [i for i, out in enumerate(outs) if np.shares_memory(batch.image, out)]
        assert places == [n % 3]
        n += 1
    assert n == 5
    assert len(expected[-1].label) == 2  # the last batch is shorter


def test_one_array_is_reused(train: arraystore.Split) -> None:
    out = np.empty((10, *SIZE, 3), np.uint8)
    for batch, own in zip(
        train.batches(10, size=SIZE, out=out), train.batches(10, size=SIZE), strict=True
    ):
        assert np.shares_memory(batch.image, out)
        np.testing.assert_array_equal(out, own.image)


def test_arrays_are_written_to_only_when_a_batch_is_requested(train: arraystore.Split) -> None:
    out = np.zeros((5, *SIZE, 3), np.uint8)
    batches = train.batches(5, size=SIZE, seed=1, out=out)
    first, second = iter(batches), iter(batches)
    assert not out.any()
    kept = next(first).image.copy()
    next(first)
    np.testing.assert_array_equal(next(second).image, kept)
    first.close()  # type: ignore[attr-defined]
    out[...] = 7
    assert list(train.batches(5, size=SIZE, seed=2))  # the threads of the loops have had time
    assert (out == 7).all()
    assert not np.array_equal(next(second).image, kept)


def test_skipped_images_shorten_the_part_of_the_array(tmp_path: Path) -> None:
    samples = [
        {"image": picture(40, 60, seed=i), "label": "a", "file_name": f"{i}.jpg"} for i in range(6)
    ]
    samples[2]["image"] = picture(40, 60)[:-300]
    arraystore.write(tmp_path / "a.zarr", {"train": samples}, classes=["a"])
    train = arraystore.open(tmp_path / "a.zarr")["train"]
    out = np.empty((6, *SIZE, 3), np.uint8)
    (batch,) = train.batches(6, size=SIZE, out=out, on_error="skip")
    assert batch.image.shape == (5, *SIZE, 3)
    assert np.shares_memory(batch.image, out)


GOOD = np.empty((4, *SIZE, 3), np.uint8)
READ_ONLY = GOOD.copy()
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (GOOD[:3], ValueError, r"uint8 and shape \(4, 12, 16, 3\), got uint8 and \(3, 12, 16, 3\)"),
        (GOOD.astype(np.float32), ValueError, "got float32"),
        (READ_ONLY, ValueError, "read-only"),
        ([GOOD, GOOD[::-1]], ValueError, "without common memory"),
        ([], TypeError, "got nothing"),
        ([GOOD, "a"], TypeError, "got ndarray, str"),
    ],
    ids=["shape", "dtype", "read-only", "shared", "none", "other type"],
)
def test_wrong_arrays_raise(
    train: arraystore.Split, out: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train.batches(4, size=SIZE, out=out)


def test_arrays_need_a_size(train: arraystore.Split) -> None:
    with pytest.raises(ValueError, match="out needs a size"):
        train.batches(4, out=GOOD)
