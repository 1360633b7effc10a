"""Add and remove columns of a finished Zarr store in a bucket; the root is replaced at the end."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from arraystore._threads import Scope
from arraystore.containers.protocol import ColumnEditor
from arraystore.containers.zarr.editor import GROUP, settle
from arraystore.containers.zarr.metadata import METADATA, consolidated_documents
from arraystore.containers.zarr.root_document import changed_root
from arraystore.containers.zarr.writer import ZarrWriter
from arraystore.errors import StorageError
from arraystore.storage.open_files import translate_full_disk

if TYPE_CHECKING:
    from collections.abc import Callable

    from arraystore.containers.protocol import ContainerWriter
    from arraystore.storage.objects.writer import ObjectWriter

_IN_FLIGHT: Final = 16
"""Objects that are sent at a time."""


class ZarrBucketEditor(ColumnEditor):
    """Change the columns of a Zarr store in a bucket; see `ColumnEditor`.

    Chunks are written to a temporary folder and sent from there. The root is replaced at last, if
    it still is the one that was read.

    Parameters
    ----------
    objects : ObjectWriter
        Its key is that of the store, which the caller has locked.
    """

    def __init__(self, objects: ObjectWriter) -> None:
        self._objects = objects
        self._root_key = f"{objects.key}/{METADATA}"

    @override
    def add(
        self,
        group: str,
        name: str,
        write: Callable[[ContainerWriter, str], None],
        version: str | None,
    ) -> None:
        import tempfile

        with tempfile.TemporaryDirectory(prefix="arraystore-") as scratch:
            folder = Path(scratch)
            with translate_full_disk(folder), ZarrWriter(folder) as writer:
                write(writer, name)
            nodes = settle(folder / name, name)
            files = [path for path in (folder / name).rglob("*") if path.is_file()]
            # Without consolidated metadata in the root, the documents make the arrays visible.
            files.sort(key=lambda path: path.name == METADATA)
            self._send(folder, [path for path in files if path.name != METADATA], group)
            self._send(folder, [path for path in files if path.name == METADATA], group)
        new = {f"{group}/{path}": node for path, node in nodes.items()}
        key = f"{self._objects.key}/{group}/{METADATA}"
        if self._objects.status(key) is None:
            self._objects.put(key, json.dumps(GROUP, indent=2).encode())
            new[group] = GROUP
        self._replace_root(lambda root: changed_root(root, new, version=version))

    @override
    def remove(self, group: str, name: str) -> None:
        prefix = f"{self._objects.key}/{group}"
        keys = list(self._objects.tags(prefix))
        mine = [key for key in keys if key.startswith(f"{prefix}/{name}/")]
        is_last = {*keys} == {*mine, f"{prefix}/{METADATA}"}
        gone = group if is_last else f"{group}/{name}"
        self._replace_root(lambda root: changed_root(root, {}, gone))
        # Documents first, by which a program that lists the group finds arrays.
        deleted = sorted(keys if is_last else mine, key=lambda key: not key.endswith(METADATA))
        self._objects.delete(deleted)

    def _send(self, folder: Path, files: list[Path], group: str) -> None:
        """Send files of a group, and delete them."""

        def send(path: Path) -> None:
            below = path.relative_to(folder).as_posix()
            self._objects.put(f"{self._objects.key}/{group}/{below}", path.read_bytes())
            path.unlink()

        pool, scope = ThreadPoolExecutor(_IN_FLIGHT), Scope()
        try:
            for sent in [pool.submit(scope.run, send, path) for path in files]:
                sent.result()
        finally:
            scope.cancel()  # after an error or Ctrl-C, do not wait for responses
            pool.shutdown(cancel_futures=True)

    def _replace_root(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        found = self._objects.read(self._root_key)
        if found is None:
            raise StorageError(f"{self._objects.at(self._root_key)}: no longer exists")
        root = json.loads(found.data)
        new = change(root)
        if new == root and consolidated_documents(root) is None:
            return
        data = json.dumps(new, indent=2).encode()
        if self._objects.replace(self._root_key, data, found.version) is None:
            again = self._objects.read(self._root_key)
            if again is None or again.data != data:  # else only the response was lost
                raise StorageError(
                    f"{self._objects.at(self._root_key)}: another program has changed the store "
                    "meanwhile; its columns are as they were; try again"
                )
