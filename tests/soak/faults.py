"""Part of `make soak`: reads that fail sometimes give right data or a documented error."""

from __future__ import annotations

import errno
import random
import traceback
from collections import Counter
from typing import TYPE_CHECKING, ClassVar, Final
from unittest import mock

from typing_extensions import override

from arraystore.storage.range_reader import LocalReader
from tests.soak.fuzzing import HangError, time_limit
from tests.soak.judge import only_documented, use, whole_store
from tests.support import SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from arraystore.indexing.byte_range import ByteRange

READS: Final = 100
KINDS: Final = ("error", "short", "zeros", "flipped")


class FailingReader(LocalReader):
    """A reader that sometimes fails, returns too few bytes, or returns wrong bytes."""

    choose = random.Random(0)
    faults: ClassVar[Counter[str]] = Counter()
    kinds: tuple[str, ...] = KINDS

    @override
    def read_ranges(self, ranges: Sequence[ByteRange]) -> list[memoryview]:
        found = super().read_ranges(ranges)
        return [self._fail(*pair) for pair in zip(found, ranges, strict=True)]

    def _fail(self, data: memoryview, wanted: ByteRange) -> memoryview:
        # Most reads are of metadata and columns; failures of images are to be tested as well.
        probability = 0.3 if "payload" in wanted.key else 0.02
        if not len(data) or self.choose.random() > probability:
            return data
        kind = self.choose.choice(self.kinds)
        self.faults[kind] += 1
        offset = self.choose.randrange(len(data))
        if kind == "error":
            raise OSError(errno.EIO, "Input/output error")
        if kind == "short":
            return data[:offset]
        changed = bytearray(data)
        if kind == "zeros":
            changed[offset:] = bytes(len(data) - offset)
        else:
            changed[offset] ^= 1 << self.choose.randrange(8)
        return memoryview(changed)


def run(seed: int, n_reads: int = READS) -> Counter[str]:
    """Read stores through failing readers, and return counts of stores and failures."""
    FailingReader.choose, FailingReader.faults = random.Random(seed), Counter()
    counts: Counter[str] = Counter()
    for number in range(n_reads):
        suffix = SUFFIXES[number % 2]
        # libhdf5 trusts the bytes of a file; the part `hostile_hdf5` gives it wrong ones.
        FailingReader.kinds = KINDS if suffix == ".zarr" else KINDS[:2]
        path = whole_store(suffix)
        try:
            with mock.patch("arraystore.containers.open_container.LocalReader", FailingReader):
                _read(path)
        except (Exception, HangError):  # noqa: BLE001 - counted as wrong
            traceback.print_exc()
            counts["WRONG"] += 1
        counts["stores read"] += 1
    return counts + FailingReader.faults


def _read(path: Path) -> None:
    try:
        with time_limit(), only_documented():
            use(path)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
