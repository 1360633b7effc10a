"""Comparison of a split with its source: samples, labels and bytes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from arraystore.errors import SourceError
from arraystore.images.probe import probe
from arraystore.images.reencode import needs_reencoding
from arraystore.sources.sample_table import first_few
from arraystore.storage.packed_paths import PathView
from arraystore.verifying.problems import Findings, Problem

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence, Set

    from arraystore._typing import Ints
    from arraystore.sources.sample_table import Source
    from arraystore.storage.file_bytes import FileBytes
    from arraystore.verifying.columns import Columns


class SourceCheck:
    """Compares a split with the samples that it was made from.

    A split of several parts may be of several sources, and have samples that this one does not
    have. A sample that a later part replaces may be the one of the source: if several parts have a
    file name, one of them must agree.

    Parameters
    ----------
    source : Source
        The source of the whole store.
    split : str
        Name of the split.
    reencoded : collection of str
        File names of the images that the store records as re-encoded.
    parts : sequence of sequence of str, optional
        File names of the samples of each part, if there are several.
    """

    def __init__(
        self,
        source: Source,
        split: str,
        reencoded: Collection[str],
        parts: Sequence[Sequence[str]] = (),
    ) -> None:
        self._source = source
        self._split = split
        self._reencoded = frozenset(reencoded)
        self._table = source.splits[split]
        counts = Counter(name for names in parts for name in names)
        self._repeated = frozenset(name for name, n in counts.items() if n > 1)
        self._agreeing: set[str] = set()
        self._other_label: frozenset[str] = frozenset()

    @cached_property
    def _position(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self._table.file_name)}

    def check_samples(
        self, columns: Columns, skipped: Collection[str], published: Ints | None, findings: Findings
    ) -> None:
        """Compare the file names, the labels, and the number of samples of each class.

        Parameters
        ----------
        columns : Columns
            Columns of the split.
        skipped : collection of str
            File names that the store records as left out.
        published : ndarray of int64, shape (n_classes,), optional
            Published number of samples of each class.
        findings : Findings
            Receives the problems.
        """
        names, label = columns.values.get("file_name"), columns.values.get("label")
        if names is not None:
            stored = names.tolist()
            lost = self._position.keys() - {*stored, *skipped}
            self._add_names(findings, "lacks", lost, "of the source")
            unknown = {*stored} - self._position.keys()
            self._add_names(findings, "has", unknown, "that the source does not have")
            self.check_labels(self._split, columns, findings)
        if label is not None and published is not None and not skipped:
            self._compare_counts(label, published, findings)

    def check_labels(self, group: str, columns: Columns, findings: Findings) -> None:
        """Compare the labels of a split or of one part, whose images are compared next."""
        names, label = columns.values.get("file_name"), columns.values.get("label")
        if names is None or label is None:
            return
        others = set()
        for i, name in enumerate(names.tolist()):
            row = self._position.get(name)
            expected = None if row is None else int(self._table.label[row])
            if expected is None or label[i] == expected:
                continue
            if name in self._repeated:
                others.add(name)
                continue
            message = f"label must be {expected}, as in the source, got {label[i]}"
            findings.add(Problem(message, group, i, name))
        self._other_label = frozenset(others)

    def check_parts(
        self, names: Collection[str], skipped: Collection[str], findings: Findings
    ) -> int:
        """Compare all parts together, after each of them and its images were compared.

        Parameters
        ----------
        names : collection of str
            File names of the samples of the split.
        skipped, findings
            See `check_samples`.

        Returns
        -------
        int
            Samples of the split that the source does not have.
        """
        own = self._position.keys()
        self._add_names(findings, "lacks", own - {*names, *skipped}, "of the source")
        differing = (self._repeated & own) - self._agreeing
        self._add_names(findings, "has", differing, "with another label or other bytes")
        return len({*names} - own)

    @property
    def can_be_divided(self) -> bool:
        """Whether other processes can compare the images: no part and no spool is involved."""
        return not self._repeated and not (self._table.file == len(self._source.files)).any()

    def part(self, names: Sequence[str]) -> SourceCheck:
        """Return the check of the images of some samples, for another process."""
        known = [i for name in names if (i := self._position.get(name)) is not None]
        rows = np.array(known, np.int64)
        used, file = np.unique(self._table.file[rows].astype(np.int64), return_inverse=True)
        states = self._source.states.take(used).portable()
        faults = self._source.faults.get(self._split, {})
        source = replace(
            self._source,
            files=PathView(states.paths),
            states=states,
            splits={self._split: replace(self._table.take(rows), file=file.astype(np.int32))},
            faults={self._split: {k: faults[i] for k, i in enumerate(known) if i in faults}},
            parts={},
            selections={},
            hierarchy=None,
            spool=None,
        )
        return SourceCheck(source, self._split, self._reencoded.intersection(names))

    def reader(self, names: Iterable[str]) -> FileBytes:
        """Return a reader of the source, which has fetched some images if they are remote.

        Raises
        ------
        SourceChangedError
            If an object of the source has changed.
        """
        files = self._source.reader()
        if self._source.states.buckets is not None:
            found = (self._position.get(name) for name in names)
            rows = np.array([i for i in found if i is not None], np.int64)
            table = self._table
            files.fetch(table.file[rows], table.offset[rows], table.nbytes[rows])
        return files

    def fault(self, name: str, data: memoryview, files: FileBytes) -> str:
        """Return how an image differs from its source; empty if it does not.

        Of a name that several parts have, `check_parts` reports the difference.

        Parameters
        ----------
        name : str
            File name of the image.
        data : memoryview
            Its stored bytes.
        files : FileBytes
            See `reader`.
        """
        i = self._position.get(name)
        if i is None:
            return ""  # check_samples reports it
        fault = self._fault(i, name, data, files)
        if name not in self._repeated:
            return fault
        if not fault and name not in self._other_label:
            self._agreeing.add(name)
        return ""

    def _fault(self, i: int, name: str, data: memoryview, files: FileBytes) -> str:
        table = self._table
        if reason := self._source.faults.get(self._split, {}).get(i):
            return f"its source cannot be read: {reason}"
        origin = files.read(*(int(c[i]) for c in (table.file, table.offset, table.nbytes)))
        if name not in self._reencoded or name in self._repeated:
            is_same = len(origin) == len(data) and np.array_equal(
                np.frombuffer(origin, np.uint8), np.frombuffer(data, np.uint8)
            )
            if is_same or name not in self._reencoded:
                return "" if is_same else "its bytes differ from the source"
        return (
            _reencoding_fault(origin, data) if self._source.reencode else "must not be re-encoded"
        )

    def _add_names(self, findings: Findings, verb: str, names: Set[str], what: str) -> None:
        if names:
            findings.add(Problem(f"{verb} {first_few(sorted(names))} {what}", self._split))

    def _compare_counts(self, label: Ints, published: Ints, findings: Findings) -> None:
        found = np.bincount(label[label >= 0], minlength=len(published))[: len(published)]
        for k in np.flatnonzero(found != published).tolist():
            name = self._source.label_name[k]
            message = f"must have {published[k]} samples of class {k} ({name}), got {found[k]}"
            findings.add(Problem(message, self._split))


def _reencoding_fault(origin: bytes | memoryview, data: memoryview) -> str:
    """Return the fault of an image that was re-encoded; empty if there is none."""
    try:
        before = probe(lambda start, stop: origin[start:stop], len(origin))
    except ValueError as error:
        raise SourceError(f"an image of the source {error}") from None
    now = probe(lambda start, stop: data[start:stop], len(data))
    if not needs_reencoding(before):
        return f"is recorded as re-encoded, but the source's {before.format} need not be"
    if needs_reencoding(now):
        return f"must be an RGB JPEG, got {now.format} of {now.components} components"
    if (before.height, before.width) != (now.height, now.width):
        was, is_now = (f"{h.height} by {h.width}" for h in (before, now))
        return f"must have {was} pixels as in the source, got {is_now}"
    return ""
