"""State the new place of files that a store refers to, and check that they have its images."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore._arguments import check_bools
from arraystore._checksum import crc32c
from arraystore.errors import ReferencedFileError, SourceChangedError, escaped
from arraystore.images.probe import probe
from arraystore.reader import open_store
from arraystore.schema import PAYLOAD
from arraystore.storage.buckets import Buckets, states_of
from arraystore.storage.file_bytes import FileBytes
from arraystore.storage.location import Location
from arraystore.storage.referenced_files import References
from arraystore.writing.copy import StoredImages, copy_nodes
from arraystore.writing.open_writer import open_writer
from arraystore.writing.progress import meter
from arraystore.writing.references import stored_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from arraystore.reader import Store
    from arraystore.reading.stored_split import StoredSplit
    from arraystore.storage.file_states import FileStates

_COMPARED: Final = 64
"""Images of a split that are compared with what the store has of them."""


@dataclass(frozen=True, slots=True)
class RelocateReport:
    """Result of stating a new place.

    Attributes
    ----------
    store : str
        The store.
    files : tuple of (str, str)
        Former and new place of the first 1,000 files.
    num_files : int
        Number of all of them.
    num_compared : int
        Images that were compared with what the store has of them.
    seconds : float
        Wall time.
    """

    store: str
    files: tuple[tuple[str, str], ...]
    num_files: int
    num_compared: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        return asdict(self)


def relocate(
    store: str | os.PathLike[str],
    old: str | os.PathLike[str],
    new: str | os.PathLike[str],
    *,
    source_options: Mapping[str, Any] | None = None,
    progress: bool | None = None,
) -> RelocateReport:
    """State where files with images of a store are now.

    The store is written again without the images in other files, and replaced in one step. If a
    file is missing at the new place, has another size, or other images, nothing is changed.

    Parameters
    ----------
    store : path-like
        A store on a disk.
    old : path-like
        Former path or address of a file, or of a folder that contains files.
    new : path-like
        Where it is now. The same as `old`, if its files were replaced by copies of the same bytes.
    source_options : mapping of str to anything, optional
        Options of the bucket of `new`; see `storage_options` of `arraystore.open`.
    progress : bool, optional
        See `arraystore.convert`.

    Returns
    -------
    RelocateReport

    Raises
    ------
    ValueError
        If the store refers to no file at `old`, or is not on a disk.
    ReferencedFileError
        If a file at `new` is missing, or is not the one that the store refers to.
    """
    check_bools(progress=False if progress is None else progress)
    began = time.perf_counter()
    location = Location.parse(store)
    if not location.is_local:
        raise ValueError(
            escaped(f"{location}: only stores on a disk can be changed; convert it again")
        )
    opened, places = open_store(location), _Places(location, old, new)
    buckets = Buckets(source_options)
    columns: dict[str, Any] = {}
    moved: list[tuple[str, str]] = []
    n_compared = 0
    for name in opened.info.references:
        stored = opened.stored(name)
        changed, pairs, compared = _relocated(stored, places, buckets)
        columns |= {f"{name}/{column}": values for column, values in changed.items()}
        moved += pairs
        n_compared += compared
    if not moved:
        raise ValueError(
            escaped(f"{location}: refers to no file at {os.fspath(old)}; {_known(opened)}")
        )
    with open_writer(location, overwrite=True) as writer, meter(progress) as shown:
        own = {name: _own_images(opened, name) for name in opened._root.dataset.groups}
        writer.create_arrays({name: int(images.nbytes.sum()) for name, images in own.items()})
        for name, images in own.items():
            writer.fill(name, images, shown)
        with writer.sealing() as container:
            copy_nodes(opened, container, columns)
        writer.publish(shown)
    return RelocateReport(
        str(location), tuple(moved[:1000]), len(moved), n_compared, time.perf_counter() - began
    )


class _Places:
    """Former and new places.

    Parameters
    ----------
    store : Location
    old, new : path-like
        See `relocate`.
    """

    def __init__(
        self, store: Location, old: str | os.PathLike[str], new: str | os.PathLike[str]
    ) -> None:
        self.references = References(store)
        self.old, self.new = (str(Location.parse(place)).rstrip("/") for place in (old, new))

    def new_place(self, path: str) -> str | None:
        """Return the new place of a path that a store has; None if it stays where it is."""
        place = self.references.resolve(path)
        if place == self.old:
            return self.new
        if place.startswith(f"{self.old}/"):
            return self.new + place[len(self.old) :]
        return None


def _relocated(
    stored: StoredSplit, places: _Places, buckets: Buckets
) -> tuple[dict[str, Any], list[tuple[str, str]], int]:
    """Return changed columns of a split, its files that moved, and how many images agree."""
    references = stored.references
    assert references is not None  # the root states that there are some
    files = references.files
    found = [places.new_place(path) for path in files.paths]
    rows = np.array([i for i, place in enumerate(found) if place is not None], np.int64)
    new = [place for place in found if place is not None]
    if not new:
        return {}, [], 0
    try:
        states = states_of([buckets.path(place) for place in new])
    except SourceChangedError as error:
        raise ReferencedFileError(f"{error}; nothing was changed") from None
    for place, state, nbytes in zip(new, states, files.nbytes[rows].tolist(), strict=True):
        if state.nbytes != nbytes:
            raise ReferencedFileError(
                f"{place}: has {state.nbytes:,} bytes, must have {nbytes:,}; nothing was changed"
            )
    n_compared = _compare(stored, rows, states)
    paths, mtime, etag = list(files.paths), files.mtime.copy(), files.etag.copy()
    pairs = []
    for i, place, state in zip(rows.tolist(), new, states, strict=True):
        pairs.append((places.references.resolve(paths[i]), place))
        paths[i] = stored_path(place, places.references.store)
        mtime[i] = state.seconds * 10**9 + state.nanoseconds
        etag[i] = 0 if state.inode else state.changed_ns
    changed = {"payload_files": paths, "payload_mtime": mtime, "payload_etag": etag}
    return changed, pairs, n_compared


def _compare(stored: StoredSplit, rows: Any, states: FileStates) -> int:
    """Compare some images of files at their new places; return how many.

    Raises
    ------
    ReferencedFileError
        If one is not the image that it was: by its checksum, or, where that is not known, by the
        height and width in its header.
    """
    columns = stored.columns
    number_of = {row: i for i, row in enumerate(rows.tolist())}
    mine = np.flatnonzero(np.isin(columns["image_file"], rows))
    some = mine[np.unique(np.linspace(0, len(mine) - 1, min(_COMPARED, len(mine))).astype(int))]
    reader = FileBytes(states)
    for i in some.tolist():
        number = number_of[int(columns["image_file"][i])]
        start, nbytes = (int(columns[name][i]) for name in ("image_start", "image_nbytes"))
        data = reader.read(number, start, nbytes)
        if stored.has_checksums:
            is_same = crc32c(data) == columns["image_crc32c"][i]
        else:
            shape = tuple(int(columns[name][i]) for name in ("image_height", "image_width"))
            is_same = _shape(data) == shape
        if not is_same:
            raise ReferencedFileError(
                f"{states.paths[number]}: has another image than {stored.describe(i)} at byte "
                f"{start:,}; nothing was changed"
            )
    return len(some)


def _shape(data: bytes | memoryview) -> tuple[int, int] | None:
    try:
        header = probe(lambda start, stop: data[start:stop], len(data))
    except ValueError:
        return None
    return header.height, header.width


def _own_images(store: Store, split: str) -> StoredImages:
    """Return the images that the store itself holds."""
    reader, container = store.opened
    stored = store.stored(split)
    start, nbytes = stored.columns["image_start"], stored.columns["image_nbytes"]
    names = stored.columns["file_name"]
    if stored.references is not None:
        own = np.flatnonzero(stored.columns["image_file"] < 0)
        start, nbytes, names = start[own], nbytes[own], names[own]
    manifest = container.manifest(f"{split}/{PAYLOAD}")
    return StoredImages(reader, manifest, start, nbytes, names, stored.location)


def _known(store: Store) -> str:
    """Say which files a store refers to, for a message."""
    files = [
        references.files.paths[0]
        for name in store.info.references
        if (references := store.stored(name).references) is not None
    ]
    return f"it refers to {', '.join(files)} and others" if files else "all images are in the store"
