"""TFRecord files as TensorFlow Datasets writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from typing_extensions import override

from arraystore.exporting.shard_format import Written
from arraystore.exporting.tfds_examples import TFDSExamples
from arraystore.sources.tfrecord import masked_crc32c

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from arraystore.exporting.contents import Group, Shard

_LENGTH_NBYTES: Final = 8
_CHECKSUM_NBYTES: Final = 4


class TFRecord(TFDSExamples):
    """Shards are ``DATASET-SPLIT.tfrecord-00000-of-0000N``."""

    file_format: ClassVar[str] = "tfrecord"

    @override
    def write(self, target: Path, shard: Shard, groups: Iterator[Group]) -> Written:
        name = self.shard_name(shard)
        with (target / name).open("wb") as file:
            for group in groups:
                for record in self.examples(group):
                    length = len(record).to_bytes(_LENGTH_NBYTES, "little")
                    file.write(length + _checksum(length))
                    file.write(record)
                    file.write(_checksum(record))
        return Written((name,))


def _checksum(data: bytes) -> bytes:
    return masked_crc32c(data).to_bytes(_CHECKSUM_NBYTES, "little")
