"""Checks of the images of one split: checksums, headers, pixels, and the source."""

from __future__ import annotations

from collections import deque
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore._checksum import crc32c
from arraystore._threads import n_cpus
from arraystore.errors import escaped
from arraystore.images.decode import decode, import_decoders
from arraystore.images.probe import probe
from arraystore.parallel.executors import Workers, in_order
from arraystore.reading.read_ahead import ahead
from arraystore.reading.stored_split import StoredSplit
from arraystore.schema import PAYLOAD
from arraystore.storage.range_reader import read_elements
from arraystore.verifying.columns import Columns
from arraystore.verifying.problems import Findings, Problem
from arraystore.verifying.read_errors import READ_ERRORS, is_access_error

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from arraystore.indexing.byte_range import ChunkManifest
    from arraystore.reading.store_handle import StoreHandle
    from arraystore.storage.file_bytes import FileBytes
    from arraystore.storage.range_reader import RangeReader
    from arraystore.verifying.source import SourceCheck
    from arraystore.writing.progress import Meter

WINDOW_NBYTES: Final = 4 * 2**20
"""Bytes that a thread reads at a time."""

BLOCK_NBYTES: Final = 64 * 2**20
"""Bytes of images that a worker of an executor checks at a time."""

_USED: Final[tuple[str, ...]] = ("file_name", "image_height", "image_width", "image_crc32c")
"""The columns that images are compared with."""

WHOLE_NBYTES: Final = 256 * 2**20
"""Larger images are read in pieces, and only their checksum is compared."""


@dataclass(frozen=True, slots=True)
class ImagesCheck:
    """Checks the images of one split.

    Attributes
    ----------
    reader : RangeReader
        Reads the payload.
    manifest : ChunkManifest
        Places of the payload's chunks.
    columns : Columns
        Columns of the split.
    split : str
        Name of the split.
    missing : frozenset of str
        Objects that are known to be missing.
    decode : bool
        Whether to decode each image.
    source : SourceCheck or None
        Compares each image with the source.
    """

    reader: RangeReader
    manifest: ChunkManifest
    columns: Columns
    split: str
    missing: frozenset[str]
    decode: bool
    source: SourceCheck | None

    def run(self, findings: Findings, meter: Meter, n_threads: int) -> None:
        """Read every image once, in the order of the payload.

        At most 2 windows per thread are in memory.

        Parameters
        ----------
        findings : Findings
            Receives the problems, in the order of the samples.
        meter : Meter
            Is advanced after every window.
        n_threads : int
            Number of windows that are checked in parallel.
        """
        size = self.columns.nbytes
        checked = ahead(
            self._windows(WINDOW_NBYTES),
            lambda rows: (rows, self._problems(*rows)),
            n_ahead=2 * n_threads,
            n_threads=n_threads,
            prepare=import_decoders,
        )
        for (first, last), problems in checked:
            deque(map(findings.add, problems), maxlen=0)
            meter.advance(last - first, int(size[first:last].sum()))

    def run_in(
        self, executor: Executor, store: StoreHandle, findings: Findings, meter: Meter
    ) -> None:
        """Let the workers of an executor read every image.

        Parameters
        ----------
        executor : concurrent.futures.Executor
        store : StoreHandle
            What the workers open. Its payload is complete.
        findings, meter
            See `run`.
        """
        runs = self._windows(BLOCK_NBYTES)
        tasks = (((number, rows), self._block(store, *rows)) for number, rows in enumerate(runs))
        size = self.columns.nbytes
        with (
            Workers(executor, n_threads=n_cpus(), max_in_flight=2 * n_cpus()) as workers,
            closing(workers.run(_check, tasks)) as results,
        ):
            numbered = ((number, (rows, problems)) for (number, rows), problems in results)
            for (first, last), problems in in_order(numbered):
                deque(map(findings.add, problems), maxlen=0)
                meter.advance(last - first, int(size[first:last].sum()))

    def _block(self, store: StoreHandle, first: int, last: int) -> _Block:
        rows, known = slice(first, last), self.columns
        values = {name: known.values[name][rows] for name in _USED if name in known.values}
        columns = Columns(values, known.start[rows], known.nbytes[rows])
        names = [columns.name(i) for i in range(last - first)]
        source = None if self.source is None else self.source.part(names)
        return _Block(store, first, columns, self.split, self.decode, source)

    def _windows(self, most: int) -> Generator[tuple[int, int]]:
        """Divide the samples into runs of about `most` bytes."""
        first, total = 0, 0
        sizes = self.columns.nbytes.tolist()
        for i, nbytes in enumerate(sizes):
            if total and total + nbytes > most:
                yield first, i
                first, total = i, 0
            total += nbytes
        if first < len(sizes):
            yield first, len(sizes)

    def _problems(self, first: int, last: int) -> list[Problem]:
        if last - first == 1 and self.columns.nbytes[first] > WHOLE_NBYTES:
            return self._problems_of_large(first)
        try:
            images = self._read(np.arange(first, last))
        except READ_ERRORS as error:
            if last - first > 1:  # find out which image fails
                return [p for i in range(first, last) for p in self._problems(i, i + 1)]
            if is_access_error(error, is_remote=self.reader.is_remote):
                raise
            return [self._problem(first, f"cannot be read: {error}")]
        names = (self.columns.name(i) for i in range(first, last))
        files = None if self.source is None else self.source.reader(names)
        found = ((i, self._fault(i, data, files)) for i, data in enumerate(images, first))
        return [self._problem(i, fault) for i, fault in found if fault]

    def _read(self, positions: NDArray[np.int64]) -> list[memoryview]:
        start, nbytes = self.columns.start[positions], self.columns.nbytes[positions]
        if self.missing:
            objects = set(self.manifest.locate(start, nbytes).object.tolist())
            missing = self.missing & {self.manifest.keys[index] for index in objects}
            if missing:
                raise FileNotFoundError(escaped(f"{min(missing)} is missing"))
        return read_elements(self.reader, self.manifest, start, nbytes)

    def _problems_of_large(self, i: int) -> list[Problem]:
        """Read an image in pieces, and compare its checksum."""
        start, size, value = int(self.columns.start[i]), int(self.columns.nbytes[i]), 0
        try:
            for offset in range(0, size, WINDOW_NBYTES):
                length = min(WINDOW_NBYTES, size - offset)
                bounds = np.array([start + offset]), np.array([length])
                (piece,) = read_elements(self.reader, self.manifest, *bounds)
                value = crc32c(piece, value)
        except READ_ERRORS as error:
            if is_access_error(error, is_remote=self.reader.is_remote):
                raise
            return [self._problem(i, f"cannot be read: {error}")]
        fault = self._checksum_fault(i, value)
        return [self._problem(i, fault)] if fault else []

    def _fault(self, i: int, data: memoryview, files: FileBytes | None) -> str:
        """Return the fault of an image; empty if there is none."""
        fault = self._checksum_fault(i, crc32c(data))
        if fault and self.reader.is_remote:  # the transfer may have failed, so read it again
            (data,) = self._read(np.array([i]))
            fault = self._checksum_fault(i, crc32c(data))
        if fault:
            return fault
        try:
            header = probe(lambda start, stop: data[start:stop], len(data))
            shape = decode(data).shape[:2] if self.decode else None
        except ValueError as error:
            return str(error)
        stated = tuple(self._value(name, i) for name in ("image_height", "image_width"))
        for part, found in (("header", (header.height, header.width)), ("pixels", shape)):
            triples = zip(("height", "width"), stated, found or (), strict=False)
            for name, expected, got in triples:
                if expected is not None and expected != got:
                    return f"image_{name} is {expected}, the image's {part} has {got}"
        if self.source is None or files is None:
            return ""
        return self.source.fault(self.columns.name(i), data, files)

    def _checksum_fault(self, i: int, found: int) -> str:
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
        """Yield the keys of the objects that contain an image."""
        start, nbytes = self.columns.start[[i]], self.columns.nbytes[[i]]
        for index in dict.fromkeys(self.manifest.locate(start, nbytes).object.tolist()):
            yield self.manifest.keys[index]


@dataclass(frozen=True, slots=True)
class _Block:
    """Images that a worker checks.

    Attributes
    ----------
    store : StoreHandle
    first : int
        Position of the first of them.
    columns : Columns
        Of these images.
    split, decode, source
        See `ImagesCheck`.
    """

    store: StoreHandle
    first: int
    columns: Columns
    split: str
    decode: bool
    source: SourceCheck | None


def _check(block: _Block) -> list[Problem]:
    """Return the problems of some images, after opening the store that they are in."""
    import_decoders()
    references = StoredSplit(block.store, block.split).references
    if references is None:
        path = f"{block.split}/{PAYLOAD}"
        reader, manifest = block.store.reader, block.store.container.manifest(path)
    else:
        reader, manifest = references.reader, references.payload
    check = ImagesCheck(
        reader, manifest, block.columns, block.split, frozenset(), block.decode, block.source
    )
    found = (
        problem for rows in check._windows(WINDOW_NBYTES) for problem in check._problems(*rows)
    )
    return [
        p if p.position is None else replace(p, position=p.position + block.first) for p in found
    ]
