"""Files with the values of a column: .npy, .csv, .tsv and .parquet."""

from __future__ import annotations

import csv
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from arraystore._arguments import need
from arraystore.errors import SourceError, brief
from arraystore.sources import imagenet_boxes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

KEYS: Final = ("file_name", "filename", "file", "image", "path", "ImageId", "image_id", "name")
"""Columns that hold file names, if no other is given: the first that exists."""

SUFFIXES: Final = (".npy", ".csv", ".tsv", ".parquet")

_NUMBER: Final = re.compile(
    r"\s*[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*|\s*[+-]?(nan|inf)\s*", re.IGNORECASE
)


class FileValues(NamedTuple):
    """Values of a column.

    Attributes
    ----------
    values : array, or list of arrays
    file_names : list of str or None
        The sample that each belongs to; None if they are in the order of the split.
    notes : tuple of str
        What was taken as what.
    is_ragged : bool
        Whether each value is an array of any length, so that a sample may have none.
    """

    values: Any
    file_names: list[str] | None
    notes: tuple[str, ...]
    is_ragged: bool = False


def read_column_file(
    file: Path, name: str, *, key: str | None = None, fields: Sequence[str] = ()
) -> FileValues:
    """Read the values of a column from a file.

    Parameters
    ----------
    file : Path
        A .npy file is a memory map. A .csv or .tsv file has a line of names first; of Parquet,
        pyarrow reads the columns that are needed.
    name : str
        Name of the new column.
    key : str, optional
        Column of a table with file names; by default one of `KEYS`. Empty: the rows are in the
        order of the split.
    fields : sequence of str, optional
        Columns of a table with values; several are put side by side. By default `name`, or the
        only one besides the file names.

    Raises
    ------
    SourceError
        If the file cannot be read, or has no such columns.
    """
    suffix = file.suffix.lower()
    if file.name.lower().endswith(imagenet_boxes.SUFFIXES):
        stems, boxes = imagenet_boxes.read_archive(file)
        return FileValues(boxes, stems, (imagenet_boxes.NOTE,), is_ragged=True)
    if suffix == ".npy":
        if key or fields:
            raise SourceError(f"{file}: has no columns; leave out key (--key) and fields (--field)")
        try:
            return FileValues(np.load(file, mmap_mode="r", allow_pickle=False), None, ())
        except ValueError as error:
            raise SourceError(f"{file}: is not an array of numbers: {error}") from None
    if suffix not in SUFFIXES:
        known = ", ".join((*SUFFIXES, *imagenet_boxes.SUFFIXES))
        raise SourceError(f"{file}: must end in one of {known}")
    table = _Parquet(file) if suffix == ".parquet" else _Lines(file, suffix)
    names = table.names
    if imagenet_boxes.is_kaggle(names) and not fields:
        stems, texts = (table.texts(known) for known in names)
        rows = zip(texts, (f"{file}: {stem}" for stem in stems), strict=True)
        boxes = [imagenet_boxes.boxes_of_text(*row) for row in rows]
        return FileValues(boxes, stems, (imagenet_boxes.NOTE,), is_ragged=True)
    if key is None:
        key = next((known for known in KEYS if known in names and known not in fields), "")
    others = [other for other in names if other != key]
    if not fields:
        fields = [name] if name in others else others
        if len(fields) != 1:
            raise SourceError(
                f"{file}: has the columns {brief(others)}; name those with the values (--field)"
            )
    for wanted in (*fields, *([key] if key else [])):
        if wanted not in names:
            raise SourceError(f"{file}: has no column {brief(wanted)}, it has {brief(names)}")
    columns = [table.values(field) for field in fields]
    values = columns[0] if len(columns) == 1 else _side_by_side(columns, file)
    file_names = [str(value) for value in table.texts(key)] if key else None
    order = f"file names from {key!r}" if key else "in the order of the split"
    return FileValues(values, file_names, (f"values from {', '.join(fields)}, {order}",))


def _side_by_side(columns: list[Any], file: Path) -> Any:
    if any(isinstance(column, list) for column in columns):
        raise SourceError(f"{file}: columns of lists cannot be put side by side")
    return np.stack(columns, axis=1)


def parsed(texts: Sequence[str]) -> NDArray[Any]:
    """Return texts as numbers or bools if all of them are, else as text.

    Numbers with leading zeros are text, because they are names, such as those of files.
    """
    if texts and all(map(_NUMBER.fullmatch, texts)):
        for kind in (np.int64, np.float64):
            with suppress(ValueError, OverflowError):
                return np.array(texts, dtype=object).astype(kind)
    truths = {"true": True, "false": False}
    if texts and all(text.lower() in truths for text in texts):
        return np.array([truths[text.lower()] for text in texts])
    return np.array(texts, dtype=np.dtypes.StringDType())


class _Lines:
    def __init__(self, file: Path, suffix: str) -> None:
        self._file = file
        try:
            with file.open(encoding="utf-8-sig", newline="") as lines:
                rows = csv.reader(lines, delimiter="\t" if suffix == ".tsv" else ",")
                self.names = next(rows, [])
                self._rows = [row for row in rows if row]
        except (UnicodeDecodeError, csv.Error) as error:
            raise SourceError(f"{file}: cannot be read: {error}") from None
        for number, row in enumerate(self._rows, start=2):
            if len(row) != len(self.names):
                raise SourceError(
                    f"{file}: line {number} has {len(row)} values, expected {len(self.names)}"
                )

    def texts(self, name: str) -> list[str]:
        at = self.names.index(name)
        return [row[at] for row in self._rows]

    def values(self, name: str) -> Any:
        return parsed(self.texts(name))


class _Parquet:
    def __init__(self, file: Path) -> None:
        self._file = file
        pq = need("pyarrow.parquet", "parquet", str(file))
        pa = need("pyarrow", "parquet", str(file))
        self._pa = pa
        try:
            self._table = pq.ParquetFile(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise SourceError(f"{file}: is not a Parquet file: {error}") from None
        self.names: list[str] = self._table.schema_arrow.names

    def texts(self, name: str) -> list[Any]:
        found: list[Any] = self._column(name).to_pylist()
        return found

    def values(self, name: str) -> Any:
        return arrow_values(self._pa, self._column(name), f"{self._file}: {name}")

    def _column(self, name: str) -> Any:
        return self._table.read(columns=[name]).column(0)


def arrow_values(pa: Any, column: Any, where: str) -> Any:
    """Return a column of pyarrow as an array, or as a list of arrays of different lengths.

    Raises
    ------
    SourceError
        If values are null, or of a type that is not stored.
    """
    kind = column.type
    if column.null_count:
        raise SourceError(f"{where} has {column.null_count} values that are null")
    if pa.types.is_fixed_size_list(kind):
        whole = column.combine_chunks() if hasattr(column, "combine_chunks") else column
        flat = whole.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(column), kind.list_size)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lists = [np.asarray(value.values.to_pylist()) for value in column]
        is_even = len({value.shape for value in lists}) == 1
        return np.stack(lists) if is_even else lists
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.array(column.to_pylist(), dtype=np.dtypes.StringDType())
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise SourceError(f"{where} must hold numbers, bools, text or lists of them, got {kind}")
    return np.asarray(column)
