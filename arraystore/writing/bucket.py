"""Write a new store in a bucket: small parts are created on the local disk and sent at the end.

::

    bucket/data/1pct.zarr/…          `zarr_bucket`: shards as they are filled, the root last
    bucket/data/1pct.zarr/train.1/…  `bucket_part`: the same for appended samples
    bucket/data/1pct.h5              `hdf5_bucket`: one upload, visible when it is complete
    bucket/data/.1pct.zarr.partial   `lock_object`: keeps other conversions away, also after this
                                     one was stopped
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, ClassVar, Final, Self

from typing_extensions import override

from arraystore.errors import StorageError, escaped
from arraystore.storage.open_files import close_idle_files, translate_full_disk
from arraystore.writing.lock_object import LockObject
from arraystore.writing.resuming import how_to_resume
from arraystore.writing.store_writer import StoreWriter
from arraystore.writing.workspace import StoreExistsError

if TYPE_CHECKING:
    from types import TracebackType

    from arraystore.containers.protocol import ContainerWriter
    from arraystore.storage.objects.writer import ObjectWriter

_LEAVING_SECONDS: Final = 10
"""Timeout for releasing the lock object after Ctrl-C; a second Ctrl-C cancels it."""

_BLOCKS_IN_FLIGHT: Final = 4
"""Shards of 64 MiB that are held in memory while they are sent."""


class BucketStoreWriter(StoreWriter):
    """Common part of both kinds of store in a bucket: a lock object, and a local skeleton.

    Parameters
    ----------
    objects : ObjectWriter
        Its key is that of the store.
    container_type : type of ContainerWriter
    overwrite : bool
        Whether an existing store may be replaced.
    resume : bool, default False
        Whether to continue with the unfinished store of an earlier process.
    """

    max_in_flight: ClassVar[int] = _BLOCKS_IN_FLIGHT
    n_threads: ClassVar[int] = _BLOCKS_IN_FLIGHT
    is_spool_shared: ClassVar[bool] = False

    def __init__(
        self,
        objects: ObjectWriter,
        container_type: type[ContainerWriter],
        *,
        overwrite: bool,
        resume: bool = False,
    ) -> None:
        self._objects = objects
        self._key = objects.key
        self._overwrite, self._resume = overwrite, resume
        self.container_type = container_type
        path = PurePosixPath(self._key)
        self._lock_key = str(path.with_name(f".{path.name}.partial"))

    @override
    def __enter__(self) -> Self:
        self._lock = self._checked_lock()
        with ExitStack() as stack:
            import tempfile

            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="arraystore-"))
            self._folder = Path(folder)
            stack.enter_context(translate_full_disk(self._folder))
            self.container = stack.enter_context(
                self.container_type(self._skeleton, is_skeleton=True)
            )
            self._lock.acquire()
            self._stack = stack.pop_all()
        return self

    @override
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and not isinstance(error, Exception):
            self._objects.max_seconds = _LEAVING_SECONDS
        try:
            if not self._lock.is_lost:
                kept = self._unlock()
                if kept and error is not None:
                    error.add_note(escaped(how_to_resume(kept, error)))
        except OSError as another:
            if error is None:
                raise
            error.add_note(escaped(f"objects sent so far are left as they are: {another}"))
        finally:
            close_idle_files()  # or the spool would keep its disk space
            self._stack.__exit__(kind, error, traceback)

    def _unlock(self) -> str:
        """Give up the lock; return a text on what is kept to be resumed, if anything is."""
        self._lock.delete()
        return ""

    @property
    @override
    def spool(self) -> Path:
        return self._folder / "spool"

    @property
    def _skeleton(self) -> Path:
        return self._folder / "store"

    def _checked_lock(self) -> LockObject:
        """Return the lock, unless the target exists and may neither be replaced nor resumed."""
        name = self.container_type.root_key
        root = self._objects.start(
            f"{self._key}/{name}" if name else self._key, self.container_type.root_nbytes
        )
        lock = LockObject(self._objects, self._lock_key)
        if root is not None and lock.is_of(root):
            # Its process was killed after publishing, before it deleted the lock.
            self._objects.delete([lock.key])
            lock = LockObject(self._objects, self._lock_key)
        self._check_root(root, lock)
        return lock

    def _check_root(self, root: bytes | None, lock: LockObject) -> None:
        """Refuse a target that may not be written to, given the beginning of its root."""
        location = self._objects.at(self._key)
        if root is not None and not self._overwrite:
            raise (FileExistsError if lock.existed else StoreExistsError)(
                escaped(
                    f"{location}: exists; choose another name, or pass overwrite=True (--overwrite)"
                )
            )
        if lock.existed and not self._overwrite and not self._resume:
            raise self._unfinished(lock)
        if root is not None and not self.container_type.is_root(root):
            raise FileExistsError(
                escaped(
                    f"{location}: is neither a Zarr group nor an HDF5 file, and is not overwritten"
                )
            )
        if root is None and not lock.existed and self._objects.tags(self._key):
            raise FileExistsError(
                escaped(
                    f"{location}: contains objects, but not an arraystore store; choose another "
                    "name, or delete them"
                )
            )

    def _unfinished(self, lock: LockObject) -> OSError:
        remedies = "overwrite=True (--overwrite) to start again"
        if lock.fingerprint is not None:
            remedies = f"resume=True (--resume) to finish it, or {remedies}"
        if lock.is_released:
            name = PurePosixPath(self._key).name
            what = "append" if lock.part else "conversion"
            return FileExistsError(
                escaped(f"{lock.location}: holds an unfinished {what} to {name}; pass {remedies}")
            )
        return StorageError(
            f"{lock.location}: another process is writing to the same target, or was killed while "
            f"it did (last update {lock.time:%Y-%m-%d %H:%M:%S} UTC); wait for it, or, if it no "
            f"longer runs, pass {remedies}"
        )
