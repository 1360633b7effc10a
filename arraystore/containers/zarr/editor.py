"""Add and remove columns of a finished Zarr store, whose root document is replaced at the end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from arraystore.containers.protocol import ColumnEditor
from arraystore.containers.zarr.metadata import METADATA
from arraystore.containers.zarr.root_document import changed_root, root_with_part
from arraystore.containers.zarr.writer import ZarrWriter, canonical
from arraystore.storage.folder_trees import remove_tree
from arraystore.storage.fsync import sync_path, sync_tree
from arraystore.storage.workspace_folder import ADDED

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from arraystore.containers.protocol import WriteArray

GROUP: Final[dict[str, Any]] = {"attributes": {}, "zarr_format": 3, "node_type": "group"}
"""Document of a new group."""


class ZarrEditor(ColumnEditor):
    """Change the columns of a Zarr store on the local disk; see `ColumnEditor`.

    New arrays are renamed to their place as a whole. The root document, which lists all arrays,
    is replaced at last; until then nothing refers to them.
    """

    def __init__(self, path: Path, scratch: Path, *, sync: bool = True) -> None:
        self._path, self._scratch, self._sync = path, scratch, sync

    @override
    def add(self, name: str, writes: Mapping[str, WriteArray], version: str | None) -> None:
        scratch = self._scratch / ADDED
        with ZarrWriter(scratch) as writer:
            for number, write in enumerate(writes.values()):
                write(writer, str(number))
        new: dict[str, dict[str, Any]] = {}
        for number, group in enumerate(writes):
            added, folder = scratch / str(number), self._path / group
            new |= settle(added, f"{group}/{name}")
            if self._sync:
                sync_tree(added)
            if not (folder / METADATA).is_file():
                folder.mkdir(exist_ok=True)
                (folder / METADATA).write_text(json.dumps(GROUP, indent=2))
            new[group] = canonical(json.loads((folder / METADATA).read_bytes()))
            if (folder / name).is_dir():  # of a process that was killed before it changed the root
                remove_tree(folder / name)
            added.rename(folder / name)
            if self._sync:
                sync_path(folder)
                sync_path(folder.parent)
        self._replace_root(lambda root: changed_root(root, new, version=version))

    @override
    def remove(self, name: str, groups: Collection[str]) -> None:
        gone = [self._removed(name, group) for group in groups]
        self._replace_root(lambda root: changed_root(root, {}, gone))
        for path in gone:
            (self._path / path).rename(self._scratch / ADDED)
            remove_tree(self._scratch / ADDED)

    def _removed(self, name: str, group: str) -> str:
        """Return the path of an array of a group, or of the group if it has no other."""
        others = (other for other in (self._path / group).iterdir() if other.name != name)
        is_last = not any((other / METADATA).is_file() for other in others)
        return group if is_last else f"{group}/{name}"

    @override
    def add_part(self, part: Path, group: str, attributes: Mapping[str, Any]) -> None:
        if (part / group).is_dir():  # not if a process was killed before it replaced the root
            (part / group).rename(self._path / group)
        if self._sync:
            sync_path(self._path)
        document = json.loads((part / METADATA).read_bytes())
        self._replace_root(lambda root: root_with_part(root, document, group, attributes))

    def _replace_root(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        path, new = self._path / METADATA, self._scratch / f"{ADDED}.json"
        new.write_text(json.dumps(change(json.loads(path.read_bytes())), indent=2))
        new.chmod(path.stat().st_mode)
        if self._sync:
            sync_path(new)
        new.replace(path)
        if self._sync:
            sync_path(self._path)


def settle(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    """Rewrite the documents of new arrays in the form of `canonical`; return them by path.

    Parameters
    ----------
    folder : Path
        The array, or the group of arrays.
    name : str
        Its path.
    """
    found = {}
    for file in sorted(folder.rglob(METADATA)):
        node = canonical(json.loads(file.read_text()))
        file.write_text(json.dumps(node, indent=2))
        below = file.parent.relative_to(folder).as_posix()
        found[name if below == "." else f"{name}/{below}"] = node
    return found
