"""Join splits of several stores whose classes are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore.dataset.sample_set import SampleSet
from arraystore.dataset.split import Split
from arraystore.errors import brief, escaped
from arraystore.indexing.packed_names import has_repeats, repeated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from arraystore._typing import Ints
    from arraystore.dataset.sample_set import StoredPositions

_FEW: Final = 3
"""File names that a message shows."""


def concat(splits: Sequence[Split]) -> Split:
    """Join splits end to end, also of several stores, into one split.

    Nothing is copied: the result reads each sample from the store that it is in. It can be
    indexed, queried, looped over, pickled and copied like any other split. Words of the
    classes, and their hierarchy, are those of the first split's store.

    Parameters
    ----------
    splits : sequence of Split
        One or more. Their stores must have the same classes in the same order.

    Returns
    -------
    Split

    Raises
    ------
    TypeError
        If `splits` is not a sequence of splits.
    ValueError
        If there are none; if the classes of two stores differ, with the first difference; or if a
        file name occurs twice.

    Examples
    --------
    >>> import arraystore
    >>> train = arraystore.open("1pct.zarr")["train"]
    >>> other = arraystore.open("1pct.h5")["validation"]
    >>> both = arraystore.concat([train, other])
    >>> len(both) == len(train) + len(other), both[len(train)].file_name == other[0].file_name
    (True, True)
    """
    terms = _listed(splits)
    if not terms:
        raise ValueError("concat() needs one or more splits, got none")
    _check_members(terms)
    check_classes(terms)
    if has_repeats(np.concatenate([_name_hashes(term) for term in terms])):
        _check_names([name for term in terms for name in term.file_name.tolist()])
    joined = SampleSet.joined([member for term in terms for member in term._sample_set])
    if any(term._sample_set.order is not None for term in terms):
        joined = joined.take(_order(terms))
    name = f"concat({', '.join(term.name for term in terms)})"
    return Split(terms[0]._root, name, joined)


def _name_hashes(split: Split) -> Ints:
    """Return the hash of each file name, in any order; names of large stores are not kept."""
    samples = split._sample_set
    is_whole = (isinstance(own, range) and len(own) == len(stored) for stored, own in samples)
    if samples.order is None and all(is_whole):
        return np.concatenate([stored.name_hashes() for stored, _ in samples])
    return np.fromiter(map(hash, split.file_name.tolist()), np.int64, len(split))


def _check_names(names: Sequence[str]) -> None:
    """Raise a `ValueError` if a file name occurs twice."""
    if twice := repeated(names):
        shown = ", ".join(map(brief, twice[:_FEW])) + (", …" if len(twice) > _FEW else "")
        raise ValueError(
            escaped(
                f"concat() needs unique file names, but {len(twice):,} occur more than once: "
                f"{shown}; leave these samples out of one of the splits, or convert its images "
                "again under other names"
            )
        )


def _listed(splits: Any) -> list[Split]:
    # A split is iterable itself: as a list it would be all of its samples.
    terms = [splits] if isinstance(splits, Split) else list(splits)
    for term in terms:
        if term is splits or not isinstance(term, Split):
            raise TypeError(escaped(f"concat() takes a list of splits, got {brief(term)}"))
    return terms


def check_classes(terms: Sequence[Split]) -> None:
    """Check that the stores of all splits have the same classes.

    Raises
    ------
    ValueError
        With the first difference.
    FormatError
        If a store has other numbers of ids, words and groups of its index of labels.
    """
    for term in terms:
        _ = term.label_names, term.label_words
    first, *others = {a: root for term in terms for a, root in term._roots.items()}.values()
    for other in others:
        mine, theirs = first.class_names, other.class_names
        label = mine.first_difference(theirs)
        if label >= 0:
            raise ValueError(
                escaped(
                    f"all splits must be of stores with the same classes, but label {label} is "
                    f"{mine.describe(label)} in {first.address}, and {theirs.describe(label)} in "
                    f"{other.address}; convert one of them again with the classes of the other "
                    "(classes=…, label_space=…)"
                )
            )


def _check_members(terms: Sequence[Split]) -> None:
    """Refuse splits of one address that were made before and after its store was replaced."""
    seen: dict[str, StoredPositions] = {}
    for term in terms:
        for member in term._sample_set:
            stored, one = member.stored, seen.setdefault(member.stored.location, member).stored
            if one is not stored and one.identity != stored.identity:
                raise ValueError(
                    escaped(
                        f"concat(): {stored.location} has other samples or another order in two "
                        "of the splits: the store was replaced between them; open it once and "
                        "make both again"
                    )
                )


def _order(terms: Sequence[Split]) -> Ints:
    """Return the place of each sample among the members of all terms, end to end."""
    found, start = [], 0
    for term in terms:
        own = term._sample_set.order
        n_members = sum(len(member.positions) for member in term._sample_set)
        found.append(start + (np.arange(n_members, dtype=np.int64) if own is None else own))
        start += n_members
    return np.concatenate(found)
