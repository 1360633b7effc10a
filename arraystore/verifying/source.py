"""A split against its source: which samples there must be, their labels and their bytes."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from arraystore.errors import SourceError
from arraystore.images.probe import probe
from arraystore.images.reencode import needs_reencoding
from arraystore.sources.sample_table import first_few
from arraystore.storage.open_files import open_file, read_at
from arraystore.verifying.problems import Findings, Problem

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from arraystore._typing import Ints
    from arraystore.sources.sample_table import Source
    from arraystore.verifying.columns import Columns


class SourceCheck:
    """What a split was made from; an `arraystore.verifying.images.Origin`.

    Parameters
    ----------
    source : Source
        All of what the store was made from.
    split : str
        The split.
    reencoded : collection of str
        File names of the images that the store says it has encoded anew.
    """

    def __init__(self, source: Source, split: str, reencoded: Collection[str]) -> None:
        self._source = source
        self._split = split
        self._reencoded = frozenset(reencoded)
        self._table = source.splits[split]

    @cached_property
    def _position(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self._table.file_name)}

    def check_samples(
        self, columns: Columns, skipped: Collection[str], published: Ints | None, findings: Findings
    ) -> None:
        """Compare which samples there are, their labels, and the number of each class.

        Parameters
        ----------
        columns : Columns
            Of the split.
        skipped : collection of str
            File names that the store says it has left out.
        published : ndarray of int64, optional
            Number of samples that the data set publishes of each class.
        findings : Findings
            Given what is wrong.
        """
        names, label = columns.values.get("file_name"), columns.values.get("label")
        if names is not None:
            stored = names.tolist()
            self._add_names(findings, "lacks", sorted(self._position.keys() - {*stored, *skipped}))
            self._add_names(findings, "has, and its source has not,", self._strange(stored))
            for i, name in enumerate(stored):
                there = self._position.get(name)
                expected = None if there is None else int(self._table.label[there])
                if label is not None and expected is not None and label[i] != expected:
                    message = f"label must be {expected}, as in the source, got {label[i]}"
                    findings.add(Problem(message, self._split, i, name))
        if label is not None and published is not None and not skipped:
            self._compare_counts(label, published, findings)

    def fault(self, name: str, data: memoryview) -> str:
        """Say in what an image differs from its source; nothing if it does not."""
        i = self._position.get(name)
        if i is None:
            return ""  # it is told with the names
        table = self._table
        path, offset, nbytes = (int(c[i]) for c in (table.file, table.offset, table.nbytes))
        file = open_file(str(self._source.places[path]))
        origin = read_at(file, offset, nbytes)
        if name not in self._reencoded:
            is_same = len(origin) == len(data) and np.array_equal(
                np.frombuffer(origin, np.uint8), np.frombuffer(data, np.uint8)
            )
            return "" if is_same else "its bytes are not those of the source"
        return _fault_of_new(origin, data) if self._source.reencode else "must not be encoded anew"

    def _strange(self, stored: Sequence[str]) -> list[str]:
        return sorted({*stored} - self._position.keys())

    def _add_names(self, findings: Findings, verb: str, names: list[str]) -> None:
        if names:
            findings.add(Problem(f"{verb} {first_few(names)}", self._split))

    def _compare_counts(self, label: Ints, published: Ints, findings: Findings) -> None:
        found = np.bincount(label[label >= 0], minlength=len(published))[: len(published)]
        for k in np.flatnonzero(found != published).tolist():
            name = self._source.label_name[k]
            message = f"must have {published[k]} samples of class {k} ({name}), got {found[k]}"
            findings.add(Problem(message, self._split))


def _fault_of_new(origin: bytes, data: memoryview) -> str:
    """Say what is wrong with an image that was encoded anew; nothing if it is right."""
    try:
        before = probe(lambda start, stop: origin[start:stop], len(origin))
    except ValueError as error:
        raise SourceError(f"an image of the source {error}") from None
    now = probe(lambda start, stop: data[start:stop], len(data))
    if not needs_reencoding(before):
        return f"is said to be encoded anew, which the source's {before.format} needs not"
    if needs_reencoding(now):
        return f"must be an RGB JPEG, got {now.format} of {now.components} components"
    if (before.height, before.width) != (now.height, now.width):
        was, is_now = (f"{h.height} by {h.width}" for h in (before, now))
        return f"must be {was} pixels as in the source, got {is_now}"
    return ""
