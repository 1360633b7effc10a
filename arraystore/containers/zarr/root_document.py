"""Change the root document of a Zarr store, which lists the documents of its groups and arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from arraystore.containers.zarr.metadata import (
    CONSOLIDATED,
    consolidated_documents,
    document_key,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


def root_with_part(
    root: dict[str, Any], other: dict[str, Any], group: str, attributes: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the document of a root with a group of another store.

    Parameters
    ----------
    root, other : dict
        Documents of the roots of both stores; that of the other one has consolidated metadata.
    group : str
    attributes : mapping of str to any
        Attributes of the root that change.
    """
    nodes = consolidated_documents(other) or {}
    new = {path: node for path, node in nodes.items() if f"{path}/".startswith(f"{group}/")}
    kept = {name: value for name, value in root["attributes"].items() if name not in attributes}
    return changed_root(root | {"attributes": kept | dict(attributes)}, new)


def changed_root(
    root: dict[str, Any],
    new: Mapping[str, dict[str, Any]],
    gone: Collection[str] = (),
    version: str | None = None,
) -> dict[str, Any]:
    """Return the document of a root with other arrays in its consolidated metadata, if it has any.

    Parameters
    ----------
    root : dict
    new : mapping of str to dict
        Documents to add, by path.
    gone : collection of str, optional
        Paths of the groups and arrays to remove with all below them.
    version : str, optional
        New version of the format.
    """
    if version is not None:
        root = root | {"attributes": root["attributes"] | {"format_version": version}}
    nodes = consolidated_documents(root)
    if nodes is None:
        return root
    kept = {
        path: node
        for path, node in nodes.items()
        if not any(f"{path}/".startswith(f"{one}/") for one in gone)
    }
    merged = kept | dict(new)
    ordered = {path: merged[path] for path in sorted(merged, key=_parts)}
    return root | {CONSOLIDATED: root[CONSOLIDATED] | {"metadata": ordered}}


def _parts(path: str) -> list[str]:
    return document_key(path).split("/")
