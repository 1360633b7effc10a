"""A store in the making on the local disk: built beside its place, published by one rename."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

import numpy as np
from typing_extensions import override

from arraystore.containers import open_local, writer_for
from arraystore.drafts.base import MAX_BLOCKS_IN_FLIGHT, Draft, writing
from arraystore.fill import FilePlaces
from arraystore.schema import PAYLOAD
from arraystore.storage import close_idle_files, full_disk_is_told
from arraystore.target import sync_path, workspace

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from arraystore.byterange import ChunkManifest
    from arraystore.containers.base import ContainerWriter
    from arraystore.layout import Block
    from arraystore.progress import Meter


class LocalDraft(Draft):
    """A store in the making on the local disk.

    Parameters
    ----------
    path : Path
        Where it is to appear.
    overwrite : bool
        Whether a store that is there may be replaced.
    sync : bool
        Whether to wait until all is on the disk.

    Raises
    ------
    ValueError
        If the suffix of `path` asks for no container.
    """

    def __init__(self, path: Path, *, overwrite: bool, sync: bool) -> None:
        self._open_writer = writer_for(path)
        self._path, self._overwrite, self._sync = path, overwrite, sync
        self._manifests: dict[str, ChunkManifest] = {}

    @override
    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._work = stack.enter_context(workspace(self._path, overwrite=self._overwrite))
            stack.enter_context(full_disk_is_told(self._work.folder))
            self._stack = stack.pop_all()
        return self

    @override
    def __exit__(self, *exception: object) -> None:
        self._stack.__exit__(*exception)  # type: ignore[arg-type]

    @property
    @override
    def spool(self) -> Path:
        return self._work.spool

    @override
    def lay_out(self, payloads: Mapping[str, int]) -> None:
        with self.writer() as writer:
            for split, nbytes in payloads.items():
                writer.create_group(split)
                writer.create_payload(f"{split}/{PAYLOAD}", nbytes)

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
            tuple(zip(keys, pieces.start.tolist(), pieces.nbytes.tolist(), strict=True))
        )

    @override
    def writer(self) -> AbstractContextManager[ContainerWriter]:
        return writing(self._open_writer, self._work.store)

    @override
    def publish(self, meter: Meter) -> None:
        if self._sync:
            _sync_tree(self._work.store)
        self._work.publish()
        close_idle_files()  # else the space of what was deleted would be kept


def _sync_tree(store: Path) -> None:
    """Wait until a file, or all in a folder, is on the disk."""
    with ThreadPoolExecutor(MAX_BLOCKS_IN_FLIGHT) as pool:
        # At the same time, so that the file system can settle many in one transaction.
        list(pool.map(sync_path, [store, *store.rglob("*")]))
