"""What several test files need."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import override

from arraystore.drawn import encode
from arraystore.storage import RangeReader

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from arraystore.byterange import ByteRange
    from arraystore.split import Split

SUFFIXES = (".zarr", ".h5")


class CountingReader(RangeReader):
    """Pass reads on, and note them."""

    def __init__(self, inner: RangeReader) -> None:
        self.is_remote = inner.is_remote
        self.max_gap = inner.max_gap
        self._inner = inner
        self.ranges: list[ByteRange] = []

    @override
    def size(self, key: str) -> int:
        return self._inner.size(key)

    @override
    def read_ranges(self, ranges: Sequence[ByteRange]) -> list[memoryview]:
        self.ranges += ranges
        return self._inner.read_ranges(ranges)

    @override
    def read_objects(self, keys: Sequence[str]) -> list[memoryview]:
        return self._inner.read_objects(keys)

    @property
    def nbytes(self) -> int:
        """Bytes asked for so far."""
        return sum(wanted.nbytes for wanted in self.ranges)


def count_reads(split: Split) -> CountingReader:
    """Let the reads of images of a split with one part go through a counter, from now on.

    Columns and the chunk manifest are loaded first, so that only images are counted.
    """
    (part,) = split._parts
    stored = part.stored
    _ = stored._manifest, stored._ranges, stored.column("image_crc32c"), split.file_name
    counting = CountingReader(stored._reader)
    stored._reader = counting
    return counting


def picture(height: int = 12, width: int = 16, seed: int = 0) -> bytes:
    """Return a small JPEG of noise."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    return encode(Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)))


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write files, by their paths below a folder."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder
