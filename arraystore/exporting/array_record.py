"""ArrayRecord files as TensorFlow Datasets writes them, for random access with Grain."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from typing_extensions import override

from arraystore._arguments import need
from arraystore.exporting.shard_format import Written
from arraystore.exporting.tfds_examples import TFDSExamples

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from arraystore.exporting.contents import Contents, Group, Shard

_OPTIONS: Final = "group_size:1"
"""Each record is compressed by itself, so that reading one reads no other; as TFDS has it."""


class ArrayRecord(TFDSExamples):
    """Shards are ``DATASET-SPLIT.array_record-00000-of-0000N``.

    Parameters
    ----------
    contents : Contents

    Raises
    ------
    SourceError
        If array_record is not installed.
    """

    file_format: ClassVar[str] = "array_record"

    def __init__(self, contents: Contents) -> None:
        super().__init__(contents)
        self._module = need(
            "array_record.python.array_record_module", "array-record", "an export to array-record"
        )

    @override
    def write(self, target: Path, shard: Shard, groups: Iterator[Group]) -> Written:
        name = self.shard_name(shard)
        writer = self._module.ArrayRecordWriter(str(target / name), _OPTIONS)
        try:
            for group in groups:
                for record in self.examples(group):
                    writer.write(record)
        finally:
            writer.close()
        return Written((name,))
