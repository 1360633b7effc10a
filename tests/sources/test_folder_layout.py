"""Which folders are splits and classes, decided from paths alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arraystore.errors import SourceError
from arraystore.sources.folder_layout import Layout, arrange
from arraystore.sources.folder_listing import listing_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from arraystore.sources.folder_layout import Arrangement


def samples(found: Arrangement, paths: Sequence[str]) -> dict[str, dict[str, str]]:
    """File name and class of each image, split by split; of no label an empty text."""
    images = listing_of(paths).images
    return {
        split: {
            f"{folder.below}/{name}".lstrip("/"): folder.label_name
            for folder in folders
            for name in images[folder.path]
        }
        for split, folders in found.splits.items()
    }


@pytest.mark.parametrize(
    ("layout", "paths", "expected"),
    [
        (
            "split/class/file",
            ["a/cat/1.jpg", "b/dog/2.jpg"],
            {"a": {"cat/1.jpg": "cat"}, "b": {"dog/2.jpg": "dog"}},
        ),
        (
            "class/file",
            ["train/1.jpg", "bus/2.jpg"],
            {"train": {"train/1.jpg": "train", "bus/2.jpg": "bus"}},
        ),
        ("split/file", ["a/1.jpg", "b/2.jpg"], {"a": {"1.jpg": ""}, "b": {"2.jpg": ""}}),
        ("file", ["1.jpg", "2.jpg"], {"train": {"1.jpg": "", "2.jpg": ""}}),
        ("**/file", ["1.jpg", "x/y/2.jpg"], {"train": {"1.jpg": "", "x/y/2.jpg": ""}}),
        ("split/**/file", ["a/1.jpg", "a/x/2.jpg"], {"a": {"1.jpg": "", "x/2.jpg": ""}}),
        (
            "class/**/file",
            ["cat/1.jpg", "cat/x/y/2.jpg", "dog/x/3.jpg"],
            {"train": {"cat/1.jpg": "cat", "cat/x/y/2.jpg": "cat", "dog/x/3.jpg": "dog"}},
        ),
        (
            "split/class/**/file",
            ["a/cat/images/1.jpg", "b/cat/2.jpg"],
            {"a": {"cat/images/1.jpg": "cat"}, "b": {"cat/2.jpg": "cat"}},
        ),
        (
            "split/class/class/file",
            ["a/pet/cat/1.jpg", "a/pet/dog/2.jpg"],
            {"a": {"pet/cat/1.jpg": "pet/cat", "pet/dog/2.jpg": "pet/dog"}},
        ),
    ],
)
def test_stated_layout(layout: str, paths: list[str], expected: dict[str, dict[str, str]]) -> None:
    found = arrange("in", listing_of(paths), layout)
    assert samples(found, paths) == expected
    assert found.notes == ()


parts = st.text("abcdé", min_size=1, max_size=3)


@given(st.sets(st.tuples(parts, parts, parts), min_size=1), st.randoms())
def test_order_of_paths_does_not_matter(names: set[tuple[str, str, str]], random: Random) -> None:
    paths = [f"{split}-val/{label}/{name}.jpg" for split, label, name in names if split.isascii()]
    if paths:
        shuffled = sorted(paths, key=lambda _: random.random())
        assert arrange("in", listing_of(shuffled)) == arrange("in", listing_of(paths))


@pytest.mark.parametrize(
    "text", ["", "class", "file/class", "class/split/file", "split/split/file", "**/class/file"]
)
def test_unknown_layout_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="layout must be split/class/file, class/file"):
        Layout.parse(text)


@pytest.mark.parametrize(
    ("layout", "paths", "got"),
    [
        ("class/file", ["cat/1.jpg", "2.jpg"], "1 as 2.jpg"),
        ("split/class/file", ["a/cat/1.jpg", "a/cat/x/2.jpg"], "1 as a/cat/x/2.jpg"),
        ("class/class/**/file", ["a/1.jpg", "a/b/2.jpg"], "1 as a/1.jpg"),
        ("file", ["a/1.jpg", "a/2.jpg", "b/c/1.jpg"], "2 as a/1.jpg and 1 as b/c/1.jpg"),
    ],
)
def test_image_elsewhere_than_stated_raises(layout: str, paths: list[str], got: str) -> None:
    message = f"in: expected {layout}, got {got}; state another layout (--layout), or move"
    with pytest.raises(SourceError, match=f"^{re.escape(message)}"):
        arrange("in", listing_of(paths), layout)


@pytest.mark.parametrize(
    ("paths", "examples", "remedy"),
    [
        (["1.jpg"], "1 as 1.jpg", "pass layout='file' .* for images without labels"),
        (["1.jpg", "2.jpg", "cat/3.jpg"], "2 as 1.jpg and 1 as cat/3.jpg", "state what"),
        (["cat/1.jpg", "cat/2.jpg", "train/cat/3.jpg"], "2 as cat/1.jpg and 1 as train/cat", ""),
        (["train/cat/1.jpg", "test/2.jpg", "test/cat/3.jpg"], "1 as test/2.jpg and 2 as t", ""),
        (["a/b/c/1.jpg"], "1 as a/b/c/1.jpg", "state what the folders are with layout"),
        (["train/cat/1.jpg", "train/cat/x/2.jpg"], "1 as train/cat/1.jpg and 1 as train/cat/x", ""),
        (["cat/1.jpg", "cat/x/2.jpg"], "1 as cat/1.jpg and 1 as cat/x/2.jpg", "state what"),
        (["cat/1.jpg", "cat/u/v/w/x/y/2.jpg"], "1 as cat/1.jpg and 1 as cat/u", "state what"),
        (["train/n/images/1.jpg"], "1 as train/n/images/1.jpg", "state what .*tiny-imagenet"),
        (
            ["train/n01440764/1.JPEG", "val/ILSVRC2012_val_00000001.JPEG"],
            "1 as val/ILSVRC2012_val_00000001.JPEG and 1 as train/n01440764/1.JPEG",
            r"these are images of ImageNet: convert imagenet2012 with manual_dir",
        ),
        (
            ["train/1.jpg", "val/cat/2.jpg"],
            "1 as train/1.jpg and 1 as val/cat/2.jpg",
            r"move the images of 1 name \(train\) into class folders, or pass layout='split/\*\*",
        ),
    ],
)
def test_images_at_wrong_depth_raise(paths: list[str], examples: str, remedy: str) -> None:
    message = f"in: expected split/class/file, or class/file as one train split, got {examples}"
    with pytest.raises(SourceError, match=f"^{re.escape(message)}.*{remedy}"):
        arrange("in", listing_of(paths))


@pytest.mark.parametrize("paths", [[], ["README"], ["cat/.1.jpg"], ["cat/1.txt", "dog/"]], ids=str)
def test_folder_without_images_raises(paths: list[str]) -> None:
    message = "in: contains no images; expected split/class/file, or class/file"
    with pytest.raises(SourceError, match=f"^{re.escape(message)}"):
        arrange("in", listing_of(paths))


# What seems to be splits or classes, and is not


def test_folder_without_images_is_neither_split_nor_class() -> None:
    """Boxes beside splits must not become a split whose class shifts all labels."""
    paths = ["annotations/bbox/1.xml", "annotations/bbox/2.xml", "train/cat/1.jpg", "val/cat/2.jpg"]
    found = arrange("in", listing_of(paths))
    assert (list(found.splits), list(found.class_folders)) == (["train", "val"], ["cat"])
    (note,) = found.notes
    assert note == (
        "folders without an image are left out, as neither splits nor classes: 1 name (annotations)"
    )
    alone = arrange("in", listing_of(paths[:3]))
    assert alone.class_folders == found.class_folders


@pytest.mark.parametrize("layout", [None, "split/class/file"])
def test_empty_class_folder_of_a_split_is_a_class(layout: str | None) -> None:
    images = ["train/cat/1.jpg", "train/dog/2.jpg", "val/dog/3.jpg"]
    paths = [*images, "train/bee/", "train/notes/a.txt", "val/ant/", "val/cat/"]
    found = arrange("in", listing_of([*paths, "test/fox/"]), layout)
    assert sorted(found.class_folders) == ["ant", "bee", "cat", "dog"]
    assert found.empty == {"ant", "bee"}  # and not cat, which train has
    (left_out,) = found.notes
    assert left_out.endswith("as neither splits nor classes: 2 names (test, train/notes)")


@pytest.mark.parametrize("junk", ["__MACOSX", ".git", "@eaDir", "$RECYCLE.BIN", "lost+found"])
def test_folder_of_the_system_is_not_a_class(junk: str) -> None:
    for paths in (["cat/1.jpg", "dog/2.jpg"], ["train/cat/1.jpg", "val/dog/2.jpg"]):
        plain = arrange("in", listing_of(paths))
        beside = listing_of([*paths, f"{junk}/cat/._1.jpg", f"{junk}/3.jpg", f"{junk}/"])
        assert arrange("in", beside) == plain


@pytest.mark.parametrize(
    ("paths", "what", "other", "stated"),
    [
        (
            ["train/1.jpg", "val/2.jpg"],
            "2 names (train, val) would be classes, but have names of splits",
            *("split/file", "class/file"),
        ),
        (
            ["cat/1.jpg", "Test/2.jpg"],
            "1 name (Test) would be classes, but have names of splits",
            *("split/file", "class/file"),
        ),
        (
            ["train/train/1.jpg"],
            "1 name (train/train) would be classes, but have names of splits",
            *("split/**/file", "split/class/file"),
        ),
        (
            ["images/1.jpg"],
            "1 name (images) would be classes, but are not named like one",
            *("**/file", "class/file"),
        ),
        (
            ["train/cat/1.jpg", "train/dog/2.jpg", "val/images/3.jpg"],
            "1 name (val/images) would be classes, but are not named like one",
            *("split/**/file", "split/class/file"),
        ),
        (
            ["train/images/1.jpg", "val/images/2.jpg", "train/labels/1.txt"],
            "2 names (train/images, val/images) would be classes, but are not named like one",
            *("split/**/file", "split/class/file"),
        ),
    ],
)
def test_class_that_is_not_named_like_one_must_be_stated(
    paths: list[str], what: str, other: str, stated: str
) -> None:
    message = (
        f"in: {what}; pass layout='{other}' (--layout {other}) for images without labels, or "
        f"layout='{stated}' if they are classes"
    )
    with pytest.raises(SourceError, match=f"^{re.escape(message)}$"):
        arrange("in", listing_of(paths))
    assert arrange("in", listing_of(paths), other).class_folders == {}
    assert arrange("in", listing_of(paths), stated).class_folders


@pytest.mark.parametrize(
    ("paths", "examples"),
    [
        (["n01/images/1.jpg", "n02/images/2.jpg"], "2 names (n01/images, n02/images)"),
        (["cat/train/1.jpg", "cat/test/2.jpg"], "1 name (cat/test)"),
        (["cat/mon/1.jpg", "dog/tue/2.jpg"], "2 names (cat/mon, dog/tue)"),
        (["test tube/mon/1.jpg", "dog/tue/2.jpg"], "1 name (dog/tue)"),
        (["train/cat/1.jpg", "plots/loss/2.jpg"], "1 name (plots/loss)"),
        (["photos/cat/1.jpg", "photos/dog/2.jpg"], "1 name (photos/cat)"),
    ],
)
def test_splits_that_may_be_classes_raise(paths: list[str], examples: str) -> None:
    message = f"in: whether {examples} are SPLIT/CLASS or CLASS/FOLDER is not clear"
    with pytest.raises(SourceError, match=f"^{re.escape(message)}.*layout='split/class/file'"):
        arrange("in", listing_of(paths))
    assert list(arrange("in", listing_of(paths), "class/**/file").splits) == ["train"]


def test_splits_of_other_names_that_share_classes_are_reported() -> None:
    paths = ["fold1/cat/1.jpg", "fold1/dog/2.jpg", "fold2/cat/3.jpg", "fold2/dog/4.jpg"]
    found = arrange("in", listing_of(paths))
    assert list(found.splits) == ["fold1", "fold2"]
    (note,) = found.notes
    assert note == (
        "2 names (fold1, fold2) taken for splits, though not named like one; "
        "layout='split/class/file' (--layout) states that, 'class/**/file' that they are classes"
    )


def test_split_that_shares_no_class_is_reported() -> None:
    found = arrange("in", listing_of(["train/cat/1.jpg", "train/dog/2.jpg", "val/flat/3.jpg"]))
    assert found.notes == ("splits without a class that another split has: 2 names (train, val)",)
    paths = ["train/caf\u00e9/1.jpg", "train/bee/2.jpg", "val/cafe\u0301/3.jpg"]
    assert arrange("in", listing_of(paths)).notes == ()
    assert arrange("in", listing_of(["train/cat/1.jpg"])).notes == ()


def test_test_split_without_class_folders_has_no_labels() -> None:
    paths = ["train/cat/1.jpg", "test/2.jpg", "test/3.jpg"]
    found = arrange("in", listing_of(paths))
    expected = {"test": {"2.jpg": "", "3.jpg": ""}, "train": {"cat/1.jpg": "cat"}}
    assert samples(found, paths) == expected
    assert found.notes == ("test: its images lie in no class folder, so they have no label (-1)",)


def test_split_option_names_the_only_split() -> None:
    assert list(arrange("in", listing_of(["cat/1.jpg"]), split="test").splits) == ["test"]
    with pytest.raises(SourceError, match=r"in: the folders name the splits, so split \(--split"):
        arrange("in", listing_of(["val/cat/1.jpg"]), split="test")
