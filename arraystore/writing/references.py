"""Images that stay where they are: what a store states of the files that hold them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from arraystore._arguments import check_bools
from arraystore.errors import SourceError, escaped
from arraystore.indexing.byte_range import ZEROS
from arraystore.storage.buckets import Buckets, states_of
from arraystore.storage.file_states import FileState, common_folder, is_address
from arraystore.storage.location import Location
from arraystore.storage.referenced_files import VARIABLE, ReferencedFile, References

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from arraystore._typing import Ints
    from arraystore.reading.store_handle import StoreHandle
    from arraystore.sources.sample_table import Source
    from arraystore.writing.plan import SplitPlan
    from arraystore.writing.selected_images import SelectedImages


@dataclass(frozen=True, slots=True)
class SplitReferences:
    """The files that hold images of a split, and where in them the images are.

    Attributes
    ----------
    paths : list of str
        As the store has them.
    nbytes, mtime, etag : ndarray of int64, shape (n_files,)
        See `arraystore.storage.referenced_files.ReferencedFile`.
    file : ndarray of int32, shape (n,)
        Number of each image's file, -1 if the store itself holds the image.
    start : ndarray of int64, shape (n,)
        Offset in that file, or in the store's payload.
    """

    paths: list[str]
    nbytes: Ints
    mtime: Ints
    etag: Ints
    file: NDArray[np.int32]
    start: Ints

    @property
    def is_own(self) -> NDArray[np.bool_]:
        """Which images the store itself holds."""
        return self.file < 0

    def columns(self) -> dict[str, Any]:
        """Return the columns that a store has of them, by name."""
        return {
            "image_file": self.file,
            "payload_files": self.paths,
            "payload_nbytes": self.nbytes,
            "payload_mtime": self.mtime,
            "payload_etag": self.etag,
        }


def as_checksums(checksums: bool | None, *, copy_images: bool) -> bool:
    """Return whether checksums are to be known: by default where images are copied.

    Raises
    ------
    TypeError
        If an option is not a bool.
    ValueError
        If images are copied, which always computes the checksums, and they are not wanted.
    """
    wanted = copy_images if checksums is None else checksums
    check_bools(copy_images=copy_images, checksums=wanted)
    if copy_images and not wanted:
        raise ValueError("checksums=False needs copy_images=False; copying computes them anyway")
    return wanted


def references_of(
    source: Source, plans: Mapping[str, SplitPlan], target: Location
) -> dict[str, SplitReferences]:
    """Return what a store at `target` states of the files of each split that keep images.

    Raises
    ------
    SourceError
        If the store cannot refer to a file.
    """
    found = ((name, _references_of(source, plan, target)) for name, plan in plans.items())
    return {name: references for name, references in found if references is not None}


def _references_of(source: Source, plan: SplitPlan, target: Location) -> SplitReferences | None:
    """Return the files that keep images of a split; None if the store holds all of them.

    Images that were re-encoded, or are compressed in their files, are held by the store.
    """
    table, n_files = plan.table, len(source.files)
    is_own = table.file >= n_files
    if is_own.all():
        return None
    used, number = np.unique(table.file[~is_own], return_inverse=True)
    states = source.states.take(used.astype(np.int64))
    file = np.full(len(table), -1, np.int32)
    file[~is_own] = number
    start = table.offset.copy()
    own_nbytes = table.nbytes[is_own]
    start[is_own] = np.cumsum(own_nbytes) - own_nbytes
    values = states.values
    is_remote = np.array([is_address(path) for path in states.paths], np.bool_)
    return SplitReferences(
        [stored_path(path, target) for path in states.paths],
        values[:, 0].copy(),
        values[:, 1] * 10**9 + values[:, 2],
        np.where(is_remote, values[:, 3], 0),
        file,
        start,
    )


def of_selected(images: SelectedImages, target: Location) -> SplitReferences | None:
    """Return the files that keep images of other stores; None if a new store holds all of them.

    These are the objects of the stores, or the files that these refer to in turn. An image that
    lies in two objects is held by the new store.

    Raises
    ------
    SourceError
        If a store at `target` cannot refer to a file.
    """
    n = len(images.nbytes)
    file, start = np.full(n, -1, np.int64), np.zeros(n, np.int64)
    states: dict[str, FileState] = {}
    for stored, mine, pieces, keys in images.places():
        count = np.bincount(pieces.wanted, minlength=len(mine))
        is_one = (count[pieces.wanted] == 1) & (pieces.start != ZEROS)
        objects, number = np.unique(pieces.object[is_one], return_inverse=True)
        known = states_of_objects(stored.handle, [keys[i] for i in objects.tolist()])
        states |= known  # stores may share files
        number_of = {path: i for i, path in enumerate(states)}
        places = np.array([number_of[path] for path in known], np.int64)
        rows = mine[pieces.wanted[is_one]]
        file[rows] = places[number]
        start[rows] = pieces.start[is_one]
    if not states:
        return None
    is_own = file < 0
    own_nbytes = images.nbytes[is_own]
    start[is_own] = np.cumsum(own_nbytes) - own_nbytes
    values = np.array([*states.values()], np.int64)
    return SplitReferences(
        [stored_path(path, target) for path in states],
        values[:, 0].copy(),
        values[:, 1] * 10**9 + values[:, 2],
        np.where([is_address(path) for path in states], values[:, 3], 0),
        file.astype(np.int32),
        start,
    )


def paths_of_objects(handle: StoreHandle, keys: Sequence[str]) -> list[str]:
    """Return the paths or addresses of objects of a store, or of files that it refers to."""
    folder = handle.reader.root
    if isinstance(folder, str):
        return [str(key) if isinstance(key, ReferencedFile) else f"{folder}/{key}" for key in keys]
    prefix = f"{folder[1]}/" if folder[1] else ""
    return [
        str(key) if isinstance(key, ReferencedFile) else str(handle.location.at(f"{prefix}{key}"))
        for key in keys
    ]


def states_of_objects(handle: StoreHandle, keys: Sequence[str]) -> dict[str, FileState]:
    """Return the states of objects of a store, or of files that it refers to, by their paths."""
    paths, buckets = paths_of_objects(handle, keys), Buckets(handle.location.options)
    pairs = zip(keys, paths, strict=True)
    own = [path for key, path in pairs if not isinstance(key, ReferencedFile)]
    found = dict(zip(own, states_of([buckets.path(path) for path in own]), strict=True))
    return {
        path: FileState(key.nbytes, *divmod(key.mtime, 10**9), key.etag, 0)
        if isinstance(key, ReferencedFile)
        else found[path]
        for key, path in zip(keys, paths, strict=True)
    }


def stored_path(path: str, target: Location) -> str:
    """Return a path or address as a store at `target` has it.

    It is relative to the folder that contains the store if the file is in that folder, so that
    both can be moved together.

    Raises
    ------
    SourceError
        If it is a path on a disk and the store is not, or not valid UTF-8.

    Examples
    --------
    >>> store = Location.parse("/data/some.zarr")
    >>> stored_path("/data/tars/train.tar", store), stored_path("/mnt/train.tar", store)
    ('tars/train.tar', '/mnt/train.tar')
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        raise SourceError(
            f"{path}: has a name that is not UTF-8, so a store cannot refer to it; rename it, or "
            "convert with copies of the images"
        ) from None
    if is_address(path):
        place = Location.parse(path)
        folder = target.at(target.key.rpartition("/")[0])
        if not target.is_local and place.is_within(folder):
            return place.key[len(folder.key) :].lstrip("/")
        return path
    if not target.is_local:
        raise SourceError(
            f"{path}: is on a disk, and the store {target} is not; images can be left in place "
            "only where readers of the store reach them: write the store to a disk"
        )
    path, folder_path = os.path.abspath(path), str(target.path.parent)  # noqa: PTH100 - many
    return os.path.relpath(path, folder_path) if _is_below(path, folder_path) else path


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


def notes_on(references: Mapping[str, SplitReferences], target: Location) -> tuple[str, ...]:
    """Return notes on images that were left in place, for the report."""
    followed = References(target)
    notes = []
    for split, found in references.items():
        n, n_own = len(found.file), int(found.is_own.sum())
        what = f"{split}: {n - n_own:,} images stay in {len(found.paths):,} files"
        if n_own:
            what += f", {n_own:,} are in the store because they had to be encoded or decompressed"
        notes.append(what)
    folders = {
        path.rpartition("/")[0]
        for found in references.values()
        for path in map(followed.resolve, _first_of_folders(found.paths))
        if not followed.is_allowed(path)
    }
    if folders:
        common = common_folder([f"{folder}/" for folder in folders])
        notes.append(
            "images are outside of the folder of the store, where they are read only if that is "
            f"allowed: allow_references={common!r}, or set {VARIABLE}={common}"
        )
    return tuple(map(escaped, notes))


def _first_of_folders(paths: list[str]) -> list[str]:
    """Return one path of each folder."""
    return list({path.rpartition("/")[0]: path for path in paths}.values())
