"""ArrayRecord files as TensorFlow Datasets writes them, for random access with Grain."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Final

from typing_extensions import override

from arraystore._arguments import need
from arraystore.exporting.tfds_examples import TFDSExamples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from arraystore.exporting.contents import Contents

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
    @contextmanager
    def writer(self, path: Path) -> Iterator[Callable[[bytes], object]]:
        writer = self._module.ArrayRecordWriter(str(path), _OPTIONS)
        try:
            yield writer.write
        finally:
            writer.close()
