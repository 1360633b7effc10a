"""Which files a pattern means, and the split of each."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arraystore.errors import SourceError
from arraystore.sources.shards import _expanded, find_shards, name_of
from arraystore.sources.source_options import SourceOptions

if TYPE_CHECKING:
    from pathlib import Path


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def found(pattern: str, folder: Path, **options: object) -> list[tuple[str, str]]:
    shards = find_shards(pattern, (".tar",), SourceOptions(**options))  # type: ignore[arg-type] # any options
    files = [str(path).removeprefix(f"{folder}/") for path in shards.files]
    return list(zip(files, shards.splits, strict=True))


@given(first=st.integers(0, 300), n=st.integers(1, 40), width=st.integers(1, 5))
def test_range_in_braces_is_expanded_as_shells_do(first: int, n: int, width: int) -> None:
    last = first + n - 1
    begin, end = f"{first:0{width}}", f"{last:0{width}}"
    expected = [f"a-{number:0{width}}.tar" for number in range(first, last + 1)]
    if len(begin) == len(end):
        assert list(_expanded(f"a-{{{begin}..{end}}}.tar")) == expected
    assert next(iter(_expanded(f"a-{{{first}..{last}}}.tar"))) == f"a-{first}.tar"


def test_alternatives_and_ranges_are_combined() -> None:
    names = ["a-0.tar", "a-1.tar", "b-0.tar", "b-1.tar"]
    assert list(_expanded("{a,b}-{0..1}.tar")) == names


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train-0.tar", "val-0.tar"], ["train", "val"]),
        (["imagenet-train-000000.tar", "imagenet-train-000001.tar"], ["train", "train"]),
        (["pets_training.tar", "pets_eval.tar"], ["eval", "training"]),
        (["train/0.tar", "test/0.tar"], ["test", "train"]),
        (["a-train.tar-00000-of-00001"], ["train"]),
        (["pets-train_small.tar-00000-of-00001"], ["train_small"]),
        (["unsupervised-00000-of-00001.tar"], ["unsupervised"]),
        (["part-0.tar", "part-1.tar"], ["train", "train"]),
        (["Train.tar", "Validation.tar"], ["Train", "Validation"]),
    ],
    ids=str,
)
def test_split_of_a_file_is_in_its_name(
    names: list[str], splits: list[str], tmp_path: Path
) -> None:
    touch(tmp_path, *names)
    assert [split for _, split in found(str(tmp_path), tmp_path)] == splits


def test_split_that_no_name_has_is_noted(tmp_path: Path) -> None:
    touch(tmp_path, "a.tar", "b.tar")
    shards = find_shards(str(tmp_path), (".tar",), SourceOptions())
    assert shards.guesses == ("no split in the names of files (a.tar, …); all are in train",)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train.tar", "other.tar"], "its name has no split, other names have"),
        (["train-val.tar"], "its name has the splits train and val"),
        (
            ["train_small.tar", "train_full.tar"],
            "names of several kinds have the split train: 2 names",
        ),
        (["train.tar", "class.tar"], "its name has no split"),
        (["x/label_name-00000-of-00001.tar"], "a split cannot be named 'label_name'"),
    ],
)
def test_split_that_is_not_clear_is_refused(names: list[str], message: str, tmp_path: Path) -> None:
    touch(tmp_path, *names)
    with pytest.raises(SourceError, match=message):
        found(str(tmp_path), tmp_path)
    assert {split for _, split in found(str(tmp_path), tmp_path, split="all")} == {"all"}


def test_splits_are_stated_in_the_pattern(tmp_path: Path) -> None:
    touch(tmp_path, "x-0.tar", "x-1.tar", "y.tar")
    pattern = f"a={tmp_path}/x-{{0..1}}.tar,b={tmp_path}/y.tar"
    assert found(pattern, tmp_path) == [("x-0.tar", "a"), ("x-1.tar", "a"), ("y.tar", "b")]
    with pytest.raises(SourceError, match="states splits, so split"):
        found(pattern, tmp_path, split="c")
    with pytest.raises(SourceError, match=r"x-0\.tar: named twice; a file belongs to one split"):
        found(f"a={tmp_path}/x-0.tar,b={tmp_path}/x-*.tar", tmp_path)


def test_missing_shards_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "train-00000-of-00003.tar", "train-00002-of-00003.tar", "val-1.tar")
    message = r"1 name \(.*/train-00001-of-00003\) not found; download what is missing"
    with pytest.raises(SourceError, match=message):
        found(f"{tmp_path}/train-*", tmp_path)
    shards = find_shards(f"{tmp_path}/train-*", (".tar",), SourceOptions(partial=True))
    assert shards.partial
    assert "train-00001-of-00003) not found; their samples are left out" in shards.notes[0]
    with pytest.raises(SourceError, match=r"2 names \(.*val-0\.tar, .*val-2\.tar\) not found"):
        found(f"{tmp_path}/val-{{0..2}}.tar", tmp_path)


def test_shards_with_hashes_in_their_names_are_complete(tmp_path: Path) -> None:
    touch(tmp_path, "train-00000-of-00002-0a1b.tar", "train-00001-of-00002-ff00.tar")
    assert [split for _, split in found(str(tmp_path), tmp_path)] == ["train", "train"]


@pytest.mark.parametrize("pattern", ["absent.tar", "absent-*.tar", "a-{0..2}.tar"])
def test_pattern_without_a_file_is_refused(pattern: str, tmp_path: Path) -> None:
    message = re.escape(f"{tmp_path}/{pattern}: no such file, and no file matches it")
    with pytest.raises(SourceError, match=message):
        found(f"{tmp_path}/{pattern}", tmp_path)


def test_hidden_and_foreign_files_of_a_folder_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "train.tar", ".train.tar", "._train.tar", "__MACOSX/train.tar", "README.md")
    assert found(str(tmp_path), tmp_path) == [("train.tar", "train")]


def test_file_whose_name_looks_like_a_pattern_is_found(tmp_path: Path) -> None:
    touch(tmp_path, "train[0].tar", "train{0..1}.tar")
    assert found(f"{tmp_path}/train[0].tar", tmp_path) == [("train[0].tar", "train")]
    assert found(f"{tmp_path}/train{{0..1}}.tar", tmp_path) == [("train{0..1}.tar", "train")]


def test_pattern_of_too_many_files_is_refused() -> None:
    with pytest.raises(SourceError, match="means 100,000,000 files"):
        list(_expanded("{0000..9999}-{0000..9999}.tar"))


@pytest.mark.parametrize(
    ("pattern", "name"),
    [("shards/a-*.tar", "shards"), ("x=d/a.tar,y=e/b.tar", "d"), ("d/{a,b}.tar", "d")],
)
def test_data_set_is_named_after_the_folder(pattern: str, name: str) -> None:
    assert name_of(pattern) == name
