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
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from arraystore.containers.protocol import ContainerWriter

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
    def add(
        self,
        group: str,
        name: str,
        write: Callable[[ContainerWriter, str], None],
        version: str | None,
    ) -> None:
        scratch, folder = self._scratch / ADDED, self._path / group
        with ZarrWriter(scratch) as writer:
            write(writer, name)
        new = {f"{group}/{path}": node for path, node in settle(scratch / name, name).items()}
        if self._sync:
            sync_tree(scratch / name)
        if not (folder / METADATA).is_file():
            folder.mkdir(exist_ok=True)
            (folder / METADATA).write_text(json.dumps(GROUP, indent=2))
            new[group] = GROUP
        if (folder / name).is_dir():  # of a process that was killed before the root referred to it
            remove_tree(folder / name)
        (scratch / name).rename(folder / name)
        if self._sync:
            sync_path(folder)
            sync_path(folder.parent)
        self._replace_root(lambda root: changed_root(root, new, version=version))

    @override
    def remove(self, group: str, name: str) -> None:
        folder = self._path / group
        is_last = not any(
            (other / METADATA).is_file() for other in folder.iterdir() if other.name != name
        )
        gone = group if is_last else f"{group}/{name}"
        self._replace_root(lambda root: changed_root(root, {}, gone))
        (self._path / gone).rename(self._scratch / ADDED)
        remove_tree(self._scratch / ADDED)

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
