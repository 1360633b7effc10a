"""A store in the making on the local disk: built beside its place, published by one rename."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from typing_extensions import override

from arraystore.containers import open_local, writer_for
from arraystore.errors import escaped
from arraystore.schema import PAYLOAD
from arraystore.storage.fsync import sync_path, sync_tree
from arraystore.storage.open_files import close_idle_files, full_disk_is_told
from arraystore.writing.fill import FilePlaces
from arraystore.writing.journal import IDENTITY, BlockKey, JournalWriter, read_journal
from arraystore.writing.reset_layout import lay_out_again
from arraystore.writing.resuming import (
    check_known,
    check_places,
    check_plan,
    how_to_go_on,
    relying_on_a_store,
)
from arraystore.writing.store_writer import Draft, writing
from arraystore.writing.workspace import workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Executor
    from contextlib import AbstractContextManager

    from arraystore._typing import Checksums
    from arraystore.containers.protocol import ContainerWriter
    from arraystore.indexing.byte_range import ChunkManifest
    from arraystore.indexing.layout import Block
    from arraystore.writing.fill import Filled
    from arraystore.writing.image_source import ImageBytes
    from arraystore.writing.journal import Plan, Recorded
    from arraystore.writing.progress import Meter


class LocalDraft(Draft):
    """A store in the making on the local disk.

    Parameters
    ----------
    path : Path
        Where it is to appear. A symbolic link is replaced; what it points to is left alone.
    overwrite : bool
        Whether a store that is there may be replaced.
    sync : bool
        Whether to wait until all is on the disk.
    resume : bool, default False
        Whether to go on with what an earlier draft of the same path left.

    Raises
    ------
    ValueError
        If the suffix of `path` asks for no container.
    """

    def __init__(self, path: Path, *, overwrite: bool, sync: bool, resume: bool = False) -> None:
        self._open_writer = writer_for(path)
        if path.is_symlink():
            there = path.readlink()
            note = f"replaced the symbolic link {path}; what it pointed to, {there}, is unchanged"
            self.notes = (note,)
        self._path, self._overwrite, self._sync, self._resume = path, overwrite, sync, resume
        self._manifests: dict[str, ChunkManifest] = {}
        self._blocks: dict[BlockKey, Checksums] = {}
        self._journal: JournalWriter | None = None
        self._is_refused = False  # what was left is of another plan, and the error says what to do

    @override
    def __enter__(self) -> Self:
        with ExitStack() as stack:
            place = workspace(self._path, overwrite=self._overwrite, resume=self._resume)
            self._work = stack.enter_context(place)
            stack.enter_context(full_disk_is_told(self._work.folder))
            self._stack = stack.pop_all()
        return self

    @override
    def __exit__(self, *exception: object) -> None:
        error = exception[1]
        try:
            self._close_journal()
        except OSError as another:
            if not isinstance(error, BaseException):
                raise
            error.add_note(escaped(f"the last blocks could not be recorded: {another}"))
        finally:
            is_kept = self._work.is_unfinished and not self._is_refused
            if isinstance(error, BaseException) and is_kept:
                kept = f"{self._work.folder} keeps what was copied"
                error.add_note(escaped(how_to_go_on(kept, error)))
            self._stack.__exit__(*exception)  # type: ignore[arg-type] # the three of a with statement

    @property
    @override
    def spool(self) -> Path:
        return self._work.spool

    @override
    def import_libraries(self) -> None:
        self._open_writer.import_libraries()

    @override
    def expect(self, known: Plan) -> None:
        recorded = self._read_journal()
        if recorded is not None:
            self._is_refused = True
            check_known(self._work.folder, recorded.plan, known)
            self._is_refused = False

    @override
    def lay_out(self, payloads: Mapping[str, int], plan: Plan | None = None) -> None:
        if plan is not None:
            plan = {**plan, "library": self._open_writer.libraries()}
        recorded = self._read_journal()
        if recorded is not None:
            self._lay_out_again(payloads, plan or {}, recorded)
            return
        self._create(payloads, self._open_writer, self._work.store)
        if self._sync and plan is not None:
            sync_tree(self._work.store)
            sync_path(self._path.parent)
            self._journal = JournalWriter.begin(self._work.journal, plan)

    def _read_journal(self) -> Recorded | None:
        self._is_refused = True
        with relying_on_a_store():
            recorded = read_journal(self._work.journal)
        self._is_refused = False
        return recorded

    def _lay_out_again(self, payloads: Mapping[str, int], plan: Plan, recorded: Recorded) -> None:
        self._is_refused = True
        check_plan(self._work.folder, recorded.plan, plan)
        self._is_refused = False
        self._create(payloads, partial(self._open_writer, is_skeleton=True), self._work.again)
        paths = [f"{split}/{PAYLOAD}" for split in payloads]
        with relying_on_a_store():
            lay_out_again(self._work.store, self._work.again, paths)
        self._blocks = recorded.blocks
        self.is_source_touched = recorded.plan.get(IDENTITY) != plan.get(IDENTITY)
        self._journal = JournalWriter(self._work.journal, recorded.nbytes)

    def _create(
        self,
        payloads: Mapping[str, int],
        open_writer: Callable[[Path], ContainerWriter],
        path: Path,
    ) -> None:
        with writing(open_writer, path) as writer:
            for split, nbytes in payloads.items():
                writer.create_group(split)
                writer.create_payload(f"{split}/{PAYLOAD}", nbytes)

    @override
    def recorded(self, split: str, block: Block) -> Checksums | None:
        checksums = self._blocks.get(BlockKey(split, block.start, block.stop))
        if checksums is not None:
            with relying_on_a_store():
                check_places(self.target(split, block))
        return checksums

    @override
    def compare(
        self, images: ImageBytes, recorded: Mapping[Block, Checksums], pool: Executor
    ) -> None:
        self._is_refused = True
        super().compare(images, recorded, pool)
        self._is_refused = False

    @override
    def record(self, split: str, block: Block, filled: Filled) -> None:
        if self._journal is not None:
            files = [Path(path) for path, _, _ in self.target(split, block).places]
            self._journal.add(BlockKey(split, block.start, block.stop), filled.checksums, files)

    @override
    def target(self, split: str, block: Block) -> FilePlaces:
        if split not in self._manifests:
            _, container = open_local(self._work.store)
            self._manifests[split] = container.manifest(f"{split}/{PAYLOAD}")
        manifest = self._manifests[split]
        root = self._work.store if self._work.store.is_dir() else self._work.folder
        pieces = manifest.locate(np.array([block.start]), np.array([block.stop - block.start]))
        keys = [str(root / manifest.keys[i]) for i in pieces.object]
        return FilePlaces(
            tuple(zip(keys, pieces.start.tolist(), pieces.nbytes.tolist(), strict=True)),
            sync=self._sync,
        )

    @override
    def writer(self) -> AbstractContextManager[ContainerWriter]:
        if self._journal is not None:
            self._journal.flush()
        return writing(self._open_writer, self._work.store)

    @override
    def publish(self, meter: Meter) -> None:
        self._close_journal()
        if self._sync:
            sync_tree(self._work.store)
        self._work.publish()
        close_idle_files()  # else the space of what was deleted would be kept

    def _close_journal(self) -> None:
        journal, self._journal = self._journal, None
        if journal is not None:
            journal.close()
