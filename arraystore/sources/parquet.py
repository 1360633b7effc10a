"""Parquet files with images in a column: Hugging Face's structs, or plain binary.

Hugging Face writes an image as a struct of ``bytes`` and ``path``, a label as a number, and the
names of the classes as JSON in the metadata of the schema, under the key ``huggingface``. Pages of
Parquet are compressed, so that images are spooled.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore._arguments import need
from arraystore.errors import SourceError, StorageError, brief
from arraystore.sources.assemble import assemble
from arraystore.sources.classes import Classes, as_classes, checked
from arraystore.sources.column_file import arrow_values
from arraystore.sources.image_suffix import N_BYTES
from arraystore.sources.sample_collector import SampleCollector
from arraystore.sources.sample_table import first_few, silent
from arraystore.sources.shards import find_shards
from arraystore.sources.source_options import no_field
from arraystore.sources.spool import SPOOL, Spool
from arraystore.storage.buckets import ObjectPath

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from arraystore._typing import Ints
    from arraystore.sources.sample_table import Source, Status
    from arraystore.sources.source_options import SourceOptions
    from arraystore.storage.buckets import SourcePath

SUFFIXES: Final = (".parquet",)
"""Of the files that are read where the pattern is a folder."""

IMAGE_COLUMNS: Final = ("image", "img", "image_bytes", "jpg", "bytes")
LABEL_COLUMNS: Final = ("label", "class", "category", "labels", "target")
NAME_COLUMNS: Final = ("file_name", "filename", "image_path", "path", "image_id")
"""Names of columns with image, label and file name, the likeliest first."""

METADATA: Final = b"huggingface"
"""Key of the metadata of a schema in which Hugging Face describes the columns."""

_BATCH_NBYTES: Final = 2**23
_MAX_ROWS: Final = 2**15
_BUFFER_NBYTES: Final = 2**20


@dataclass(frozen=True, slots=True)
class Schema:
    """What a file says about its columns.

    Attributes
    ----------
    names : tuple of str
    binary : tuple of str
        Columns that may hold encoded images: binary, or structs with binary ``bytes``.
    images : tuple of str
        Those that Hugging Face's metadata declare to be images.
    classes : mapping of str to tuple of str
        Names of the classes of each label column, as these metadata state them.
    structs : frozenset of str
        Columns that are structs of ``bytes`` and perhaps ``path``.
    """

    names: tuple[str, ...]
    binary: tuple[str, ...]
    images: tuple[str, ...]
    classes: Mapping[str, tuple[str, ...]]
    structs: frozenset[str]


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns that are read; an empty name means none."""

    image: str
    label: str
    name: str
    further: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def all(self) -> list[str]:
        """The top-level columns that must be read."""
        parts = (*self.parts, *self.further.values())
        return list(dict.fromkeys(part.partition(".")[0] for part in parts if part))

    @property
    def parts(self) -> tuple[str, str, str]:
        """The three names."""
        return self.image, self.label, self.name


def schema_of(arrow: Any) -> Schema:
    """Return what is needed of the schema of pyarrow."""
    pa = need("pyarrow", "parquet", "parquet:")
    metadata = _features((arrow.metadata or {}).get(METADATA))
    binary, structs = [], set()
    for field in arrow:
        if pa.types.is_struct(field.type):
            inner = {child.name: child.type for child in field.type}
            if "bytes" in inner and _is_binary(pa, inner["bytes"]):
                binary.append(field.name)
                structs.add(field.name)
        elif _is_binary(pa, field.type):
            binary.append(field.name)
    return Schema(
        names=tuple(arrow.names),
        binary=tuple(binary),
        images=tuple(n for n, f in metadata.items() if f.get("_type") == "Image" and n in binary),
        classes={
            name: tuple(feature["names"])
            for name, feature in metadata.items()
            if feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list)
        },
        structs=frozenset(structs),
    )


def _is_binary(pa: Any, kind: Any) -> bool:
    types = pa.types
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _features(text: bytes | None) -> dict[str, dict[str, Any]]:
    """Return the features that Hugging Face's metadata describe; none if they are of other form."""
    try:
        features = json.loads(text or b"{}")["info"]["features"]
        return {str(n): f for n, f in features.items() if isinstance(f, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def columns_of(where: str, schema: Schema, fields: Mapping[str, str]) -> Columns:
    """Decide which columns hold image, label and file name.

    Raises
    ------
    SourceError
        If it is not clear, or a column that is stated does not exist.
    """
    for field, name in fields.items():
        if name and name.partition(".")[0] not in schema.names and name not in schema.names:
            raise no_field(f"{where}: no column {brief(name)}", "column", field, (), schema.names)
    image = (
        fields.get("image")
        or _only(schema.images, IMAGE_COLUMNS)
        or _only(schema.binary, IMAGE_COLUMNS)
    )
    if not image:
        raise no_field(where, "column", "image", schema.images or schema.binary, schema.names)
    label = fields["label"] if "label" in fields else _label_column(where, schema, image)
    named = next((name for name in NAME_COLUMNS if name in schema.names), "")
    if image in schema.structs:
        named = f"{image}.path"
    return Columns(image, label, fields.get("file_name", named))


def _label_column(where: str, schema: Schema, image: str) -> str:
    stated = [name for name in schema.classes if name != image]
    likely = [name for name in LABEL_COLUMNS if name in schema.names and name != image]
    label = _only(stated, LABEL_COLUMNS) or ("" if stated else next(iter(likely), ""))
    if not label:
        raise no_field(where, "column", "label", stated, schema.names)
    return label


def _only(names: Sequence[str], likely: Sequence[str]) -> str:
    """Return the only name, or the likeliest; empty if it is not clear."""
    if len(names) == 1:
        return names[0]
    return next((name for name in likely if name in names), "")


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of a file, as columns.

    Attributes
    ----------
    data : memoryview
        The images, end to end.
    start, nbytes : ndarray of int64, shape (n,)
        Where each image lies in `data`; empty images have no bytes.
    label : list of int, str or None, or ndarray of int64
    name : list of str or None
    further : mapping of str to ndarray or list
        Values of further columns.
    """

    data: memoryview
    start: Ints
    nbytes: Ints
    label: Sequence[int | str | None] | Ints
    name: Sequence[str | None]
    further: Mapping[str, Any]


def rows_of(path: SourcePath, columns: Columns) -> Iterator[Rows]:
    """Read the rows of a file front to back, some megabytes at a time.

    Raises
    ------
    SourceError
        If the file is damaged, or a column is of a type that cannot be read.
    """
    pa = need("pyarrow", "parquet", "parquet:")
    pq = need("pyarrow.parquet", "parquet", "parquet:")
    try:
        with pq.ParquetFile(
            opened(path),
            buffer_size=_BUFFER_NBYTES,
            pre_buffer=False,
            page_checksum_verification=True,
        ) as file:
            batches = file.iter_batches(
                batch_size=_n_rows(file.metadata), columns=columns.all, use_threads=False
            )
            for batch in batches:
                yield _rows(pa, str(path), batch, columns)
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None or isinstance(error, StorageError):
            raise
        reason = str(error).partition("\n")[0]
        raise SourceError(f"{path}: cannot be read: {reason}; download it again") from None


def opened(path: SourcePath) -> Any:
    """Return what pyarrow opens: the path of a file, or an object as a file."""
    return path.open_raw() if isinstance(path, ObjectPath) else path


def _n_rows(metadata: Any) -> int:
    """Return how many rows have some megabytes."""
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    nbytes = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0)
    return min(_MAX_ROWS, max(1, _BATCH_NBYTES // max(nbytes, 1)))


def _rows(pa: Any, where: str, batch: Any, columns: Columns) -> Rows:
    image = _column(batch, columns.image)
    if pa.types.is_struct(image.type):
        image = _child(image, "bytes")
    data, bounds = _binary(pa, where, columns.image, image)
    n = len(image)
    return Rows(
        data,
        bounds[:-1],
        np.diff(bounds),
        _labels(pa, where, columns.label, _column(batch, columns.label))
        if columns.label
        else [None] * n,
        _names(pa, where, columns.name, _column(batch, columns.name))
        if columns.name
        else [None] * n,
        {
            name: arrow_values(pa, _column(batch, place), f"{where}: {place}")
            for name, place in columns.further.items()
        },
    )


def _column(batch: Any, name: str) -> Any:
    if name in batch.schema.names:
        return batch.column(name)
    first, *rest = name.split(".")
    column = batch.column(first)
    for part in rest:
        column = _child(column, part)
    return column


def _child(column: Any, name: str) -> Any:
    compute = need("pyarrow.compute", "parquet", "parquet:")
    return compute.struct_field(column, name)


def _binary(pa: Any, where: str, name: str, column: Any) -> tuple[memoryview, Ints]:
    """Return the bytes of a column end to end, and the bounds of its values in them."""
    if not _is_binary(pa, column.type):
        raise SourceError(f"{where}: column {brief(name)} must be binary, got {column.type}")
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        column = column.cast(pa.large_binary())
    width = np.int64 if pa.types.is_large_binary(column.type) else np.int32
    _, offsets, data = column.buffers()
    n = len(column)
    if n == 0 or data is None:
        return memoryview(b""), np.zeros(n + 1, np.int64)
    bounds = np.frombuffer(offsets, width)[column.offset : column.offset + n + 1].astype(np.int64)
    return memoryview(data)[int(bounds[0]) : int(bounds[-1])], bounds - bounds[0]


def _labels(pa: Any, where: str, name: str, column: Any) -> Sequence[int | str | None] | Ints:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_integer(column.type):
        if column.null_count:
            numbers: list[int | str | None] = column.to_pylist()
            return numbers
        values: Ints = column.to_numpy(zero_copy_only=False).astype(np.int64)
        return values
    if _is_text(pa, column.type) or pa.types.is_null(column.type):
        texts: list[int | str | None] = column.to_pylist()
        return texts
    raise SourceError(
        f"{where}: column {brief(name)} must hold integers or text for labels, got {column.type}"
    )


def _names(pa: Any, where: str, name: str, column: Any) -> Sequence[str | None]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not (_is_text(pa, column.type) or pa.types.is_integer(column.type)):
        if pa.types.is_null(column.type):
            return [None] * len(column)
        raise SourceError(
            f"{where}: column {brief(name)} must hold text for file names, got {column.type}"
        )
    return [None if value in (None, "") else str(value) for value in column.to_pylist()]


def _is_text(pa: Any, kind: Any) -> bool:
    types = pa.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def add_rows(rows: Rows, collector: SampleCollector, spool: Spool) -> None:
    """Spool the images of some rows, and add the rows to a collector."""
    first = len(collector)
    base = spool.append(rows.data)
    places = zip(rows.name, rows.start.tolist(), rows.nbytes.tolist(), strict=True)
    starts = [
        b"" if name is not None else bytes(rows.data[start : start + min(nbytes, N_BYTES)])
        for name, start, nbytes in places
    ]
    collector.extend(rows.name, starts, SPOOL, base + rows.start, rows.nbytes)
    if isinstance(rows.label, np.ndarray):
        collector.labels.extend(rows.label)
    else:
        for label in rows.label:
            collector.labels.append(label)
    for column, values in rows.further.items():
        collector.values[column].extend(values)
    for i in np.flatnonzero(rows.nbytes == 0).tolist():
        collector.faults[first + i] = "its bytes are missing (null, or empty)"


def load(
    pattern: str, options: SourceOptions, spool_path: Path, *, status: Status = silent
) -> Source:
    """List the samples of Parquet files, and spool their images.

    Parameters
    ----------
    pattern : str
        See `arraystore.sources.shards`.
    options : SourceOptions
        `fields` names columns, with a dot for a field of a struct. By default image and label
        are those that Hugging Face's metadata declare, else those with the usual names, and the
        file name is the ``path`` of the image. `classes` are by default those of the metadata.
    spool_path : Path
        Takes the images.
    status : callable, optional
        Receives the name of each file.

    Raises
    ------
    SourceError
        If pyarrow is not installed, a file is missing or damaged, columns are missing or
        differ between files, or a file name occurs twice.
    """
    pq = need("pyarrow.parquet", "parquet", "parquet:")
    shards = find_shards(pattern, SUFFIXES, options)
    collectors: dict[str, SampleCollector] = {}
    columns: Columns | None = None
    names: tuple[str, ...] = ()
    others: set[str] = set()
    with Spool(spool_path) as spool, shards.states.unchanged():
        for i, (path, split) in enumerate(zip(shards.files, shards.splits, strict=True)):
            status(f"reading {path.name} ({i + 1:,} of {len(shards.files):,})")
            schema = _schema_of_file(pq, path)
            if columns is None:
                columns = columns_of(str(path), schema, options.fields)
                columns = replace(columns, further=options.columns)
                names = schema.classes.get(columns.label, ())
            _check_columns(path, schema, columns, shards.files[0])
            if options.classes is None:
                _check_classes(path, schema, columns, names, shards.files[0])
            others |= {*schema.names} - {*columns.all}
            if split not in collectors:
                collectors[split] = SampleCollector(split, columns=options.columns)
            collector = collectors[split]
            collector.begin_part(str(path))
            for rows in rows_of(path, columns):
                add_rows(rows, collector, spool)
    assert columns is not None  # there is a file
    notes = [f"columns: {', '.join(_described(columns, options.fields))}"]
    if others:
        notes.append(f"further columns are left out: {first_few(sorted(others), 8)}")
    return assemble(
        f"parquet:{pattern}",
        shards.name,
        f"Parquet files of {shards.name}",
        collectors,
        classes=as_classes(options.classes) or _classes(names, shards.name),
        files=shards.files,
        states=shards.states,
        origins=shards.origins,
        spool=spool,
        notes=(*shards.notes, *shards.guesses, *notes),
        partial=shards.partial,
    )


def _classes(names: tuple[str, ...], where: str) -> Classes | None:
    return checked(names, names, where=f"{where}: metadata of Hugging Face") if names else None


def _described(columns: Columns, fields: Mapping[str, str]) -> Iterator[str]:
    for field, part in zip(("image", "label", "file_name"), columns.parts, strict=True):
        if field not in fields:
            yield f"{field.replace('_', ' ')} is {part or 'generated'}"


def _schema_of_file(pq: Any, path: SourcePath) -> Schema:
    pa = need("pyarrow", "parquet", "parquet:")
    try:
        return schema_of(pq.read_schema(opened(path)))
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None or isinstance(error, StorageError):
            raise
        reason = str(error).partition("\n")[0]
        raise SourceError(f"{path}: must be a Parquet file: {reason}; download it again") from None


def _check_columns(path: SourcePath, schema: Schema, columns: Columns, first: SourcePath) -> None:
    """Refuse a file that lacks a column."""
    lacking = [name for name in columns.all if name not in schema.names]
    if lacking:
        raise SourceError(
            f"{path}: lacks {first_few(lacking)}, which {first.name} has; its columns are "
            f"{', '.join(schema.names)}"
        )


def _check_classes(
    path: SourcePath, schema: Schema, columns: Columns, names: tuple[str, ...], first: SourcePath
) -> None:
    """Refuse a file that numbers its classes otherwise than the first."""
    found = schema.classes.get(columns.label, ())
    if found != names:
        raise SourceError(
            f"{path}: the classes of column {brief(columns.label)} differ from those of "
            f"{first.name} ({len(found):,} and {len(names):,} names); convert files of one data "
            "set, or state classes=… (--classes)"
        )
