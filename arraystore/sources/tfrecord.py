"""TFRecord files of ``tf.train.Example``, as TensorFlow Datasets and older scripts write them.

A file is a run of records; the checksums are masked CRC-32C::

    length, uint64 │ checksum of the length │ length bytes of data │ checksum of the data

Images in uncompressed files stay where they are, as byte ranges. Those in files compressed with
gzip or zlib are spooled.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from arraystore._checksum import crc32c
from arraystore.errors import SourceError, brief
from arraystore.sources.assemble import assemble
from arraystore.sources.classes import as_classes
from arraystore.sources.compressed import decompressed, is_compressed
from arraystore.sources.image_suffix import N_BYTES
from arraystore.sources.sample_collector import SampleCollector
from arraystore.sources.sample_table import first_few, silent
from arraystore.sources.shards import find_shards
from arraystore.sources.source_options import no_field
from arraystore.sources.spool import SPOOL, Spool
from arraystore.sources.train_example import Feature, parse_example

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from io import BufferedIOBase
    from pathlib import Path
    from typing import IO

    from arraystore.sources.classes import Classes
    from arraystore.sources.sample_table import Source, Status
    from arraystore.sources.source_options import SourceOptions
    from arraystore.storage.buckets import SourcePath

SUFFIXES: Final = (".tfrecord", ".tfrecords", ".tfrec", ".tfrecord.gz", ".tfrecords.gz")
"""Of the files that are read where the pattern is a folder."""

IMAGE_FEATURES: Final = ("image", "image/encoded", "image_raw", "jpeg", "img")
LABEL_FEATURES: Final = ("label", "image/class/synset", "image/class/label", "class")
NAME_FEATURES: Final = ("file_name", "image/filename", "filename", "image/source_id", "image_id")
"""Names of features with image, label and file name, the likeliest first."""

FROM_ONE: Final = "-1"
"""Behind the name of a feature: its numbers count from 1, as those of ``image/class/label`` may."""

_UNCLEAR: Final = "image/class/label"
_HEAD_NBYTES: Final = 12
_TAIL_NBYTES: Final = 4
_MAX_RECORD_NBYTES: Final = 2**30
_MASK_DELTA: Final = 0xA282EAD8
_BUFFER_NBYTES: Final = 2**20
_PIECE_NBYTES: Final = 2**24
_CLASS_FILE: Final = "label.labels.txt"


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a file.

    Attributes
    ----------
    data : memoryview
        Its bytes.
    offset : int
        Where they begin in the file, decompressed.
    position : str
        Where the record is, for messages.
    fault : str
        Why they cannot be relied on; empty if they can.
    """

    data: memoryview
    offset: int
    position: str
    fault: str = ""


def masked_crc32c(data: bytes | memoryview) -> int:
    """Return the checksum of a record: CRC-32C, rotated by 15 bits, plus a constant.

    Examples
    --------
    >>> hex(masked_crc32c(b""))
    '0xa282ead8'
    """
    value = crc32c(data)
    return ((value >> 15 | value << 17) + _MASK_DELTA) & 0xFFFFFFFF


def records_of(path: SourcePath, reader: IO[bytes] | BufferedIOBase) -> Iterator[Record]:
    """Read the records of a file front to back.

    Parameters
    ----------
    path : Path or ObjectPath
        For messages.
    reader : file
        The file, decompressed.

    Raises
    ------
    SourceError
        If the file is truncated, or a length is damaged. A record whose data are damaged is
        yielded with a fault.
    """
    offset = 0
    while head := _whole(reader, _HEAD_NBYTES):
        position = f"record at byte {offset:,}"
        where = f"{path}: {position}"
        if len(head) < _HEAD_NBYTES:
            raise SourceError(f"{where}: is truncated; download the file again")
        if masked_crc32c(head[:8]) != int.from_bytes(head[8:], "little"):
            raise SourceError(
                f"{where}: its length has a wrong checksum; the file is damaged, or not a TFRecord "
                "file; download it again"
            )
        nbytes = int.from_bytes(head[:8], "little")
        if nbytes > _MAX_RECORD_NBYTES:
            raise SourceError(
                f"{where}: has {nbytes:,} bytes, at most {_MAX_RECORD_NBYTES:,} are read"
            )
        body = _whole(reader, nbytes + _TAIL_NBYTES)
        if len(body) < nbytes + _TAIL_NBYTES:
            raise SourceError(f"{where}: is truncated; download the file again")
        data = memoryview(body)[:nbytes]
        holds = masked_crc32c(data) == int.from_bytes(body[nbytes:], "little")
        fault = "" if holds else "its checksum is wrong; the file is damaged"
        yield Record(data, offset + _HEAD_NBYTES, position, fault)
        offset += _HEAD_NBYTES + nbytes + _TAIL_NBYTES


def _whole(reader: IO[bytes] | BufferedIOBase, nbytes: int) -> bytes:
    """Read bytes; fewer only at the end of the file."""
    data = reader.read(min(nbytes, _PIECE_NBYTES))
    if len(data) == nbytes:
        return data
    # Pieces: a length may be stated that no file has.
    pieces, done = [data], len(data)
    while done < nbytes and (data := reader.read(min(nbytes - done, _PIECE_NBYTES))):
        pieces.append(data)
        done += len(data)
    return b"".join(pieces)


@contextmanager
def open_records(path: SourcePath) -> Iterator[tuple[Iterator[Record], bool]]:
    """Open a file of records for as long as the context lasts.

    Yields
    ------
    iterator of Record
    bool
        Whether the file is compressed, so that the records' offsets are not those of the file.

    Raises
    ------
    SourceError
        If it is not a TFRecord file, or a compressed one is damaged.
    """
    with path.open("rb", buffering=_BUFFER_NBYTES) as file:
        head = file.read(_HEAD_NBYTES)
        if not head:
            raise SourceError(f"{path}: must be a TFRecord file, but is empty; download it again")
        is_plain = masked_crc32c(head[:8]) == int.from_bytes(head[8:], "little")
        if is_plain or not is_compressed(path, may_be_zlib=True):
            file.seek(0)
            yield records_of(path, file), False
            return
    with decompressed(path, may_be_zlib=True) as file:
        yield records_of(path, file), True


class ExampleReader:
    """Adds records of ``tf.train.Example`` to collectors.

    Parameters
    ----------
    options : SourceOptions
        `fields` names features. A label is a number, or the name of a class; ``NAME-1`` states
        that numbers count from 1.
    """

    def __init__(self, options: SourceOptions) -> None:
        self._fields = options.fields
        self._image = options.fields.get("image")
        self._label = options.fields.get("label")
        self._name = options.fields.get("file_name")
        self._first = 0
        if self._label and self._label.endswith(FROM_ONE):
            self._label, self._first = self._label.removesuffix(FROM_ONE), 1
        self._is_known = False
        self._least: dict[str, int] = {}
        self._others: Counter[str] = Counter()

    def add(
        self,
        where: str,
        record: Record,
        collector: SampleCollector,
        place: Callable[[memoryview, int], tuple[int, int]],
    ) -> None:
        """Add one record.

        Parameters
        ----------
        where : str
            Name of the file.
        record : Record
        collector : SampleCollector
        place : callable
            Receives the image, and its offset in the file; returns file and offset for the table.

        Raises
        ------
        SourceError
            If a feature is missing or of another type.
        """
        at = f"{where}: {record.position}"
        if record.fault:
            collector.append_fault(_fault_name(where, record), None, record.fault)
            return
        try:
            features = parse_example(record.data)
        except ValueError as error:
            raise SourceError(f"{at}: must be a tf.train.Example, but {error}") from None
        if not self._is_known:
            self._find_features(where, features)
        self._others.update(features.keys() - {self._image, self._label, self._name})
        label = self._label_of(at, features, record.data)
        name = self._text(at, features, self._name, record.data) if self._name else None
        image = features.get(str(self._image), Feature(""))
        if image.kind != "bytes" or image.count != 1:
            what = f"{image.count} values of {image.kind or 'nothing'}"
            why = f"{brief(self._image)} must be one image, got {what}"
            collector.append_fault(name or _fault_name(where, record), label, why)
            return
        data = record.data[image.start : image.stop]
        file, offset = place(data, record.offset + image.start)
        collector.append(name, label, file, offset, len(data), start=bytes(data[:N_BYTES]))

    def _find_features(self, where: str, features: Mapping[str, Feature]) -> None:
        """Decide by the first record which features hold image, label and file name."""
        there = list(features)
        if self._image is None:
            self._image = _first_of(IMAGE_FEATURES, there)
            if self._image is None:
                raise no_field(where, "feature", "image", (), there)
        if self._label is None:
            self._label = _first_of(LABEL_FEATURES, there)
            if self._label is None:
                raise no_field(where, "feature", "label", (), there)
        if self._name is None:
            self._name = _first_of(NAME_FEATURES, there)
        self._is_known = True

    def _label_of(
        self, at: str, features: Mapping[str, Feature], data: memoryview
    ) -> int | str | None:
        if not self._label:
            return None
        feature = features.get(self._label, Feature(""))
        if feature.kind == "bytes":
            return self._text(at, features, self._label, data)
        if feature.kind != "int64" or feature.count != 1:
            raise SourceError(
                f"{at}: {brief(self._label)} must be one number or name, got {feature.count} "
                f"values of {feature.kind or 'nothing'}"
            )
        least = self._least.get(self._label, feature.number)
        self._least[self._label] = min(least, feature.number)
        if self._first and feature.number < self._first:
            raise SourceError(f"{at}: {brief(self._label)} must count from 1, got {feature.number}")
        return feature.number - self._first

    def _text(
        self, at: str, features: Mapping[str, Feature], name: str, data: memoryview
    ) -> str | None:
        feature = features.get(name, Feature(""))
        if feature.kind == "int64" and feature.count == 1:
            return str(feature.number)
        if feature.kind != "bytes" or feature.count != 1:
            raise SourceError(
                f"{at}: {brief(name)} must be one text, got {feature.count} values of "
                f"{feature.kind or 'nothing'}"
            )
        try:
            return str(data[feature.start : feature.stop], "utf-8") or None
        except UnicodeDecodeError:
            raise SourceError(f"{at}: {brief(name)} must be UTF-8 text") from None

    def check(self, where: str) -> None:
        """Refuse numbers that may count from 0 or from 1.

        Raises
        ------
        SourceError
            If ``image/class/label`` was chosen without being stated, and is never 0: scripts for
            ImageNet write 1 to 1000 there, others count from 0.
        """
        if "label" not in self._fields and self._label == _UNCLEAR and self._least:
            least = self._least[_UNCLEAR]
            if least == 1:
                raise SourceError(
                    f"{where}: the least {_UNCLEAR} is 1, so labels may count from 1 or from 0; "
                    f"pass fields={{'label': '{_UNCLEAR}{FROM_ONE}'}} (--field "
                    f"label={_UNCLEAR}{FROM_ONE}) if 1 is the first class, or '{_UNCLEAR}' if it "
                    "is the second"
                )

    def notes(self) -> list[str]:
        """Say what was decided, and left out."""
        notes = []
        guessed = {
            "image": self._image,
            "label": self._label,
            "file name": self._name,
        }
        stated = {name.replace("_", " ") for name in self._fields}
        found = [
            f"{name} is {place}" for name, place in guessed.items() if place and name not in stated
        ]
        if found:
            notes.append(f"features: {', '.join(found)}")
        if self._others:
            notes.append(f"further features are left out: {first_few(sorted(self._others), 8)}")
        return notes


def _fault_name(where: str, record: Record) -> str:
    return f"{where.rpartition('/')[2]}: {record.position}"


def _first_of(names: Sequence[str], there: Sequence[str]) -> str | None:
    return next((name for name in names if name in there), None)


def classes_of(
    files: Sequence[SourcePath], options: SourceOptions
) -> tuple[Classes | None, list[str]]:
    """Return the classes that are stated, or that TFDS lists beside its files, and a note."""
    path = files[0].parent / _CLASS_FILE
    if options.classes is not None or not path.is_file():
        return as_classes(options.classes), []
    return as_classes(path), [f"classes are those of {_CLASS_FILE} beside the files"]


def _spooled(spool: Spool, data: memoryview, offset: int) -> tuple[int, int]:
    del offset
    return SPOOL, spool.append(data)


def _in_file(number: int, data: memoryview, offset: int) -> tuple[int, int]:
    del data
    return number, offset


def load(
    pattern: str, options: SourceOptions, spool_path: Path, *, status: Status = silent
) -> Source:
    """List the samples of TFRecord files.

    Parameters
    ----------
    pattern : str
        See `arraystore.sources.shards`.
    options : SourceOptions
        `fields` names features; by default the first of `IMAGE_FEATURES`, `LABEL_FEATURES` and
        `NAME_FEATURES` that the first record has. `classes` are by default those that TFDS
        lists in ``label.labels.txt`` beside the files.
    spool_path : Path
        Takes the images of compressed files.
    status : callable, optional
        Receives the name of each file.

    Raises
    ------
    SourceError
        If a file is missing or damaged, a feature is missing, or a file name occurs twice.
    """
    shards = find_shards(pattern, SUFFIXES, options)
    reader = ExampleReader(options)
    collectors: dict[str, SampleCollector] = {}
    with Spool(spool_path) as spool, shards.states.unchanged():
        for i, (path, split) in enumerate(zip(shards.files, shards.splits, strict=True)):
            status(f"reading {path.name} ({i + 1:,} of {len(shards.files):,})")
            collector = collectors.setdefault(split, SampleCollector(split))
            collector.begin_part(str(path))
            with open_records(path) as (records, is_spooled):
                place = partial(_spooled, spool) if is_spooled else partial(_in_file, i)
                for record in records:
                    reader.add(str(path), record, collector, place)
    reader.check(f"tfrecord:{pattern}")
    classes, notes = classes_of(shards.files, options)
    return assemble(
        f"tfrecord:{pattern}",
        shards.name,
        f"TFRecord files of {shards.name}",
        collectors,
        classes=classes,
        files=shards.files,
        states=shards.states,
        origins=shards.origins,
        spool=spool,
        notes=(*shards.notes, *shards.guesses, *reader.notes(), *notes),
        partial=shards.partial,
    )
