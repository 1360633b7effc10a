"""Choose the writer of a new store by its target: the local disk or a bucket."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from arraystore.containers import writer_for
from arraystore.errors import escaped
from arraystore.storage.buckets import ObjectPath
from arraystore.writing.local import LocalStoreWriter
from arraystore.writing.local_part import LocalPartWriter

if TYPE_CHECKING:
    from arraystore.storage.buckets import SourcePath
    from arraystore.storage.location import Location
    from arraystore.writing.store_writer import StoreWriter


def open_writer(
    target: Location,
    *,
    source: SourcePath | None = None,
    overwrite: bool = False,
    sync: bool = True,
    resume: bool = False,
    appends: bool = False,
) -> StoreWriter:
    """Return the writer of a store; nothing is written before its context is entered.

    Parameters
    ----------
    target : Location
        Its suffix chooses the container.
    source : Path or ObjectPath, optional
        The folder that is converted, if it is one.
    overwrite : bool, default False
        Whether an existing store may be replaced.
    sync : bool, default True
        Whether to wait until everything is on the disk.
    resume : bool, default False
        Whether to continue with the unfinished store of an earlier process.
    appends : bool, default False
        Whether `target` exists, and a part of it is written; then `overwrite` refers to an
        unfinished store or part beside it. The writer is a `PartWriter`.

    Raises
    ------
    ValueError
        If the suffix chooses no container, or an option is unknown; if `resume` is true and
        `sync` false; if one of `source` and `target` lies in the other.
    """
    if isinstance(source, ObjectPath) and not target.is_local:
        is_inside = target.is_within(source.location)
        _refuse(target, source, is_inside, is_around=source.location.is_within(target))
    if not target.is_local:
        return _bucket_writer(target, overwrite=overwrite, resume=resume)
    if target.options:
        raise ValueError(escaped(f"{target}: is a path; storage_options need an address"))
    if resume and not sync:
        raise ValueError(
            escaped(
                f"{target}: resume=True (--resume) needs sync=True (--sync), because only synced "
                "blocks are known to be on the disk"
            )
        )
    kind = LocalPartWriter if appends else LocalStoreWriter
    writer = kind(target.path, overwrite=overwrite, sync=sync, resume=resume)
    if isinstance(source, Path):
        resolved, folder = target.path.parent.resolve() / target.path.name, source.resolve()
        is_inside = resolved.is_relative_to(folder)
        _refuse(target, source, is_inside, is_around=folder.is_relative_to(resolved))
    return writer


def _bucket_writer(target: Location, *, overwrite: bool, resume: bool) -> StoreWriter:
    from arraystore.storage.objects.writer import ObjectWriter
    from arraystore.writing.hdf5_bucket import HDF5BucketWriter
    from arraystore.writing.zarr_bucket import ZarrBucketWriter

    container_type = writer_for(target)
    kind = ZarrBucketWriter if container_type.root_key else HDF5BucketWriter
    return kind(ObjectWriter(target), container_type, overwrite=overwrite, resume=resume)


def _refuse(target: Location, source: SourcePath, is_inside: bool, *, is_around: bool) -> None:
    """Refuse a target in the source, where the next conversion would find it, and vice versa."""
    if is_inside:
        raise ValueError(
            escaped(
                f"{target}: lies in the source {source}; the next conversion would take the store "
                "for class folders; choose a target outside of the source"
            )
        )
    if is_around:
        raise ValueError(escaped(f"{target}: contains the source {source}; choose another target"))
