"""Add columns to a finished store, and remove them; its images and other columns stay as they are.

A store that is killed meanwhile opens as before or as after. `content_digest` does not change:
each further column has a digest of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from arraystore._arguments import as_path, check_bools
from arraystore.containers import bucket_editor_for, editor_for
from arraystore.dataset.parts import samples_of_parts
from arraystore.dataset.sample_set import StoredPositions
from arraystore.errors import StorageError, brief, escaped
from arraystore.reader import open_store
from arraystore.schema import (
    USER_COLUMNS,
    USER_COLUMNS_VERSION,
    check_column_name,
)
from arraystore.sources.column_file import read_column_file
from arraystore.storage.location import Location
from arraystore.storage.open_files import translate_full_disk
from arraystore.writing.matched_values import matched
from arraystore.writing.new_column import NewColumn, as_new_column
from arraystore.writing.workspace import editing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from arraystore.containers.protocol import ColumnEditor, WriteArray
    from arraystore.reader import Store
    from arraystore.storage.location import Place
    from arraystore.storage.objects.writer import ObjectWriter


@dataclass(frozen=True, slots=True)
class ColumnReport:
    """Result of adding a column.

    Attributes
    ----------
    store, split, name : str
        Address of the store, name of the split and of the column.
    values : str
        Data type and shape, such as ``float32 (1281167, 512)``.
    notes : tuple of str
        Which values belong to no sample, which samples got none, and what was taken as what.
    seconds : float
        Wall time.
    """

    store: str
    split: str
    name: str
    values: str
    notes: tuple[str, ...]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        return asdict(self)


def add_column(
    store: Place,
    split: str,
    name: str,
    values: Any,
    *,
    description: str = "",
    ragged: bool | None = None,
    file_names: Sequence[str] | None = None,
    fill: Any = None,
    key: str | None = None,
    fields: Sequence[str] = (),
    storage_options: Mapping[str, Any] | None = None,
    sync: bool = True,
) -> ColumnReport:
    """Add a column to a split of a finished store: one value per sample, of any shape.

    No image is read or rewritten, and no digest of the split changes. The new column is read with
    `Split.columns` after the store is opened again. A process that is killed meanwhile leaves the
    store as it was, or with the whole column. A split with several parts gets the column in all of
    them, and needs values of the samples that are not replaced.

    Parameters
    ----------
    store : path-like
        The store.
    split : str
        Name of the split, such as ``"train"``.
    name : str
        Name of the column: letters, digits, ``_`` and ``-``.
    values : array-like, sequence of array-like, mapping, str or path-like
        One value per sample, in the order of the split; or a mapping from file names to values;
        or a .npy, .csv, .tsv or .parquet file. An array of shape (n, …) of numbers, bools
        or text; a `numpy.memmap` or another array that is read by slices, such as one of Zarr or
        HDF5, is never in memory as a whole. A list of arrays of different lengths becomes a ragged
        column: boxes, several labels, captions.
    description : str, optional
        For people.
    ragged : bool, optional
        Whether samples may have different numbers of values. By default this follows from
        `values`; pass True for a list that happens to hold arrays of one length, or if several
        values belong to one file name.
    file_names : sequence of str, optional
        The file name that each value belongs to. Without it, values are in the order of the split.
    fill : scalar, optional
        Value of samples that no file name names. By default they are an error; a ragged column
        has no values there.
    key : str, optional
        Column of a table with the file names; by default ``file_name`` or a similar one. An empty
        text: the rows are in the order of the split.
    fields : sequence of str, optional
        Columns of a table with the values; by default the one with the name of the new column.
        Several are put side by side.
    storage_options : mapping, optional
        See `arraystore.open`.
    sync : bool, default True
        Whether to wait until everything is on the disk.

    Returns
    -------
    ColumnReport
        Its notes say which file names did not match.

    Raises
    ------
    FileExistsError
        If the split has a column of that name.
    KeyError
        If the store has no such split.
    ValueError
        If there is not one value per sample, the name is not allowed, or no file name matches.
    SourceError
        If a file of values cannot be read.
    TypeError
        If values are neither numbers, bools nor text.
    StorageError
        If another process is writing to the store, or the disk is full.

    Examples
    --------
    >>> import arraystore
    >>> import numpy as np
    >>> report = arraystore.add_column("1pct.zarr", "train", "score", np.linspace(0, 1, 160))
    >>> train = arraystore.open("1pct.zarr")["train"]
    >>> train.columns["score"][[0, -1]]
    array([0., 1.])
    >>> len(train.select(train.columns["score"] > 0.75))
    40
    """
    check_bools(sync=sync, ragged=bool(ragged) if ragged is None else ragged)
    check_column_name(name)
    began = time.perf_counter()
    notes: tuple[str, ...] = ()
    if isinstance(values, str | os.PathLike):
        read = read_column_file(as_path(values), name, key=key, fields=fields)
        values, notes = read.values, read.notes
        ragged = True if read.is_ragged else ragged
        file_names = read.file_names if file_names is None else file_names
    elif key is not None or fields:
        raise ValueError("key and fields are for files of values")
    if isinstance(values, Mapping):
        file_names, values = list(values), list(values.values())
    with _opened(store, storage_options, sync=sync) as (found, editor):
        parts = _parts(found, split)
        location, samples = f"{found.address}/{split}", found[split]
        if having := [stored.name for stored, _ in parts if name in stored.user_columns]:
            some = f" in {', '.join(having)}" if len(having) < len(parts) else ""
            raise FileExistsError(
                escaped(
                    f"{location}: has a column {name!r}{some}; remove it first (remove_column), or "
                    "choose another name"
                )
            )
        if file_names is not None:
            values, more = matched(values, file_names, samples, location, fill=fill, ragged=ragged)
            notes += more
        elif fill is not None:
            raise ValueError("fill is for values that belong to file names; pass file_names")
        column = as_new_column(values, name, len(samples), ragged=ragged)
        writes: dict[str, WriteArray] = {}
        first = 0
        for stored, positions in parts:
            part = column.of_part(positions, first, len(stored))
            writes[f"{stored.name}/{USER_COLUMNS}"] = partial(part.write, description=description)
            first += len(positions)
        attributes = found.opened[1].attributes()
        version = _needed_version(attributes["format_version"], column)
        editor.add(name, writes, version)
    return ColumnReport(
        store=found.address,
        split=split,
        name=name,
        values=column.summary,
        notes=notes,
        seconds=time.perf_counter() - began,
    )


def remove_column(
    store: Place,
    split: str,
    name: str,
    *,
    storage_options: Mapping[str, Any] | None = None,
    sync: bool = True,
) -> None:
    """Remove a further column from a split of a finished store.

    An HDF5 file does not become shorter; `arraystore.copy` writes one without the gap.

    Parameters
    ----------
    store, split, name, storage_options, sync
        See `add_column`.

    Raises
    ------
    KeyError
        If there is no such split or column.
    StorageError
        If another process is writing to the store.
    """
    check_bools(sync=sync)
    with _opened(store, storage_options, sync=sync) as (found, editor):
        columns = {stored.name: stored.user_columns for stored, _ in _parts(found, split)}
        groups = [f"{part}/{USER_COLUMNS}" for part, some in columns.items() if name in some]
        if not groups:
            names = dict.fromkeys(column for some in columns.values() for column in some)
            raise KeyError(
                escaped(
                    f"{found.address}/{split}: has no column {brief(name)}, it has "
                    f"{', '.join(names) or 'none'}"
                )
            )
        editor.remove(name, groups)


@contextmanager
def _opened(
    place: Place, storage_options: Mapping[str, Any] | None, *, sync: bool
) -> Iterator[tuple[Store, ColumnEditor]]:
    """Lock a store, and return it with what changes its columns."""
    location = Location.parse(place, storage_options)
    opened = open_store(location)  # raises if it is not a store
    if not location.is_local:
        with _locked_in_bucket(location) as objects:
            yield open_store(location), bucket_editor_for(opened.opened[1], objects)
        return
    path = Path(os.path.realpath(location.path))
    kind = editor_for(path)
    with editing(path, kind.recover) as scratch, translate_full_disk(scratch):
        yield open_store(path), kind(path, scratch, sync=sync)


@contextmanager
def _locked_in_bucket(location: Location) -> Iterator[ObjectWriter]:
    """Lock a store in a bucket, and return what writes its objects."""
    from arraystore.storage.objects.writer import ObjectWriter
    from arraystore.writing.lock_object import LockObject

    objects = ObjectWriter(location)
    path = PurePosixPath(objects.key)
    lock = LockObject(objects, str(path.with_name(f".{path.name}.partial")))
    if lock.is_released:
        raise StorageError(
            f"{lock.location}: holds an unfinished append or conversion; finish it with "
            "resume=True (--resume), or start it again with overwrite=True (--overwrite)"
        )
    if lock.existed:
        is_begun = lock.fingerprint is not None
        remedy = "repeat it with resume=True (--resume)" if is_begun else "delete this object"
        raise StorageError(
            f"{lock.location}: another process is writing to the store, or was killed while it did "
            f"(last update {lock.time:%Y-%m-%d %H:%M:%S} UTC); wait for it, or, if it no longer "
            f"runs, {remedy}"
        )
    lock.acquire()
    try:
        yield objects
    finally:
        lock.delete()


def _parts(store: Store, split: str) -> list[StoredPositions]:
    """Return all parts of a split, and the positions in each of its samples of the split."""
    if split not in store:
        raise KeyError(
            escaped(f"{store.address}: has no split {brief(split)}, it has {', '.join(store)}")
        )
    parts = store._root.dataset.parts.get(split)
    if parts is None:
        stored = store.stored(split)
        return [StoredPositions(stored, range(len(stored)))]
    return samples_of_parts(parts, store._handle)


def _needed_version(found: str, column: NewColumn) -> str | None:
    """Return the version of the format that a store needs for a column, if it must be raised."""
    major, minor = map(int, found.split("."))
    if column.is_simple or (major, minor) >= USER_COLUMNS_VERSION:
        return None
    return ".".join(map(str, USER_COLUMNS_VERSION))
