"""Groups and datasets of an HDF5 file, reached by hard links alone.

Soft and external links can lead to other places and to other files. No store has any, and none is
followed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from arraystore.containers.protocol import MAX_NODES, check_nodes
from arraystore.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def find_node(root: Any, path: str, locate: Callable[[str], str]) -> Any:
    """Return a group or dataset by its path.

    Parameters
    ----------
    root : h5py.Group
    path : str
        Path below `root`; empty for `root` itself.
    locate : callable
        Turns a path into the location that messages begin with.

    Raises
    ------
    FormatError
        If the path does not exist, or contains a soft or external link.
    """
    import h5py

    node = root
    for part in filter(None, path.split("/")):
        name = part.encode()
        if not isinstance(node, h5py.Group) or not node.id.links.exists(name):
            raise FormatError(f"{locate(path)}: is missing")
        if node.id.links.get_info(name).type != h5py.h5l.TYPE_HARD:
            raise FormatError(
                f"{locate(path)}: {part!r} is a soft or external link; it is not followed"
            )
        node = node[part]
    return node


def walk_nodes(root: Any, location: str) -> Iterator[tuple[str, Any]]:
    """Yield the path of every group and dataset, parents first, sorted by name.

    A node with several hard links is yielded once, so that a ring of groups ends.

    Parameters
    ----------
    root : h5py.Group
    location : str
        Address of the file, for messages.

    Yields
    ------
    str, h5py.Group, h5py.Dataset, h5py.Datatype or None
        None for links that are not followed.

    Raises
    ------
    FormatError
        See `check_nodes`; raised before a deeper node is opened.
    """
    import h5py

    seen, paths = {_identity(root)}, set[str]()
    levels = [("", root, iter(sorted(root)))]
    while levels:
        above, group, names = levels[-1]
        name = next(names, None)
        if name is None:
            levels.pop()
            continue
        path = f"{above}/{name}" if above else name
        paths.add(path)
        check_nodes((path,) if len(paths) <= MAX_NODES else paths, location)
        key = name.encode(errors="surrogateescape")
        if group.id.links.get_info(key).type != h5py.h5l.TYPE_HARD:
            yield path, None
            continue
        node = group[key]
        if (identity := _identity(node)) in seen:
            continue
        seen.add(identity)
        yield path, node
        if isinstance(node, h5py.Group):
            levels.append((path, node, iter(sorted(node))))


def _identity(node: Any) -> tuple[int, int]:
    from h5py import h5o

    found = h5o.get_info(node.id)
    return found.fileno, found.addr
