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

    Raises
    ------
    ValueError
        If the suffix asks for no container, or an option is not known.
    """
    from arraystore.objects.address import parse_address

    if isinstance(target, tuple):
        return _bucket_draft(target, None, PurePosixPath(target[1]), overwrite=overwrite)
    text = os.fspath(target)
    address = parse_address(text)
    if address is not None:
        key = PurePosixPath(address.key)
        return _bucket_draft(text, storage_options, key, overwrite=overwrite)
    if storage_options:
        raise ValueError(f"{text}: storage_options are for buckets, and this is a path")
    path = Path(text.removeprefix("file://")).expanduser().absolute()
    return LocalDraft(path, overwrite=overwrite, sync=sync)


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
