"""Choose the writer of a new store or part by its target: the local disk or a bucket."""

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
    from arraystore.writing.store_writer import PartWriter, StoreWriter


def open_writer(
    target: Location,
    *,
    source: SourcePath | None = None,
    overwrite: bool = False,
    sync: bool = True,
    resume: bool = False,
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

    Raises
    ------
    ValueError
        If the suffix chooses no container, or an option is unknown; if `resume` is true and
        `sync` false; if one of `source` and `target` lies in the other.
    """
    _check(target, source, sync=sync, resume=resume)
    if target.is_local:
        return LocalStoreWriter(target.path, overwrite=overwrite, sync=sync, resume=resume)
    from arraystore.storage.objects.writer import ObjectWriter
    from arraystore.writing.hdf5_bucket import HDF5BucketWriter
    from arraystore.writing.zarr_bucket import ZarrBucketWriter

    container_type = writer_for(target)
    kind = ZarrBucketWriter if container_type.root_key else HDF5BucketWriter
    return kind(ObjectWriter(target), container_type, overwrite=overwrite, resume=resume)


def open_part_writer(
    target: Location,
    *,
    source: SourcePath | None = None,
    overwrite: bool = False,
    sync: bool = True,
    resume: bool = False,
) -> PartWriter:
    """Return the writer of a part of a store that exists; see `open_writer`.

    `overwrite` and `resume` refer to an unfinished store or part beside the store.
    """
    _check(target, source, sync=sync, resume=resume)
    if target.is_local:
        return LocalPartWriter(target.path, overwrite=overwrite, sync=sync, resume=resume)
    from arraystore.writing.bucket_part import BucketPartWriter

    return BucketPartWriter(target, overwrite=overwrite, resume=resume)


def _check(target: Location, source: SourcePath | None, *, sync: bool, resume: bool) -> None:
    """Raise `ValueError` if there is no writer for the target, or options do not fit each other."""
    writer_for(target)
    if not target.is_local:
        if isinstance(source, ObjectPath):
            is_inside = target.is_within(source.location)
            _refuse(target, source, is_inside, is_around=source.location.is_within(target))
        return
    if target.options:
        raise ValueError(escaped(f"{target}: is a path; storage_options need an address"))
    if resume and not sync:
        raise ValueError(
            escaped(
                f"{target}: resume=True (--resume) needs sync=True (--sync), because only synced "
                "blocks are known to be on the disk"
            )
        )
    if isinstance(source, Path):
        resolved, folder = target.path.parent.resolve() / target.path.name, source.resolve()
        is_inside = resolved.is_relative_to(folder)
        _refuse(target, source, is_inside, is_around=folder.is_relative_to(resolved))


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
