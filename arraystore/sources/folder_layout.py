"""Decide which folders are splits and which are classes, from paths alone.

A layout states it: ``split/class/file``, ``class/file``, ``split/file`` or ``file``. Several
``class`` are nested classes, ``animal/dog`` below ``animal``; ``**`` before ``file`` stands for
further folders that do not count. Without a layout, paths must fit one of the first two, and names
that suggest something else are an error.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from arraystore.errors import SourceError, brief
from arraystore.schema import check_split_name
from arraystore.sources.sample_table import first_few

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from arraystore.sources.folder_listing import FolderListing

TINY_IMAGENET: Final = "tiny-imagenet"
"""The layout that Tiny ImageNet is published in; see `arraystore.sources.tiny_imagenet`."""

SPLIT_WORDS: Final = frozenset(
    {"train", "training", "validation", "valid", "val", "dev", "test", "testing"}
    | {"eval", "evaluation"}
)
"""Words that name splits, in lower case."""

_IMAGENET_NAME: Final = "ILSVRC2012_val_"
_IMAGE_WORDS: Final = frozenset(
    {"image", "images", "img", "imgs", "jpegimages", "photos", "pictures"}
)
_UNLABELLED_WORDS: Final = frozenset({"test", "testing"})
_LETTERS: Final = re.compile(r"[A-Za-z]+")
_PATTERN: Final = re.compile(r"(split/)?((?:class/)*)(\*\*/)?file")
_TRAIN: Final = "train"
_EXPECTED: Final = "split/class/file, or class/file as one train split"
_STATE_IT: Final = (
    "state what the folders are with layout (--layout), such as 'class/**/file' or "
    "'split/class/**/file' if folders below a class do not count, or 'class/class/file' for "
    "nested classes; or move what does not belong to the data set"
)


@dataclass(frozen=True, slots=True)
class Layout:
    """What the folders above each image are.

    Attributes
    ----------
    text : str
        As it is stated.
    has_split : bool
        Whether the first folder is a split.
    n_classes : int
        Number of folders that name the class; 0 if images have no labels.
    is_open : bool
        Whether further folders may follow, which do not count.
    """

    text: str
    has_split: bool
    n_classes: int
    is_open: bool

    @classmethod
    def parse(cls, text: str) -> Layout:
        """Return the layout that a text states.

        Raises
        ------
        ValueError
            If it is not one.

        Examples
        --------
        >>> Layout.parse("split/class/**/file")
        Layout(text='split/class/**/file', has_split=True, n_classes=1, is_open=True)
        """
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise ValueError(
                "layout must be split/class/file, class/file, split/file or file, perhaps with "
                f"**/ before file or class/ repeated, or tiny-imagenet, got {brief(text)}"
            )
        return cls(text, bool(match[1]), match[2].count("/"), bool(match[3]))

    @property
    def depth(self) -> int:
        """Least number of folders above an image."""
        return self.has_split + self.n_classes

    def fits(self, folder: str) -> bool:
        """Whether images may lie in a folder."""
        depth = depth_of(folder)
        return depth == self.depth or (self.is_open and depth > self.depth)


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """One folder with images, and what its place says about them.

    Attributes
    ----------
    path : str
        Below the root; empty for the root itself.
    below : str
        Below the split: file names begin with it.
    label_name : str
        The class of its images, as the folder is named; empty if they have none.
    label_names : mapping of str to str, optional
        The class of each image by its base name, where the folder does not show it.
    """

    path: str
    below: str
    label_name: str
    label_names: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Arrangement:
    """The splits and classes that a folder has.

    Attributes
    ----------
    splits : dict of str to list of ImageFolder
        Sorted by name; each split has its folders in the order of their paths.
    class_folders : dict of str to str
        Each class as its folder is named, and the path of one such folder.
    empty : frozenset of str
        Those without an image, which no note mentions yet.
    is_nested : bool
        Whether names of classes have several parts, each below the one before.
    words : mapping of str to str
        Human-readable names of classes, where they are known.
    notes : tuple of str
        What was decided and left out.
    """

    splits: dict[str, list[ImageFolder]]
    class_folders: dict[str, str]
    empty: frozenset[str] = frozenset()
    is_nested: bool = False
    words: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def depth_of(folder: str) -> int:
    """Return the number of parts of the path of a folder; 0 if it is empty."""
    return folder.count("/") + 1 if folder else 0


def arrange(
    where: str, listing: FolderListing, layout: str | None = None, *, split: str | None = None
) -> Arrangement:
    """Decide which folders are splits, and which are classes.

    Parameters
    ----------
    where : str
        The folder, for messages.
    listing : FolderListing
        Images and folders; their names alone are used.
    layout : str, optional
        What the caller states, except `TINY_IMAGENET`.
    split : str, optional
        Name of the one split, where the layout has none; ``"train"`` by default.

    Raises
    ------
    SourceError
        If there are no images, if they lie elsewhere than the layout states, or, without a
        layout, if splits and classes are not clear. If a split cannot have the name of its folder.

    Examples
    --------
    >>> from arraystore.sources.folder_listing import listing_of
    >>> found = arrange("pets", listing_of(["train/dog/1.jpg", "val/cat/2.jpg", "val/bee/"]))
    >>> list(found.splits), sorted(found.class_folders)
    (['train', 'val'], ['bee', 'cat', 'dog'])
    """
    folders = list(listing.images)
    if not folders:
        expected = layout or _EXPECTED
        raise SourceError(f"{where}: contains no images; expected {expected}")
    if layout is None:
        stated, notes = _guess(where, listing)
        unlabelled = frozenset(folder for folder in folders if depth_of(folder) < stated.depth)
    else:
        stated, notes, unlabelled = Layout.parse(layout), [], frozenset[str]()
        _check_fit(where, listing, stated)
    if stated.has_split and split is not None:
        raise SourceError(f"{where}: the folders name the splits, so split (--split) has no place")
    splits: dict[str, list[ImageFolder]] = {}
    class_folders: dict[str, str] = {}
    for folder in folders:
        parts = folder.split("/") if folder else []
        name = parts.pop(0) if stated.has_split else split or _TRAIN
        label_name = "" if folder in unlabelled else "/".join(parts[: stated.n_classes])
        splits.setdefault(name, []).append(ImageFolder(folder, "/".join(parts), label_name))
        if label_name:
            class_folders.setdefault(label_name, folder)
    _check_splits(where, splits)
    for folder in sorted(unlabelled):
        notes.append(f"{folder}: its images lie in no class folder, so they have no label (-1)")
    labelled = {name for name, inside in splits.items() if any(f.label_name for f in inside)}
    empty = _empty_class_folders(listing, stated, labelled)
    new = {name: folder for name, folder in empty.items() if name not in class_folders}
    if left_out := _left_out(listing, empty.values()):
        notes.append(
            "folders without an image are left out, as neither splits nor classes: "
            f"{first_few(left_out)}"
        )
    return Arrangement(
        splits={name: splits[name] for name in sorted(splits)},
        class_folders={**class_folders, **new},
        empty=frozenset(new),
        is_nested=stated.n_classes > 1,
        notes=tuple(notes),
    )


def _check_splits(where: str, splits: Iterable[str]) -> None:
    for name in splits:
        try:
            check_split_name(name)
        except ValueError as error:
            raise SourceError(f"{where}: {error}") from None


def _check_fit(where: str, listing: FolderListing, layout: Layout) -> None:
    wrong = [folder for folder in listing.images if not layout.fits(folder)]
    if wrong:
        raise SourceError(
            f"{where}: expected {layout.text}, got {_examples(listing, wrong)}; state another "
            "layout (--layout), or move what does not belong to the data set"
        )


def _examples(listing: FolderListing, folders: Iterable[str]) -> str:
    """Say how many images lie at each depth, with an example of each."""
    counts: Counter[int] = Counter()
    examples: dict[int, str] = {}
    for folder in folders:
        depth, names = depth_of(folder), listing.images[folder]
        counts[depth] += len(names)
        examples.setdefault(depth, f"{folder}/{names[0]}" if folder else names[0])
    return " and ".join(f"{counts[depth]:,} as {examples[depth]}" for depth in sorted(examples))


# Without a layout


def _guess(where: str, listing: FolderListing) -> tuple[Layout, list[str]]:
    """Return ``split/class/file`` or ``class/file``, and what must be reported."""
    folders = list(listing.images)
    depths = {depth_of(folder) for folder in folders}
    if depths == {1}:
        _refuse_other_words(where, folders, "class/file")
        return Layout.parse("class/file"), []
    flat = [folder for folder in folders if depth_of(folder) == 1]
    if depths == {2} or (depths == {1, 2} and _are_unlabelled(flat, folders)):
        inner = [folder for folder in folders if depth_of(folder) == 2]
        notes = _check_split_folders(where, inner)
        _refuse_other_words(where, inner, "split/class/file")
        return Layout.parse("split/class/file"), notes
    raise SourceError(
        f"{where}: expected {_EXPECTED}, got {_examples(listing, folders)}; "
        f"{_remedy(listing, depths)}"
    )


def _are_unlabelled(flat: Sequence[str], folders: Sequence[str]) -> bool:
    """Whether folders of images without class folders are test splits, beside others."""
    with_classes = {folder.partition("/")[0] for folder in folders if "/" in folder}
    return all(name.lower() in _UNLABELLED_WORDS and name not in with_classes for name in flat)


def _remedy(listing: FolderListing, depths: set[int]) -> str:
    folders = list(listing.images)
    if depths == {0}:
        return "pass layout='file' (--layout file) for images without labels"
    if any(names[0].startswith(_IMAGENET_NAME) for names in listing.images.values()):
        return "these are images of ImageNet: convert imagenet2012 with manual_dir (--manual-dir)"
    flat = [name for name in folders if name.lower() in SPLIT_WORDS]
    if depths == {1, 2} and flat:
        return (
            f"move the images of {first_few(flat)} into class folders, or pass "
            "layout='split/**/file' (--layout) to convert all images without labels, or "
            "'class/**/file' if these are classes"
        )
    if any(folder.endswith("/images") for folder in folders):
        return f"{_STATE_IT}; Tiny ImageNet is '{TINY_IMAGENET}'"
    return _STATE_IT


def _refuse_other_words(where: str, folders: Sequence[str], layout: str) -> None:
    """Refuse class folders that are named like splits, or all of a split like ``images``."""
    names_of: dict[str, set[str]] = {}
    for path in folders:
        above, _, name = path.rpartition("/")
        names_of.setdefault(above, set()).add(name.lower())
    unnamed = {above for above, names in names_of.items() if names <= _IMAGE_WORDS}
    if named := [path for path in folders if path.rpartition("/")[2].lower() in SPLIT_WORDS]:
        other = "split/file" if layout == "class/file" else "split/**/file"
        what = "have names of splits"
    elif named := [path for path in folders if path.rpartition("/")[0] in unnamed]:
        other = "**/file" if layout == "class/file" else "split/**/file"
        what = "are not named like one"
    else:
        return
    raise SourceError(
        f"{where}: {first_few(named)} would be classes, but {what}; pass layout='{other}' "
        f"(--layout {other}) for images without labels, or layout='{layout}' if they are classes"
    )


def _check_split_folders(where: str, folders: Sequence[str]) -> list[str]:
    """Check that the first of two folders can be a split; return what must be reported.

    Names of splits are clear. Other folders must share a class with another split, as splits do;
    but not all only one, as in CLASS/images/FILE.
    """
    classes_of: dict[str, set[str]] = {}
    for folder in folders:
        top, _, name = folder.partition("/")
        classes_of.setdefault(top, set()).add(unicodedata.normalize("NFC", name))
    n_splits_of = Counter(name for names in classes_of.values() for name in names)
    alone = [
        top for top, names in classes_of.items() if all(n_splits_of[name] == 1 for name in names)
    ]
    odd = [top for top in classes_of if not _has_split_word(top)]
    if odd and (
        not set(odd).isdisjoint(alone) or (len(n_splits_of) == 1 and len(odd) == len(classes_of))
    ):
        examples = [f"{top}/{min(classes_of[top])}" for top in odd if not alone or top in alone]
        raise SourceError(
            f"{where}: whether {first_few(examples)} are SPLIT/CLASS or CLASS/FOLDER is not clear, "
            "because the first is not named like a split, or shares no class with another; pass "
            "layout='split/class/file' (--layout), or 'class/**/file' if folders below a class do "
            "not count, or move what does not belong to the data set"
        )
    notes = []
    if odd:
        notes.append(
            f"{first_few(odd)} taken for splits, though not named like one; "
            "layout='split/class/file' (--layout) states that, 'class/**/file' that they are "
            "classes"
        )
    if alone and len(classes_of) > 1:
        notes.append(f"splits without a class that another split has: {first_few(alone)}")
    return notes


def _has_split_word(name: str) -> bool:
    return any(word.lower() in SPLIT_WORDS for word in _LETTERS.findall(name))


# Folders without images


def _empty_class_folders(
    listing: FolderListing, layout: Layout, splits: set[str]
) -> dict[str, str]:
    """Return the classes, and their folders, that hold no file at all, in splits that have some."""
    if not layout.n_classes:
        return {}
    occupied = _above([*listing.images, *(path.rpartition("/")[0] for path in listing.others)])
    found = {}
    for folder in listing.folders:
        if depth_of(folder) == layout.depth and folder not in occupied:
            parts = folder.split("/")
            if not layout.has_split or parts.pop(0) in splits:
                found["/".join(parts)] = folder
    return found


def _left_out(listing: FolderListing, classes: Iterable[str]) -> list[str]:
    """Return the folders without images at or below them that are not classes; the topmost."""
    kept = _above([*listing.images, *classes])
    classes = set(classes)
    found: list[str] = []
    for folder in listing.folders:
        above = folder.rpartition("/")[0]
        if folder not in kept and (not above or above in kept) and above not in classes:
            found.append(folder)
    return found


def _above(folders: Iterable[str]) -> set[str]:
    """Return folders and all folders above them."""
    found: set[str] = set()
    for path in folders:
        folder = path
        while folder and folder not in found:
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return found
