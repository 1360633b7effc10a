"""A store in the making in a bucket: what is small is made on the local disk, and sent at the end.

::

    bucket/data/1pct.zarr/…          `many_objects`: shards as they are filled, the root last
    bucket/data/1pct.h5              `one_object`: one upload, seen when it is complete
    bucket/data/.1pct.zarr.partial   `claim`: while the conversion runs, so that there is only one,
                                     and when it was stopped
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, ClassVar, Final, Self

from typing_extensions import override

from arraystore.containers import writer_for
from arraystore.errors import StorageError, escaped
from arraystore.schema import PAYLOAD
from arraystore.storage.open_files import close_idle_files, full_disk_is_told
from arraystore.writing.lock_object import Claim
from arraystore.writing.resuming import how_to_go_on
from arraystore.writing.store_writer import Draft, writing
from arraystore.writing.workspace import StoreExistsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from arraystore.containers.protocol import ContainerWriter
    from arraystore.storage.objects.writer import ObjectWriter
    from arraystore.writing.journal import Plan

_LEAVING_SECONDS: Final = 10
"""How long an answer is waited for after Ctrl-C, to leave the claim; Ctrl-C again ends that."""

_BLOCKS_IN_FLIGHT: Final = 4
"""Shards of 64 MiB that are held in memory while they are sent."""


class BucketDraft(Draft):
    """What both kinds of store in a bucket have in common: a claim, and a local skeleton.

    Parameters
    ----------
    objects : ObjectWriter
        Its key is that of the store.
    overwrite : bool
        Whether a store that is there may be replaced.
    resume : bool, default False
        Whether to go on with what an earlier draft of the same key left.
    """

    max_in_flight: ClassVar[int] = _BLOCKS_IN_FLIGHT
    n_threads: ClassVar[int] = _BLOCKS_IN_FLIGHT

    def __init__(self, objects: ObjectWriter, *, overwrite: bool, resume: bool = False) -> None:
        self._objects = objects
        self._key = objects.key
        self._overwrite, self._resume = overwrite, resume
        path = PurePosixPath(self._key)
        self._container = writer_for(path)
        self._claim_key = str(path.with_name(f".{path.name}.partial"))

    @override
    def __enter__(self) -> Self:
        self._claim = self._looked_at()
        with ExitStack() as stack:
            import tempfile

            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="arraystore-"))
            self._folder = Path(folder)
            stack.enter_context(full_disk_is_told(self._folder))
            self._claim.take()
            self._stack = stack.pop_all()
        return self

    @override
    def __exit__(self, *exception: object) -> None:
        error = exception[1]
        if isinstance(error, BaseException) and not isinstance(error, Exception):
            self._objects.max_seconds = _LEAVING_SECONDS
        try:
            if not self._claim.is_lost:
                kept = self._let_go()
                if kept and isinstance(error, BaseException):
                    error.add_note(escaped(how_to_go_on(kept, error)))
        except OSError as another:
            if not isinstance(error, BaseException):
                raise
            error.add_note(escaped(f"what was sent is left as it is: {another}"))
        finally:
            close_idle_files()  # else the space of the spool would be kept
            self._stack.__exit__(*exception)  # type: ignore[arg-type] # the three of a with statement

    def _let_go(self) -> str:
        """Give up the claim; say what is left, if something is."""
        self._claim.delete()
        return ""

    @property
    @override
    def spool(self) -> Path:
        return self._folder / "spool"

    @override
    def import_libraries(self) -> None:
        self._container.import_libraries()

    @property
    def _skeleton(self) -> Path:
        return self._folder / "store"

    @override
    def lay_out(self, payloads: Mapping[str, int], plan: Plan | None = None) -> None:
        with self.writer() as writer:
            for split, nbytes in payloads.items():
                writer.create_group(split)
                writer.create_payload(f"{split}/{PAYLOAD}", nbytes)

    @override
    def writer(self) -> AbstractContextManager[ContainerWriter]:
        return writing(partial(self._container, is_skeleton=True), self._skeleton)

    def _looked_at(self) -> Claim:
        """Refuse to write where something is, unless it may be replaced, or gone on with."""
        where = self._objects.at(self._key)
        root = f"{self._key}/{name}" if (name := self._container.root_key) else self._key
        found = self._objects.start(root, self._container.root_nbytes)
        claim = Claim(self._objects, self._claim_key)
        if found is not None and claim.is_of(found):
            # It was killed when all but the claim was done.
            self._objects.delete([claim.key])
            claim = Claim(self._objects, self._claim_key)
        if found is not None and not self._overwrite:
            raise (FileExistsError if claim.was_there else StoreExistsError)(
                escaped(
                    f"{where}: exists; choose another name, or give overwrite=True (--overwrite)"
                )
            )
        if claim.was_there and not self._overwrite and not self._resume:
            raise self._unfinished(claim)
        if found is not None and not self._container.is_root(found):
            raise FileExistsError(
                escaped(
                    f"{where}: is neither a Zarr group nor an HDF5 file, and is not overwritten"
                )
            )
        if found is None and not claim.was_there and self._objects.tags(self._key):
            raise FileExistsError(
                escaped(
                    f"{where}: there are objects below, but no store of arraystore's making; "
                    "choose another name, or delete them"
                )
            )
        return claim

    def _unfinished(self, claim: Claim) -> OSError:
        ways = "overwrite=True (--overwrite) to start again"
        if claim.plan is not None:
            ways = f"resume=True (--resume) to finish it, or {ways}"
        if claim.is_left:
            name = PurePosixPath(self._key).name
            return FileExistsError(
                escaped(f"{claim.where}: holds an unfinished conversion to {name}; give {ways}")
            )
        return StorageError(
            f"{claim.where}: another process is writing to the same target, or was killed while it "
            f"did (it was heard of last at {claim.time:%Y-%m-%d %H:%M:%S} UTC); wait for it, or, "
            f"if it is no more, give {ways}"
        )
