"""User columns of selected samples, and what else stores have that a copy of samples leaves out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from arraystore.errors import FormatError
from arraystore.schema import (
    COLUMNS,
    HIERARCHY,
    PAYLOAD,
    ROOT_ATTRIBUTES,
    ROOT_COLUMNS,
    SELECTIONS,
    SPLIT_ATTRIBUTES,
    USER_COLUMNS,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from arraystore._typing import Ints
    from arraystore.containers.protocol import Tree
    from arraystore.reading.stored_split import StoredSplit


def user_columns(
    stored: Sequence[StoredSplit], trees: Mapping[str, Tree], number: Ints, positions: Ints
) -> dict[str, Ints]:
    """Return the user columns that all stored splits of some samples have.

    Parameters
    ----------
    stored : sequence of StoredSplit
    trees : mapping of str to Tree
        Groups and arrays of each store, by its address.
    number, positions : ndarray of integers, shape (n,)
        The stored split of each sample, and the position in it.

    Returns
    -------
    dict of str to ndarray of int64, shape (n,)
        Columns of int64 with one value per sample, by name.

    Raises
    ------
    FormatError
        If a column has another length than its split.
    """
    names = [list(_column_names(split, trees[split.handle.address])) for split in stored]
    shared = [name for name in names[0] if all(name in some for some in names)] if names else []
    columns: dict[str, Ints] = {}
    for name in shared:
        values = np.zeros(len(positions), dtype=np.int64)
        for k, split in enumerate(stored):
            path = f"{split.name}/{USER_COLUMNS}/{name}"
            mine = number == k
            stored_values = split.handle.container.read_column(path, "int64")
            if len(stored_values) != len(split):
                raise FormatError(
                    f"{split.handle.address}/{path}: must have {len(split)} values, one a sample, "
                    f"got {len(stored_values)}"
                )
            values[mine] = stored_values[positions[mine]]
        columns[name] = values
    return columns


def _column_names(stored: StoredSplit, tree: Tree) -> Iterator[str]:
    """Yield the names of the user columns that `user_columns` can read."""
    parent = f"{stored.name}/{USER_COLUMNS}/"
    for path, column in tree.columns.items():
        if path.startswith(parent) and column.data_type == "int64" and column.dimension == "sample":
            yield path.removeprefix(parent)


def left_out(
    stored: Sequence[StoredSplit], tree: Tree, copied: Mapping[str, Iterable[str]]
) -> list[str]:
    """Return what a store has, at its root or in some of its splits, that is not copied.

    Parameters
    ----------
    stored : sequence of StoredSplit
        Splits of one store.
    tree : Tree
        Groups and arrays of this store.
    copied : mapping of str to iterable of str
        Names of the user columns that are copied from each of these splits.

    Returns
    -------
    list of str
        Paths of groups, arrays and links, and of attributes (``path@name``).
    """
    container = stored[0].handle.container
    ours = {*ROOT_COLUMNS, SELECTIONS, HIERARCHY}
    for split in stored:
        columns = f"{split.name}/{USER_COLUMNS}"
        ours |= {split.name, columns, f"{split.name}/{PAYLOAD}"}
        ours |= {f"{split.name}/{name}" for name in COLUMNS}
        ours |= {f"{columns}/{name}" for name in copied[split.name]}
    others = set(container.attributes().get("splits", ())) - {split.name for split in stored}
    skipped = tuple(f"{name}/" for name in (SELECTIONS, HIERARCHY, *others))
    nodes = [*tree.groups, *tree.columns, *tree.others]
    found = [
        path
        for path in nodes
        if path not in ours and path not in others and not path.startswith(skipped)
    ]
    known = {"": ROOT_ATTRIBUTES} | {split.name: SPLIT_ATTRIBUTES for split in stored}
    for path, names in known.items():
        found += [f"{path}@{name}" for name in container.attributes(path) if name not in names]
    return found
