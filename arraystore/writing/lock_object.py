"""The lock object of a store in a bucket: owner, fingerprint and journal in one object beside it.

It holds the same lines as a journal on a disk (`arraystore.writing.journal`) and is replaced as a
whole::

    8c2f0a3e {"owner": "5f0c…", "is_left": false, "root": "", "plan": {"option": {…}, …}}
    51b0c7d2 [["train", 0, 67108864, "checksums of the images that begin in it", "its etag"]]

Each write is conditional on the version that this process wrote last. So a process detects that
another one has taken the lock over. A recorded block counts only if its object still has the
recorded ETag.
"""

from __future__ import annotations

import os
from hashlib import sha256
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from arraystore.errors import FormatError, StorageError
from arraystore.storage.objects.writer import MAX_READ_NBYTES
from arraystore.writing.journal import (
    PART,
    as_line,
    as_text,
    blocks_of,
    fingerprint_of,
    whole_lines,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from arraystore._typing import Checksums
    from arraystore.storage.objects.writer import Found, ObjectWriter, Version
    from arraystore.writing.journal import BlockKey, Fingerprint

_WORTH: Final = 50
"""The object is rewritten when it weighs at most 1/50 of the blocks that it does not record."""

_SEAL_NBYTES: Final = 2**7
"""Bytes by which the first line grows at the end."""

_UNKNOWN: Final[dict[str, Any]] = {"owner": "", "is_left": False, "root": "", "plan": None}


class Sent(NamedTuple):
    """A block in the bucket: checksums of the images that begin in it, and its ETag."""

    checksums: Checksums
    etag: str


class LockObject:
    """The lock on a target in a bucket.

    Parameters
    ----------
    objects : ObjectWriter
    key : str
        Key of the lock object.

    Attributes
    ----------
    key : str
    fingerprint : mapping of str to mapping of str to str, or None
        None until it is known.
    blocks : dict of BlockKey to Sent
        Blocks that need not be sent again.
    is_released : bool
        Whether its owner has stopped and released it.
    is_lost : bool
        Whether another process has taken it over from this one.
    existed : bool
        Whether another process created it.
    time : datetime or None
        When that process wrote it last.
    """

    def __init__(self, objects: ObjectWriter, key: str) -> None:
        self.key = key
        self.fingerprint: Fingerprint | None = None
        self.blocks: dict[BlockKey, Sent] = {}
        self.is_released = self.is_lost = self.existed = False
        self.time: datetime | None = None
        self._objects = objects
        self._owner = os.urandom(16).hex()
        self._root = ""
        self._lines: list[bytes] = []
        self._waiting_nbytes = 0
        self._nbytes = self._next_nbytes = 0
        self._version: Version | None = None
        if (found := objects.read(key)) is not None:
            self._adopt(found)

    @property
    def location(self) -> str:
        """Its address."""
        return self._objects.at(self.key)

    @property
    def part(self) -> str:
        """Name of the group that an append writes; empty if it is not the lock of an append."""
        return (self.fingerprint or {}).get(PART, {}).get("name", "")

    @property
    def is_resumable(self) -> bool:
        """Whether it records at least one block."""
        return self.fingerprint is not None and bool(self.blocks)

    def is_of(self, root: bytes) -> bool:
        """Whether the store with this root was published under this lock."""
        return self._root == _digest(root)

    def acquire(self) -> None:
        """Make this process the owner; the records stay as they are.

        Raises
        ------
        StorageError
            If another process was faster.
        """
        self.is_released = False
        self._write()

    def begin(self, fingerprint: Fingerprint | None, blocks: Mapping[BlockKey, Sent]) -> None:
        """Record the fingerprint and the blocks that exist already, and no other blocks."""
        self.fingerprint, self.blocks, self._root = fingerprint, dict(blocks), ""
        self._lines = [_line(key, sent) for key, sent in blocks.items()]
        self.flush()

    def add(self, key: BlockKey, sent: Sent) -> None:
        """Record a further block, perhaps together with later ones.

        Once the object has the size up to which it is read, further blocks are not recorded: a
        resumed conversion sends them again.

        Raises
        ------
        StorageError
            If another process has taken the lock over.
        """
        line = _line(key, sent)
        if self._next_nbytes + len(line) + _SEAL_NBYTES > MAX_READ_NBYTES:
            return
        self.blocks[key] = sent
        self._lines.append(line)
        self._next_nbytes += len(line)
        self._waiting_nbytes += key.stop - key.start
        if self._waiting_nbytes >= _WORTH * self._nbytes:
            self.flush()

    def flush(self) -> None:
        """Record all blocks added so far."""
        self._waiting_nbytes = 0
        self._write()

    def seal(self, root: bytes) -> None:
        """Record that only the root of the store is missing."""
        self._root = _digest(root)
        self.flush()

    def release(self) -> None:
        """Record that no process works on the target."""
        self.is_released = True
        self.flush()

    def check(self) -> None:
        """Raise `StorageError` if another process has taken the lock over."""
        if not self._is_ours():
            raise self._lost()

    def delete(self) -> None:
        """Delete the object, unless another process has taken it over."""
        if self._is_ours():
            self._objects.delete([self.key])

    def _write(self) -> None:
        head = {
            "owner": self._owner,
            "is_left": self.is_released,
            "root": self._root,
            "plan": self.fingerprint,
        }
        data = b"".join([as_line(head), *self._lines])
        self._nbytes = self._next_nbytes = len(data)
        while (version := self._put(data)) is None:
            before = self._version
            if not self._is_found_again() or self._version == before:
                raise self._lost()
        self._version = version

    def _put(self, data: bytes) -> Version | None:
        if self._version is not None:
            return self._objects.replace(self.key, data, self._version)
        try:
            return self._objects.create(self.key, data)
        except FileExistsError:
            return None

    def _is_ours(self) -> bool:
        status = self._objects.status(self.key)
        is_ours = status is not None and status.version == self._version
        return is_ours or self._is_found_again()

    def _is_found_again(self) -> bool:
        """Whether the object is ours in an unknown version, because a response was lost."""
        found = self._objects.read(self.key)
        self.is_lost = found is None or _head(found)["owner"] != self._owner
        if found is not None and not self.is_lost:
            self._version = found.version
        return not self.is_lost

    def _lost(self) -> StorageError:
        return StorageError(
            f"{self.location}: another process has begun, or taken over, a conversion to the same "
            "target; this one stops and leaves the target to it"
        )

    def _adopt(self, found: Found) -> None:
        """Take the records of an existing lock object; none if it is not understood."""
        self.existed, self.time, self._version = True, found.time, found.version
        head = _head(found)
        try:
            _, *groups = _lines(found) or [_UNKNOWN]
            blocks = [each for group in groups for each in blocks_of(group, "", n_texts=1)]
        except FormatError:
            head, groups, blocks = _UNKNOWN, [], []
        self.fingerprint, self._root = head["plan"], head["root"]
        self.is_released = head["is_left"]
        self.blocks = {key: Sent(checksums, etag) for key, checksums, (etag,) in blocks}
        self._lines = [as_line(group) for group in groups]


def _line(key: BlockKey, sent: Sent) -> bytes:
    return as_line([[*key, as_text(sent.checksums), sent.etag]])


def _lines(found: Found) -> list[Any]:
    return [value for value, _ in whole_lines(BytesIO(found.data), "")]


def _head(found: Found) -> dict[str, Any]:
    """Return the first line of a lock object, or `_UNKNOWN` if arraystore did not write it."""
    try:
        head = next(whole_lines(BytesIO(found.data), ""), (_UNKNOWN, 0))[0]
        kinds = {name: type(value) for name, value in head.items() if name != "plan"}
        if kinds != {name: type(value) for name, value in _UNKNOWN.items() if name != "plan"}:
            return _UNKNOWN
        plan = head["plan"]
        return {**head, "plan": None if plan is None else fingerprint_of(plan, "")}
    except (AttributeError, FormatError, KeyError):
        return _UNKNOWN


def _digest(root: bytes) -> str:
    return sha256(root).hexdigest()
