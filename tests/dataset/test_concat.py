"""Splits of several stores joined into one, against Python lists of their samples."""

from __future__ import annotations

import pickle
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import arraystore
from arraystore.dataset.class_names import ClassNames
from arraystore.indexing.hierarchy import Hierarchy
from tests.support import picture, write_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CLASSES = ["n1", "n2", "n3"]
WORDS = ["tench, fish", "crane", "dog"]
N = {"a.zarr": 9, "b.h5": 7}


def write(path: Path, letter: str, n: int, **options: Any) -> Path:
    options = {"classes": CLASSES, "words": WORDS, "selections": {"odd": [1, 3]}} | options
    names, labels = [f"{letter}{i}.jpg" for i in range(n)], [i % 3 for i in range(n)]
    return write_store(path, names, labels, [picture(4, 4, seed=i) for i in range(n)], **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stores with the same classes and different samples."""
    folder = tmp_path_factory.mktemp("concat")
    for name, n in N.items():
        write(folder / name, name[0], n)
    return folder


@pytest.fixture(scope="module")
def parts(folder: Path) -> list[arraystore.Split]:
    return [arraystore.open(folder / name)["train"] for name in N]


@pytest.fixture(scope="module")
def both(parts: list[arraystore.Split]) -> arraystore.Split:
    return arraystore.concat(parts)


def names_of(*splits: arraystore.Split) -> list[str]:
    return [name for split in splits for name in split.file_name.tolist()]


def test_concat_has_the_samples_of_its_parts_in_order(
    both: arraystore.Split, parts: list[arraystore.Split]
) -> None:
    assert both.file_name.tolist() == names_of(*parts)
    assert both.label.tolist() == [*parts[0].label, *parts[1].label]
    assert both.image_bytes[:] == parts[0].image_bytes[:] + parts[1].image_bytes[:]
    assert (
        both.label_counts().tolist() == (parts[0].label_counts() + parts[1].label_counts()).tolist()
    )
    assert "a.zarr and 1 more store: 16 samples" in repr(both)


@settings(max_examples=30)
@given(data=st.data())
def test_concat_follows_numpy(
    data: st.DataObject, both: arraystore.Split, parts: list[arraystore.Split]
) -> None:
    """Parts of parts, in any order, of joined stores, indexed as a list of names is."""
    expected = np.array(names_of(*parts))
    order = data.draw(st.permutations(range(len(both))))
    cut = data.draw(st.integers(0, len(both)))
    again = arraystore.concat([both.select(order[:cut]), both.select(order[cut:])])
    index = data.draw(st.lists(st.integers(-len(both), len(both) - 1), max_size=5))
    assert again.file_name.tolist() == expected[order].tolist()
    assert again[index].file_name.tolist() == expected[order][index].tolist()


def test_concat_is_queried_as_its_parts_are(
    both: arraystore.Split, parts: list[arraystore.Split]
) -> None:
    a, b = parts
    for query in QUERIES:
        assert names_of(query(both)) == names_of(query(a), query(b))
    assert both.find(b.file_name[3]) == len(a) + 3
    batches = list(both.batches(5, shuffle=False))
    assert [name for batch in batches for name in batch.file_name] == names_of(a, b)


QUERIES: list[Callable[[arraystore.Split], arraystore.Split]] = [
    lambda split: split.where(label="crane"),
    lambda split: split.where(label=[0, "n3"]),
    lambda split: split.where(file_name="*[135].jpg"),
    lambda split: split.select("odd"),
    lambda split: split.select(split.label == 2),
]


def test_named_selection_of_one_part_selects_from_it(
    folder: Path, tmp_path: Path, parts: list[arraystore.Split]
) -> None:
    write(tmp_path / "c.zarr", "c", 4, selections=None)
    plain = arraystore.open(tmp_path / "c.zarr")["train"]
    joined = arraystore.concat([plain, parts[0]])
    assert names_of(joined.select("odd")) == names_of(parts[0].select("odd"))


def test_concat_pickles(both: arraystore.Split) -> None:
    again: arraystore.Split = pickle.loads(pickle.dumps(both.select("odd")))
    assert names_of(again) == names_of(both.select("odd"))
    assert names_of(pickle.loads(pickle.dumps(both)).select("odd")) == names_of(again)


def test_concat_combines_with_its_parts(
    both: arraystore.Split, parts: list[arraystore.Split]
) -> None:
    a, b = parts
    assert names_of(both - a) == names_of(b)
    assert names_of(b & both) == names_of(b)
    with pytest.raises(ValueError, match=r"samples of one store.* concat\(\) joins"):
        _ = a | b


def test_selection_of_concat_is_saved(
    both: arraystore.Split, parts: list[arraystore.Split]
) -> None:
    saved = both.select([12, 2, 11]).selection()
    assert list(saved.splits) == ["train", "train+"]
    assert sorted(names_of(both.select(saved))) == sorted(names_of(both.select([12, 2, 11])))
    assert names_of(parts[1].select(saved)) == names_of(both.select([12, 11]))


def test_colliding_file_names_raise(both: arraystore.Split, parts: list[arraystore.Split]) -> None:
    with pytest.raises(ValueError, match=r"1 occur more than once: 'a\d\.jpg'; leave"):
        arraystore.concat([both, parts[0].select([2])])


@pytest.mark.parametrize(
    ("classes", "words", "message"),
    [
        (
            ["n1", "n9", "n3"],
            WORDS,
            r"label 1 is 'n2' \(crane\) in .*a\.zarr, and 'n9' \(crane\) in",
        ),
        (["n1", "n2"], WORDS[:2], r"label 2 is 'n3' \(dog\) in .*, and none in"),
        (CLASSES, [*WORDS[:2], "cat"], r"label 2 is 'n3' \(dog\) in .*, and 'n3' \(cat\) in"),
    ],
)
def test_other_classes_raise(
    classes: list[str],
    words: list[str],
    message: str,
    tmp_path: Path,
    parts: list[arraystore.Split],
) -> None:
    write_store(tmp_path / "c.zarr", ["c"], [0], classes=classes, words=words)
    other = arraystore.open(tmp_path / "c.zarr")["train"]
    with pytest.raises(ValueError, match=message):
        arraystore.concat([parts[0], other])


def test_classes_without_words_are_the_same() -> None:
    named = ClassNames(CLASSES, WORDS)
    assert ClassNames(CLASSES, CLASSES).first_difference(named) == -1
    assert named.first_difference(ClassNames(CLASSES, ["", "", ""])) == -1


def test_replaced_store_raises(tmp_path: Path) -> None:
    path = tmp_path / "c.zarr"
    before = arraystore.open(write(path, "c", 5))["train"].select([0])
    _ = before.file_name
    shutil.rmtree(path)
    after = arraystore.open(write(path, "d", 5))["train"].select([1])
    with pytest.raises(ValueError, match="the store was replaced between them"):
        arraystore.concat([before, after])


@pytest.mark.parametrize("wrong", ["split", "name", "none"])
def test_wrong_arguments_raise(wrong: str, parts: list[arraystore.Split]) -> None:
    given_ = {"split": parts[0], "name": ["train"], "none": []}[wrong]
    with pytest.raises((TypeError, ValueError), match=r"takes a list of splits|needs one or more"):
        arraystore.concat(given_)  # type: ignore[arg-type] # a user's mistake


def test_restricted_hierarchy_keeps_what_is_above() -> None:
    ids = ["cat", "pet", "dog", "oak"]
    whole = Hierarchy.from_parents(
        ids,
        {"cat": ["pet", "feline"], "pet": ["animal"], "dog": ["pet"], "oak": ["plant"]},
        {"animal": "animal", "feline": "feline", "plant": "plant"},
    )
    part = whole.restricted(np.array([0, 3]), ids, [f"{name}s" for name in ids])
    assert part.names == ("pet", "animal", "feline", "plant")
    assert part.words == ("pets", "animal", "feline", "plant")
    assert not [*part.faults(2)]
    below = {name: part.classes_below(2 + k).tolist() for k, name in enumerate(part.names)}
    assert below == {"pet": [0], "animal": [0], "feline": [0], "plant": [1]}
