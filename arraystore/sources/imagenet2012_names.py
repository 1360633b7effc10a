"""The file names of ILSVRC 2012: in the official archives, and as other forms change them.

Some forms repeat the WordNet id of the class behind the name, put images into folders, or write
another suffix. The names in the archives are the ones to keep, since they identify the images:

=========================================  ==============================
found                                      kept
=========================================  ==============================
``n01440764_10026_n01440764.JPEG``         ``n01440764_10026.JPEG``
``val/n01751748/ILSVRC2012_val_1.jpg``     is not such a name
``ILSVRC2012_val_00000001_n01751748.JPEG`` ``ILSVRC2012_val_00000001.JPEG``
=========================================  ==============================
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np

from arraystore.errors import SourceError, brief, escaped
from arraystore.images.probe import IMAGE_SUFFIXES
from arraystore.schema import UNLABELLED
from arraystore.sources.imagenet2012_tables import validation_labels, wnids, words
from arraystore.sources.sample_table import first_few

if TYPE_CHECKING:
    from collections.abc import Sequence

    from arraystore._typing import Ints

NOT_STATED: Final = -2
"""Stands for a label that a form does not state."""

SPLIT_SIZES: Final = {"train": 1_281_167, "validation": 50_000, "test": 100_000}
"""Number of images of each complete split."""

REENCODED_BY_TFDS: Final = frozenset(
    f"{name}.JPEG"
    for name in (
        *("n01739381_1309", "n02077923_14822", "n02105855_2933", "n02447366_23489"),
        *("n02492035_15739", "n02747177_10752", "n03018349_4028", "n03062245_4620"),
        *("n03347037_9675", "n03467068_12171", "n03529860_11437", "n03544143_17228"),
        *("n03633091_5218", "n03710637_5125", "n03961711_5286", "n04033995_2932"),
        *("n04258138_17003", "n04264628_27969", "n04336792_7448", "n04371774_5854"),
        *("n04596742_4225", "n07583066_647", "n13037406_4650"),
    )
)
"""Training images that TFDS re-encodes from version 3.0.0 on: 22 of CMYK, and one PNG."""

_WNID: Final = r"n[0-9]{8}"
_SUFFIX: Final = rf"(?:\.(?i:{'|'.join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))}))?"
_PATTERNS: Final = {
    "train": re.compile(rf"(?P<id>(?P<wnid>{_WNID})_[0-9]+)(?:_(?P<again>{_WNID}))?{_SUFFIX}"),
    "validation": re.compile(
        rf"(?:(?P<before>{_WNID})_)?(?P<id>ILSVRC2012_val_(?P<number>[0-9]{{8}}))"
        rf"(?:_(?P<again>{_WNID}))?{_SUFFIX}"
    ),
    "test": re.compile(rf"(?P<id>ILSVRC2012_test_(?P<number>[0-9]{{8}})){_SUFFIX}"),
}
_EXAMPLES: Final = {
    "train": "n01440764_10026.JPEG",
    "validation": "ILSVRC2012_val_00000001.JPEG",
    "test": "ILSVRC2012_test_00000001.JPEG",
}


def name_and_label(split: str, name: str) -> tuple[str, int]:
    """Return the file name that the official archive has, and the label that belongs to it.

    Parameters
    ----------
    split : {"train", "validation", "test"}
    name : str
        A name in another form; of a path, the last part counts. A suffix may be missing.

    Returns
    -------
    file_name : str
    label : int
        -1 in test.

    Raises
    ------
    ValueError
        If it is not such a name, or states two classes.

    Examples
    --------
    >>> name_and_label("validation", "val/ILSVRC2012_val_00000001_n01751748.jpeg")
    ('ILSVRC2012_val_00000001.JPEG', 65)
    >>> name_and_label("train", "n01440764_10026_n01440764.JPEG")
    ('n01440764_10026.JPEG', 0)
    """
    match = _PATTERNS[split].fullmatch(name.rpartition("/")[2])
    if match is None:
        raise ValueError(
            escaped(f"is not the name of a {split} image; expected {_EXAMPLES[split]}")
        )
    if split == "train":
        label = _label_of(match["wnid"])
    else:
        number = int(match["number"])
        if not 1 <= number <= SPLIT_SIZES[split]:
            raise ValueError(
                escaped(f"has the number {number}, expected 1 to {SPLIT_SIZES[split]}")
            )
        if split == "test":
            return f"{match['id']}.JPEG", UNLABELLED
        label = int(validation_labels()[number - 1])
    for group in ("again", "before") if split == "validation" else ("again",):
        if match[group] is not None and match[group] != wnids()[label]:
            raise ValueError(
                escaped(
                    f"has the class {match[group]} in its name, but it is of {class_text(label)}"
                )
            )
    return f"{match['id']}.JPEG", label


def is_name(split: str, name: str) -> bool:
    """Whether a name is one of a split's images, perhaps in another form."""
    return _PATTERNS[split].fullmatch(name.rpartition("/")[2]) is not None


def resolve_names(
    split: str,
    location: str,
    names: Sequence[str],
    stated: Ints | None = None,
    *,
    stated_by: str = "label",
    remedy: str = "",
) -> tuple[list[str], Ints]:
    """Return the official file names of images, and their labels.

    Parameters
    ----------
    split : {"train", "validation", "test"}
    location : str
        Name of the file or folder that has them, for messages.
    names : sequence of str
    stated : ndarray of int64, shape (n,), optional
        Labels that the form states beside the names; `NOT_STATED` where it does not.
    stated_by : str
        What states them, for messages.
    remedy : str, optional
        What to do about names that are none.

    Raises
    ------
    SourceError
        If a name is not that of an image of the split, or a stated label contradicts it.
    """
    file_name: list[str] = []
    label = np.empty(len(names), dtype=np.int64)
    for i, name in enumerate(names):
        try:
            official, label[i] = name_and_label(split, name)
        except ValueError as error:
            raise SourceError(f"{location}: {brief(name)} {error}{remedy}") from None
        file_name.append(official)
    if stated is not None:
        check_labels(location, file_name, label, stated, stated_by)
    return file_name, label


def check_labels(
    location: str, file_name: Sequence[str], label: Ints, stated: Ints, stated_by: str
) -> None:
    """Compare labels with those that a form states.

    Raises
    ------
    SourceError
        If one differs.
    """
    wrong = np.flatnonzero((stated != label) & (stated != NOT_STATED))
    if not len(wrong):
        return
    i = int(wrong[0])
    found = int(stated[i])
    says = class_text(found) if 0 <= found < len(wnids()) else str(found)
    names = [file_name[j] for j in wrong[:4].tolist()]
    more = f"; {len(wrong) - 1:,} more differ" if len(wrong) > 1 else ""
    raise SourceError(
        f"{location}: {names[0]} is of {class_text(int(label[i]))}, but its {stated_by} is {says}"
        f"{more}; the labels of this copy cannot be right, or they are in another numbering than "
        "that of the sorted WordNet ids"
    )


def class_text(label: int) -> str:
    """Return number, id and words of a class, for messages; "no class" for -1.

    Examples
    --------
    >>> class_text(0)
    'class 0 (n01440764, tench)'
    """
    if label == UNLABELLED:
        return "no class"
    return f"class {label} ({wnids()[label]}, {words()[label].partition(', ')[0]})"


def label_of_wnid(wnid: str) -> int | None:
    """Return the label of a WordNet id; None if it is not one of the 1000."""
    return _labels().get(wnid)


def _label_of(wnid: str) -> int:
    label = label_of_wnid(wnid)
    if label is None:
        raise ValueError(
            escaped(f"has the class {wnid}, which is not one of the 1000 of ILSVRC 2012")
        )
    return label


@cache
def _labels() -> dict[str, int]:
    return {wnid: k for k, wnid in enumerate(wnids())}


def missing_validation_names(have: set[str]) -> str:
    """Return the first validation images that are missing, for messages."""
    every = (f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 50_001))
    return first_few([name for name in every if name not in have])
