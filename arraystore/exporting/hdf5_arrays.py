"""An HDF5 file with the images in data sets of the data type ``vlen uint8``.

Each split is a group with one value per sample: ``image``, ``label``, ``file_name``, and further
columns in ``columns``. The ids of the classes are ``label_name`` in the root.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from typing_extensions import override

from arraystore.exporting.shard_format import ShardFormat, Written

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from arraystore.dataset.columns import Column
    from arraystore.exporting.contents import ExportedSplit, Group, Shard

_CHUNK_ROWS: Final = 1024
"""Samples in a chunk; of images it holds the places of their bytes, 16 bytes each."""


class HDF5Arrays(ShardFormat):
    """The target is a file; one that a killed process left is not relied on, but replaced."""

    is_one_file: ClassVar[bool] = True
    is_gapless: ClassVar[bool] = True

    @override
    def bounds(self, split: ExportedSplit, shard_nbytes: int) -> list[int]:
        return [0, len(split)]

    @override
    def begin(self, target: Path) -> None:
        import h5py

        text, image = h5py.string_dtype(), h5py.vlen_dtype(np.dtype(np.uint8))
        with h5py.File(target, "w") as file:
            names = np.array(self.contents.label_names, dtype=object)
            file.create_dataset("label_name", data=names, dtype=text)
            for split in self.contents.splits:
                group = file.create_group(split.name)
                for name, dtype in (("image", image), ("label", np.int64), ("file_name", text)):
                    _create(group, name, (len(split),), dtype)
                for name, column in split.columns.items():
                    _create(group, f"columns/{name}", *_shape_and_type(column, text))

    @override
    def write(self, target: Path, shard: Shard, groups: Iterator[Group]) -> Written:
        import h5py

        with h5py.File(target, "r+") as file:
            stored = file[shard.split]
            for group in groups:
                rows = slice(group.indices[0], group.indices[-1] + 1)
                stored["label"][rows] = group.labels
                stored["file_name"][rows] = group.names
                _write_each(stored["image"], group, [np.frombuffer(i, "u1") for i in group.images])
                for name, values in group.values.items():
                    if isinstance(values, list):
                        _write_each(stored[f"columns/{name}"], group, values)
                    else:
                        plain = values.astype(object) if values.dtype.kind == "T" else values
                        stored[f"columns/{name}"][rows] = plain
        return Written(())


def _create(group: Any, name: str, shape: tuple[int, ...], dtype: Any) -> None:
    chunks = (max(1, min(shape[0], _CHUNK_ROWS)), *shape[1:])
    group.create_dataset(name, shape, dtype, chunks=None if 0 in shape else chunks)


def _shape_and_type(column: Column, text: Any) -> tuple[tuple[int, ...], Any]:
    """Return shape and data type of a column; values of different number are of one data type."""
    import h5py

    if column.is_ragged:
        return (len(column),), h5py.vlen_dtype(column.dtype)
    return (len(column), *(n or 0 for n in column.row_shape)), (
        text if column.dtype.kind == "T" else column.dtype
    )


def _write_each(stored: Any, group: Group, values: Sequence[NDArray[Any]]) -> None:
    """Write values of different length; h5py takes several of equal length for one 2-D array."""
    for i, value in zip(group.indices.tolist(), values, strict=True):
        stored[i] = value
