"""A store in the making in a bucket, of many objects: shards as they are filled, the root last.

What is interrupted keeps its shards, to be resumed: the claim beside it tells which they are.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from typing_extensions import override

from arraystore._threads import Scope
from arraystore.errors import StorageError, escaped
from arraystore.schema import PAYLOAD
from arraystore.writing.bucket import BucketDraft
from arraystore.writing.fill import MemorySink, Target
from arraystore.writing.journal import IDENTITY, BlockKey
from arraystore.writing.lock_object import Sent
from arraystore.writing.resuming import check_known, check_plan

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from arraystore._typing import Checksums
    from arraystore.indexing.layout import Block
    from arraystore.storage.objects.writer import ObjectWriter
    from arraystore.writing.fill import Filled, Sink
    from arraystore.writing.journal import Plan
    from arraystore.writing.progress import Meter

_FILES_IN_FLIGHT: Final = 16
_KEPT: Final = "what was sent is kept"


class ManyObjectsDraft(BucketDraft):
    """A store of many objects: each block of a payload is one, and so is each file of the rest."""

    def __init__(self, objects: ObjectWriter, *, overwrite: bool, resume: bool = False) -> None:
        super().__init__(objects, overwrite=overwrite, resume=resume)
        self._root_key = f"{self._key}/{self._container.root_key}"
        self._root: bytes | None = None
        self._is_begun = self._is_published = False
        self._keys: set[str] = set()
        self._tags: dict[str, str] = {}

    @override
    def expect(self, known: Plan) -> None:
        if self._claim.is_resumable and self._resume:
            check_known(self._claim.where, self._claim.plan or {}, known)

    @override
    def lay_out(self, payloads: Mapping[str, int], plan: Plan | None = None) -> None:
        if plan is not None:
            plan = {**plan, "library": self._container.libraries()}
        kept: dict[BlockKey, Sent] = {}
        if self._claim.is_resumable and self._resume:
            then = self._claim.plan or {}
            check_plan(self._claim.where, then, plan or {})
            kept = self._unchanged(self._claim.blocks)
            identity = then.get(IDENTITY, {})
            self.is_source_touched = identity != (plan or {}).get(IDENTITY, {})
            # What is kept was made of the source as it was then, whatever comes of this run.
            plan = {**(plan or {}), IDENTITY: identity}
        is_empty = not self._claim.was_there and not self._overwrite
        # From here on nothing counts as sent but what is kept, whatever lies there.
        self._claim.begin(plan, kept)
        self._is_begun = True
        self._tags = {self._key_of(key): sent.tag for key, sent in kept.items()}
        if not is_empty:
            self._clear()
        super().lay_out(payloads, plan)

    def _clear(self) -> None:
        """Delete whatever is there but what is kept, the root first: without it, it is no store."""
        if self._overwrite:
            self._objects.delete([self._root_key])
        there = self._objects.tags(self._key)
        if self._root_key in there:
            raise FileExistsError(
                escaped(
                    f"{self._objects.at(self._key)}: was created by somebody else in the meantime"
                )
            )
        self._objects.delete([key for key in there if key not in self._tags])

    def _unchanged(self, blocks: Mapping[BlockKey, Sent]) -> dict[BlockKey, Sent]:
        """Return the blocks that are still there as they were sent."""
        changed = self._changed({self._key_of(key): sent.tag for key, sent in blocks.items()})
        return {key: sent for key, sent in blocks.items() if self._key_of(key) not in changed}

    def _changed(self, tags: Mapping[str, str]) -> set[str]:
        """Return the keys of objects that are not as they were sent."""
        there = self._objects.tags(self._key)
        doubted = [key for key, tag in tags.items() if there.get(key) != tag]
        # A service may have another etag in its listing.
        found = {key: self._objects.status(key) for key in doubted if key in there}
        right = {key for key, status in found.items() if status and status.version.tag == tags[key]}
        return set(doubted) - right

    def _key_of(self, key: BlockKey) -> str:
        name, _ = self._container.payload_object(f"{key.split}/{PAYLOAD}", key.start, key.stop)
        return f"{self._key}/{name}"

    @override
    def recorded(self, split: str, block: Block) -> Checksums | None:
        sent = self._claim.blocks.get(BlockKey(split, block.start, block.stop))
        return None if sent is None else sent.checksums

    @override
    def record(self, split: str, block: Block, filled: Filled) -> None:
        key = BlockKey(split, block.start, block.stop)
        self._tags[self._key_of(key)] = filled.receipt
        self._claim.add(key, Sent(filled.checksums, filled.receipt))

    @override
    def target(self, split: str, block: Block) -> Target:
        path = f"{split}/{PAYLOAD}"
        name, tail = self._container.payload_object(path, block.start, block.stop)
        key = f"{self._key}/{name}"
        self._keys.add(key)
        return ObjectTarget(self._objects, key, block.stop - block.start, tail)

    @override
    def publish(self, meter: Meter) -> None:
        meter.status("sending columns")
        files = (path for path in sorted(self._skeleton.rglob("*")) if path.is_file())
        documents = {path.relative_to(self._skeleton).as_posix(): path for path in files}
        root = documents.pop(self._container.root_key).read_bytes()
        pool, scope = ThreadPoolExecutor(_FILES_IN_FLIGHT), Scope()
        try:
            sent = {
                key: pool.submit(scope.run, self._send, key, path)
                for name, path in documents.items()
                for key in [f"{self._key}/{name}"]
            }
            self._keys.update(sent)
            self._tags |= {key: future.result() for key, future in sent.items()}
        finally:
            scope.cancel()  # after an error or Ctrl-C no answer is waited for
            pool.shutdown(cancel_futures=True)
        self._check_all_is_there()
        self._claim.seal(root)
        self._root = root
        self._objects.create(self._root_key, root)
        self._is_published = True

    def _send(self, key: str, path: Path) -> str:
        return self._objects.put(key, path.read_bytes()).tag

    def _check_all_is_there(self) -> None:
        """Refuse to publish what somebody else has written to, or deleted from."""
        if changed := self._changed(self._tags):
            raise StorageError(
                f"{self._objects.at(min(changed))}: is not what was sent; something else has "
                f"written to the same target, or deleted from it ({len(changed):,} objects)"
            )

    @override
    def _let_go(self) -> str:
        if self._is_published or self._is_root_ours():
            return super()._let_go()
        if self._claim.is_resumable or (self._claim.was_there and not self._is_begun):
            self._claim.leave()
            return _KEPT if self._claim.is_resumable else ""
        self._claim.check()
        self._objects.delete(sorted(self._keys))
        return super()._let_go()

    def _is_root_ours(self) -> bool:
        """Whether the root was created, and only the answer was lost."""
        found = self._objects.read(self._root_key) if self._root is not None else None
        return found is not None and found.data == self._root


@dataclass(frozen=True, slots=True)
class ObjectTarget(Target):
    """An object that holds one block, and what comes after it.

    Attributes
    ----------
    objects : ObjectWriter
        The bucket.
    key : str
        Its key.
    nbytes : int
        Length of the block.
    tail : bytes
        What comes after it.
    """

    objects: ObjectWriter
    key: str
    nbytes: int
    tail: bytes

    @override
    def open(self) -> Sink:
        return _ObjectSink(self)


class _ObjectSink(MemorySink):
    """Keeps a block in memory, and sends it when it is complete."""

    def __init__(self, target: ObjectTarget) -> None:
        super().__init__(target.nbytes, len(target.tail))
        self.buffer[target.nbytes :] = np.frombuffer(target.tail, dtype=np.uint8)
        self._target = target

    @override
    def __exit__(self, *exception: object) -> None:
        if exception[0] is None:
            self.receipt = self._target.objects.put(self._target.key, self.buffer).tag
