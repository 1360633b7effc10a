"""TFRecord files as TensorFlow Datasets writes them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Final

from typing_extensions import override

from arraystore.exporting.tfds_examples import TFDSExamples
from arraystore.sources.tfrecord import masked_crc32c

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_LENGTH_NBYTES: Final = 8
_CHECKSUM_NBYTES: Final = 4


class TFRecord(TFDSExamples):
    """Shards are ``DATASET-SPLIT.tfrecord-00000-of-0000N``."""

    file_format: ClassVar[str] = "tfrecord"

    @override
    @contextmanager
    def writer(self, path: Path) -> Iterator[Callable[[bytes], object]]:
        with path.open("wb") as file:

            def append(record: bytes) -> None:
                length = len(record).to_bytes(_LENGTH_NBYTES, "little")
                file.write(length + _checksum(length))
                file.write(record)
                file.write(_checksum(record))

            yield append


def _checksum(data: bytes) -> bytes:
    return masked_crc32c(data).to_bytes(_CHECKSUM_NBYTES, "little")
