"""ArrayRecord files of ``tf.train.Example``, as TensorFlow Datasets writes them on request.

The records are compressed in groups, so that their images are spooled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from arraystore._arguments import need
from arraystore.errors import SourceError
from arraystore.sources.assemble import assemble
from arraystore.sources.sample_collector import SampleCollector
from arraystore.sources.sample_table import silent
from arraystore.sources.shards import find_shards
from arraystore.sources.spool import SPOOL, Spool
from arraystore.sources.tfrecord import ExampleReader, Record, classes_of
from arraystore.storage.buckets import ObjectPath

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from arraystore.sources.sample_table import Source, Status
    from arraystore.sources.source_options import SourceOptions
    from arraystore.storage.buckets import SourcePath

SUFFIXES: Final = (".array_record", ".arrayrecord")
"""Of the files that are read where the pattern is a folder."""

_OPTIONS: Final = "readahead_buffer_size:1048576,max_parallelism:1"


def records_of(path: SourcePath) -> Iterator[Record]:
    """Read the records of a file front to back.

    Raises
    ------
    SourceError
        If the file is not an ArrayRecord file, is damaged or truncated, or the library is not
        installed.
    """
    if isinstance(path, ObjectPath):
        raise SourceError(f"{path}: ArrayRecord files are read from a disk only; download them")
    module = need("array_record.python.array_record_module", "array-record", "array_record:")
    try:
        reader = module.ArrayRecordReader(str(path), _OPTIONS)
        for number in range(reader.num_records()):
            yield Record(memoryview(reader.read()), 0, f"record {number}")
        reader.close()
    except (RuntimeError, ValueError, IndexError) as error:
        if isinstance(error, SourceError):
            raise
        reason = str(error).partition("\n")[0]
        raise SourceError(f"{path}: cannot be read: {reason}; download it again") from None


def load(
    pattern: str, options: SourceOptions, spool_path: Path, *, status: Status = silent
) -> Source:
    """List the samples of ArrayRecord files, and spool their images.

    Parameters and errors are those of `arraystore.sources.tfrecord.load`.
    """
    shards = find_shards(pattern, SUFFIXES, options)
    reader = ExampleReader(options)
    collectors: dict[str, SampleCollector] = {}
    with Spool(spool_path) as spool, shards.states.unchanged():

        def place(data: memoryview, offset: int) -> tuple[int, int]:
            del offset
            return SPOOL, spool.append(data)

        for i, (path, split) in enumerate(zip(shards.files, shards.splits, strict=True)):
            status(f"reading {path.name} ({i + 1:,} of {len(shards.files):,})")
            collector = collectors.setdefault(split, SampleCollector(split))
            collector.begin_part(str(path))
            for record in records_of(path):
                reader.add(str(path), record, collector, place)
    reader.check(f"array_record:{pattern}")
    classes, notes = classes_of(shards.files, options)
    return assemble(
        f"array_record:{pattern}",
        shards.name,
        f"ArrayRecord files of {shards.name}",
        collectors,
        classes=classes,
        files=shards.files,
        states=shards.states,
        origins=shards.origins,
        spool=spool,
        notes=(*shards.notes, *shards.guesses, *reader.notes(), *notes),
        partial=shards.partial,
    )
