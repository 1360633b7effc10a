"""User columns of selected samples, and what else stores have that a copy of samples leaves out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from arraystore.schema import (
    COLUMN_DESCRIPTION,
    COLUMN_DIGEST,
    COLUMNS,
    HIERARCHY,
    PAYLOAD,
    RAGGED,
    REPLACED,
    ROOT_ATTRIBUTES,
    ROOT_COLUMNS,
    SELECTIONS,
    SPLIT_ATTRIBUTES,
    USER_COLUMNS,
    DatasetInfo,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from arraystore._typing import Ints
    from arraystore.containers.protocol import Tree
    from arraystore.reading.stored_split import StoredSplit
    from arraystore.reading.user_column import UserColumn


class SelectedValues:
    """Values of selected samples in a further column, read when they are sliced.

    Parameters
    ----------
    columns : sequence of UserColumn
        The column in each stored split.
    number, positions : ndarray of integers, shape (n,)
        The stored split of each sample, and the position in it.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    """

    def __init__(self, columns: Sequence[UserColumn], number: Ints, positions: Ints) -> None:
        self._columns, self._number, self._positions = columns, number, positions
        self.shape = len(positions), *columns[0].array.shape[1:]
        self.dtype: np.dtype[Any] = np.result_type(*(column.dtype for column in columns))

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, some: slice) -> NDArray[Any]:
        number, positions = self._number[some], self._positions[some]
        values = np.empty((len(positions), *self.shape[1:]), self.dtype)
        for k, column in enumerate(self._columns):
            mine = number == k
            if mine.any():
                values[mine] = column.take(positions[mine])
        return values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        del copy
        return np.asarray(self[:], dtype)

    def lists(self) -> list[NDArray[Any]]:
        """Return the values of a ragged column, an array for each sample."""
        found: list[NDArray[Any]] = [np.empty(0)] * len(self)
        for k, column in enumerate(self._columns):
            places = np.flatnonzero(self._number == k)
            values = column.take(self._positions[places])
            for place, value in zip(places.tolist(), values, strict=True):
                found[place] = value
        return found


def user_columns(
    stored: Sequence[StoredSplit], number: Ints, positions: Ints
) -> dict[str, SelectedValues | list[NDArray[Any]]]:
    """Return the further columns that all stored splits of some samples have.

    Parameters
    ----------
    stored : sequence of StoredSplit
    number, positions : ndarray of integers, shape (n,)
        The stored split of each sample, and the position in it.

    Returns
    -------
    dict of str to SelectedValues or list of ndarray
        By name; a list if a column is ragged. Columns that differ in shape or kind, or that
        cannot be read, are left out.

    Raises
    ------
    FormatError
        If a column has another length than its split.
    """
    found: dict[str, SelectedValues | list[NDArray[Any]]] = {}
    if not stored:
        return found
    for name in stored[0].user_columns:
        if not all(name in split.user_columns for split in stored):
            continue
        columns = [split.user_columns[name] for split in stored]
        if len({column.kind for column in columns}) == 1 and columns[0].kind is not None:
            values = SelectedValues(columns, number, positions)
            found[name] = values.lists() if columns[0].is_ragged else values
    return found


def described(stored: Sequence[StoredSplit], name: str) -> str:
    """Return the description of a column, or the different ones that it has in several splits."""
    found = dict.fromkeys(split.user_columns[name].description for split in stored)
    return "; ".join(filter(None, found))


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
    info = DatasetInfo.from_attributes(container.attributes(), location=stored[0].location)
    ours = {*ROOT_COLUMNS, SELECTIONS, HIERARCHY}
    for split in stored:
        columns = f"{split.name}/{USER_COLUMNS}"
        ours |= {split.name, columns, f"{split.name}/{PAYLOAD}"}
        ours |= {f"{split.name}/{name}" for name in COLUMNS}
        for name in copied[split.name]:
            ours |= {f"{columns}/{name}", *(f"{columns}/{name}/{part}" for part in RAGGED)}
        ours |= {f"{split.name}/{REPLACED}"}
        ours |= {f"{split.name}/{REPLACED}/{name}" for name in info.groups}
    others = {*info.groups} - {split.name for split in stored}
    skipped = tuple(f"{name}/" for name in (SELECTIONS, HIERARCHY, *others))
    nodes = [*tree.groups, *tree.columns, *tree.others]
    found = [
        path
        for path in nodes
        if path not in ours and path not in others and not path.startswith(skipped)
    ]
    known: dict[str, Iterable[str]] = {"": ROOT_ATTRIBUTES}
    for split in stored:
        known[split.name] = SPLIT_ATTRIBUTES
        for name in sorted(copied[split.name]):
            column = split.user_columns[name]
            has_text = bool(column.description)  # one of another type is not copied
            known[column.path] = (COLUMN_DIGEST, *([COLUMN_DESCRIPTION] if has_text else []))
    for path, names in known.items():
        found += [f"{path}@{name}" for name in container.attributes(path) if name not in names]
    return found
