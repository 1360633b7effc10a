"""Stores in the making, on the local disk or in a bucket, behind one protocol.

Where a store is made is known here, and nowhere else.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from arraystore.containers import writer_for
from arraystore.drafts.base import Draft
from arraystore.drafts.local import LocalDraft

if TYPE_CHECKING:
    from collections.abc import Mapping

    from arraystore.containers.opening import ObjectStore

__all__ = ["Draft", "name_of", "open_draft"]


def open_draft(
    target: str | os.PathLike[str] | tuple[ObjectStore, str],
    *,
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
        If the suffix asks for no container, or an option is not known; if nothing
        can be resumed there.
    """
    from arraystore.objects.address import parse_address

    _check_resume(name_of(target), resume=resume, sync=sync)
    if isinstance(target, tuple):
        _refuse_resume(name_of(target), resume=resume)
        return _bucket_draft(target, None, PurePosixPath(target[1]), overwrite=overwrite)
    text = os.fspath(target)
    address = parse_address(text)
    if address is not None:
        _refuse_resume(text, resume=resume)
        key = PurePosixPath(address.key)
        return _bucket_draft(text, storage_options, key, overwrite=overwrite)
    if storage_options:
        raise ValueError(f"{text}: storage_options are for buckets, and this is a path")
    path = Path(text.removeprefix("file://")).expanduser().absolute()
    return LocalDraft(path, overwrite=overwrite, sync=sync, resume=resume)


def _check_resume(where: str, *, resume: bool, sync: bool) -> None:
    if resume and not sync:
        raise ValueError(
            f"{where}: resume=True (--resume) needs sync=True (--sync); without, nothing is known "
            "to be on the disk"
        )


def _refuse_resume(where: str, *, resume: bool) -> None:
    if resume:
        raise ValueError(
            f"{where}: resume=True (--resume) is for stores on a disk, since in a bucket a failure "
            "leaves nothing to go on with; convert to a disk, and copy what comes of it"
        )


def _bucket_draft(
    place: str | tuple[ObjectStore, str],
    options: Mapping[str, Any] | None,
    key: PurePosixPath,
    *,
    overwrite: bool,
) -> Draft:
    from arraystore.drafts.bucket import ManyObjectsDraft, OneObjectDraft
    from arraystore.objects.writer import ObjectWriter

    kind = ManyObjectsDraft if writer_for(key).root_key else OneObjectDraft
    return kind(ObjectWriter(place, options), overwrite=overwrite)


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
