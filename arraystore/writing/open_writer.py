"""Stores in the making, on the local disk or in a bucket, behind one protocol.

Where a store is made is known here, and nowhere else.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from arraystore._arguments import as_path
from arraystore.containers import writer_for
from arraystore.errors import escaped
from arraystore.writing.local import LocalDraft
from arraystore.writing.store_writer import Draft

if TYPE_CHECKING:
    from collections.abc import Mapping

    from arraystore.reading.store_handle import ObjectStore

__all__ = ["Draft", "name_of", "open_draft"]


def open_draft(
    target: str | os.PathLike[str] | tuple[ObjectStore, str],
    *,
    source: Path | None = None,
    storage_options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    sync: bool = True,
    resume: bool = False,
) -> Draft:
    """Prepare to make a store; nothing is written before the draft is entered.

    Parameters
    ----------
    target : path-like, or pair of an obstore store and a key
        A path, or an address such as ``s3://bucket/1pct.zarr``. Its suffix chooses
        the container.
    source : Path, optional
        The folder that it is made from, if it is one on the disk.
    storage_options : mapping, optional
        See `arraystore.open`.
    overwrite : bool, default False
        Whether a store that is there may be replaced.
    sync : bool, default True
        Whether to wait until all is on the disk.
    resume : bool, default False
        Whether to go on with what an earlier draft left.

    Raises
    ------
    ValueError
        If the suffix asks for no container, or an option is not known; if `resume` is
        given without `sync`; if `source` and target lie in each other.
    """
    from arraystore.storage.objects.address import parse_address

    if isinstance(target, tuple):
        return _bucket_draft(target, None, target[1], overwrite=overwrite, resume=resume)
    text = os.fspath(target)
    address = parse_address(text)
    if address is not None:
        key = address.key
        return _bucket_draft(text, storage_options, key, overwrite=overwrite, resume=resume)
    if storage_options:
        raise ValueError(escaped(f"{text}: storage_options are for buckets, and this is a path"))
    if resume and not sync:
        raise ValueError(
            escaped(
                f"{text}: resume=True (--resume) needs sync=True (--sync); without, nothing is "
                "known to be on the disk"
            )
        )
    path = as_path(text.removeprefix("file://")).absolute()
    draft = LocalDraft(path, overwrite=overwrite, sync=sync, resume=resume)
    if source is not None:
        _check_apart(path, source)
    return draft


def _bucket_draft(
    place: str | tuple[ObjectStore, str],
    options: Mapping[str, Any] | None,
    key: str,
    *,
    overwrite: bool,
    resume: bool,
) -> Draft:
    from arraystore.storage.objects.writer import ObjectWriter
    from arraystore.writing.hdf5_bucket import OneObjectDraft
    from arraystore.writing.zarr_bucket import ManyObjectsDraft

    try:
        container = writer_for(PurePosixPath(key))
    except ValueError as error:
        raise ValueError(escaped(f"{name_of(place)}: {str(error).partition(': ')[2]}")) from None
    kind = ManyObjectsDraft if container.root_key else OneObjectDraft
    return kind(ObjectWriter(place, options), overwrite=overwrite, resume=resume)


def _check_apart(target: Path, source: Path) -> None:
    """Refuse a store that its source's next conversion would find, or that would replace it."""
    here, there = target.parent.resolve() / target.name, source.resolve()
    if here.is_relative_to(there):
        raise ValueError(
            escaped(
                f"{target}: lies in {source}, which is converted; a store in it would be taken for "
                "classes the next time; choose a place outside of it"
            )
        )
    if there.is_relative_to(here):
        raise ValueError(
            escaped(f"{target}: holds {source}, which is converted; choose another place")
        )


def name_of(target: str | os.PathLike[str] | tuple[ObjectStore, str]) -> str:
    """Return a target as a report shows it.

    Examples
    --------
    >>> name_of("a.zarr")
    'a.zarr'
    """
    if isinstance(target, tuple):
        store, key = target
        return f"<{type(store).__name__}>/{key}"
    return str(target)
