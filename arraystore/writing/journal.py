"""Which blocks of an unfinished store are finished, and of what plan they are.

Lines of JSON behind the CRC-32C of what follows it; the first that is torn ends the journal::

    8c2f0a3e {"option": {"order": "shuffled", …}, "source": {…}, …}
    51b0c7d2 [["train", 0, 67108864, "checksums of the images that begin in it"]]

The first holds the plan. Each of the others is written when the disk has the block it names.
(`arraystore.writing.lock_object` keeps the same lines in a bucket.)

A line of which the checksum is right may still hold anything: nothing in it is used unchecked.
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

    Plan = Mapping[str, Mapping[str, str]]

IDENTITY: Final = "identity"
"""The part of a plan that may differ when a store is resumed: status change times and inodes.

They change with permissions and names too. So the recorded blocks are then compared with the
source.
"""

GROUP_NBYTES: Final = 2**29
"""Bytes of blocks that are synced and recorded together."""

_PREFIX: Final = 9
"""Length of a line's checksum, in hexadecimal digits, and the space behind it."""


class BlockKey(NamedTuple):
    """Names a block: the bytes ``[start, stop)`` of the payload of a split."""

    split: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a journal tells.

    Attributes
    ----------
    plan : mapping of str to mapping of str to str
        What was converted, and how.
    blocks : dict of BlockKey to ndarray of uint32
        Blocks that are on the disk; checksums of the images that begin in each.
    nbytes : int
        Length of what could be read; a torn line may follow.
    """

    plan: Plan
    blocks: dict[BlockKey, Checksums]
    nbytes: int


def read_journal(path: Path) -> Recorded | None:
    """Return what a journal records, or None if there is none, or not even its plan in it.

    Raises
    ------
    FormatError
        If a line that is not torn holds anything else than a plan, or a block.
    """
    try:
        with path.open("rb") as file:
            lines = list(whole_lines(file, str(path)))
    except FileNotFoundError:
        return None
    if not lines:
        return None
    (plan, _), *groups = lines
    blocks = {
        key: checksums
        for group, _ in groups
        for key, checksums, _ in blocks_of(group, where=str(path))
    }
    return Recorded(plan=plan_of(plan, where=str(path)), blocks=blocks, nbytes=lines[-1][1])


def plan_of(value: Any, *, where: str) -> Plan:
    """Return a value as a plan.

    Raises
    ------
    FormatError
        If it is none.
    """
    parts = value.values() if isinstance(value, dict) else [value]
    if not all(
        isinstance(part, dict) and all(isinstance(text, str) for text in part.values())
        for part in parts
    ):
        raise FormatError(f"{where}: must begin with a plan, got {brief(value)}")
    plan: Plan = value
    return plan


def blocks_of(
    group: Any, *, where: str, n_texts: int = 0
) -> Iterator[tuple[BlockKey, Checksums, list[str]]]:
    """Yield the blocks that a line records: each with checksums, and so many texts.

    Raises
    ------
    FormatError
        If it records anything else.
    """
    for entry in group if isinstance(group, list) else [group]:
        block = _block(entry, n_texts)
        if block is None:
            raise FormatError(f"{where}: must record a block, got {brief(entry)}")
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
    """Return checksums as a line holds them.

    Examples
    --------
    >>> as_text(np.array([1, 2**32 - 1], np.uint32))
    '01000000ffffffff'
    """
    return checksums.astype("<u4").tobytes().hex()


def from_text(text: str) -> Checksums:
    """Return the checksums that a line holds."""
    return np.frombuffer(bytes.fromhex(text), "<u4").astype(np.uint32)


def as_line(what: Any) -> bytes:
    """Return plain values as a line of a journal."""
    text = json.dumps(what, ensure_ascii=True).encode()
    return _checksum(text) + text + b"\n"


def whole_lines(file: BinaryIO, where: str) -> Iterator[tuple[Any, int]]:
    """Yield what each line holds and where it ends, up to the first that is torn.

    Parameters
    ----------
    file : binary file
    where : str
        Its path or address, for messages.

    Raises
    ------
    FormatError
        If a line is longer than any that is written, or holds no JSON.
    """
    stop = 0
    for number in count(1):
        line = file.readline(MAX_NBYTES + 1)
        if len(line) > MAX_NBYTES:
            raise FormatError(f"{where}: line {number} has more than {MAX_NBYTES} bytes")
        text = line[_PREFIX:-1]
        if not line.endswith(b"\n") or line[:_PREFIX] != _checksum(text):
            return
        stop += len(line)
        try:
            value = parse_json(text)
        except ValueError as error:
            raise FormatError(f"{where}: line {number} must be JSON: {error}") from None
        yield value, stop


def _checksum(text: bytes) -> bytes:
    return f"{crc32c(text):08x} ".encode()


class JournalWriter:
    """Records blocks when the disk has them, in a thread of its own.

    Parameters
    ----------
    path : Path
        The journal.
    nbytes : int
        Length of what is right in it; the rest is cut off.
    """

    def __init__(self, path: Path, nbytes: int = 0) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o644)
        os.ftruncate(self._fd, nbytes)
        self._pool = ThreadPoolExecutor(1)
        self._handed_over: list[Future[None]] = []
        self._waiting: dict[BlockKey, tuple[Checksums, tuple[Path, ...]]] = {}
        self._waiting_nbytes = 0

    @classmethod
    def begin(cls, path: Path, plan: Plan) -> Self:
        """Begin a journal, and wait until the disk has it."""
        journal = cls(path)
        try:
            journal._append(plan)
            sync_path(path.parent)
        except BaseException:
            journal.give_up()
            raise
        return journal

    def add(self, key: BlockKey, checksums: Checksums, files: Iterable[Path]) -> None:
        """Record a block, soon, that was written to some files.

        Raises
        ------
        OSError
            If an earlier one could not be.
        """
        self._check()
        self._waiting[key] = checksums, tuple(files)
        self._waiting_nbytes += key.stop - key.start
        if self._waiting_nbytes >= GROUP_NBYTES:
            self.flush()

    def flush(self) -> None:
        """Begin to record what waits for others to be recorded with."""
        if self._waiting:
            self._handed_over.append(self._pool.submit(self._record, self._waiting))
        self._waiting, self._waiting_nbytes = {}, 0

    def close(self) -> None:
        """Wait until all is recorded.

        Raises
        ------
        OSError
            If something could not be.
        """
        self.flush()
        self._pool.shutdown()
        os.close(self._fd)
        self._check()

    def give_up(self) -> None:
        """Record no more."""
        self._pool.shutdown(cancel_futures=True)
        os.close(self._fd)

    def _check(self) -> None:
        while self._handed_over and self._handed_over[0].done():
            self._handed_over.pop(0).result()

    def _record(self, group: dict[BlockKey, tuple[Checksums, tuple[Path, ...]]]) -> None:
        for file in dict.fromkeys(file for _, files in group.values() for file in files):
            sync_path(file)
        self._append(*([[*key, as_text(values)]] for key, (values, _) in group.items()))

    def _append(self, *lines: Any) -> None:
        for what in lines:
            line = memoryview(as_line(what))
            while line:
                line = line[os.write(self._fd, line) :]
        os.fsync(self._fd)
