"""Samples of a split that others were appended to: several stored groups, one after another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from arraystore.dataset.sample_set import StoredPositions
from arraystore.errors import FormatError
from arraystore.indexing.positions import as_mask, compact
from arraystore.reading.stored_split import StoredSplit
from arraystore.schema import REPLACED

if TYPE_CHECKING:
    from arraystore._typing import Ints
    from arraystore.reading.store_handle import StoreHandle
    from arraystore.schema import SplitParts


def samples_of_parts(parts: SplitParts, handle: StoreHandle) -> list[StoredPositions]:
    """Return the samples of a split, part after part, without those that are replaced.

    Parameters
    ----------
    parts : SplitParts
    handle : StoreHandle
        The store.

    Raises
    ------
    FormatError
        If the parts have another number of samples than the root states, or a position of a
        replaced sample is out of range.
    """
    replaced = {group: [np.empty(0, np.int64)] for group in parts.groups}
    for part, earlier in parts.replaced.items():
        for group in earlier:
            path = f"{part}/{REPLACED}/{group}"
            positions = handle.container.read_column(path, "int64")
            replaced[group].append(positions)
    found = [
        _visible(handle, group, np.unique(np.concatenate(replaced[group])))
        for group in parts.groups
    ]
    n = sum(len(positions) for _, positions in found)
    if n != parts.num_samples:
        raise FormatError(
            f"{handle.address}: the parts of {parts.groups[0]} must have {parts.num_samples} "
            f"samples, got {n}"
        )
    return found


def _visible(handle: StoreHandle, group: str, replaced: Ints) -> StoredPositions:
    """Return the samples of one part, without some."""
    stored = StoredSplit(handle, group, replaced=replaced)
    n = len(stored)
    if not len(replaced):
        return StoredPositions(stored, range(n))
    if not 0 <= replaced[0] <= replaced[-1] < n:
        raise FormatError(
            f"{stored.location}: positions of replaced samples must be in range({n}), got "
            f"{replaced[0]} to {replaced[-1]}"
        )
    return StoredPositions(stored, compact(np.flatnonzero(~as_mask(n, replaced))))
