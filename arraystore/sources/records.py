"""Samples that are Python objects: mappings, arrays, and data sets of Hugging Face.

Bytes, arrays and pictures go to the spool; a path stays the file that it names.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from arraystore._arguments import as_integer, as_path
from arraystore._checksum import crc32c
from arraystore._threads import n_cpus
from arraystore.errors import SourceError, brief, escaped
from arraystore.images.decode import import_decoders
from arraystore.images.encode import LOSSLESS, Encoding
from arraystore.reading.read_ahead import ahead
from arraystore.schema import check_split_name
from arraystore.sources.assemble import assemble
from arraystore.sources.classes import Classes, as_classes, checked
from arraystore.sources.image_suffix import N_BYTES
from arraystore.sources.sample_collector import SampleCollector
from arraystore.sources.sample_table import first_few, silent
from arraystore.sources.source_options import no_column, no_field
from arraystore.sources.spool import SPOOL, Spool
from arraystore.storage.file_states import FileState, FileStates, state_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from arraystore.sources.sample_table import Source, Status
    from arraystore.sources.source_options import SourceOptions

_BATCH_RECORDS: Final = 64
_BATCH_NBYTES: Final = 2**23
_STATUS_EVERY: Final = 2**12


def check_splits(splits: object) -> None:
    """Raise a `TypeError` unless splits are a mapping that is not empty."""
    if not isinstance(splits, Mapping) or not splits:
        raise TypeError(
            f"splits must be a mapping such as {{'train': records}}, got {brief(splits)}"
        )


def load(
    name: str,
    splits: Mapping[str, Any],
    options: SourceOptions,
    spool_path: Path,
    *,
    encoding: Encoding = LOSSLESS,
    status: Status = silent,
) -> Source:
    """Read records front to back, once, and spool their images.

    Parameters
    ----------
    name : str
        Name for the data set.
    splits : mapping of str to iterable
        Records of each split; see `arraystore.write`.
    options : SourceOptions
    spool_path : Path
        Takes the images.
    encoding : Encoding
        Of arrays and pictures.
    status : callable, optional
        Receives the number of records.

    Raises
    ------
    SourceError
        If a record has no image or label field, a label is not among the classes, or a file
        name occurs twice. An image that cannot be encoded is a fault; see `Source.faults`.
    TypeError
        If `splits` or a record is not a mapping.
    """
    check_splits(splits)
    with Spool(spool_path) as spool:
        reader = _Reader(options, encoding, spool)
        for split, records in splits.items():
            try:
                check_split_name(split)
            except (ValueError, TypeError) as error:
                raise SourceError(f"{brief(split)}: {error}") from None
            reader.read(split, records, status)
        return assemble(
            name,
            name,
            f"Images written from Python as {name}",
            reader.collectors,
            classes=as_classes(options.classes) or reader.classes,
            files=tuple(as_path(path) for path, _ in reader.states),
            states=FileStates.known(reader.states),
            origins=(),
            spool=spool,
            content=reader.content,
            notes=reader.notes(encoding),
        )


class _Reader:
    def __init__(self, options: SourceOptions, encoding: Encoding, spool: Spool) -> None:
        self._fields, self._columns = options.fields, options.columns
        self._encoding, self._spool = encoding, spool
        self._others: set[str] = set()
        self._digest = hashlib.sha256()
        self._n_encoded = 0
        self.collectors: dict[str, SampleCollector] = {}
        self.states: list[tuple[str, FileState]] = []
        self.classes: Classes | None = None

    @property
    def content(self) -> str:
        """Identifies the images of the spool, by the checksum of each."""
        return f"sha256 {self._digest.hexdigest()}"

    def read(self, split: str, records: Any, status: Status) -> None:
        """Add the records of one split."""
        collector = self.collectors[split] = SampleCollector(split, columns=self._columns)
        fields = {
            field: self._fields.get(field, field) for field in ("image", "label", "file_name")
        }
        collector.begin_part(split)
        if hasattr(records, "features") and isinstance(records.features, Mapping):
            records, fields = self._dataset(split, records, fields)
        elif _is_pair(records):
            records = _pairs(split, *records)
        elif not isinstance(records, Iterable) or isinstance(records, str | bytes | Mapping):
            raise TypeError(
                f"{brief(split)}: records must be an iterable of mappings, or a pair of arrays "
                f"(images, labels), got {brief(records)}"
            )
        import_decoders()
        n_threads = n_cpus()
        encoded = ahead(
            _batches(_checked(split, records, fields, self._columns)),
            self._encoded,
            n_ahead=2 * n_threads,
            n_threads=n_threads,
        )
        for batch in encoded:
            for record, image in batch:
                self._add(collector, record, fields, image)
                if len(collector) % _STATUS_EVERY == 0:
                    status(f"{split}: {len(collector):,} records")

    def _encoded(self, batch: list[_Record]) -> list[tuple[_Record, Any]]:
        """Return records, each with its image as bytes, a path, or what is wrong with it."""
        return [(record, _image_of(record.image, self._encoding)) for record in batch]

    def _add(
        self, collector: SampleCollector, record: _Record, fields: Mapping[str, str], image: Any
    ) -> None:
        self._others |= record.keys - {*fields.values(), *self._columns.values()}
        for column, value in record.values.items():
            collector.values[column].append(value)
        name, label = record.name, record.label
        if isinstance(image, _Fault):
            collector.append_fault(name, label, image.reason)
        elif isinstance(image, bytes):
            self._digest.update(crc32c(image).to_bytes(4, "little"))
            self._n_encoded += record.is_pixels
            offset = self._spool.append(image)
            start = image[:N_BYTES]
            collector.append(name, label, SPOOL, offset, len(image), start=start)
        else:
            try:
                state = state_of(image)
                with open(image, "rb") as file:  # noqa: PTH123 - a path as text
                    start = file.read(N_BYTES)
            except OSError as error:
                collector.append_fault(name, label, f"{image}: {error.strerror}")
                return
            collector.append(name, label, len(self.states), 0, state.nbytes, start=start)
            self.states.append((image, state))

    def _dataset(
        self, split: str, dataset: Any, fields: Mapping[str, str]
    ) -> tuple[Iterable[Any], dict[str, str]]:
        """Find the columns of a data set of Hugging Face; let its images stay encoded."""
        features = dataset.features
        kinds = {name: type(feature).__name__ for name, feature in features.items()}
        image = self._fields.get("image") or _only("image", split, kinds, "Image")
        label = self._fields.get("label")
        if label is None:
            label = _only("label", split, kinds, "ClassLabel")
        if names := getattr(features.get(label), "names", None):
            classes = checked(tuple(names), tuple(names), where=f"{split}: column {label}")
            if self.classes not in (None, classes):
                raise SourceError(f"{split}: its classes differ from those of the other splits")
            self.classes = classes
        feature = features.get(image)
        if dataclasses.is_dataclass(feature) and getattr(feature, "decode", False):
            encoded = dataclasses.replace(feature, decode=False)  # type: ignore[type-var] # its type is of any feature
            dataset = dataset.cast_column(image, encoded)
        return dataset, {**fields, "image": image, "label": label}

    def notes(self, encoding: Encoding) -> tuple[str, ...]:
        """Say what was encoded, and left out."""
        notes = []
        if self._n_encoded:
            how = "PNG" if encoding.format == "png" else f"JPEG of quality {encoding.quality}"
            notes.append(f"{self._n_encoded:,} arrays or pictures were encoded as {how}")
        if self._others:
            notes.append(f"further fields are left out: {first_few(sorted(self._others), 8)}")
        return tuple(notes)


@dataclass(frozen=True, slots=True)
class _Record:
    """One record, checked."""

    image: Any
    label: int | str | None
    name: str | None
    keys: set[str]
    is_pixels: bool
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Fault:
    reason: str


def _only(field: str, split: str, kinds: Mapping[str, str], kind: str) -> str:
    """Return the name of the column of a kind; one that is named after the field comes first."""
    found = [name for name, its in kinds.items() if its == kind]
    if field in found or (not found and field in kinds):
        return field
    if len(found) != 1:
        raise no_field(split, "column", field, found, list(kinds))
    return found[0]


def _is_pair(records: Any) -> bool:
    return (
        isinstance(records, tuple | list)
        and len(records) == 2
        and hasattr(records[0], "shape")
        and len(records[0].shape) in (3, 4)
    )


def _pairs(split: str, images: Any, labels: Any) -> Iterator[dict[str, Any]]:
    n = len(images)
    if labels is not None and len(labels) != n:
        raise SourceError(f"{split}: {n:,} images need as many labels, got {len(labels):,}")
    for i in range(n):
        yield {"image": images[i], "label": None if labels is None else labels[i]}


def _checked(
    split: str, records: Iterable[Any], fields: Mapping[str, str], columns: Mapping[str, str]
) -> Iterator[_Record]:
    for i, record in enumerate(records):
        if not isinstance(record, Mapping):
            raise TypeError(escaped(f"{split}: record {i} must be a mapping, got {brief(record)}"))
        for field in ("image", "label"):
            if fields[field] and fields[field] not in record:
                raise no_field(f"{split}: record {i}", "field", field, (), list(map(str, record)))
        for place in columns.values():
            if place not in record:
                raise no_column(f"{split}: record {i}", place, list(map(str, record)))
        values = {column: record[place] for column, place in columns.items()}
        image = record[fields["image"]]
        name = record.get(fields["file_name"]) if fields["file_name"] else None
        is_struct = isinstance(image, Mapping)
        if is_struct:
            path = image.get("path")
            image = path if image.get("bytes") is None else image["bytes"]
            if name is None and path and fields["file_name"]:
                name = os.path.basename(path) if os.path.isabs(path) else path  # noqa: PTH117, PTH119
        if not isinstance(name, str | None):
            raise TypeError(
                escaped(f"{split}: record {i}: file_name must be a text, got {brief(name)}")
            )
        label = _label(record[fields["label"]], f"{split}: record {i}") if fields["label"] else None
        is_pixels = not isinstance(image, bytes | bytearray | memoryview | str | os.PathLike | None)
        yield _Record(image, label, name, set(map(str, record)), is_pixels, values)


def _label(label: Any, where: str) -> int | str | None:
    if label is None or isinstance(label, str):
        return None if label is None else str(label)
    return as_integer(label, f"{where}: label")


def _batches(records: Iterator[_Record]) -> Generator[list[_Record]]:
    """Yield records in batches of bounded size."""
    batch: list[_Record] = []
    nbytes = 0
    for record in records:
        batch.append(record)
        nbytes += _nbytes(record.image)
        if len(batch) == _BATCH_RECORDS or nbytes >= _BATCH_NBYTES:
            yield batch
            batch, nbytes = [], 0
    if batch:
        yield batch


def _nbytes(image: Any) -> int:
    if hasattr(image, "nbytes"):
        return int(image.nbytes)
    if hasattr(image, "size") and hasattr(image, "mode"):
        return 4 * int(image.size[0]) * int(image.size[1])
    return len(image) if isinstance(image, bytes | bytearray) else 0


def _image_of(image: Any, encoding: Encoding) -> bytes | str | _Fault:
    """Return an image as bytes, or the path of its file, or what is wrong with it."""
    if image is None:
        return _Fault("has no image")
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        return str(as_path(image))
    if not (hasattr(image, "__array__") or hasattr(image, "__array_interface__")):
        kind = type(image).__name__
        return _Fault(f"must be bytes, a path, an array or a picture, got an object of type {kind}")
    try:
        return encoding.encode(image)
    except (ValueError, OSError, TypeError) as error:
        return _Fault(str(error))
