"""Further columns of samples as Arrow arrays, and formats whose rows are Arrow's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from typing_extensions import override

from arraystore._arguments import need
from arraystore.dataset.arrow_table import arrow_array
from arraystore.exporting.shard_format import ShardFormat

if TYPE_CHECKING:
    from arraystore.dataset.columns import Column
    from arraystore.exporting.contents import Contents, ExportedSplit, Group

_KINDS: Final = "biufT"
"""Kinds of data types that Arrow has: bool, numbers except complex ones, and text."""


class ArrowFormat(ShardFormat):
    """A format whose rows are those of an Arrow table.

    Parameters
    ----------
    contents : Contents

    Raises
    ------
    SourceError
        If pyarrow is not installed.
    """

    def __init__(self, contents: Contents) -> None:
        super().__init__(contents)
        self.pa = need("pyarrow", "parquet", "this export")

    @property
    @override
    def left_out(self) -> tuple[str, ...]:
        columns = self.contents.splits[0].columns
        return tuple(name for name in columns if columns[name].dtype.kind not in _KINDS)

    def further_fields(self, split: ExportedSplit) -> list[Any]:
        """Return the fields of the further columns in the schema of a split."""
        return [
            self.pa.field(name, _array(column, _no_values(column)).type)
            for name, column in split.columns.items()
            if name not in self.left_out
        ]

    def further_arrays(self, group: Group, split: ExportedSplit) -> list[Any]:
        """Return the values of these columns for some samples."""
        return [
            _array(column, group.values[name])
            for name, column in split.columns.items()
            if name not in self.left_out
        ]

    def images(self, group: Group, kind: Any) -> Any:
        """Return the images as an array of ``binary`` or ``large_binary``."""
        width = np.int32 if kind == self.pa.binary() else np.int64
        bounds = np.cumsum([0, *map(len, group.images)], dtype=np.int64).astype(width)
        data = b"".join(group.images)
        buffers = [None, self.pa.py_buffer(bounds), self.pa.py_buffer(data)]
        return self.pa.Array.from_buffers(kind, len(group), buffers)


def _no_values(column: Column) -> Any:
    return [] if column.is_ragged else np.empty((0, *column.row_shape), column.dtype)


def _array(column: Column, values: Any) -> Any:
    none = np.empty((0, *(n or 0 for n in column.row_shape[1:])), column.dtype)
    return arrow_array(values, none).combine_chunks()
