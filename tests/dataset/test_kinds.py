"""Queries by what classes are a kind of: `is_a` by words or id, in Python and on the terminal."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import zarr

import arraystore
from arraystore.cli.commands import main
from arraystore.sources.imagenet2012_tables import hierarchy, wnids, words
from tests.support import SUFFIXES, write_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

REPTILE, TENCH = "n01661091", "n01440764"


def test_dogs_and_birds_are_the_classes_that_wordnet_has(store: arraystore.Store) -> None:
    assert len(store.is_a("dog")) == 118
    assert store.is_a("dog").tolist() == list(range(151, 269))
    assert len(store.is_a("bird")) == 59
    assert store.is_a("n02084071").tolist() == store.is_a("Domestic Dog").tolist()


def test_class_is_a_kind_of_itself(store: arraystore.Store) -> None:
    assert store.is_a("tench").tolist() == store.is_a(TENCH).tolist() == [0]


def test_every_class_is_an_entity(store: arraystore.Store) -> None:
    assert store.is_a("entity").tolist() == list(range(1000))


def test_words_with_several_senses_are_an_error_that_lists_them(store: arraystore.Store) -> None:
    message = (
        "'food' has 2 senses: n00021265 (food, nutrient: 26 classes); "
        "n07555863 (food, solid food: 27 classes); give the id of one"
    )
    with pytest.raises(KeyError, match=re.escape(message)):
        store.is_a("food")
    assert len(store.is_a("n00021265")) == 26


def test_unknown_word_is_an_error_with_the_nearest(store: arraystore.Store) -> None:
    with pytest.raises(KeyError, match=r"no class or ancestor is called 'dgo'; near it: .*dog"):
        store.is_a("dgo")


@pytest.mark.parametrize("key", [0, None, b"dog", ["dog"]])
def test_only_text_names_a_kind(store: arraystore.Store, key: Any) -> None:
    with pytest.raises(TypeError, match="is_a must be an id or words"):
        store.is_a(key)


@pytest.mark.parametrize("kind", ["animal", "artifact", REPTILE, "entity", "dog"])
def test_where_is_a_selects_the_samples_of_the_classes(
    train: arraystore.Split, store: arraystore.Store, kind: str
) -> None:
    expected = np.flatnonzero(np.isin(train.label, store.is_a(kind)))
    found = train.where(is_a=kind)
    assert found.positions.tolist() == expected.tolist()
    assert found.name == f"train.where(is_a={kind!r})"
    assert found.label_counts().sum() == len(expected)


def test_where_is_a_takes_several_and_combines_with_other_conditions(
    train: arraystore.Split,
) -> None:
    animals, artifacts = train.where(is_a="animal"), train.where(is_a="artifact")
    both = train.where(is_a=["animal", "artifact"])
    assert 0 < len(animals) < len(both) == len(animals | artifacts)
    tench = train.where(is_a="animal", label=[0, 999], file_name="*_[12].JPEG")
    assert (
        tench.file_name.tolist()
        == train.where(label=0, file_name="*_[12].JPEG").file_name[:].tolist()
    )


def test_where_is_a_works_on_a_selection_and_before_a_draw(train: arraystore.Split) -> None:
    part = train.select(np.arange(0, 30, 2))
    animals = set(train.where(is_a="animal").file_name.tolist())
    expected = [name for name in part.file_name.tolist() if name in animals]
    assert part.where(is_a="animal").file_name.tolist() == expected
    drawn = train.where(is_a="animal").per_label(1, seed=0)
    assert set(drawn.file_name.tolist()) <= animals


def test_stored_hierarchy_is_that_of_the_source(store: arraystore.Store) -> None:
    found, expected = store.hierarchy, hierarchy()
    assert found is not None
    assert (found.names, found.words) == (expected.names, expected.words)
    assert found.parent.tolist() == expected.parent.tolist()
    assert found.parent_indptr.tolist() == expected.parent_indptr.tolist()
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in found.notice
    assert found.notice == expected.notice


def test_store_with_a_hierarchy_is_of_version_1_1(store: arraystore.Store) -> None:
    assert (store.info.format_version, store.info.label_hierarchy) == ("1.1", "1.0")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_store_without_a_hierarchy_is_of_version_1_0_and_says_so(
    suffix: str, tmp_path: Path
) -> None:
    path = write_store(tmp_path / f"a{suffix}", ["a", "b"], [0, 1], classes=["cat", "dog"])
    store = arraystore.open(path)
    assert (store.info.format_version, store.info.label_hierarchy) == ("1.0", "")
    assert store.hierarchy is None
    with pytest.raises(ValueError, match="the store has no hierarchy of its classes"):
        store["train"].where(is_a="dog")


@pytest.mark.parametrize("other", SUFFIXES)
def test_copy_has_the_hierarchy(path: Path, other: str, tmp_path: Path) -> None:
    target = tmp_path / f"copy{other}"
    report = arraystore.copy(path, target, sync=False)
    assert report.left_out == ()
    assert (
        arraystore.open(target).is_a("bird").tolist() == arraystore.open(path).is_a("bird").tolist()
    )
    assert arraystore.verify(target).problems == ()


def _changed(path: Path, target: Path, change: Callable[[Any], None]) -> Path:
    """Copy a store, and change it through the library of its container."""
    if path.is_dir():
        shutil.copytree(path, target)
        change(zarr.open_group(target, mode="r+", use_consolidated=False))
    else:
        shutil.copy(path, target)
        with h5py.File(target, "r+") as file:
            change(file)
    return target


def test_newer_hierarchy_is_refused_where_it_is_used(path: Path, tmp_path: Path) -> None:
    def change(root: Any) -> None:
        root.attrs["label_hierarchy"] = "2.0"
        if isinstance(root, h5py.File):
            root.attrs.create("label_hierarchy", b"2.0", dtype=h5py.string_dtype("utf-8", 3))

    store = arraystore.open(_changed(path, tmp_path / path.name, change))
    assert len(store["train"].where(label=0)) == 5
    with pytest.raises(arraystore.VersionError, match=r"label_hierarchy: version '2.0' cannot be"):
        store["train"].where(is_a="dog")


def test_damaged_hierarchy_is_an_error_and_a_problem(path: Path, tmp_path: Path) -> None:
    def change(root: Any) -> None:
        root["label_hierarchy/parent"][0] = 10**6

    broken = _changed(path, tmp_path / path.name, change)
    with pytest.raises(arraystore.FormatError, match=r"label_hierarchy: parent must have numbers"):
        arraystore.open(broken).is_a("dog")
    problems = [str(problem) for problem in arraystore.verify(broken).problems]
    assert any("parent must have numbers in range(1860)" in problem for problem in problems)


def test_ls_is_a_lists_the_samples(
    path: Path, train: arraystore.Split, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ls", str(path), "--is-a", "animal", "--is-a", REPTILE, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["file_name"] for row in rows] == train.where(is_a="animal").file_name.tolist()


def test_show_is_a_draws_the_samples(
    path: Path, train: arraystore.Split, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.png"
    assert main(["show", str(path), "--is-a", "animal", "-o", str(sheet)]) == 0
    n = len(train.where(is_a="animal"))
    assert f"{n} of {n} samples of train.where(is_a=['animal'])" in capsys.readouterr().out


def test_ambiguous_words_fail_on_one_line(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", str(path), "--is-a", "food"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("arraystore: 'food' has 2 senses: n00021265")
    assert error.count("\n") == 1


def test_hierarchy_has_every_class_and_its_ancestors() -> None:
    assert hierarchy().n_classes == len(wnids()) == len(words()) == 1000
    assert len(hierarchy().names) == 860
    assert np.all(np.diff(hierarchy().parent_indptr)[:1000] > 0)
