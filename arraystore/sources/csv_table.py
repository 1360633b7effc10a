"""CSV and TSV files that list the paths and labels of image files.

The first line names the columns, unless `fields` gives their numbers, from 1 on. Paths are relative
to the file, or addresses in buckets. A column ``split`` may divide the samples into splits.
"""

from __future__ import annotations

import csv
import errno
import os
import posixpath
from contextlib import suppress
from dataclasses import dataclass
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
from arraystore.sources.source_options import no_column, no_field
from arraystore.storage.buckets import ObjectPath, open_text, start_of, states_now
from arraystore.storage.file_states import ABSENT, FileStates, is_address, state_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from arraystore.sources.sample_table import Source, Status
    from arraystore.sources.source_options import SourceOptions
    from arraystore.storage.buckets import Buckets, SourcePath
    from arraystore.storage.file_states import FileState

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
            reader.read(_Table(path, DELIMITERS[kind]), split, status)
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
        self._places: dict[str, int] = {}
        self._files: list[SourcePath] = []
        self._states: list[tuple[str, FileState]] = []
        self._remote = _ObjectStates()
        self.has_split_column = False
        self.collectors: dict[str, SampleCollector] = {}

    @property
    def files(self) -> tuple[SourcePath, ...]:
        """The images that exist, in the order of the lines."""
        return tuple(self._files)

    def states(self) -> FileStates:
        """Return the states of the images."""
        is_remote = any(isinstance(file, ObjectPath) for file in self._files)
        return FileStates.known(self._states, self._options.buckets if is_remote else None)

    def read(self, table: _Table, split: str, status: Status) -> None:
        """Add the lines of one file."""
        path = table.path
        columns: _Columns | None = None
        n_lines = 0
        for line, row in table.rows():
            where = f"{path}: line {line}"
            if columns is None:
                columns, is_header = self._columns_of(path, row)
                table.image = columns.image
                if is_header:
                    continue
            if len(row) != len(columns.names):
                raise SourceError(
                    f"{where}: must have {len(columns.names)} columns, got {len(row)}; quote "
                    "values that hold the delimiter"
                )
            self._add(table, where, row, columns, split)
            n_lines += 1
            if n_lines % _STATUS_EVERY == 0:
                status(f"reading {path.name}: {n_lines:,} lines")
        if not n_lines:
            raise SourceError(f"{path}: lists no images")

    def _columns_of(self, path: SourcePath, row: Sequence[str]) -> tuple[_Columns, bool]:
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
        for place in self._options.columns.values():
            if place not in names:
                raise no_column(str(path), place, names)
        places = [list(names).index(place) for place in self._options.columns.values()]
        self._places = dict(zip(self._options.columns, places, strict=True))
        used = {columns.image, columns.label, columns.file_name, columns.split, *places}
        self._others |= {name for i, name in enumerate(names) if i not in used}
        return columns, is_header

    def _add(
        self, table: _Table, where: str, row: Sequence[str], columns: _Columns, split: str
    ) -> None:
        path = table.path
        if columns.split >= 0 and self._options.split is None:
            split = row[columns.split].strip()
            try:
                check_split_name(split)
            except ValueError as error:
                raise SourceError(f"{where}: {error}") from None
        if split not in self.collectors:
            self.collectors[split] = SampleCollector(
                split, labels_are_text=True, columns=self._options.columns
            )
        collector = self.collectors[split]
        if not collector.parts or collector.parts[-1][1] != str(path):
            collector.begin_part(str(path))
        text = row[columns.image].strip()
        if not text:
            raise SourceError(f"{where}: has no path of an image")
        for column, place in self._places.items():
            collector.values[column].append(row[place])
        label = row[columns.label].strip() if columns.label >= 0 else ""
        name = ""
        if columns.file_name >= 0:
            name = row[columns.file_name].strip()
        elif "file_name" not in self._options.fields:
            name = _name_of(path, text)
        try:
            file = _file_of(path, text, self._options.buckets)
            state = self._state(table, file)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            reason = why if name == text else f"{text}: {why}"
            collector.append_fault(name or None, label or None, reason)
            return
        if isinstance(file, Path) and file.is_dir():
            collector.append_fault(name or None, label or None, f"{text}: is a folder")
            return
        start = b"" if name else start_of(file, N_BYTES)
        number = len(self._states)
        collector.append(name or None, label or None, number, 0, state.nbytes, start=start)
        self._files.append(file)
        self._states.append((str(file), state))

    def _state(self, table: _Table, file: SourcePath) -> FileState:
        """Return the state of an image; those of all objects of a table are requested at once."""
        if not isinstance(file, ObjectPath):
            return state_of(str(file))
        if self._remote.table is not table:
            self._remote = _ObjectStates(table, self._options.buckets)
        return self._remote.of(file)

    def notes(self) -> list[str]:
        """Say what was left out."""
        if not self._others:
            return []
        return [f"further columns are left out: {first_few(sorted(self._others), 8)}"]


@dataclass(eq=False)
class _Table:
    """One file of lines.

    Attributes
    ----------
    path : Path or ObjectPath
    delimiter : str
    image : int
        Position of the column with the paths, once it is known.
    """

    path: SourcePath
    delimiter: str
    image: int = -1

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield number and values of each line that is not empty."""
        try:
            with open_text(self.path) as file:
                lines = csv.reader(file, delimiter=self.delimiter, strict=True)
                for row in lines:
                    if row:
                        yield lines.line_num, row
        except (csv.Error, UnicodeDecodeError) as error:
            raise SourceError(
                f"{self.path}: must be UTF-8 text with values separated: {error}"
            ) from None

    def objects(self, buckets: Buckets) -> Iterator[ObjectPath]:
        """Yield the images that are objects; the first line may name the column."""
        for _, row in self.rows():
            if self.image < len(row) and (text := row[self.image].strip()):
                with suppress(ValueError):  # raised where the line is added
                    path = _file_of(self.path, text, buckets)
                    if isinstance(path, ObjectPath):
                        yield path


class _ObjectStates:
    """The states of the images of one table that lie in buckets."""

    def __init__(self, table: _Table | None = None, buckets: Buckets | None = None) -> None:
        self.table = table
        files = [] if table is None or buckets is None else list(table.objects(buckets))
        self._row_of = {str(file): row for row, file in enumerate(files)}
        self._states = states_now(files)

    def of(self, file: ObjectPath) -> FileState:
        """Return the state of an image; raise `FileNotFoundError` if it does not exist."""
        state = self._states[self._row_of[str(file)]]
        if state == ABSENT:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return state


def _file_of(table: SourcePath, text: str, buckets: Buckets) -> SourcePath:
    """Return the path of an image, by what a table states.

    Raises
    ------
    ValueError
        If it is an address that options, which may be secret, must not be sent to.
    """
    if is_address(text):
        path = buckets.path(text)
        if not isinstance(path, ObjectPath) or not path.is_in_plain_bucket:
            raise ValueError(
                "tables may name paths, and objects in buckets (s3://, gs://, az://CONTAINER)"
            )
        return path
    if isinstance(table, ObjectPath):
        return table.at(posixpath.normpath(posixpath.join(table.parent.key, text)).strip("/"))
    return table.parent / text


def _name_of(table: SourcePath, text: str) -> str:
    """Return a file name for the path of an image: the path below the folder of the table."""
    folder = str(table.parent.absolute()).rstrip("/") + "/"
    path = text.removeprefix(folder) if is_address(text) else os.path.normpath(text)
    if os.path.isabs(path):  # noqa: PTH117 - Path has no test of text that may be anything
        path = ".." if isinstance(table, ObjectPath) else os.path.relpath(path, folder)
    if path.partition("/")[0] == ".." or is_address(path):
        raise SourceError(
            f"{table}: the image {brief(text)} lies outside the folder of the file, so that its "
            "path cannot be its name; pass fields={'file_name': COLUMN} (--field "
            "file_name=COLUMN), or an empty COLUMN to number the images"
        )
    return path
