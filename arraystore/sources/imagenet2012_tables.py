"""The classes of ImageNet 2012 and the labels of its validation images.

``scripts/make_tables.py`` writes two small files beside this module. They are read when they are
first needed::

    imagenet2012_classes.tsv             line k: wnid and words of label k
    imagenet2012_validation_label.npy    element i: label of ILSVRC2012_val_{i + 1:08d}.JPEG
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

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
def _classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    from importlib.resources import files

    resource = files("arraystore.sources") / "imagenet2012_classes.tsv"
    lines = resource.read_text(encoding="utf-8").splitlines()
    rows = [line.partition("\t") for line in lines if not line.startswith("#")]
    return tuple(row[0] for row in rows), tuple(row[2] for row in rows)
