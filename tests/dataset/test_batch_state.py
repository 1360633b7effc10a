"""Batches that continue from a saved state, and batches that workers share."""

from __future__ import annotations

import json
from itertools import islice, zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import arraystore
from arraystore import _threads
from tests.support import SUFFIXES, count_reads, picture, write_store

if TYPE_CHECKING:
    from pathlib import Path

N = 23
NAMES = [f"{i:02}.jpg" for i in range(N)]

OPTIONS: dict[str, Any] = {"batch_size": 4, "size": 6, "seed": 1, "epoch": 2}

options_of_loops = st.fixed_dictionaries(
    {
        "batch_size": st.integers(1, 9),
        "seed": st.integers(0, 2),
        "epoch": st.integers(0, 2),
        "shuffle": st.sampled_from(["full", "block", False]),
        "buffer_size": st.integers(1, 40),
        "size": st.sampled_from([None, (4, 6)]),
        "world_size": st.integers(1, 3),
    }
)
augmented = st.fixed_dictionaries(
    {"crop": st.sampled_from(["center", "random"]), "flip": st.booleans(), "views": st.just(2)}
)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same 23 small pictures as a Zarr and as an HDF5 store, shuffled."""
    folder = tmp_path_factory.mktemp("states")
    images = [picture(8 + i % 3, 8 + i % 5, seed=i) for i in range(N)]
    labels = [i % 4 for i in range(N)]
    return [
        write_store(folder / f"a{suffix}", NAMES, labels, images, classes=["a", "b", "c", "d"])
        for suffix in SUFFIXES
    ]


@pytest.fixture
def train(paths: list[Path]) -> arraystore.Split:
    return arraystore.open(paths[0])["train"]


def assert_equal(found: list[Any], expected: list[Any]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.file_name.tolist() == other.file_name.tolist()
        for image, right in zip(one.image, other.image, strict=True):
            np.testing.assert_array_equal(image, right)


@settings(max_examples=25)
@given(options=options_of_loops, crops=augmented, taken=st.integers(0, 6), data=st.data())
def test_state_continues_epoch_of_another_copy(
    paths: list[Path], options: dict[str, Any], crops: dict[str, Any], taken: int, data: Any
) -> None:
    if options["size"] is not None:
        options |= crops
    one, other = (arraystore.open(path)["train[2:]"] for path in data.draw(st.permutations(paths)))
    rank = data.draw(st.integers(0, options["world_size"] - 1))
    expected = list(other.batches(**options, rank=rank))
    stopped = one.batches(**options)  # the state of one process fits all
    assert len(list(islice(stopped, taken))) == min(taken, len(stopped))
    resumed = other.batches(**options, rank=rank)
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    assert len(resumed) == max(0, len(expected) - taken)
    assert_equal(list(resumed), expected[taken:])
    assert_equal(list(resumed), expected[taken:])


@pytest.mark.parametrize("n_threads", [1, 5])
def test_state_fits_any_number_of_threads(
    train: arraystore.Split, monkeypatch: pytest.MonkeyPatch, n_threads: int
) -> None:
    options = OPTIONS | {"crop": "random", "flip": True}
    expected = list(train.batches(**options))
    state = {**train.batches(**options).state_dict(), "batch": 3}
    monkeypatch.setattr(_threads, "n_cpus", lambda: n_threads)
    resumed = train.batches(**options)
    resumed.load_state_dict(state)
    assert_equal(list(resumed), expected[3:])


def test_state_counts_batches_of_the_latest_loop(train: arraystore.Split) -> None:
    batches = train.batches(**OPTIONS, start_batch=1)
    assert batches.state_dict()["batch"] == 1
    assert [batches.state_dict()["batch"] for _ in batches] == [2, 3, 4, 5, 6]
    assert batches.state_dict()["batch"] == 6
    iter(batches)
    assert batches.state_dict()["batch"] == 1


def test_state_of_a_finished_epoch_continues_with_nothing(train: arraystore.Split) -> None:
    batches = train.batches(**OPTIONS)
    assert len(list(batches)) == 6
    again = train.batches(**OPTIONS)
    again.load_state_dict(batches.state_dict())
    assert (len(again), list(again)) == (0, [])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 0}, "cannot resume: seed=0, but the state has seed=1;"),
        ({"epoch": 3}, "epoch=3, but the state has epoch=2"),
        ({"batch_size": 5}, "batch_size=5, but the state has batch_size=4"),
        ({"shuffle": False}, "shuffle=None, but the state has shuffle='full'"),
        ({"balanced": True}, "balanced=True, but the state has balanced=False"),
        ({"world_size": 2}, "world_size=2, but the state has world_size=1"),
        ({"size": 7}, r"size=\[7, 7\], but the state has size=\[6, 6\]"),
        ({"size": None}, "size=None, .*crop=None, but the state has crop='center'"),
        ({"crop": "random"}, "crop='random', but the state has crop='center'"),
        ({"flip": True}, "flip=True, but"),
        ({"views": 2}, "views=2, but"),
        ({"crop": "random", "scale": (0.5, 1)}, "crop='random', .*scale="),
        ({"ratio": (0.5, 1)}, "ratio="),
    ],
)
def test_state_of_other_options_raises(
    train: arraystore.Split, changed: dict[str, Any], message: str
) -> None:
    state = train.batches(**OPTIONS).state_dict()
    batches = train.batches(**(OPTIONS | changed))
    with pytest.raises(ValueError, match=message):
        batches.load_state_dict(state)
    assert batches.state_dict()["batch"] == 0


def test_buffer_size_matters_only_for_blocks(train: arraystore.Split) -> None:
    train.batches(4, buffer_size=8).load_state_dict(train.batches(4).state_dict())
    blocks = train.batches(4, shuffle="block").state_dict()
    with pytest.raises(ValueError, match="buffer_size=8, but the state has buffer_size=1024"):
        train.batches(4, shuffle="block", buffer_size=8).load_state_dict(blocks)


def test_state_of_other_samples_raises(train: arraystore.Split) -> None:
    state = train.batches(4).state_dict()
    for other in (slice(1, None), slice(None, None, -1), [1, 0, *range(2, N)]):
        with pytest.raises(ValueError, match=r"samples='\w+', but the state has samples="):
            train.select(other).batches(4).load_state_dict(state)
    train.select(np.arange(N)).batches(4).load_state_dict(state)


@pytest.mark.parametrize("state", [{}, None, 3, {"epoch": 0}])
def test_malformed_state_raises(train: arraystore.Split, state: Any) -> None:
    with pytest.raises(ValueError, match="cannot resume: not a result of state_dict"):
        train.batches(4).load_state_dict(state)


@settings(max_examples=20)
@given(options=options_of_loops, n_workers=st.integers(1, 4), start=st.integers(0, 3))
def test_workers_share_batches_in_turn(
    paths: list[Path], options: dict[str, Any], n_workers: int, start: int
) -> None:
    batches = arraystore.open(paths[0])["train"].batches(**options, start_batch=start)
    parts = [batches.every(n_workers, worker) for worker in range(n_workers)]
    loops = [list(part) for part in parts]
    assert [*map(len, parts)] == [*map(len, loops)]
    in_turn = [batch for some in zip_longest(*loops) for batch in some if batch is not None]
    assert_equal(in_turn, list(batches))


def test_workers_read_their_own_batches_of_a_buffer(train: arraystore.Split) -> None:
    options: dict[str, Any] = {"shuffle": "block", "buffer_size": 16, "size": 4}
    reads = count_reads(train)
    names = [n for b in train.batches(4, **options).every(3, 1) for n in b.file_name]
    assert reads.nbytes == sum(train.image_nbytes[train.find(name)] for name in names)
