"""Choose the writer of a new store by its target: the local disk or a bucket."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from arraystore._arguments import as_path
from arraystore.containers import writer_for
from arraystore.errors import escaped
from arraystore.writing.local import LocalStoreWriter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from arraystore.reading.store_handle import ObjectStore
    from arraystore.writing.store_writer import StoreWriter


def open_writer(
    target: str | os.PathLike[str] | tuple[ObjectStore, str],
    *,
    source: Path | None = None,
    storage_options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    sync: bool = True,
    resume: bool = False,
) -> StoreWriter:
    """Return the writer of a store; nothing is written before its context is entered.

    Parameters
    ----------
    target : path-like, or pair of an obstore store and a key
        A path, or an address such as ``s3://bucket/1pct.zarr``. Its suffix chooses
        the container.
    source : Path, optional
        The folder that is converted, if it is one on the disk.
    storage_options : mapping, optional
        See `arraystore.open`.
    overwrite : bool, default False
        Whether an existing store may be replaced.
    sync : bool, default True
        Whether to wait until everything is on the disk.
    resume : bool, default False
        Whether to continue with the unfinished store of an earlier process.

    Raises
    ------
    ValueError
        If the suffix chooses no container, or an option is unknown; if `resume` is true and
        `sync` false; if one of `source` and `target` lies in the other.
    """
    from arraystore.storage.objects.address import parse_address

    if isinstance(target, tuple):
        return _bucket_writer(target, None, target[1], overwrite=overwrite, resume=resume)
    text = os.fspath(target)
    address = parse_address(text)
    if address is not None:
        key = address.key
        return _bucket_writer(text, storage_options, key, overwrite=overwrite, resume=resume)
    if storage_options:
        raise ValueError(escaped(f"{text}: is a path; storage_options need an address"))
    if resume and not sync:
        raise ValueError(
            escaped(
                f"{text}: resume=True (--resume) needs sync=True (--sync), because only synced "
                "blocks are known to be on the disk"
            )
        )
    path = as_path(text.removeprefix("file://")).absolute()
    writer = LocalStoreWriter(path, overwrite=overwrite, sync=sync, resume=resume)
    if source is not None:
        _check_apart(path, source)
    return writer


def _bucket_writer(
    target: str | tuple[ObjectStore, str],
    options: Mapping[str, Any] | None,
    key: str,
    *,
    overwrite: bool,
    resume: bool,
) -> StoreWriter:
    from arraystore.storage.objects.writer import ObjectWriter
    from arraystore.writing.hdf5_bucket import HDF5BucketWriter
    from arraystore.writing.zarr_bucket import ZarrBucketWriter

    container_type = writer_for(PurePosixPath(key), name_of(target))
    kind = ZarrBucketWriter if container_type.root_key else HDF5BucketWriter
    objects = ObjectWriter(target, options)
    return kind(objects, container_type, overwrite=overwrite, resume=resume)


def _check_apart(target: Path, source: Path) -> None:
    """Refuse a target in the source, where the next conversion would find it, and vice versa."""
    resolved, folder = target.parent.resolve() / target.name, source.resolve()
    if resolved.is_relative_to(folder):
        raise ValueError(
            escaped(
                f"{target}: lies in the source {source}; the next conversion would take the store "
                "for class folders; choose a target outside of the source"
            )
        )
    if folder.is_relative_to(resolved):
        raise ValueError(escaped(f"{target}: contains the source {source}; choose another target"))


def name_of(target: str | os.PathLike[str] | tuple[ObjectStore, str]) -> str:
    """Return the text of a target for reports and messages.

    Examples
    --------
    >>> name_of("a.zarr")
    'a.zarr'
    """
    if isinstance(target, tuple):
        store, key = target
        return f"<{type(store).__name__}>/{key}"
    return str(target)
