"""Add and remove columns of a finished Zarr store in a bucket; the root is replaced at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from arraystore.containers.protocol import ColumnEditor
from arraystore.containers.zarr.editor import GROUP, settle
from arraystore.containers.zarr.metadata import METADATA, consolidated_documents
from arraystore.containers.zarr.root_document import changed_root
from arraystore.containers.zarr.writer import ZarrWriter, canonical
from arraystore.errors import StorageError
from arraystore.storage.open_files import translate_full_disk

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from arraystore.containers.protocol import WriteArray
    from arraystore.storage.objects.writer import ObjectWriter


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
    def add(self, name: str, writes: Mapping[str, WriteArray], version: str | None) -> None:
        import tempfile

        new: dict[str, dict[str, Any]] = {}
        with tempfile.TemporaryDirectory(prefix="arraystore-") as scratch:
            folder = Path(scratch)
            with translate_full_disk(folder), ZarrWriter(folder) as writer:
                for number, write in enumerate(writes.values()):
                    write(writer, str(number))
            for number, group in enumerate(writes):
                added, path = folder / str(number), f"{group}/{name}"
                new |= settle(added, path)
                files = {
                    f"{self._objects.key}/{path}/{file.relative_to(added).as_posix()}": file
                    for file in added.rglob("*")
                    if file.is_file()
                }
                documents = {key: file for key, file in files.items() if file.name == METADATA}
                # Without consolidated metadata in the root, the documents make arrays visible.
                self._objects.put_files({k: files[k] for k in files if k not in documents})
                self._objects.put_files(documents)
        for group in writes:
            key = f"{self._objects.key}/{group}/{METADATA}"
            found = self._objects.read(key)
            if found is None:
                self._objects.put(key, json.dumps(GROUP, indent=2).encode())
            new[group] = GROUP if found is None else canonical(json.loads(found.data))
        self._replace_root(lambda root: changed_root(root, new, version=version))

    @override
    def remove(self, name: str, groups: Collection[str]) -> None:
        gone, deleted = [], []
        for group in groups:
            prefix = f"{self._objects.key}/{group}"
            keys = list(self._objects.tags(prefix))
            mine = [key for key in keys if key.startswith(f"{prefix}/{name}/")]
            is_last = {*keys} == {*mine, f"{prefix}/{METADATA}"}
            gone.append(group if is_last else f"{group}/{name}")
            deleted += keys if is_last else mine
        self._replace_root(lambda root: changed_root(root, {}, gone))
        # Documents first, by which a program that lists the group finds arrays.
        self._objects.delete(sorted(deleted, key=lambda key: not key.endswith(METADATA)))

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
