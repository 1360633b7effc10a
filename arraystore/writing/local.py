"""Write a new store on the local disk, in a workspace, and give it its name at the end."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from typing_extensions import override

from arraystore.containers import writer_for
from arraystore.errors import escaped
from arraystore.storage.fsync import sync_path, sync_tree
from arraystore.storage.open_files import close_idle_files, translate_full_disk
from arraystore.writing.fill import FilePlace
from arraystore.writing.journal import BlockKey, JournalWriter, read_journal
from arraystore.writing.resuming import (
    check_files,
    check_fingerprint,
    check_known,
    how_to_resume,
    translate_store_errors,
)
from arraystore.writing.store_writer import StoreWriter, paths_of
from arraystore.writing.workspace import workspace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    from arraystore._typing import Checksums
    from arraystore.containers.protocol import ContainerWriter
    from arraystore.indexing.layout import Block
    from arraystore.parallel.executors import Workers
    from arraystore.writing.fill import BlockPlace, Filled
    from arraystore.writing.image_source import ImageSource
    from arraystore.writing.journal import Fingerprint, Recorded
    from arraystore.writing.progress import Meter


class LocalStoreWriter(StoreWriter):
    """Write a new store on the local disk.

    Parameters
    ----------
    target : Path
        A symbolic link is replaced; the file or folder behind it is left alone.
    overwrite : bool
        Whether an existing store may be replaced.
    sync : bool
        Whether to wait until everything is on the disk.
    resume : bool, default False
        Whether to continue with the unfinished store of an earlier process.

    Raises
    ------
    ValueError
        If the suffix of `target` chooses no container.
    """

    _appends: ClassVar[bool] = False

    def __init__(self, target: Path, *, overwrite: bool, sync: bool, resume: bool = False) -> None:
        self.container_type = writer_for(target)
        if target.is_symlink() and not self._appends:
            behind = target.readlink()
            self.notes = (f"replaced the symbolic link {target}; {behind} behind it is unchanged",)
        self._target, self._overwrite, self._sync, self._resume = target, overwrite, sync, resume
        self._blocks: dict[BlockKey, Checksums] = {}
        self._journal: JournalWriter | None = None
        self._is_refused = False

    @override
    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._work = stack.enter_context(
                workspace(
                    self._target,
                    overwrite=self._overwrite,
                    resume=self._resume,
                    appends=self._appends,
                )
            )
            stack.enter_context(translate_full_disk(self._work.folder))
            self._stack = stack.pop_all()
        return self

    @override
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._close_journal()
        except OSError as another:
            if error is None:
                raise
            error.add_note(escaped(f"the last blocks could not be recorded: {another}"))
        finally:
            is_kept = self._work.is_unfinished and not self._is_refused
            if error is not None and is_kept:
                kept = f"{self._work.folder} keeps the blocks copied so far"
                error.add_note(escaped(how_to_resume(kept, error)))
            self._stack.__exit__(kind, error, traceback)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Mark errors inside as refusals to resume; they must not suggest to resume."""
        self._is_refused = True
        yield
        self._is_refused = False

    @property
    @override
    def spool(self) -> Path:
        return self._work.spool

    @override
    def check_unchanged(self, known: Fingerprint) -> None:
        recorded = self._read_journal()
        if recorded is not None:
            with self._refusing():
                check_known(self._work.folder, recorded.fingerprint, known)

    @override
    def create_arrays(
        self, payloads: Mapping[str, int], fingerprint: Fingerprint | None = None
    ) -> None:
        recorded = self._read_journal()
        # Not earlier: a Zarr writer creates its folder.
        self.container = self._stack.enter_context(self.container_type(self._work.store))
        if recorded is not None:
            self._reset_layout(payloads, fingerprint or {}, recorded)
            return
        super().create_arrays(payloads)
        if self._sync and fingerprint is not None:
            sync_tree(self._work.store)
            sync_path(self._target.parent)
            self._journal = JournalWriter.begin(self._work.journal, fingerprint)

    def _read_journal(self) -> Recorded | None:
        with self._refusing(), translate_store_errors():
            return read_journal(self._work.journal)

    def _reset_layout(
        self, payloads: Mapping[str, int], fingerprint: Fingerprint, recorded: Recorded
    ) -> None:
        with self._refusing():
            self.is_source_touched = check_fingerprint(
                self._work.folder, recorded.fingerprint, fingerprint
            )
        with translate_store_errors():
            manifests = self.container.reset_layout(paths_of(payloads), self._work.skeleton)
        self.manifests = dict(zip(payloads, manifests, strict=True))
        self._blocks = recorded.blocks
        self._journal = JournalWriter(self._work.journal, recorded.nbytes)

    @override
    def recorded(self, split: str, block: Block) -> Checksums | None:
        checksums = self._blocks.get(BlockKey(split, block.start, block.stop))
        if checksums is not None:
            with translate_store_errors():
                check_files(self.place_of(split, block))
        return checksums

    @override
    def compare(
        self, images: ImageSource, recorded: Mapping[Block, Checksums], workers: Workers
    ) -> None:
        with self._refusing():
            super().compare(images, recorded, workers)

    @override
    def record(self, split: str, block: Block, place: BlockPlace, filled: Filled) -> None:
        if self._journal is not None:
            key = BlockKey(split, block.start, block.stop)
            self._journal.add(key, filled.checksums, map(Path, place.keys))

    @override
    def place_of(self, split: str, block: Block) -> FilePlace:
        manifest = self.manifests[split]
        pieces = manifest.locate(np.array([block.start]), np.array([block.stop - block.start]))
        files = [manifest.keys[i] for i in pieces.object]
        return FilePlace(
            tuple(zip(files, pieces.start.tolist(), pieces.nbytes.tolist(), strict=True)),
            sync=self._sync,
        )

    @override
    @contextmanager
    def sealing(self) -> Iterator[ContainerWriter]:
        if self._journal is not None:
            self._journal.flush()
        with super().sealing() as container:
            yield container

    @override
    def publish(self, meter: Meter) -> None:
        self._close_journal()
        if self._sync:
            sync_tree(self._work.store)
        self._work.publish()
        close_idle_files()  # or deleted files would keep their disk space

    def _close_journal(self) -> None:
        journal, self._journal = self._journal, None
        if journal is not None:
            journal.close()
