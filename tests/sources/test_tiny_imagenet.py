"""Tiny ImageNet, in the arrangement that it is published in."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import pytest

import arraystore
from arraystore.errors import SourceError
from arraystore.sources.folder import load
from arraystore.sources.folder_listing import listing_of
from arraystore.sources.source_options import SourceOptions
from arraystore.sources.tiny_imagenet import arrange_tiny_imagenet, is_tiny_imagenet
from tests.support import picture, write_folder

if TYPE_CHECKING:
    from pathlib import Path

    from arraystore.sources.folder_layout import Arrangement

# The published lists are not in sorted order either.
WNIDS: Final = ("n02124075", "n01443537", "n01629819")
TABLES: Final = {
    "wnids.txt": "\n".join(WNIDS) + "\n",
    "words.txt": "n01443537\tgoldfish, Carassius auratus\nn00001740\tentity\n",
    "val/val_annotations.txt": (
        "val_0.JPEG\tn01629819\t0\t32\t44\t62\nval_1.JPEG\tn01443537\t4\t0\t55\t63\n"
    ),
}
IMAGES: Final = (
    *(f"train/{wnid}/images/{wnid}_{i}.JPEG" for wnid in WNIDS for i in range(2)),
    *("val/images/val_0.JPEG", "val/images/val_1.JPEG", "test/images/test_0.JPEG"),
)
BOXES: Final = tuple(f"train/{wnid}/{wnid}_boxes.txt" for wnid in WNIDS)


def arranged(images: tuple[str, ...] = IMAGES, tables: dict[str, str] = TABLES) -> Arrangement:
    return arrange_tiny_imagenet("in", listing_of([*images, *BOXES, *tables]), tables.__getitem__)


def drawn(folder: Path) -> Path:
    images = {name: picture(8, 8, seed=k) for k, name in enumerate(IMAGES)}
    return write_folder(folder, images | {name: text.encode() for name, text in TABLES.items()})


@pytest.mark.parametrize("layout", [None, "tiny-imagenet"])
def test_labels_of_all_splits(layout: str | None, tmp_path: Path) -> None:
    folder, target = drawn(tmp_path / "tiny"), tmp_path / "a.h5"
    report = arraystore.convert(
        f"folder:{folder}", target, layout=layout, label_space="own", sync=False
    )
    store = arraystore.open(target)
    assert store.label_names == tuple(sorted(WNIDS))
    assert store.label_words[0] == "goldfish, Carassius auratus"
    found = {
        split: dict(zip(store[split].file_name.tolist(), store[split].label.tolist(), strict=True))
        for split in store
    }
    assert found == {
        "train": {
            f"{wnid}/images/{wnid}_{i}.JPEG": label
            for label, wnid in enumerate(sorted(WNIDS))
            for i in range(2)
        },
        "val": {"images/val_0.JPEG": 1, "images/val_1.JPEG": 0},
        "test": {"images/test_0.JPEG": -1},
    }
    assert report.notes[0].startswith("read as Tiny ImageNet (layout='tiny-imagenet'): classes are")
    assert "test: 1 images have no label (-1)" in report.notes
    assert arraystore.verify(target, source=folder, layout=layout).problems == ()


def test_labels_are_those_of_imagenet_by_default(tmp_path: Path) -> None:
    folder, target = drawn(tmp_path / "tiny"), tmp_path / "a.h5"
    arraystore.convert(f"folder:{folder}", target, sync=False)
    val = arraystore.open(target)["val"]
    label = int(val.label[val.find("images/val_0.JPEG")])
    assert (label, val.int2str(label)) == (25, "n01629819")


def test_order_of_wnids_can_be_stated(tmp_path: Path) -> None:
    folder, target = drawn(tmp_path / "tiny"), tmp_path / "a.h5"
    classes = folder / "wnids.txt"
    arraystore.convert(f"folder:{folder}", target, classes=classes, label_space="own", sync=False)
    assert arraystore.open(target).label_names == WNIDS


def test_validation_images_in_class_folders(tmp_path: Path) -> None:
    images = (*IMAGES[:6], "val/n01443537/val_1.JPEG", "val/n01629819/images/val_0.JPEG")
    found = arranged(images, {"wnids.txt": TABLES["wnids.txt"]})
    assert [(f.below, f.label_name) for f in found.splits["val"]] == [
        ("n01443537", "n01443537"),
        ("n01629819/images", "n01629819"),
    ]


def test_class_of_the_list_without_images_keeps_its_label() -> None:
    found = arranged(IMAGES[:2])
    assert sorted(found.class_folders) == sorted(WNIDS)
    assert found.empty == {"n01443537", "n01629819"}


def test_split_option_has_no_place(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"Tiny ImageNet has splits, so split \(--split\) has no"):
        load(drawn(tmp_path), SourceOptions(split="test"))


def test_tables_are_compared_with_their_earlier_state(tmp_path: Path) -> None:
    source = load(drawn(tmp_path))
    assert list(source.states.paths[len(source.files) :]) == [
        f"{tmp_path}/{name}" for name in ("wnids.txt", "words.txt", "val/val_annotations.txt")
    ]


@pytest.mark.parametrize(
    ("images", "tables", "message"),
    [
        (
            IMAGES,
            {"wnids.txt": TABLES["wnids.txt"]},
            "val/val_annotations.txt not found, so the labels of val are not known; restore it",
        ),
        (
            (*IMAGES, "val/images/val_2.JPEG"),
            TABLES,
            "1 name (val_2.JPEG) in val/images not found in val/val_annotations.txt",
        ),
        (
            (*IMAGES, "train/n09999999/images/0.JPEG"),
            TABLES,
            "1 name (n09999999) found as classes, but not listed in wnids.txt",
        ),
        ((*IMAGES, "train/images/0.JPEG"), TABLES, "the images of train must lie in train/WNID"),
        ((*IMAGES, "train/x/y/0.JPEG"), TABLES, "expected Tiny ImageNet, train/WNID/images, val"),
        ((*IMAGES, "other/x/0.JPEG"), TABLES, "expected Tiny ImageNet, train/WNID/images, val"),
        (
            IMAGES,
            TABLES | {"val/val_annotations.txt": "val_0.JPEG n01629819\n"},
            "val/val_annotations.txt: line 1: expected the name of an image and its wnid, once",
        ),
        (
            IMAGES,
            TABLES | {"val/val_annotations.txt": "val_0.JPEG\tn01629819\nval_0.JPEG\tn02124075\n"},
            "val/val_annotations.txt: line 2: expected the name of an image and its wnid, once",
        ),
    ],
)
def test_images_that_cannot_be_labelled_raise(
    images: tuple[str, ...], tables: dict[str, str], message: str
) -> None:
    with pytest.raises(SourceError, match=f"^in: {re.escape(message)}"):
        arranged(images, tables)


def test_other_folders_are_not_tiny_imagenet() -> None:
    assert is_tiny_imagenet(listing_of([*IMAGES, *TABLES]))
    assert not is_tiny_imagenet(listing_of(IMAGES))
    assert not is_tiny_imagenet(listing_of(["train/n01443537/1.JPEG", *TABLES]))
