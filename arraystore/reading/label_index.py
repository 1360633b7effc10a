"""The index of labels of one stored split: from labels to positions."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from arraystore.errors import ChecksumError, FormatError, brief
from arraystore.indexing.positions import union
from arraystore.indexing.sampling import Groups

if TYPE_CHECKING:
    from collections.abc import Sequence

    from arraystore._typing import Ints
    from arraystore.reading.column_reader import ColumnReader

_COLUMNS: Final = ("label_indptr", "label_order")


class LabelIndex:
    """Find the samples of a label without reading the column of labels.

    The samples of label k are ``label_order[label_indptr[k] : label_indptr[k + 1]]``.

    Parameters
    ----------
    columns : ColumnReader
        The columns of the split.
    check_labels : bool
        Whether to compare the samples found with the column of labels.
    """

    def __init__(self, columns: ColumnReader, *, check_labels: bool) -> None:
        self._columns = columns
        self._checks_labels = check_labels

    @property
    def n_classes(self) -> int:
        """Number of classes that labels index."""
        return len(self._columns["label_indptr"]) - 1

    def positions(self, labels: Sequence[int]) -> Ints:
        """Return the ascending positions of the samples that have any of some labels.

        Only the chunks of the index that hold the answer are read: a round trip for the bounds
        and one for the positions if the store is remote, or a single one for both columns as a
        whole where columns are loaded at once.

        Parameters
        ----------
        labels : sequence of int
            Different labels.

        Returns
        -------
        ndarray of int64, shape (n,)

        Raises
        ------
        KeyError
            If a label is not in ``range(n_classes)``.
        FormatError
            If the index is missing or damaged.
        ChecksumError
            If labels are checked, and the column of labels differs.
        """
        if labels and min(labels) < 0:
            raise self._no_such_label(min(labels))
        self._load_at_once()
        n_samples, spans = len(self._columns), []
        all_bounds = self._columns.rows("label_indptr", [(label, label + 2) for label in labels])
        for label, bounds in zip(labels, all_bounds, strict=True):
            if len(bounds) != 2:
                raise self._no_such_label(label)
            if not 0 <= bounds[0] <= bounds[1] <= n_samples:
                raise FormatError(
                    f"{self._columns.location}/label_indptr: label {label} must be a range within "
                    f"{n_samples} samples, got {bounds.tolist()}"
                )
            spans.append((int(bounds[0]), int(bounds[1])))
        found = self._columns.rows("label_order", spans)
        for label, positions, (start, stop) in zip(labels, found, spans, strict=True):
            self._columns.check_positions("label_order", positions, stop - start, ascending=True)
            if self._checks_labels and np.any(self._columns["label"][positions] != label):
                raise ChecksumError(
                    f"{self._columns.location}/label_order: lists samples of other labels for "
                    f"label {label}; label or label_order is damaged"
                )
        return union(found)

    @cached_property
    def groups(self) -> Groups:
        """Positions of all labelled samples, grouped by label: the whole index.

        Raises
        ------
        FormatError
            If the index is missing or damaged.
        """
        self._columns.load(_COLUMNS)
        indptr, order = (self._columns[name] for name in _COLUMNS)
        location, sizes = self._columns.location, np.diff(indptr)
        if not len(indptr) or indptr[0] != 0 or indptr[-1] != len(order) or np.any(sizes < 0):
            raise FormatError(
                f"{location}/label_indptr: must ascend from 0 to the {len(order)} values of "
                f"label_order"
            )
        self._columns.check_positions("label_order", order, len(order))
        ends = np.zeros(len(order) + 1, dtype=np.bool_)
        ends[indptr] = True
        if np.any((np.diff(order) <= 0) & ~ends[1:-1]):
            raise FormatError(f"{location}/label_order: must ascend within each label")
        return Groups(order, indptr)

    def counts(self) -> Ints:
        """Return the number of samples of each label, from the bounds alone."""
        return np.diff(self._columns["label_indptr"])

    def _no_such_label(self, label: int) -> KeyError:
        n = self.n_classes
        return KeyError(f"label {brief(label)} is not in range({n})")

    def _load_at_once(self) -> None:
        if self._columns.loads_at_once:
            self._columns.load(_COLUMNS)
