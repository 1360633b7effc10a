"""Who makes a store in a bucket, after which plan, and how far it is: one object beside it.

Lines as of a journal on a disk (`arraystore.writing.journal`); the object is replaced each time::

    8c2f0a3e {"owner": "5f0c…", "is_left": false, "root": "", "plan": {"option": {…}, …}}
    51b0c7d2 [["train", 0, 67108864, "checksums of the images that begin in it", "its etag"]]

Each time it is written on the condition that it is still what this process wrote last. So who
has lost it to somebody else is told; and a block counts if its object still has that etag.
"""

from __future__ import annotations

import os
from hashlib import sha256
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from arraystore.errors import FormatError, StorageError
from arraystore.writing.journal import as_line, as_text, blocks_of, plan_of, whole_lines

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from arraystore._typing import Checksums
    from arraystore.storage.objects.writer import Found, ObjectWriter, Version
    from arraystore.writing.journal import BlockKey, Plan

_WORTH: Final = 50
"""Bytes of blocks that are worth a byte of a claim, which is written again for them."""

_UNKNOWN: Final[dict[str, Any]] = {"owner": "", "is_left": False, "root": "", "plan": None}


class Sent(NamedTuple):
    """A block that is in the bucket: checksums of the images that begin in it, and its etag."""

    checksums: Checksums
    tag: str


class Claim:
    """The claim on a target.

    Parameters
    ----------
    objects : ObjectWriter
    key : str
        Its key.

    Attributes
    ----------
    key : str
    plan : mapping of str to mapping of str to str, or None
        What is converted, and how, once that is known.
    blocks : dict of BlockKey to Sent
        Blocks that need not be sent again.
    is_left : bool
        Whether it was given up by its owner.
    is_lost : bool
        Whether it was ours, and is somebody else's now.
    was_there : bool
        Whether somebody made it before us.
    time : datetime or None
        When that owner wrote it last.
    """

    def __init__(self, objects: ObjectWriter, key: str) -> None:
        self.key = key
        self.plan: Plan | None = None
        self.blocks: dict[BlockKey, Sent] = {}
        self.is_left = self.is_lost = self.was_there = False
        self.time: datetime | None = None
        self._objects = objects
        self._owner = os.urandom(16).hex()
        self._root = ""
        self._lines: list[bytes] = []
        self._waiting: list[BlockKey] = []
        self._nbytes = 0
        self._version: Version | None = None
        if (found := objects.read(key)) is not None:
            self._adopt(found)

    @property
    def where(self) -> str:
        """Its address."""
        return self._objects.at(self.key)

    @property
    def is_resumable(self) -> bool:
        """Whether there is something to go on with."""
        return self.plan is not None and bool(self.blocks)

    def is_of(self, root: bytes) -> bool:
        """Whether the store has been published that this was the claim on, with this root."""
        return self._root == _digest(root)

    def take(self) -> None:
        """Make it ours, and keep what it tells.

        Raises
        ------
        StorageError
            If another process was faster.
        """
        self.is_left = False
        self._write()

    def begin(self, plan: Plan | None, blocks: Mapping[BlockKey, Sent]) -> None:
        """Tell the plan, and the blocks that are there already."""
        self.plan, self.blocks, self._root = plan, dict(blocks), ""
        self._lines, self._waiting = [], list(self.blocks)
        self.flush()

    def add(self, key: BlockKey, sent: Sent) -> None:
        """Tell, soon, of one more block.

        Raises
        ------
        StorageError
            If the claim is not ours any more.
        """
        self.blocks[key] = sent
        self._waiting.append(key)
        waiting_nbytes = sum(stop - start for _, start, stop in self._waiting)
        if waiting_nbytes >= _WORTH * self._nbytes:
            self.flush()

    def flush(self) -> None:
        """Tell of all blocks now."""
        if self._waiting:
            group = [(key, self.blocks[key]) for key in self._waiting]
            self._lines += [
                as_line([[*key, as_text(sent.checksums), sent.tag]]) for key, sent in group
            ]
        self._waiting = []
        self._write()

    def seal(self, root: bytes) -> None:
        """Tell that nothing but the root is missing."""
        self._root = _digest(root)
        self.flush()

    def leave(self) -> None:
        """Let who comes next know that nobody works here."""
        self.is_left = True
        self.flush()

    def check(self) -> None:
        """Refuse to go on, if it is not ours any more, with a `StorageError`."""
        if not self._is_ours():
            raise self._lost()

    def delete(self) -> None:
        """Delete it, if it is ours."""
        if self._is_ours():
            self._objects.delete([self.key])

    def _write(self) -> None:
        head = {
            "owner": self._owner,
            "is_left": self.is_left,
            "root": self._root,
            "plan": self.plan,
        }
        data = b"".join([as_line(head), *self._lines])
        self._nbytes = len(data)
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
        """Whether what is there is ours in spite of its version, because an answer was lost."""
        found = self._objects.read(self.key)
        self.is_lost = found is None or _head(found)["owner"] != self._owner
        if found is not None and not self.is_lost:
            self._version = found.version
        return not self.is_lost

    def _lost(self) -> StorageError:
        return StorageError(
            f"{self.where}: another process has begun, or taken over, a conversion to the same "
            "target; this one leaves all to it"
        )

    def _adopt(self, found: Found) -> None:
        """Take over what a claim tells that was there; one that is not ours tells nothing."""
        self.was_there, self.time, self._version = True, found.time, found.version
        head = _head(found)
        try:
            _, *groups = _lines(found) or [_UNKNOWN]
            blocks = [each for group in groups for each in blocks_of(group, where="", n_texts=1)]
        except FormatError:
            head, groups, blocks = _UNKNOWN, [], []
        self.plan, self._root, self.is_left = head["plan"], head["root"], head["is_left"]
        self.blocks = {key: Sent(checksums, tag) for key, checksums, (tag,) in blocks}
        self._lines = [as_line(group) for group in groups]


def _lines(found: Found) -> list[Any]:
    return [what for what, _ in whole_lines(BytesIO(found.data), "")]


def _head(found: Found) -> dict[str, Any]:
    """Return the first line of a claim, if it is one that arraystore writes."""
    try:
        head = next(whole_lines(BytesIO(found.data), ""), (_UNKNOWN, 0))[0]
        kinds = {name: type(value) for name, value in head.items() if name != "plan"}
        if kinds != {name: type(value) for name, value in _UNKNOWN.items() if name != "plan"}:
            return _UNKNOWN
        plan = head["plan"] if head["plan"] is None else plan_of(head["plan"], where="")
    except (AttributeError, FormatError, KeyError):
        return _UNKNOWN
    return {**head, "plan": plan}


def _digest(root: bytes) -> str:
    return sha256(root).hexdigest()
