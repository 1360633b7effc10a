"""Checks of a further column: all of it can be read, and it has the digest that it states."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from arraystore.reading.column_digest import ColumnDigest
from arraystore.schema import RAGGED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arraystore.reading.user_column import UserColumn


def user_column_faults(column: UserColumn) -> Iterator[str]:
    """Read a whole column, and yield what is wrong with it.

    Raises
    ------
    FormatError
        If it cannot be read, or has not one value per sample.
    """
    digest = ColumnDigest()
    digest.begin(column.array.data_type, column.array.shape)
    for block in column.blocks():
        digest.add(block)
    if column.is_ragged:
        yield from _bound_faults(column, digest)
    if column.digest and digest.text != column.digest:
        yield (
            f"attribute 'digest' is {column.digest}, but the values give {digest.text}; one of "
            "them is damaged"
        )


def _bound_faults(column: UserColumn, digest: ColumnDigest) -> Iterator[str]:
    digest.begin(column.bounds.data_type, column.bounds.shape)
    previous, is_ascending = 0, True
    for block in column.blocks(of_bounds=True):
        digest.add(block)
        bounds = np.concatenate([[previous], block.astype(np.int64)])
        is_ascending = is_ascending and not (np.diff(bounds) < 0).any()
        previous = int(bounds[-1])
    if not is_ascending or previous != column.array.shape[0]:
        yield f"{RAGGED[1]} must ascend from 0 to the {column.array.shape[0]} values"
