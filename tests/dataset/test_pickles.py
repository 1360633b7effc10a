"""Pickled splits, whose store may be replaced before they are used."""

from __future__ import annotations

import pickle
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray
from obstore.store import LocalStore

import arraystore
from arraystore import StoreChangedError
from tests.support import SUFFIXES, picture, write_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAMES = [f"c{i % 2}/{'BA'[i % 2]}{i}.jpg" for i in range(12)]
LABELS = [i % 2 for i in range(12)]
IMAGES = [picture(seed=i) for i in range(12)]
OTHER_IMAGES = [*IMAGES[:-1], picture(seed=99)]

MADE: dict[str, Callable[[arraystore.Split], Any]] = {
    "whole": lambda train: train,
    "name": lambda train: train.where(file_name="c1/A5.jpg"),
    "label": lambda train: train.where(label="one"),
    "sample": lambda train: train.sample(3),
    "select": lambda train: train.select([4, 1]),
    "union": lambda train: train.select([4, 1]) | train.where(label=0),
    "map": lambda train: train.map(name_of),
    "batches": lambda train: train.batches(4),
    "episodes": lambda train: train.episodes(2, 1, 1, n_episodes=2),
    "image_bytes": lambda train: train.image_bytes,
    "image_views": lambda train: train.sample(5).image_views,
}
"""Objects that pickle and depend on positions."""

USES: dict[str, Callable[[arraystore.Split], object]] = {
    "one": lambda split: split[0],
    "batch": lambda split: split[:2],
    "iteration": lambda split: next(iter(split)),
    "file_name": lambda split: split.file_name,
    "label": lambda split: split.label,
    "image_bytes": lambda split: split.image_bytes[0],
    "image_views": lambda split: split.image_views[:1],
    "image_arena": lambda split: split.image_arena([0]),
    "resized": lambda split: split.resized(8)[:1],
    "batches": lambda split: list(split.batches(2)),
    "balanced": lambda split: split.batches(2, balanced=True),
    "episodes": lambda split: split.episodes(1, 1, 1),
    "per_label": lambda split: split.per_label(1),
    "label_counts": lambda split: split.label_counts(),
    "where_label": lambda split: split.where(label=0),
    "where_name": lambda split: split.where(file_name="*"),
    "find": lambda split: split.find("c1/A5.jpg"),
    "contains": lambda split: "c1/A5.jpg" in split,
    "select_kept": lambda split: split.select("some"),
    "selection": lambda split: split.selection(),
    "read_plan": lambda split: split.read_plan(),
    "inverse": lambda split: ~split,
    "union": lambda split: split | split,
    "label_names": lambda split: split.label_names,
    "targets": lambda split: split.targets,
}
"""Every way to use a split that reads."""


def name_of(sample: arraystore.Sample) -> str:
    return sample.file_name


def written(
    path: Path, *, order: str = "shuffled", seed: int = 0, is_reversed: bool = False, **other: Any
) -> Path:
    """Write a store of the same 12 samples, or of others; an older one is replaced."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    columns: dict[str, Any] = {"names": NAMES, "labels": LABELS, "images": IMAGES} | other
    if is_reversed:
        columns = {name: values[::-1] for name, values in columns.items()}
    kept = {"some": [1, 2]}
    return write_store(
        path, **columns, classes=["zero", "one"], order=order, seed=seed, selections=kept
    )


@pytest.fixture(params=SUFFIXES)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"a{request.param}"


def use(made: Any) -> Any:
    """Return the file names or the bytes of an object that depends on a split."""
    if isinstance(made, arraystore.Split):
        return made.file_name.tolist()
    if isinstance(made, arraystore.Batches):
        return [batch.file_name.tolist() for batch in made]
    if isinstance(made, arraystore.Episodes):
        return [task.support.file_name.tolist() for task in made]
    return [bytes(value) if isinstance(value, memoryview) else value for value in made[:]]


def test_pickle_of_replaced_store_raises(target: Path) -> None:
    train = arraystore.open(written(target))["train"]
    made = {kind: make(train) for kind, make in MADE.items()}
    expected = {kind: use(what) for kind, what in made.items()}
    data = {kind: pickle.dumps(what) for kind, what in made.items()}
    written(target, order="label")
    for kind in MADE:
        with pytest.raises(StoreChangedError, match=r"shuffled, seed 0, is label, seed 0\)"):
            use(pickle.loads(data[kind]))
    written(target)
    assert {kind: use(pickle.loads(data[kind])) for kind in MADE} == expected


@pytest.mark.parametrize("kind", ["whole", "label"])
def test_every_use_of_replaced_store_raises(kind: str, target: Path) -> None:
    data = pickle.dumps(MADE[kind](arraystore.open(written(target))["train"]))
    written(target, seed=1)
    for name, use_it in USES.items():
        with pytest.raises(StoreChangedError, match="shuffled, seed 0, is shuffled, seed 1"):
            pytest.fail(f"{name}: {use_it(pickle.loads(data))!r}")


@pytest.mark.parametrize(
    ("before", "after", "difference"),
    [
        ({}, {"images": OTHER_IMAGES}, "content digest was"),
        ({}, {"labels": LABELS[::-1]}, "content digest was"),
        ({}, {"names": [*NAMES[:-1], "z"]}, "content digest was"),
        ({}, {"order": "source"}, "order was shuffled, seed 0, is source, names"),
        ({"order": "source"}, {"order": "source", "is_reversed": True}, "order was source, names"),
        ({"order": "source"}, {"order": "label"}, "order was source, names"),
        ({"order": "label"}, {"order": "label", "is_reversed": True}, None),
        ({"order": "source"}, {"order": "source"}, None),
        ({}, {"is_reversed": True}, None),
    ],
)
def test_pickle_raises_unless_positions_agree(
    before: dict[str, Any], after: dict[str, Any], difference: str | None, target: Path
) -> None:
    made = arraystore.open(written(target, **before))["train"].where(label=1)
    expected, data = use(made), pickle.dumps(made)
    written(target, **after)
    again = pickle.loads(data)
    if difference is None:
        assert use(again) == expected
        return
    with pytest.raises(StoreChangedError, match=difference):
        use(again)


def test_pickle_of_replaced_remote_store_raises(target: Path) -> None:
    written(target, order="source")
    made = arraystore.open((LocalStore(str(target.parent)), target.name))["train"].sample(3)
    expected, data = use(made), pickle.dumps(made)
    assert use(pickle.loads(data)) == expected
    written(target, order="source", is_reversed=True)
    with pytest.raises(StoreChangedError, match="order was source"):
        use(pickle.loads(data))


def test_pickle_of_pickle_keeps_identity(target: Path) -> None:
    data = pickle.dumps(arraystore.open(written(target))["train"].sample(3))
    written(target, seed=1)
    with pytest.raises(StoreChangedError):
        use(pickle.loads(pickle.dumps(pickle.loads(data))))


def test_unpickling_needs_no_store(target: Path) -> None:
    split = arraystore.open(written(target))["train"].sample(3)
    data = pickle.dumps(split)
    written(target, seed=1).rename(target.with_name("away"))
    again = pickle.loads(data)
    assert (len(again), repr(again)) == (3, repr(split))
    assert again.positions.tolist() == split.positions.tolist()


def test_pickled_store_reopens_its_address(target: Path) -> None:
    store = arraystore.open(written(target))
    data = pickle.dumps((store, store["train"]))
    written(target, seed=1)
    again, train = pickle.loads(data)
    assert use(again["train"]) == use(arraystore.open(target)["train"])
    with pytest.raises(StoreChangedError):
        use(train)


def test_pickle_has_no_columns(target: Path) -> None:
    train = arraystore.open(written(target))["train"]
    _ = train.file_name, train.image_bytes[:]
    assert len(pickle.dumps(train)) < 500 + len(str(target))
    assert len(pickle.dumps(train.image_bytes)) < 1000 + len(str(target))


def test_pickled_dataset_of_replaced_store_raises(target: Path) -> None:
    written(target)
    dataset = xarray.open_dataset(target, engine="arraystore", group="train")
    expected = arraystore.open(target)["train"].file_name[[4, 1]].tolist()
    data = pickle.dumps(dataset.isel(sample=[4, 1]))
    assert pickle.loads(data).file_name.values.tolist() == expected
    written(target, order="label")
    with pytest.raises(StoreChangedError):
        pickle.loads(data).file_name.load()


@pytest.mark.parametrize("sign", ["__and__", "__or__", "__sub__"])
@pytest.mark.parametrize("is_pickled", [False, True])
def test_splits_of_replaced_store_are_not_combined(
    sign: str, target: Path, *, is_pickled: bool
) -> None:
    before = arraystore.open(written(target))["train"].select([4, 1])
    again: arraystore.Split = pickle.loads(pickle.dumps(before))
    before = again if is_pickled else before
    after = arraystore.open(written(target, seed=1))["train"]
    for mine, theirs in ((before, after), (after, before)):
        with pytest.raises(ValueError, match="the store was replaced between them"):
            getattr(mine, sign)(theirs)


def test_splits_of_one_store_opened_twice_are_combined(target: Path) -> None:
    written(target)
    one, other = (arraystore.open(target)["train"] for _ in range(2))
    both = one.select([4, 1]) | other.select([2])
    assert both.positions.tolist() == [1, 2, 4]


def test_saved_selection_fits_another_order(target: Path, tmp_path: Path) -> None:
    made = arraystore.open(written(target))["train"].sample(5)
    expected = made.file_name.tolist()
    made.selection().save(tmp_path / "s.json")
    written(target, order="label")
    train = arraystore.open(target)["train"]
    assert train.select(tmp_path / "s.json").file_name.tolist() == expected
    assert np.array_equal(train.select("some").positions, [1, 2])
