"""Batches, episodes and mapped samples: content, order and reads."""

from __future__ import annotations

import pickle
import shutil
import threading
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import arraystore
from arraystore import ChecksumError, FormatError
from arraystore.dataset.sample_set import SampleSet
from arraystore.reading.column_reader import ColumnReader
from arraystore.reading.read_ahead import ahead
from tests.support import SUFFIXES, count_reads, no_threads_are_left, picture, write_store

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

N = 60
CLASSES = ["a", "b", "c", "d"]
LABELS = [i % 4 if i % 7 else -1 for i in range(N)]
NAMES = [f"{i:02}.jpg" for i in range(N)]

named = pytest.mark.parametrize
on_one_store = settings(
    deadline=None,
    max_examples=30,
    # The fixtures are never changed.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module", params=SUFFIXES)
def looped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 60 small pictures of 4 classes, some without a label."""
    target = tmp_path_factory.mktemp("loops") / f"loops{request.param}"
    images = [picture(8 + i % 3, 8 + i % 5, seed=i) for i in range(N)]
    return write_store(target, NAMES, LABELS, images, classes=CLASSES, order="source")


@pytest.fixture
def train(looped: Path) -> arraystore.Split:
    return arraystore.open(looped)["train"]


orders: dict[str, st.SearchStrategy[Any]] = {
    "batch_size": st.integers(1, 25),
    "seed": st.integers(0, 3),
    "epoch": st.integers(0, 3),
    "shuffle": st.sampled_from(["full", "block", False, True]),
    "buffer_size": st.integers(1, 40),
}


def order_of(split: arraystore.Split, **options: Any) -> list[int]:
    return [i for part in split.batches(**options).positions() for i in part.tolist()]


# Order


@on_one_store
@given(options=st.fixed_dictionaries(orders))
def test_epoch_has_every_sample_once(looped: Path, options: dict[str, Any]) -> None:
    split = arraystore.open(looped)["train"]
    assert sorted(order_of(split, **options)) == list(range(N))
    assert order_of(split, **options) == order_of(split, **options)


@on_one_store
@given(options=st.fixed_dictionaries(orders), world_size=st.integers(1, 7))
def test_ranks_are_disjoint_and_equally_long(
    looped: Path, options: dict[str, Any], world_size: int
) -> None:
    split = arraystore.open(looped)["train[3:]"]
    parts = [
        order_of(split, **options, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    assert {len(part) for part in parts} == {len(split) // world_size}
    batches = split.batches(**options, rank=0, world_size=world_size)
    assert len(batches) == sum(1 for _ in batches.positions())
    seen = [i for part in parts for i in part]
    assert len(set(seen)) == len(seen)


@on_one_store
@given(options=st.fixed_dictionaries(orders), start=st.integers(0, 70), drop_last=st.booleans())
def test_start_batch_resumes_epoch(
    looped: Path, options: dict[str, Any], start: int, drop_last: bool
) -> None:
    split = arraystore.open(looped)["train"]
    whole = [p.tolist() for p in split.batches(**options, drop_last=drop_last).positions()]
    rest = split.batches(**options, drop_last=drop_last, start_batch=start)
    assert [p.tolist() for p in rest.positions()] == whole[start:]
    assert len(rest) == len(whole[start:])
    sizes = {len(batch) for batch in whole[:-1]} | (
        {len(whole[-1])} if drop_last and whole else set()
    )
    assert sizes <= {options["batch_size"]}


@on_one_store
@given(seed=st.integers(0, 9), batch_size=st.integers(1, 30))
def test_balanced_batches_have_equal_label_counts(looped: Path, seed: int, batch_size: int) -> None:
    split = arraystore.open(looped)["train"].select(np.arange(N) < 50)
    labelled = int((split.label >= 0).sum())
    batches = [
        split.label[positions]
        for positions in split.batches(batch_size, seed=seed, balanced=True).positions()
    ]
    assert sum(map(len, batches)) == labelled
    for label in batches:
        counts = np.bincount(label, minlength=4)
        assert counts.max() - counts.min() <= 2
    counts = np.bincount(np.concatenate(batches), minlength=4)
    assert counts.max() - counts.min() <= 1


def test_order_differs_by_epoch_and_seed(train: arraystore.Split) -> None:
    found = [
        order_of(train, batch_size=8, seed=seed, epoch=epoch, shuffle=shuffle)
        for seed in (0, 1)
        for epoch in (0, 1)
        for shuffle in ("full", "block")
    ]
    assert len({tuple(order) for order in found}) == 8


# Content and reads


@named("shuffle", ["full", "block", False])
@named("size", [None, 6, (5, 7)])
def test_batches_match_their_positions(
    train: arraystore.Split, shuffle: str | bool, size: Any
) -> None:
    batches = train.batches(16, epoch=2, shuffle=shuffle, buffer_size=24, size=size)
    loaded = list(batches)
    assert len(loaded) == len(batches) == 4
    for batch, positions in zip(loaded, batches.positions(), strict=True):
        assert batch.label.tolist() == train.label[positions].tolist()
        assert batch.file_name.tolist() == train.file_name[positions].tolist()
        expected = train.image[positions] if size is None else train.resized(size)[positions]
        assert type(batch.image) is type(expected)
        for found, wanted in zip(batch.image, expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_batches_of_joined_split(looped: Path) -> None:
    joined = arraystore.open(looped)["train[40:]+train[:20]"].sample(30, seed=3)
    for shuffle in ("full", "block"):
        names = [
            n for b in joined.batches(7, shuffle=shuffle, size=4) for n in b.file_name.tolist()
        ]
        assert sorted(names) == sorted(joined.file_name.tolist())


def test_batch_is_located_and_taken_once(
    store: arraystore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()
    for owner, name in ((SampleSet, "locate"), (ColumnReader, "take")):
        real = getattr(owner, name)

        def counted(*arguments: Any, real: Any = real, name: str = name) -> Any:
            calls[name] += 1
            return real(*arguments)

        monkeypatch.setattr(owner, name, counted)
    batch = store["train+validation"][[3, 40, 3]]
    assert len(set(batch.file_name.tolist())) == 2
    assert calls == {"locate": 1, "take": 2}  # once for each stored split


def test_batches_can_be_iterated_twice(train: arraystore.Split) -> None:
    batches = train.batches(32, size=4)
    first, second = ([b.file_name.tolist() for b in batches] for _ in range(2))
    assert first == second
    assert repr(batches).startswith("<2 batches of <Split 'train' of ")


def test_empty_split_has_no_batches(train: arraystore.Split) -> None:
    for shuffle in ("full", "block"):
        assert list(train.select([]).batches(4, shuffle=shuffle, size=3)) == []
    assert list(train.where(label=0).batches(4, balanced=True, start_batch=99)) == []


def test_block_shuffle_reads_large_ranges(train: arraystore.Split) -> None:
    reads = count_reads(train)
    n_batches = sum(1 for _ in train.batches(10, shuffle="block", buffer_size=32, size=4))
    assert n_batches == 6
    assert reads.nbytes == int(train.image_nbytes.sum())  # each image once
    assert len(reads.ranges) <= 2 * 16
    assert len(reads.ranges) < N // 2


def test_start_batch_reads_only_later_buffers(train: arraystore.Split) -> None:
    reads = count_reads(train)
    (last,) = train.batches(20, shuffle="block", buffer_size=16, start_batch=2, size=4)
    assert reads.nbytes == int(train.image_nbytes[[train.find(n) for n in last.file_name]].sum())


@named("shuffle", ["full", "block"])
def test_abandoned_loop_stops_reading(train: arraystore.Split, shuffle: str) -> None:
    reads = count_reads(train)
    for _ in train.batches(4, shuffle=shuffle, buffer_size=8, size=4):
        break
    assert no_threads_are_left()
    assert 0 < reads.nbytes < int(train.image_nbytes.sum())


@named("shuffle", ["full", "block"])
def test_damaged_image_ends_loop_with_its_name(looped: Path, tmp_path: Path, shuffle: str) -> None:
    images = [picture(8, 8, seed=i) for i in range(12)]
    target = write_store(
        tmp_path / f"bad{looped.suffix}",
        NAMES[:12],
        [0] * 12,
        images,
        classes=CLASSES,
        order="source",
    )
    (file,) = (
        f for f in (target, *target.rglob("*")) if f.is_file() and images[7] in f.read_bytes()
    )
    file.write_bytes(file.read_bytes().replace(images[7], images[7][:-9] + b"123456789"))
    train = arraystore.open(target)["train"]
    with pytest.raises(ChecksumError, match=r"'07\.jpg'"):
        list(train.batches(4, shuffle=shuffle, buffer_size=8))
    assert no_threads_are_left()


BROKEN = [2, 3, 9]


@pytest.fixture(scope="module")
def partly_broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 12 images; three are truncated."""
    images = [picture(8, 8, seed=i) for i in range(12)]
    for i in BROKEN:
        images[i] = images[i][: len(images[i]) - 40]
    target = tmp_path_factory.mktemp("broken") / "a.zarr"
    labels = [i % 4 for i in range(12)]
    return write_store(target, NAMES[:12], labels, images, classes=CLASSES, order="source")


@named("size", [None, 4])
@named("shuffle", ["full", "block", False])
def test_broken_images_are_skipped(partly_broken: Path, shuffle: Any, size: int | None) -> None:
    train = arraystore.open(partly_broken)["train"]
    batches = train.batches(5, shuffle=shuffle, size=size, on_error="skip")
    assert batches.skipped == {}
    loaded = list(batches)
    assert len(loaded) == len(batches) == 3
    for batch, positions in zip(loaded, batches.positions(), strict=True):
        sound = [i for i in positions.tolist() if i not in BROKEN]
        assert batch.file_name.tolist() == [NAMES[i] for i in sound]
        assert batch.label.tolist() == [i % 4 for i in sound]
        assert len(batch.image) == len(sound)
        for image, i in zip(batch.image, sound, strict=True):
            right = train[i].image if size is None else train.resized(size)[i]
            np.testing.assert_array_equal(image, right)
    assert sorted(batches.skipped) == BROKEN
    assert all(f"'{i:02}.jpg'" in batches.skipped[i] for i in BROKEN)
    assert no_threads_are_left()


def test_broken_images_raise_by_default(partly_broken: Path) -> None:
    train = arraystore.open(partly_broken)["train"]
    with pytest.raises(FormatError, match=r"'02\.jpg'"):
        list(train.batches(4, shuffle=False))


def test_batch_of_broken_images_is_empty_and_keeps_its_place(partly_broken: Path) -> None:
    train = arraystore.open(partly_broken)["train"].select([0, 1, 2, 3, 4, 5])
    batches = train.batches(2, shuffle=False, size=4, on_error="skip")
    assert [batch.image.shape for batch in batches] == [(2, 4, 4, 3), (0, 4, 4, 3), (2, 4, 4, 3)]
    assert sorted(batches.skipped) == [2, 3]


def test_skipped_images_are_recorded_as_batches_are_reached(partly_broken: Path) -> None:
    batches = arraystore.open(partly_broken)["train"].batches(3, shuffle=False, on_error="skip")
    loop = iter(batches)
    counts = [(len(next(loop).label), sorted(batches.skipped)) for _ in range(3)]
    assert counts == [(2, [2]), (2, [2, 3]), (3, [2, 3])]
    del loop
    assert no_threads_are_left()


def test_wrong_checksum_is_not_skipped(partly_broken: Path, tmp_path: Path) -> None:
    target = shutil.copytree(partly_broken, tmp_path / "a.zarr")
    image = arraystore.open(target)["train"].image_bytes[5]
    (file,) = (f for f in target.rglob("*") if f.is_file() and image in f.read_bytes())
    file.write_bytes(file.read_bytes().replace(image, image[:-9] + b"123456789"))
    train = arraystore.open(target)["train"]
    with pytest.raises(ChecksumError, match=r"'05\.jpg'"):
        list(train.batches(4, on_error="skip"))


@named(
    ("options", "message"),
    [
        ({"on_error": "ignore"}, "on_error must be one of raise, skip, got 'ignore'"),
        ({"batch_size": 0}, "batch_size must be 1 or more, got 0"),
        ({"batch_size": -1}, "batch_size must be 1 or more, got -1"),
        ({"size": 0}, "size must be 1 or more, got 0"),
        ({"shuffle": "blocks"}, "shuffle must be one of full, block or False, got 'blocks'"),
        ({"balanced": True, "shuffle": False}, "balanced batches need shuffle='full'"),
        ({"balanced": True, "shuffle": "block"}, "balanced batches need shuffle='full'"),
        ({"rank": 2, "world_size": 2}, r"rank must be in range\(world_size\), got 2 of 2"),
        ({"world_size": 0}, "rank must be in"),
        ({"buffer_size": 0, "shuffle": "block"}, "buffer_size must be 1 or more"),
        ({"start_batch": -1}, "start_batch must be 0 or more"),
        ({"seed": -1}, "seed must be"),
        ({"epoch": 2**63}, "epoch must be"),
    ],
)
def test_batches_invalid_option_raises(
    train: arraystore.Split, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train.batches(**({"batch_size": 4} | options))


@named("size", [True, "224", (1, 2, 3), [8, 8], 1.5])
def test_batches_invalid_size_raises_before_loop(train: arraystore.Split, size: Any) -> None:
    with pytest.raises(TypeError):
        train.batches(4, size=size)
    with pytest.raises(TypeError):
        train.episodes(2, 1, 1, size=size)
    with pytest.raises(TypeError):
        train.resized(size)


def test_full_shuffle_reads_two_batches_ahead(train: arraystore.Split) -> None:
    reads = count_reads(train)
    batches = iter(train.batches(4, size=4))
    next(batches)
    assert len(reads.ranges) <= 4 * 3
    batches.close()  # type: ignore[attr-defined] # it is a generator
    assert no_threads_are_left()


# Episodes


def test_episodes_have_support_and_query_of_their_labels(train: arraystore.Split) -> None:
    episodes = train.episodes(n_way=3, k_shot=2, n_query=4, seed=5, n_episodes=6, size=4)
    assert len(episodes) == 6
    for number, task in enumerate(episodes):
        labels, support, query = episodes.positions(number)
        assert task.number == number
        assert task.labels.tolist() == labels.tolist()
        assert task.support.label.tolist() == np.repeat(labels, 2).tolist()
        assert task.query.label.tolist() == np.repeat(labels, 4).tolist()
        assert task.support.file_name.tolist() == train.file_name[support.reshape(-1)].tolist()
        assert not set(task.support.file_name) & set(task.query.file_name)
        np.testing.assert_array_equal(task.query.image, train.resized(4)[query.reshape(-1)])


def test_episodes_start_anywhere_and_may_be_endless(train: arraystore.Split) -> None:
    def names(**options: Any) -> list[list[str]]:
        episodes = train.episodes(2, 1, 1, seed=1, **options)
        return [task.query.file_name.tolist() for task in islice(episodes, 6)]

    assert names(start=4)[:2] == names()[4:6]
    assert len(names(n_episodes=3)) == 3
    assert len({tuple(some) for some in names()}) > 1
    with pytest.raises(TypeError, match="have no length"):
        len(train.episodes(2, 1, 1))
    assert no_threads_are_left()


def test_episode_label_with_just_enough_samples(looped: Path) -> None:
    split = arraystore.open(looped)["train"].per_label(3)
    assert len(list(split.episodes(4, 1, 2, n_episodes=2).positions(1))) == 3
    with pytest.raises(ValueError, match="0 have so many"):
        split.episodes(1, 2, 2)


def test_episode_repeated_sample_is_in_one_part(train: arraystore.Split) -> None:
    twice = train.sample(3 * N, replace=True)
    names = twice.file_name
    for number in range(30):
        _, support, query = twice.episodes(2, 2, 2, seed=1).positions(number)
        both = [*names[support.reshape(-1)], *names[query.reshape(-1)]]
        assert len(set(both)) == len(both)
    assert sorted(twice.per_label(2).file_name) == sorted(
        train.where(file_name=list(dict.fromkeys(names.tolist()))).per_label(2).file_name
    )


@named(
    ("arguments", "message"),
    [
        ((5, 1, 1), "needs 5 labels with 2 samples each, 4 have so many"),
        ((2, 10, 10), "needs 2 labels with 20 samples each, 0 have so many"),
        ((0, 1, 1), "n_way must be 1 or more"),
        ((1, -1, 1), "k_shot must be 1 or more"),
        ((1, 0, 1), "k_shot must be 1 or more"),
    ],
)
def test_episodes_invalid_argument_raises(
    train: arraystore.Split, arguments: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train.episodes(*arguments)


# Mapped samples


def file_name_of(sample: arraystore.Sample) -> str:
    return sample.file_name


def test_mapped_is_picklable_sequence(train: arraystore.Split) -> None:
    mapped = pickle.loads(pickle.dumps(train.map(file_name_of)))
    assert len(mapped) == N
    assert mapped[3] == "03.jpg"
    assert mapped[-1] == NAMES[-1]
    assert mapped[2:4] == mapped.__getitems__([2, 3]) == ["02.jpg", "03.jpg"]
    assert mapped[train.label == 0] == train.where(label=0).file_name.tolist()
    assert list(mapped) == NAMES
    assert repr(mapped).startswith("<file_name_of of <Split 'train' of ")


def test_mapped_reads_batches(train: arraystore.Split) -> None:
    reads = count_reads(train)
    train.map(file_name_of).__getitems__([5, 6, 7])
    assert len(reads.ranges) == 1


def stop(sample: arraystore.Sample) -> str:
    if sample.file_name == NAMES[2]:
        raise StopIteration(sample.label)
    return sample.file_name


@named(
    "use",
    [list, lambda mapped: mapped[2], lambda mapped: mapped[:]],
    ids=["loop", "integer", "slice"],
)
def test_mapped_stop_iteration_raises(train: arraystore.Split, use: Callable[[Any], Any]) -> None:
    with pytest.raises(RuntimeError, match=r"<stop of .* StopIteration for '02.jpg'") as raised:
        use(train.map(stop))
    assert isinstance(raised.value.__cause__, StopIteration)
    assert raised.value.__cause__.value == train.label[2]


def test_ahead_stop_iteration_raises() -> None:
    def work(i: int) -> int:
        return next(iter(())) if i == 3 else i

    done: list[int] = []
    with pytest.raises(RuntimeError, match="StopIteration") as raised:
        done.extend(ahead((i for i in range(9)), work))
    assert isinstance(raised.value.__cause__, StopIteration)


def test_as_supervised_yields_image_and_label(train: arraystore.Split) -> None:
    image, label = train.as_supervised()[9]
    np.testing.assert_array_equal(image, train.image[9])
    assert label == train.label[9]


# Work ahead


def numbers(closed: list[bool], n: int = 100) -> Generator[int]:
    try:
        yield from range(n)
    finally:
        closed.append(True)


@given(st.integers(0, 9), st.integers(1, 5), st.integers(1, 3))
def test_ahead_keeps_order(n: int, n_ahead: int, n_threads: int) -> None:
    closed: list[bool] = []
    done = ahead(numbers(closed, n), lambda i: -i, n_ahead=n_ahead, n_threads=n_threads)
    assert list(done) == [-i for i in range(n)]
    assert closed == [True]


def test_ahead_error_is_raised_in_its_turn() -> None:
    def work(i: int) -> int:
        if i == 3:
            raise KeyError(i)
        return i

    closed: list[bool] = []
    loop = ahead(numbers(closed), work, n_ahead=4, n_threads=2)
    assert [next(loop) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError, match="3"):
        next(loop)
    assert closed == [True]
    assert no_threads_are_left()


def test_ahead_error_of_items_is_raised_last() -> None:
    def items() -> Generator[int]:
        yield from range(4)
        raise OSError("the disk is gone")

    loop = ahead(items(), lambda i: i, n_ahead=3)
    assert [next(loop) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(OSError, match="the disk is gone"):
        next(loop)
    assert no_threads_are_left()


def test_ahead_left_loop_cancels_work() -> None:
    begun: list[int] = []
    is_at_work, may_go_on = threading.Event(), threading.Event()

    def work(i: int) -> int:
        begun.append(i)
        if i == 1:
            is_at_work.set()
            may_go_on.wait(60)
        return i

    loop = ahead(numbers([]), work, n_ahead=4)
    assert next(loop) == 0
    assert is_at_work.wait(60)
    loop.close()  # does not wait for running work
    may_go_on.set()
    assert no_threads_are_left()
    assert begun == [0, 1]


def test_ahead_limits_work() -> None:
    begun: list[int] = []
    closed: list[bool] = []
    loop = ahead(numbers(closed), begun.append, n_ahead=3)
    for i in range(5):
        next(loop)
        assert len(begun) <= i + 4
    loop.close()
    assert closed == [True]
