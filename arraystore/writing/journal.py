"""The journal of an unfinished store: its fingerprint and its finished blocks.

Each line is JSON, behind its CRC-32C. The first torn line ends the journal::

    8c2f0a3e {"option": {"order": "shuffled", …}, "source": {…}, …}
    51b0c7d2 [["train", 0, 67108864, "checksums of the images that begin in it"]]

The first line holds the fingerprint. Each further line is written when the block it names is on the
disk. (`arraystore.writing.lock_object` keeps the same lines in a bucket.)

A line with a correct checksum is still untrusted: every value is checked before it is used.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple, Self

import numpy as np

from arraystore._checksum import crc32c
from arraystore.errors import FormatError, brief
from arraystore.schema import MAX_NBYTES, parse_json
from arraystore.storage.fsync import sync_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from arraystore._typing import Checksums

    Fingerprint = Mapping[str, Mapping[str, str]]
    """All that the bytes of a store depend on, as text, by part and name."""

IDENTITY: Final = "identity"
"""The part of a fingerprint that may differ in a resumed run: status change times and inodes.

They also change with permissions and names. If they differ, the recorded blocks are compared with
the source.
"""

IMAGES: Final = "plan"
"""The part of a fingerprint that describes samples; a change in it is a `SourceChangedError`."""

PART: Final = "part"
"""The part of a fingerprint that has the name of the group which an append in a bucket writes."""

SOURCE: Final = "source"
"""The part of a fingerprint that describes files; a change in it is a `SourceChangedError`."""

GROUP_NBYTES: Final = 2**29
"""Bytes of blocks that are synced and recorded together."""

_PREFIX: Final = 9
"""Length of a line's checksum in hexadecimal digits and of the space behind it."""


class BlockKey(NamedTuple):
    """The bytes ``[start, stop)`` of the payload of a split."""

    split: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """The contents of a journal.

    Attributes
    ----------
    fingerprint : mapping of str to mapping of str to str
    blocks : dict of BlockKey to ndarray of uint32
        Blocks that are on the disk, with the checksums of the images that begin in each.
    nbytes : int
        Length of the valid lines; a torn line may follow.
    """

    fingerprint: Fingerprint
    blocks: dict[BlockKey, Checksums]
    nbytes: int


def read_journal(path: Path) -> Recorded | None:
    """Return the contents of a journal, or None if it has no complete line or does not exist.

    Raises
    ------
    FormatError
        If a line that is not torn holds anything other than a fingerprint, or a block.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        lines = whole_lines(file, str(path))  # one at a time: they take 8 bytes per sample
        first = next(lines, None)
        if first is None:
            return None
        fingerprint, nbytes = first
        blocks: dict[BlockKey, Checksums] = {}
        for group, stop in lines:
            blocks |= {key: checksums for key, checksums, _ in blocks_of(group, str(path))}
            nbytes = stop
    return Recorded(fingerprint_of(fingerprint, str(path)), blocks, nbytes)


def fingerprint_of(value: Any, location: str) -> Fingerprint:
    """Return a value as a fingerprint.

    Raises
    ------
    FormatError
        If it is not one.
    """
    parts = value.values() if isinstance(value, dict) else [value]
    if not all(
        isinstance(part, dict) and all(isinstance(text, str) for text in part.values())
        for part in parts
    ):
        raise FormatError(f"{location}: must begin with a fingerprint, got {brief(value)}")
    fingerprint: Fingerprint = value
    return fingerprint


def blocks_of(
    group: Any, location: str, *, n_texts: int = 0
) -> Iterator[tuple[BlockKey, Checksums, list[str]]]:
    """Yield the blocks that a line records, each with its checksums and `n_texts` texts.

    Raises
    ------
    FormatError
        If the line records anything else.
    """
    for entry in group if isinstance(group, list) else [group]:
        block = _block(entry, n_texts)
        if block is None:
            raise FormatError(f"{location}: must record a block, got {brief(entry)}")
        yield block


def _block(entry: Any, n_texts: int) -> tuple[BlockKey, Checksums, list[str]] | None:
    kinds = [str, int, int, str, *[str] * n_texts]
    if not isinstance(entry, list) or [type(value) for value in entry] != kinds:
        return None
    split, start, stop, checksums, *texts = entry
    if not 0 <= start <= stop < 2**63:
        return None
    try:
        return BlockKey(split, start, stop), from_text(checksums), texts
    except ValueError:
        return None


def as_text(checksums: Checksums) -> str:
    """Return checksums as text of a line.

    Examples
    --------
    >>> as_text(np.array([1, 2**32 - 1], np.uint32))
    '01000000ffffffff'
    """
    return checksums.astype("<u4").tobytes().hex()


def from_text(text: str) -> Checksums:
    """Return the checksums in the text of a line."""
    return np.frombuffer(bytes.fromhex(text), "<u4").astype(np.uint32)


def as_line(value: Any) -> bytes:
    """Return plain values as a line of a journal."""
    text = json.dumps(value, ensure_ascii=True).encode()
    return _checksum(text) + text + b"\n"


def whole_lines(file: BinaryIO, location: str) -> Iterator[tuple[Any, int]]:
    """Yield the value and the end offset of each line before the first torn one.

    Parameters
    ----------
    file : binary file
    location : str
        Its path or address, for messages.

    Raises
    ------
    FormatError
        If a line is longer than any that arraystore writes, or is not JSON.
    """
    stop = 0
    for number in count(1):
        line = file.readline(MAX_NBYTES + 1)
        if len(line) > MAX_NBYTES:
            raise FormatError(f"{location}: line {number} has more than {MAX_NBYTES} bytes")
        text = line[_PREFIX:-1]
        if not line.endswith(b"\n") or line[:_PREFIX] != _checksum(text):
            return
        stop += len(line)
        try:
            value = parse_json(text)
        except ValueError as error:
            raise FormatError(f"{location}: line {number} must be JSON: {error}") from None
        yield value, stop


def _checksum(text: bytes) -> bytes:
    return f"{crc32c(text):08x} ".encode()


class JournalWriter:
    """Sync blocks and record them afterwards, in a separate thread.

    Parameters
    ----------
    path : Path
        The journal.
    nbytes : int
        Length of its valid lines; the rest is cut off.
    """

    def __init__(self, path: Path, nbytes: int = 0) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o644)
        os.ftruncate(self._fd, nbytes)
        self._pool = ThreadPoolExecutor(1)
        self._recording: list[Future[None]] = []
        self._waiting: dict[BlockKey, tuple[Checksums, tuple[Path, ...]]] = {}
        self._waiting_nbytes = 0

    @classmethod
    def begin(cls, path: Path, fingerprint: Fingerprint) -> Self:
        """Begin a journal, and wait until it is on the disk."""
        journal = cls(path)
        try:
            journal._append(fingerprint)
            sync_path(path.parent)
        except BaseException:
            journal.cancel()
            raise
        return journal

    def add(self, key: BlockKey, checksums: Checksums, files: Iterable[Path]) -> None:
        """Record a block that was written to some files, together with further ones.

        Raises
        ------
        OSError
            If an earlier block could not be recorded.
        """
        self._check()
        self._waiting[key] = checksums, tuple(files)
        self._waiting_nbytes += key.stop - key.start
        if self._waiting_nbytes >= GROUP_NBYTES:
            self.flush()

    def flush(self) -> None:
        """Start to record all blocks added so far."""
        if self._waiting:
            self._recording.append(self._pool.submit(self._record, self._waiting))
        self._waiting, self._waiting_nbytes = {}, 0

    def close(self) -> None:
        """Wait until all blocks are recorded.

        Raises
        ------
        OSError
            If one could not be recorded.
        """
        self.flush()
        self._pool.shutdown()
        os.close(self._fd)
        self._check()

    def cancel(self) -> None:
        """Record no further blocks."""
        self._pool.shutdown(cancel_futures=True)
        os.close(self._fd)

    def _check(self) -> None:
        while self._recording and self._recording[0].done():
            self._recording.pop(0).result()

    def _record(self, group: dict[BlockKey, tuple[Checksums, tuple[Path, ...]]]) -> None:
        for file in dict.fromkeys(file for _, files in group.values() for file in files):
            sync_path(file)
        self._append(*([[*key, as_text(values)]] for key, (values, _) in group.items()))

    def _append(self, *lines: Any) -> None:
        for value in lines:
            line = memoryview(as_line(value))
            while line:
                line = line[os.write(self._fd, line) :]
        os.fsync(self._fd)
