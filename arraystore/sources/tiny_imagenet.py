"""Tiny ImageNet as it is published: 200 classes of ImageNet, 64 by 64 pixels.

::

    train/WNID/images/WNID_0.JPEG    train/WNID/WNID_boxes.txt
    val/images/val_0.JPEG            val/val_annotations.txt    name, wnid and box, with tabs
    test/images/test_0.JPEG          (no labels)
    wnids.txt                        words.txt                  wnid and words of all of WordNet

Many users sort the validation images into ``val/WNID/``, with or without ``images/`` below. That is
read as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from arraystore.errors import SourceError, brief
from arraystore.sources.folder_layout import Arrangement, ImageFolder
from arraystore.sources.sample_table import first_few

if TYPE_CHECKING:
    from collections.abc import Callable

    from arraystore.sources.folder_listing import FolderListing

    ReadText = Callable[[str], str]

WNIDS: Final = "wnids.txt"
WORDS: Final = "words.txt"
ANNOTATIONS: Final = "val/val_annotations.txt"

TABLES: Final = (WNIDS, WORDS, ANNOTATIONS)
"""The files that are read, if they exist."""

_SPLITS: Final = ("test", "train", "val")
_IMAGES: Final = "images"


def is_tiny_imagenet(listing: FolderListing) -> bool:
    """Whether a folder is arranged as Tiny ImageNet, and has one of its tables."""
    if not {WNIDS, ANNOTATIONS} & {*listing.others}:
        return False
    paths = (path.split("/") for path in listing.images)
    return any(len(p) == 3 and (p[0], p[2]) == ("train", _IMAGES) for p in paths)


def arrange_tiny_imagenet(where: str, listing: FolderListing, read_text: ReadText) -> Arrangement:
    """Return the splits and classes of Tiny ImageNet.

    Parameters
    ----------
    where : str
        The folder, for messages.
    listing : FolderListing
    read_text : callable
        Returns the text of one of `TABLES` that the listing has.

    Raises
    ------
    SourceError
        If images lie elsewhere, a validation image has no label, or a class is not in
        ``wnids.txt``.
    """
    tables = {name: read_text(name).splitlines() for name in TABLES if name in listing.others}
    splits: dict[str, list[ImageFolder]] = {}
    class_folders: dict[str, str] = {}
    notes: list[str] = []
    for path, names in listing.images.items():
        split, _, below = path.partition("/")
        wnid, _, rest = below.partition("/")
        if split not in _SPLITS or rest not in ("", _IMAGES):
            raise SourceError(
                f"{where}: expected Tiny ImageNet, train/WNID/images, val/images and test/images, "
                f"got {path or names[0]}; state another layout (--layout), or move what does not "
                "belong to it"
            )
        if wnid not in ("", _IMAGES):
            splits.setdefault(split, []).append(ImageFolder(path, below, wnid))
            class_folders.setdefault(wnid, path)
        elif split == "test":
            splits.setdefault(split, []).append(ImageFolder(path, below, ""))
            notes.append(f"test: {len(names):,} images have no label (-1)")
        elif split == "val":
            labels = _annotated(where, names, tables.get(ANNOTATIONS), notes)
            splits.setdefault(split, []).append(ImageFolder(path, below, "", labels))
            for label in labels.values():
                class_folders.setdefault(label, ANNOTATIONS)
        else:
            raise SourceError(
                f"{where}: the images of train must lie in train/WNID/images, got {path}/{names[0]}"
            )
    if not splits:
        raise SourceError(f"{where}: contains no images; expected those of Tiny ImageNet")
    listed = {line.strip(): WNIDS for line in tables.get(WNIDS, ()) if line.strip()}
    unknown = sorted(class_folders.keys() - listed)
    if listed and unknown:
        raise SourceError(
            f"{where}: {first_few(unknown)} found as classes, but not listed in {WNIDS}; move what "
            "does not belong to the data set"
        )
    notes.insert(
        0,
        f"read as Tiny ImageNet (layout='tiny-imagenet'): classes are the wnids in sorted order, "
        f"not in that of {WNIDS}; validation labels are those of {ANNOTATIONS}",
    )
    return Arrangement(
        splits={name: splits[name] for name in sorted(splits)},
        class_folders={**listed, **class_folders},
        empty=frozenset(listed.keys() - class_folders),
        words=dict(_pair(line) for line in tables.get(WORDS, ())),
        notes=tuple(notes),
    )


def _annotated(
    where: str, names: list[str], lines: list[str] | None, notes: list[str]
) -> dict[str, str]:
    """Return the wnid of each validation image."""
    if lines is None:
        raise SourceError(
            f"{where}: {ANNOTATIONS} not found, so the labels of val are not known; restore it, or "
            "move the images into val/WNID/"
        )
    wnid_of: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        name, *values = line.split("\t")
        wnid = values[0].strip() if values else ""
        if not wnid or wnid_of.get(name, wnid) != wnid:
            raise SourceError(
                f"{where}: {ANNOTATIONS}: line {number}: expected the name of an image and its "
                f"wnid, once, got {brief(line)}"
            )
        wnid_of[name] = wnid
    lacking = [name for name in names if name not in wnid_of]
    if lacking:
        raise SourceError(
            f"{where}: {first_few(lacking)} in val/images not found in {ANNOTATIONS}; restore it"
        )
    absent = len(wnid_of) - len(names)
    if absent:
        notes.append(f"val: {absent:,} images listed in {ANNOTATIONS} not found")
    return {name: wnid_of[name] for name in names}


def _pair(line: str) -> tuple[str, str]:
    wnid, _, words = line.partition("\t")
    return wnid.strip(), words.strip()
