"""A Zarr group with the images in arrays of the data type ``variable_length_bytes``.

Each split is a group with one value per sample: ``image``, ``label``, ``file_name``, and further
columns in ``columns``. The ids of the classes are ``label_name`` in the root.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from typing_extensions import override

from arraystore.exporting.shard_format import ShardFormat, Written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from arraystore._typing import Ints
    from arraystore.exporting.contents import Contents, ExportedSplit, Group, Shard

_IMAGE: Final = "image"
_CHUNK_NBYTES: Final = 2**20
"""Most bytes of images in an inner chunk, which is the least that Zarr reads."""

_SHARD_NBYTES: Final = 2**26
"""Most bytes of images in a shard, which zarr-python has in memory as a whole."""

_ROWS: Final = 2**14
"""Values in a chunk of a column."""


class ZarrArrays(ShardFormat):
    """The target is a group of Zarr v3; each shard of the export is one of an array of images."""

    is_gapless: ClassVar[bool] = True

    def __init__(self, contents: Contents) -> None:
        super().__init__(contents)
        self._rows: dict[str, tuple[int, int]] = {}  # samples of an inner chunk, and of a shard

    @property
    @override
    def left_out(self) -> tuple[str, ...]:
        columns = self.contents.splits[0].columns
        return tuple(name for name in columns if columns[name].is_ragged)

    @override
    def bounds(self, split: ExportedSplit, shard_nbytes: int) -> list[int]:
        chunk = _doubled(split.nbytes, 1, min(shard_nbytes, _CHUNK_NBYTES))
        rows = _doubled(split.nbytes, chunk, min(shard_nbytes, _SHARD_NBYTES))
        self._rows[split.name] = chunk, rows
        return [*range(0, len(split), rows), len(split)] if len(split) else [0, 0]

    @override
    def begin(self, target: Path) -> None:
        import zarr

        root = zarr.open_group(target, mode="a", zarr_format=3)
        for split in self.contents.splits:
            chunk, rows = self._rows[split.name]
            with _no_specification():
                root.require_group(split.name).create_array(
                    _IMAGE,
                    shape=(len(split),),
                    dtype="variable_length_bytes",
                    chunks=(chunk,),
                    shards=(rows,),
                    compressors=None,  # images are compressed
                )

    @override
    def write(self, target: Path, shard: Shard, groups: Iterator[Group]) -> Written:
        import zarr

        values = np.empty(shard.stop - shard.start, dtype=object)
        for group in groups:
            start = int(group.indices[0]) - shard.start
            values[start : start + len(group)] = list(map(bytes, group.images))
        name = f"{shard.split}/{_IMAGE}"
        if not len(values):
            return Written(())
        with _no_specification():
            array: Any = zarr.open_array(target, path=name, mode="r+", zarr_format=3)
            array[shard.start : shard.stop] = values
        file = f"{name}/c/{shard.number}"
        return Written((file,) if (target / file).exists() else ())  # no file if all are empty

    @override
    def finish(self, target: Path, shards: Sequence[tuple[Shard, str]]) -> None:
        import zarr

        root = zarr.open_group(target, mode="r+", zarr_format=3)
        names = np.array(self.contents.label_names, dtype=np.dtypes.StringDType())
        _write(root, "label_name", names.shape, names.dtype, names.__getitem__)
        for split in self.contents.splits:
            group: Any = root[split.name]
            for name, values in (("label", split.samples.label), ("file_name", split.names)):
                _write(group, name, values.shape, values.dtype, values.__getitem__)
            further = group.require_group("columns")
            for name, column in split.columns.items():
                if name not in self.left_out:
                    shape = (len(split), *(n or 0 for n in column.row_shape))
                    _write(further, name, shape, column.dtype, column.__getitem__)


def _write(
    group: Any,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    read: Callable[[slice], NDArray[Any]],
) -> None:
    """Write a column, a chunk at a time."""
    rows = max(1, min(shape[0], _ROWS))
    kind: Any = str if dtype.kind == "T" else dtype
    array = group.create_array(name, shape=shape, dtype=kind, chunks=(rows, *shape[1:]))
    for start in range(0, shape[0], rows):
        array[start : start + rows] = read(slice(start, start + rows))


@contextmanager
def _no_specification() -> Iterator[None]:
    """Silence the warning that the data type is not in the specification of Zarr v3 itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*variable_length_bytes.*")
        warnings.filterwarnings("ignore", message=".*VariableLengthBytes.*")
        yield


def _doubled(nbytes: Ints, rows: int, most: int) -> int:
    """Return `rows`, doubled as long as no block of so many images has more than `most` bytes.

    Examples
    --------
    >>> _doubled(np.array([1, 1, 1, 1, 5, 1]), 1, 6)
    4
    """
    while rows < len(nbytes):
        blocks = np.add.reduceat(nbytes, np.arange(0, len(nbytes), 2 * rows))
        if blocks.max() > most:
            break
        rows *= 2
    return rows
