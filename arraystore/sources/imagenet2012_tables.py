"""The classes of ImageNet 2012 and the labels of its validation images.

``scripts/make_tables.py`` writes three small files beside this module. They are read when they are
first needed::

    imagenet2012_classes.tsv             line k: wnid and words of label k
    imagenet2012_hypernyms.tsv           wnid, hypernyms and words of classes and ancestors
    imagenet2012_validation_label.npy    element i: label of ILSVRC2012_val_{i + 1:08d}.JPEG
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from arraystore.indexing.hierarchy import Hierarchy

if TYPE_CHECKING:
    from numpy.typing import NDArray


def wnids() -> tuple[str, ...]:
    """Return the WordNet ids of the 1000 classes, sorted: label k is ``wnids()[k]``.

    From ``labels.txt`` in the wheel of `tensorflow-datasets`.

    Examples
    --------
    >>> wnids()[:2]
    ('n01440764', 'n01443537')
    """
    return _classes()[0]


def words() -> tuple[str, ...]:
    """Return the words for each class, in the order of `wnids`, synonyms joined by ``", "``.

    From the noun synsets of WordNet 3.0 in Debian's package `wordnet-base`. Different classes may
    share a word: a bird and a machine are called "crane".

    Examples
    --------
    >>> words()[0]
    'tench, Tinca tinca'
    """
    return _classes()[1]


@cache
def validation_labels() -> NDArray[np.int64]:
    """Return the label of each validation image, by the number in its name.

    From ``validation_labels.txt`` in the wheel of `tensorflow-datasets`. Labels belong to names,
    independently of the order of an archive.

    Returns
    -------
    ndarray of int64, shape (50000,)
        Element ``i`` is the label of ``ILSVRC2012_val_{i + 1:08d}.JPEG``. Read-only.
    """
    from importlib.resources import files

    resource = files("arraystore.sources") / "imagenet2012_validation_label.npy"
    with resource.open("rb") as file:
        labels: NDArray[np.int64] = np.load(file, allow_pickle=False).astype(np.int64)
    labels.flags.writeable = False
    return labels


@cache
def hierarchy() -> Hierarchy:
    """Return what the classes are kinds of: the 860 ancestors that they have in WordNet 3.0.

    Examples
    --------
    >>> dogs = hierarchy().names.index("n02084071") + len(wnids())
    >>> len(hierarchy().classes_below(dogs))
    118
    """
    rows = [line.split("\t") for line in _lines("imagenet2012_hypernyms.tsv", is_comment=False)]
    notice = "\n".join(_lines("imagenet2012_hypernyms.tsv", is_comment=True))
    return Hierarchy.from_parents(
        wnids(),
        {wnid: parents.split() for wnid, parents, _ in rows},
        {wnid: some for wnid, _, some in rows},
        notice=notice[notice.index("This software") :],
    )


@cache
def _classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    rows = [line.partition("\t") for line in _lines("imagenet2012_classes.tsv", is_comment=False)]
    return tuple(row[0] for row in rows), tuple(row[2] for row in rows)


def _lines(name: str, *, is_comment: bool) -> list[str]:
    """Return the lines of a table, or those of the comment above it without their mark."""
    from importlib.resources import files

    lines = (files("arraystore.sources") / name).read_text(encoding="utf-8").splitlines()
    if is_comment:
        return [line.removeprefix("#").strip() for line in lines if line.startswith("#")]
    return [line for line in lines if not line.startswith("#")]
