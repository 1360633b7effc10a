"""Publish a part of a store on the local disk: its group is added, then the root lists it.

A record beside the store says that the part is complete. A process that is killed after it was
written leaves the store as it was, or with the part; the next one that writes to the store repeats
what may be missing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from arraystore.containers import editor_for, open_local
from arraystore.storage.fsync import sync_path
from arraystore.storage.workspace_folder import PART, SCRATCH

if TYPE_CHECKING:
    from pathlib import Path

    from arraystore.containers.protocol import ContainerReader


@dataclass(frozen=True, slots=True)
class PartRecord:
    """How to publish a part that is complete.

    Attributes
    ----------
    group : str
        Name of the group in the workspace's store.
    store : str
        State of the store that gets it, see `state_of`.
    attributes : dict of str to any
        New attributes of the root.
    """

    group: str
    store: str
    attributes: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Write the record, durably and in one step."""
        (folder / SCRATCH).write_text(json.dumps(asdict(self)))
        sync_path(folder / SCRATCH)
        (folder / SCRATCH).rename(folder / PART)
        sync_path(folder)


def state_of(container: ContainerReader) -> str:
    """Return a digest of the attributes of a store and of its splits, which identify its samples.

    Columns of users do not count, nor does a version that one of them needs.
    """
    attributes = container.attributes()
    splits = {name: container.attributes(name) for name in attributes.get("splits", ())}
    root = {name: value for name, value in attributes.items() if name != "format_version"}
    text = json.dumps([root, splits], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def finish_part(folder: Path, target: Path, *, sync: bool = True) -> None:
    """Publish the part that a workspace has a record of, if there is one.

    A record of a store in another state is deleted: the part was published, or the store replaced.

    Parameters
    ----------
    folder : Path
        The workspace, which this process has locked.
    target : Path
        The store.
    sync : bool, default True
        Whether to wait until everything is on the disk.
    """
    if not (folder / PART).is_file():
        return
    record = PartRecord(**json.loads((folder / PART).read_bytes()))
    (folder / "journal").unlink(missing_ok=True)  # the record takes its place
    if state_of(open_local(target)[1]) == record.store:
        editor = editor_for(target)(target, folder, sync=sync)
        editor.add_part(folder / "store", record.group, record.attributes)
    (folder / PART).unlink()
    sync_path(folder)
