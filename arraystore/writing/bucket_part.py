"""Write a part of a Zarr store in a bucket: shards as they are filled; then the root lists it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from typing_extensions import override

from arraystore.containers import writer_for
from arraystore.errors import StorageError
from arraystore.reader import open_store
from arraystore.storage.objects.writer import ObjectWriter
from arraystore.writing.journal import PART
from arraystore.writing.publish_part import state_of
from arraystore.writing.store_writer import PartWriter
from arraystore.writing.zarr_bucket import ZarrBucketWriter

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from arraystore.storage.location import Location
    from arraystore.writing.journal import Fingerprint
    from arraystore.writing.lock_object import LockObject
    from arraystore.writing.publish_part import PartRecord

_TRIES: Final = 5
"""Attempts to replace a root that other programs add columns to."""


class BucketPartWriter(ZarrBucketWriter, PartWriter):
    """Write a part of a store of many objects in a bucket; see `PartWriter`.

    Its lock object is that of a conversion to the same target, and has the name of the part. The
    root is replaced last, if it still states the samples that it stated when the append began.

    Parameters
    ----------
    target : Location
        The store; it exists.
    overwrite : bool
        Whether what another process left of a part may be deleted.
    resume : bool, default False
        Whether to continue it.
    """

    new_part: PartRecord

    def __init__(self, target: Location, *, overwrite: bool, resume: bool = False) -> None:
        objects, container_type = ObjectWriter(target), writer_for(target)
        super().__init__(objects, container_type, overwrite=overwrite, resume=resume)
        self._target = target
        self._resumed_part = ""

    @override
    def _check_root(self, root: bytes | None, lock: LockObject) -> None:
        if lock.existed and not self._overwrite and not self._resume:
            raise self._unfinished(lock)

    @override
    def drop_left_over(self, groups: Collection[str]) -> None:
        lock = self._lock
        if not lock.existed:
            return
        part = lock.part
        split, _, number = part.rpartition(".")
        # A part that was published is kept, and whatever a damaged lock object may name.
        is_left = split in groups and number.isdecimal() and part not in groups
        # A conversion is not resumed: `check_unchanged` will report its other options.
        if self._resume and lock.is_resumable and (is_left or not part):
            self._resumed_part = part
            return
        if is_left:
            lock.check()
            self._objects.delete(list(self._objects.tags(f"{self._key}/{part}")))
        lock.begin(None, {})
        self._is_begun = True

    @override
    def is_free(self, group: str) -> bool:
        return group == self._resumed_part or not self._objects.tags(f"{self._key}/{group}")

    @override
    def create_arrays(
        self, payloads: Mapping[str, int], fingerprint: Fingerprint | None = None
    ) -> None:
        (part,) = payloads
        self._prefix = f"{self._key}/{part}"
        super().create_arrays(payloads, {**(fingerprint or {}), PART: {"name": part}})

    @override
    def _clear(self) -> None:
        # All that was sent is sent again or kept. It is deleted if the append cannot be resumed.
        self._keys.update(self._objects.tags(self._prefix))

    @override
    def _publish_root(self, root: bytes) -> None:
        part = self.new_part
        for _ in range(_TRIES):
            found = self._objects.read(self._root_key)
            # If the root is replaced after it was read, it is not replaced here.
            if found is None or state_of(open_store(self._target).opened[1]) != part.store:
                break
            new = self.container_type.root_with_part(found.data, root, part.group, part.attributes)
            self._seal(new)
            is_replaced = self._objects.replace(self._root_key, new, found.version) is not None
            if is_replaced or self._is_root_ours():
                return
        self._lock.begin(None, {})  # what was sent fits no longer, and is deleted
        raise StorageError(
            f"{self._objects.at(self._root_key)}: another program has changed the store since the "
            "append began; nothing was appended; try again"
        )
