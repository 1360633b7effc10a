"""Write a Zarr store in a bucket: shards as they are filled, the root last.

An interrupted conversion keeps its shards, to be resumed: the lock object records them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from arraystore.errors import StorageError, escaped
from arraystore.schema import PAYLOAD
from arraystore.writing.bucket import BucketStoreWriter
from arraystore.writing.fill import BlockPlace, MemorySink
from arraystore.writing.journal import IDENTITY, BlockKey
from arraystore.writing.lock_object import Sent
from arraystore.writing.resuming import check_fingerprint, check_known

if TYPE_CHECKING:
    from collections.abc import Mapping

    from arraystore._typing import Bytes, Checksums
    from arraystore.containers.protocol import ContainerWriter
    from arraystore.indexing.layout import Block
    from arraystore.storage.objects.writer import ObjectWriter
    from arraystore.writing.fill import Filled, Sink
    from arraystore.writing.journal import Fingerprint
    from arraystore.writing.progress import Meter

_KEPT: Final = "the shards sent so far are kept"


class ZarrBucketWriter(BucketStoreWriter):
    """Write a store of many objects: one for each block and one for each file of the skeleton."""

    def __init__(
        self,
        objects: ObjectWriter,
        container_type: type[ContainerWriter],
        *,
        overwrite: bool,
        resume: bool = False,
    ) -> None:
        super().__init__(objects, container_type, overwrite=overwrite, resume=resume)
        self._root_key = f"{self._key}/{self.container_type.root_key}"
        self._prefix = self._key
        self._root: bytes | None = None
        self._is_begun = self._is_published = False
        self._keys: set[str] = set()
        self._etags: dict[str, str] = {}

    @override
    def check_unchanged(self, known: Fingerprint) -> None:
        if self._lock.is_resumable and self._resume:
            check_known(self._lock.location, self._lock.fingerprint or {}, known)

    @override
    def create_arrays(
        self, payloads: Mapping[str, int], fingerprint: Fingerprint | None = None
    ) -> None:
        kept: dict[BlockKey, Sent] = {}
        if self._lock.is_resumable and self._resume:
            now, then = fingerprint or {}, self._lock.fingerprint or {}
            self.is_source_touched = check_fingerprint(self._lock.location, then, now)
            kept = self._unchanged(self._lock.blocks)
            # The kept shards were copied from the source in the state that they record.
            fingerprint = {**now, IDENTITY: then.get(IDENTITY, {})}
        is_empty = not self._lock.existed and not self._overwrite
        # From here on only the kept shards count as sent, even if other objects exist.
        self._lock.begin(fingerprint, kept)
        self._is_begun = True
        self._etags = {self._place(*key).key: sent.etag for key, sent in kept.items()}
        if not is_empty:
            self._clear()
        super().create_arrays(payloads)

    def _clear(self) -> None:
        """Delete all objects except the kept shards; the root first, so the store is gone."""
        if self._overwrite:
            self._objects.delete([self._root_key])
        existing = self._objects.tags(self._prefix)
        if self._root_key in existing:
            raise FileExistsError(
                escaped(f"{self._objects.at(self._key)}: was created by another process meanwhile")
            )
        self._objects.delete([key for key in existing if key not in self._etags])

    def _unchanged(self, blocks: Mapping[BlockKey, Sent]) -> dict[BlockKey, Sent]:
        """Return the blocks whose objects still are as they were sent."""
        keys = {block: self._place(*block).key for block in blocks}
        changed = self._changed({keys[block]: sent.etag for block, sent in blocks.items()})
        return {block: sent for block, sent in blocks.items() if keys[block] not in changed}

    def _changed(self, etags: Mapping[str, str]) -> set[str]:
        """Return the keys of objects that have another ETag than when they were sent."""
        listed = self._objects.tags(self._prefix)
        differing = [key for key, etag in etags.items() if listed.get(key) != etag]
        # Some services list other ETags than they send with an object.
        found = {key: self._objects.status(key) for key in differing if key in listed}
        same = {key for key, status in found.items() if status and status.version.tag == etags[key]}
        return set(differing) - same

    def _place(self, split: str, start: int, stop: int) -> ObjectPlace:
        name, tail = self.container_type.payload_object(f"{split}/{PAYLOAD}", start, stop)
        return ObjectPlace(self._objects, f"{self._key}/{name}", stop - start, tail)

    @override
    def recorded(self, split: str, block: Block) -> Checksums | None:
        sent = self._lock.blocks.get(BlockKey(split, block.start, block.stop))
        return None if sent is None else sent.checksums

    @override
    def record(self, split: str, block: Block, place: BlockPlace, filled: Filled) -> None:
        sent = Sent(filled.checksums, filled.etag)
        self._etags |= dict.fromkeys(place.keys, sent.etag)
        self._lock.add(BlockKey(split, block.start, block.stop), sent)

    @override
    def place_of(self, split: str, block: Block) -> BlockPlace:
        place = self._place(split, block.start, block.stop)
        self._keys.add(place.key)
        return place

    @override
    def publish(self, meter: Meter) -> None:
        meter.status("sending columns")
        files = {
            f"{self._key}/{path.relative_to(self._skeleton).as_posix()}": path
            for path in sorted(self._skeleton.rglob("*"))
            if path.is_file()
        }
        root = files.pop(self._root_key).read_bytes()
        mine = {key: path for key, path in files.items() if key.startswith(f"{self._prefix}/")}
        self._keys.update(mine)
        sent = self._objects.put_files(mine)
        self._etags |= {key: version.tag for key, version in sent.items()}
        self._check_sent()
        self._publish_root(root)
        self._is_published = True

    def _publish_root(self, root: bytes) -> None:
        self._seal(root)
        self._objects.create(self._root_key, root)

    def _seal(self, root: bytes) -> None:
        """Record the root that is about to be written, so that it is recognized afterwards."""
        self._lock.seal(root)
        self._root = root

    def _check_sent(self) -> None:
        """Refuse to publish objects that another process has replaced or deleted."""
        if changed := self._changed(self._etags):
            raise StorageError(
                f"{self._objects.at(min(changed))}: is not the object that was sent; another "
                f"process has replaced or deleted it ({len(changed):,} objects)"
            )

    @override
    def _unlock(self) -> str:
        if self._is_published or self._is_root_ours():
            return super()._unlock()
        if self._lock.is_resumable or (self._lock.existed and not self._is_begun):
            self._lock.release()
            return _KEPT if self._lock.is_resumable else ""
        self._lock.check()
        self._objects.delete(sorted(self._keys))
        return super()._unlock()

    def _is_root_ours(self) -> bool:
        """Whether the root was created, and only the response was lost."""
        found = self._objects.read(self._root_key) if self._root is not None else None
        return found is not None and found.data == self._root


@dataclass(frozen=True, slots=True)
class ObjectPlace(BlockPlace):
    """An object that holds one block, followed by further bytes.

    Attributes
    ----------
    objects : ObjectWriter
        Writes to the bucket.
    key : str
        Key of the object.
    nbytes : int
        Length of the block.
    tail : bytes
        The bytes after the block.
    """

    objects: ObjectWriter
    key: str
    nbytes: int
    tail: bytes

    @property
    @override
    def keys(self) -> tuple[str, ...]:
        return (self.key,)

    @override
    def open(self) -> Sink:
        def send(data: Bytes) -> str:
            return self.objects.put(self.key, data).tag

        return MemorySink(self.nbytes, self.tail, send=send)
