"""Classes of a source that are those of a known data set: its labels, words and hierarchy."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from arraystore.errors import SourceError
from arraystore.schema import UNLABELLED
from arraystore.sources.classes import nfc
from arraystore.sources.imagenet2012_tables import hierarchy, wnids, words
from arraystore.sources.sample_table import first_few

if TYPE_CHECKING:
    from collections.abc import Sequence

    from arraystore._typing import Ints
    from arraystore.sources.sample_table import Source

AUTO: Final = "auto"
IMAGENET: Final = "imagenet2012"
OWN: Final = "own"

LABEL_SPACES: Final = (AUTO, IMAGENET, OWN)
"""What may be stated about the classes of a source; the first is the default."""


def in_label_space(source: Source, label_space: str) -> Source:
    """Return a source with the labels of ImageNet 2012, if its classes are of these.

    Parameters
    ----------
    source : Source
    label_space : {"auto", "imagenet2012", "own"}
        ``"auto"`` takes ImageNet's 1000 classes if all classes of the source are named by
        their WordNet ids, and the source has no hierarchy of its own. ``"imagenet2012"`` requires
        such names, or numbers 0 to 999, which are labels then. ``"own"`` keeps the classes of the
        source.

    Returns
    -------
    Source
        Its notes say if labels changed.

    Raises
    ------
    SourceError
        If ``"imagenet2012"`` is stated, and a class is neither such an id nor such a number.

    Examples
    --------
    >>> label_of(["n01443537", "n01440764"]), label_of(["2", "10"]), label_of(["cat", "10"])
    ([1, 0], [2, 10], None)
    """
    names = source.label_name
    if label_space == OWN or (source.hierarchy is not None and label_space == AUTO):
        return source
    if source.hierarchy is not None and names == wnids():
        return source
    label_of_class = label_of(names)
    if label_space == AUTO and not (names and set(names) <= set(wnids())):
        return source
    if label_of_class is None:
        known = set(wnids())
        others = [name for name in names if name not in known and not name.isdecimal()]
        others = others or [name for name in names if name not in known]
        raise SourceError(
            f"{source.name}: classes must be WordNet ids of ImageNet 2012, such as {wnids()[0]}, "
            f"or its labels 0 to 999, got {first_few(others)}; leave label_space (--label-space) "
            "out to keep them as they are"
        )
    # -1 stays what it is: the last element.
    new_label = np.array([*label_of_class, -1], dtype=np.int64)
    note = f"the {len(names):,} classes are of ImageNet 2012: labels are in its 1000 classes"
    if list(names) == list(wnids()):
        note = "the classes are the 1000 of ImageNet 2012: their words are those of WordNet"
    return replace(
        source,
        label_name=wnids(),
        label_words=words(),
        splits={
            name: replace(table, label=new_label[table.label])
            for name, table in source.splits.items()
        },
        hierarchy=hierarchy(),
        notes=(*source.notes, f"{note}; label_space='own' (--label-space own) keeps them apart"),
    )


def labels_among(
    labels: Ints, names: Sequence[str], label_names: Sequence[str], location: str
) -> Ints:
    """Return labels in the classes of a store, which are matched by name.

    Parameters
    ----------
    labels : ndarray of int64, shape (n,)
        Labels of a source.
    names, label_names : sequence of str
        Classes of the source, and of the store.
    location : str
        The source, for the message.

    Raises
    ------
    SourceError
        If the store does not have one of the classes that the labels use.
    """
    label_of_name = {nfc(name): k for k, name in enumerate(label_names)}
    plain = [nfc(name) for name in names]
    used = np.unique(labels[labels >= 0]).tolist()
    if new := [plain[k] for k in used if plain[k] not in label_of_name]:
        raise SourceError(
            f"{location}: the store does not have the classes of these samples: "
            f"{first_few(new)}; rename them as in the store, or convert all images again"
        )
    new_label = [label_of_name.get(name, UNLABELLED) for name in plain]
    return np.array([*new_label, UNLABELLED], dtype=np.int64)[labels]


def label_of(names: Sequence[str]) -> list[int] | None:
    """Return the label of each class in ImageNet 2012, by ids or by numbers; None if there is none.

    All classes must be ids, or all of them different numbers from 0 to 999.
    """
    label = {wnid: k for k, wnid in enumerate(wnids())}
    if all(name in label for name in names):
        return [label[name] for name in names]
    if all(name.isascii() and name.isdecimal() and len(name) <= 4 for name in names):
        numbers = [int(name) for name in names]
        if max(numbers) < len(label) and len(set(numbers)) == len(numbers):
            return numbers
    return None
