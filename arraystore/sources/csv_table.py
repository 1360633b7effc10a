"""CSV and TSV files that list the paths and labels of image files.

The first line names the columns, unless `fields` gives their numbers, from 1 on. Paths are relative
to the file. A column ``split`` may divide the samples into splits.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from arraystore.errors import SourceError, brief
from arraystore.schema import check_split_name
from arraystore.sources.assemble import assemble
from arraystore.sources.classes import as_classes
from arraystore.sources.image_suffix import N_BYTES
from arraystore.sources.sample_collector import SampleCollector
from arraystore.sources.sample_table import first_few, silent
from arraystore.sources.shards import find_shards
from arraystore.sources.source_options import no_field
from arraystore.storage.file_states import FileState, FileStates, state_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from arraystore.sources.sample_table import Source, Status
    from arraystore.sources.source_options import SourceOptions

DELIMITERS: Final = {"csv": ",", "tsv": "\t"}
"""Between the columns of each kind of file."""

IMAGE_COLUMNS: Final = (
    *("image", "path", "file", "file_name", "filename", "filepath", "file_path", "image_path"),
    *("image_file", "img", "img_path"),
)
LABEL_COLUMNS: Final = ("label", "class", "class_name", "category", "target", "labels")
"""Names of columns with path and label, in lower case, the likeliest first."""

_SPLIT: Final = "split"
_STATUS_EVERY: Final = 1000


def load(kind: str, pattern: str, options: SourceOptions, *, status: Status = silent) -> Source:
    """List the samples of CSV or TSV files.

    Parameters
    ----------
    kind : {"csv", "tsv"}
        Sets the character between columns.
    pattern : str
        See `arraystore.sources.shards`.
    options : SourceOptions
        `fields` names columns, or gives their numbers, from 1 on, in files without a first line
        of names. File names are by default the paths.
    status : callable, optional
        Receives the number of lines.

    Raises
    ------
    SourceError
        If a file is missing or is not such a table, columns are missing, or a file name
        occurs twice. Missing images are faults of the source; see `Source.faults`.
    """
    shards = find_shards(pattern, (f".{kind}",), options)
    reader = _Reader(options)
    with shards.states.unchanged():
        for path, split in zip(shards.files, shards.splits, strict=True):
            reader.read(path, DELIMITERS[kind], split, status)
    guesses = () if reader.has_split_column else shards.guesses
    return assemble(
        f"{kind}:{pattern}",
        shards.name,
        f"Images listed in {', '.join(path.name for path in shards.files[:3])}",
        reader.collectors,
        classes=as_classes(options.classes),
        files=reader.files,
        states=reader.states().joined(shards.states),
        origins=shards.origins,
        spool=None,
        notes=(*shards.notes, *guesses, *reader.notes()),
        partial=shards.partial,
    )


class _Columns:
    """Positions of the columns of one file."""

    def __init__(self, where: str, names: Sequence[str], fields: Mapping[str, str]) -> None:
        self.names = names
        self.image = self._place(where, "image", fields, IMAGE_COLUMNS)
        self.label = self._place(where, "label", fields, LABEL_COLUMNS)
        self.file_name = self._place(where, "file_name", fields, ())
        self.split = self._find(_SPLIT)

    def _find(self, name: str) -> int:
        lower = [column.strip().lower() for column in self.names]
        return lower.index(name) if name in lower else -1

    def _place(
        self, where: str, field: str, fields: Mapping[str, str], likely: Sequence[str]
    ) -> int:
        """Return the position of a column; -1 if the caller states that there is none."""
        if field in fields:
            name = fields[field]
            if not name:
                return -1
            if name in self.names:
                return list(self.names).index(name)
            raise no_field(f"{where}: no column {brief(name)}", "column", field, (), self.names)
        found = next((place for name in likely if (place := self._find(name)) >= 0), -1)
        if found < 0 and likely:
            raise no_field(where, "column", field, (), self.names)
        return found


class _Reader:
    def __init__(self, options: SourceOptions) -> None:
        self._options = options
        self._others: set[str] = set()
        self._states: list[tuple[str, FileState]] = []
        self.has_split_column = False
        self.collectors: dict[str, SampleCollector] = {}

    @property
    def files(self) -> tuple[Path, ...]:
        """The images that exist, in the order of the lines."""
        return tuple(Path(path) for path, _ in self._states)

    def states(self) -> FileStates:
        """Return the states of the images."""
        return FileStates.known(self._states)

    def read(self, path: Path, delimiter: str, split: str, status: Status) -> None:
        """Add the lines of one file."""
        columns: _Columns | None = None
        n_lines = 0
        for line, row in _rows(path, delimiter):
            where = f"{path}: line {line}"
            if columns is None:
                columns, is_header = self._columns_of(path, row)
                if is_header:
                    continue
            if len(row) != len(columns.names):
                raise SourceError(
                    f"{where}: must have {len(columns.names)} columns, got {len(row)}; quote "
                    "values that hold the delimiter"
                )
            self._add(path, where, row, columns, split)
            n_lines += 1
            if n_lines % _STATUS_EVERY == 0:
                status(f"reading {path.name}: {n_lines:,} lines")
        if not n_lines:
            raise SourceError(f"{path}: lists no images")

    def _columns_of(self, path: Path, row: Sequence[str]) -> tuple[_Columns, bool]:
        """Return the columns, and whether the first line names them."""
        given = [place for place in self._options.fields.values() if place]
        is_header = not given or not all(place.isdecimal() for place in given)
        names = row if is_header else [str(number) for number in range(1, len(row) + 1)]
        if is_header and len(set(names)) < len(names):
            raise SourceError(f"{path}: line 1: names of columns must differ, got {brief(names)}")
        fields = dict(self._options.fields)
        if not is_header:
            fields = {"image": "", "label": "", **fields}
        columns = _Columns(str(path), names, fields)
        if columns.image < 0:
            raise no_field(str(path), "column", "image", (), names)
        self.has_split_column |= columns.split >= 0 and self._options.split is None
        used = {columns.image, columns.label, columns.file_name, columns.split}
        self._others |= {name for i, name in enumerate(names) if i not in used}
        return columns, is_header

    def _add(
        self, path: Path, where: str, row: Sequence[str], columns: _Columns, split: str
    ) -> None:
        if columns.split >= 0 and self._options.split is None:
            split = row[columns.split].strip()
            try:
                check_split_name(split)
            except ValueError as error:
                raise SourceError(f"{where}: {error}") from None
        if split not in self.collectors:
            self.collectors[split] = SampleCollector(split, labels_are_text=True)
        collector = self.collectors[split]
        if not collector.parts or collector.parts[-1][1] != str(path):
            collector.begin_part(str(path))
        text = row[columns.image].strip()
        if not text:
            raise SourceError(f"{where}: has no path of an image")
        label = row[columns.label].strip() if columns.label >= 0 else ""
        name = ""
        if columns.file_name >= 0:
            name = row[columns.file_name].strip()
        elif "file_name" not in self._options.fields:
            name = _name_of(path, text)
        file = str(path.parent / text)
        try:
            state = state_of(file)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            reason = why if name == text else f"{text}: {why}"
            collector.append_fault(name or None, label or None, reason)
            return
        if Path(file).is_dir():
            collector.append_fault(name or None, label or None, f"{text}: is a folder")
            return
        start = b"" if name else _start_of(file)
        number = len(self._states)
        collector.append(name or None, label or None, number, 0, state.nbytes, start=start)
        self._states.append((file, state))

    def notes(self) -> list[str]:
        """Say what was left out."""
        if not self._others:
            return []
        return [f"further columns are left out: {first_few(sorted(self._others), 8)}"]


def _rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield number and values of each line that is not empty."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, delimiter=delimiter, strict=True)
            for row in lines:
                if row:
                    yield lines.line_num, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: must be UTF-8 text with values separated: {error}") from None


def _start_of(file: str) -> bytes:
    with open(file, "rb") as image:  # noqa: PTH123 - a path as text
        return image.read(N_BYTES)


def _name_of(table: Path, text: str) -> str:
    """Return a file name for the path of an image: the path below the folder of the table."""
    path = os.path.normpath(text)
    if os.path.isabs(path):  # noqa: PTH117 - Path has no test of text that may be anything
        path = os.path.relpath(path, table.parent.absolute())
    if path.partition("/")[0] == "..":
        raise SourceError(
            f"{table}: the image {brief(text)} lies outside the folder of the file, so that its "
            "path cannot be its name; pass fields={'file_name': COLUMN} (--field "
            "file_name=COLUMN), or an empty COLUMN to number the images"
        )
    return path
