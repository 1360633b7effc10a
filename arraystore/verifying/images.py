"""The images of one split: checksums, headers, pixels, and what they were made from."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from arraystore._checksum import crc32c
from arraystore.errors import escaped
from arraystore.images.decode import decode, import_decoders
from arraystore.images.probe import probe
from arraystore.reading.read_ahead import ahead
from arraystore.storage.range_reader import read_elements
from arraystore.verifying.problems import Findings, Problem
from arraystore.verifying.read_errors import READING, is_not_of_the_store

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from numpy.typing import NDArray

    from arraystore.indexing.byte_range import ChunkManifest
    from arraystore.storage.range_reader import RangeReader
    from arraystore.verifying.columns import Columns
    from arraystore.writing.progress import Meter

WINDOW_NBYTES: Final = 4 * 2**20
"""Bytes of images that a thread reads at a time."""

WHOLE_NBYTES: Final = 256 * 2**20
"""Larger images are read in pieces for their checksum, and not looked into."""


class Origin(Protocol):
    """What the images of a split were made from."""

    def fault(self, name: str, data: memoryview) -> str:
        """Say in what an image differs from its source; nothing if it does not."""
        ...


@dataclass(frozen=True, slots=True)
class ImagesCheck:
    """Checks the images of one split.

    Attributes
    ----------
    reader : RangeReader
        What reads the payload.
    manifest : ChunkManifest
        Where in it.
    columns : Columns
        What is known of each image.
    split : str
        Its name.
    missing : frozenset of str
        Objects that are known not to be there.
    decode : bool
        Whether to decode each image.
    origin : Origin or None
        What to compare each image with.
    """

    reader: RangeReader
    manifest: ChunkManifest
    columns: Columns
    split: str
    missing: frozenset[str]
    decode: bool
    origin: Origin | None

    def run(self, findings: Findings, meter: Meter, n_threads: int) -> None:
        """Read every image once, in the order of the payload; at most 2 windows a thread are held.

        Parameters
        ----------
        findings : Findings
            Given what is wrong, in the order of the samples.
        meter : Meter
            Told of every window.
        n_threads : int
            Windows that are worked on at the same time.
        """
        size = self.columns.nbytes
        checked = ahead(
            self._windows(),
            lambda rows: (rows, self._problems(*rows)),
            n_ahead=2 * n_threads,
            n_threads=n_threads,
            prepare=import_decoders,
        )
        for (first, last), problems in checked:
            deque(map(findings.add, problems), maxlen=0)
            meter.advance(last - first, int(size[first:last].sum()))

    def _windows(self) -> Generator[tuple[int, int]]:
        """Divide the samples into runs of about `WINDOW_NBYTES`."""
        first, held = 0, 0
        sizes = self.columns.nbytes.tolist()
        for i, nbytes in enumerate(sizes):
            if held and held + nbytes > WINDOW_NBYTES:
                yield first, i
                first, held = i, 0
            held += nbytes
        if first < len(sizes):
            yield first, len(sizes)

    def _problems(self, first: int, last: int) -> list[Problem]:
        if last - first == 1 and self.columns.nbytes[first] > WHOLE_NBYTES:
            return self._of_large(first)
        try:
            images = self._read(np.arange(first, last))
        except READING as error:
            if last - first > 1:  # to see which of them it is
                return [p for i in range(first, last) for p in self._problems(i, i + 1)]
            if is_not_of_the_store(error, is_remote=self.reader.is_remote):
                raise
            return [self._problem(first, f"cannot be read: {error}")]
        found = ((i, self._fault(i, data)) for i, data in enumerate(images, first))
        return [self._problem(i, fault) for i, fault in found if fault]

    def _read(self, positions: NDArray[np.int64]) -> list[memoryview]:
        start, nbytes = self.columns.start[positions], self.columns.nbytes[positions]
        if self.missing:
            objects = set(self.manifest.locate(start, nbytes).object.tolist())
            gone = self.missing & {self.manifest.keys[index] for index in objects}
            if gone:
                raise FileNotFoundError(escaped(f"{min(gone)} is missing"))
        return read_elements(self.reader, self.manifest, start, nbytes)

    def _of_large(self, i: int) -> list[Problem]:
        """Compare the checksum of an image that is read in pieces."""
        start, size, value = int(self.columns.start[i]), int(self.columns.nbytes[i]), 0
        try:
            for at in range(0, size, WINDOW_NBYTES):
                where = np.array([start + at]), np.array([min(WINDOW_NBYTES, size - at)])
                (piece,) = read_elements(self.reader, self.manifest, *where)
                value = crc32c(piece, value)
        except READING as error:
            if is_not_of_the_store(error, is_remote=self.reader.is_remote):
                raise
            return [self._problem(i, f"cannot be read: {error}")]
        fault = self._wrong_checksum(i, value)
        return [self._problem(i, fault)] if fault else []

    def _fault(self, i: int, data: memoryview) -> str:
        """Say what is wrong with an image; nothing if it is right."""
        fault = self._wrong_checksum(i, crc32c(data))
        if fault and self.reader.is_remote:  # it may have been the way, not the store
            (data,) = self._read(np.array([i]))
            fault = self._wrong_checksum(i, crc32c(data))
        if fault:
            return fault
        try:
            header = probe(lambda start, stop: data[start:stop], len(data))
            shape = decode(data).shape[:2] if self.decode else None
        except ValueError as error:
            return str(error)
        stated = tuple(self._value(name, i) for name in ("image_height", "image_width"))
        for what, found in (("header", (header.height, header.width)), ("pixels", shape)):
            pairs = zip(("height", "width"), stated, found or (), strict=False)
            for name, expected, got in pairs:
                if expected is not None and expected != got:
                    return f"image_{name} is {expected}, the image's {what} has {got}"
        return self.origin.fault(self.columns.name(i), data) if self.origin else ""

    def _wrong_checksum(self, i: int, found: int) -> str:
        expected = self._value("image_crc32c", i)
        if expected is None or expected == found:
            return ""
        return f"crc32c must be {expected:#010x}, got {found:#010x}; the stored bytes are damaged"

    def _value(self, column: str, i: int) -> Any:
        values = self.columns.values.get(column)
        return None if values is None else values[i].item()

    def _problem(self, i: int, message: str) -> Problem:
        return Problem(message, self.split, i, self.columns.name(i), ", ".join(self._keys(i)))

    def _keys(self, i: int) -> Iterator[str]:
        """Yield the objects that an image lies in."""
        where = self.columns.start[[i]], self.columns.nbytes[[i]]
        for index in dict.fromkeys(self.manifest.locate(*where).object.tolist()):
            yield self.manifest.keys[index]
