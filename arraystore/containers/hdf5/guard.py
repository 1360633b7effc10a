"""What of an HDF5 file is not followed, not run, and not believed.

HDF5 can point out of a file (external links, external storage, virtual datasets), run
code that is installed elsewhere (filters from plug-ins), and claim arrays of any size
that take up no room in the file. No store has any of that.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore.containers.protocol import MAX_NODES, check_nodes
from arraystore.errors import FormatError, brief
from arraystore.schema import (
    COLUMNS,
    MAX_CHUNK_NBYTES,
    MAX_NBYTES,
    PAYLOAD,
    ROOT_COLUMNS,
    SELECTIONS,
    Unreadable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from numpy.typing import NDArray

_FILTERS: Final = {1: "deflate", 2: "shuffle", 3: "fletcher32"}
"""The filters of HDF5 itself that a column may have, by their numbers, each of them once."""

SCALE_LISTS: Final = ("DIMENSION_LIST", "REFERENCE_LIST")
"""Attributes that say which scale is attached to which dataset, written by `attach_scale`."""

_MAX_RATIO: Final = 1100
"""More than deflate can make smaller: 1032 to 1."""


def find(root: Any, path: str, at: Callable[[str], str]) -> Any:
    """Return a group or dataset by its path, by hard links alone.

    Parameters
    ----------
    root : h5py.Group
    path : str
        Below it; empty for itself.
    at : callable
        Makes the place of a message from a path.

    Raises
    ------
    FormatError
        If there is nothing, or on the way a link to somewhere else.
    """
    import h5py

    node = root
    for part in filter(None, path.split("/")):
        name = part.encode()
        if not isinstance(node, h5py.Group) or not node.id.links.exists(name):
            raise FormatError(f"{at(path)}: is missing")
        if node.id.links.get_info(name).type != h5py.h5l.TYPE_HARD:
            raise FormatError(
                f"{at(path)}: {part!r} is a soft or external link; it is not followed"
            )
        node = node[part]
    return node


def walk(root: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield the path of everything in a file, parents first, in the order of the names.

    What several hard links lead to is yielded once, of a ring of groups each group.

    Parameters
    ----------
    root : h5py.Group
    where : str
        Address of the file, for messages.

    Yields
    ------
    str, h5py.Group, h5py.Dataset, h5py.Datatype or None
        None for links that are not followed.

    Raises
    ------
    FormatError
        See `check_nodes`; before anything deeper is opened.
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
        check_nodes((path,) if len(paths) <= MAX_NODES else paths, where)
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


def unreadable(shape: tuple[int, ...] | None, dtype: Any) -> Unreadable:
    """Return what stands for values that are not read, because they lie in the global heap.

    libhdf5 walks that heap without bounds: a flipped bit in it can keep it busy forever.
    """
    import h5py

    if shape is None:
        return Unreadable("nothing (an empty dataspace)")
    if h5py.check_string_dtype(dtype) is None:
        return Unreadable(f"values of type {dtype}, which is not read")
    return Unreadable(
        "variable-length text, which is not read",
        "write text of fixed length, as h5py does with dtype=h5py.string_dtype('utf-8', n) and "
        "n = max(2, len(text.encode()))",
    )


def check_attribute(shape: tuple[int, ...], dtype: np.dtype[Any], name: str, where: str) -> None:
    """Refuse an attribute that is too large."""
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes > MAX_NBYTES:
        raise FormatError(
            f"{where}: attribute {brief(name)} has {nbytes} bytes, at most {MAX_NBYTES} are read"
        )


def check_storage(dataset: Any, where: str) -> None:
    """Refuse a dataset whose values are in other files, or made by foreign code, or nowhere."""
    from h5py import h5d

    properties = dataset.id.get_create_plist()
    if properties.get_layout() == h5d.VIRTUAL or properties.get_external_count():
        raise FormatError(f"{where}: has its values in other files; they are not followed")
    filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    if not set(filters) <= _FILTERS.keys() or len(set(filters)) < len(filters):
        raise FormatError(
            f"{where}: must have no filters but {', '.join(_FILTERS.values())}, each once, got "
            f"those of the numbers {filters}"
        )


def check_values(dataset: Any, file_nbytes: int, where: str) -> None:
    """Refuse a column that has fewer values stored than it says."""
    length, nbytes = len(dataset), len(dataset) * dataset.dtype.itemsize
    stored = min(dataset.id.get_storage_size(), file_nbytes)
    if dataset.chunks is None:
        if stored < nbytes:
            raise FormatError(f"{where}: {nbytes} bytes are expected, {stored} are stored")
        return
    (rows,) = dataset.chunks
    if rows * dataset.dtype.itemsize > MAX_CHUNK_NBYTES:
        raise FormatError(f"{where}: chunks may have {MAX_CHUNK_NBYTES} bytes, got {rows} rows")
    n_chunks, found = -(-length // rows), dataset.id.get_num_chunks() if length else 0
    if found < n_chunks:
        raise FormatError(f"{where}: {n_chunks - found} chunks of {n_chunks} are missing")
    if nbytes > _MAX_RATIO * stored:
        raise FormatError(f"{where}: {nbytes} bytes cannot be compressed to {stored}")


def is_padded_with_zeros(dataset: Any) -> bool:
    """Whether text of a dataset has only zeros behind its end; True of what is no text.

    C programs end text with a zero byte, behind which anything may follow; Fortran programs pad it
    with spaces. libhdf5 removes both, NumPy neither.
    """
    from h5py import h5t

    if dataset.dtype.kind != "S":
        return True
    return bool(dataset.id.get_type().get_strpad() == h5t.STR_NULLPAD)


def is_dimension(dataset: Any) -> bool:
    """Whether a dataset is a dimension without values, as netCDF-4 makes them."""
    return bool(dataset.is_scale) and dataset.id.get_storage_size() == 0


def dimension_of(dataset: Any, path: str) -> str | None:
    """Return the name of the dimension of a 1-d dataset, or None if it has none.

    The list of its scales lies in the global heap, where a flipped bit may keep libhdf5
    busy for ever: of what has its name from us it is not looked up.

    Raises
    ------
    FormatError
        If the list of its scales is none. libhdf5 does not look before it reads one:
        a number in its place ends the process (HDF5 2.0).
    """
    from h5py import h5t

    group, _, last = path.rpartition("/")
    if known := {**COLUMNS, **ROOT_COLUMNS}.get(last):
        return known.dimension
    if last == PAYLOAD or group.startswith(f"{SELECTIONS}/"):
        return "byte" if last == PAYLOAD else f"selected_{last}"
    name = SCALE_LISTS[0]
    if dataset.ndim != 1 or name not in dataset.attrs:
        return None
    attribute = dataset.attrs.get_id(name)
    kind = attribute.get_type()
    is_list = kind.get_class() == h5t.VLEN and kind.get_super().get_class() == h5t.REFERENCE
    if not is_list or attribute.get_space().get_simple_extent_npoints() != 1:
        raise FormatError(f"{dataset.name}: attribute {name!r} must list scales, got {kind}")
    scales = dataset.dims[0]
    if not len(scales):
        return None
    scale = scales[0].name
    if scale is None:
        raise FormatError(f"{dataset.name}: has a dimension that is nowhere")
    return str(scale.rpartition("/")[2])


def chunk_starts(dataset: Any, file_nbytes: int, where: str) -> tuple[int, NDArray[np.int64]]:
    """Return the length of a payload's chunks in bytes, and where in the file each begins."""
    length = len(dataset)
    if dataset.chunks is None:
        offset = dataset.id.get_offset()
        if length and (offset is None or dataset.id.get_storage_size() < length):
            raise FormatError(f"{where}: has no storage in this file")
        _check_inside([offset] if length else [], length, file_nbytes, where)
        return max(length, 1), np.full(min(length, 1), offset or 0, dtype=np.int64)
    (chunk_nbytes,) = dataset.chunks
    found: dict[int, int] = {}

    # chunk_iter walks the index once; asking for one chunk after another is quadratic.
    def record(chunk: Any) -> None:
        found[chunk.chunk_offset[0] // chunk_nbytes] = chunk.byte_offset

    dataset.id.chunk_iter(record)
    n_chunks = -(-length // chunk_nbytes)
    if missing := next((str(i) for i in range(n_chunks) if i not in found), None):
        raise FormatError(f"{where}: chunk {missing} of {n_chunks} is missing")
    _check_inside(found.values(), int(chunk_nbytes), file_nbytes, where)
    return int(chunk_nbytes), np.array([found[i] for i in range(n_chunks)], dtype=np.int64)


def _check_inside(starts: Collection[int], chunk_nbytes: int, file_nbytes: int, where: str) -> None:
    """Refuse chunks that reach beyond the end of the file, or do not fit in it together."""
    if starts and not (
        min(starts) >= 0
        and max(starts) + chunk_nbytes <= file_nbytes
        and len(starts) * chunk_nbytes <= file_nbytes
    ):
        raise FormatError(
            f"{where}: {len(starts)} chunks of {chunk_nbytes} bytes do not lie in the file of "
            f"{file_nbytes} bytes"
        )
