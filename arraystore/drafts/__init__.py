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

__all__ = ["Draft", "open_draft"]


def open_draft(
    target: str | os.PathLike[str],
    *,
    storage_options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    sync: bool = True,
) -> Draft:
    """Prepare to make a store; nothing is written before the draft is entered.

    Parameters
    ----------
    target : path-like
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

    text = os.fspath(target)
    address = parse_address(text)
    if address is None:
        if storage_options:
            raise ValueError(f"{text}: storage_options are for buckets, and this is a path")
        path = Path(text.removeprefix("file://")).expanduser().absolute()
        return LocalDraft(path, overwrite=overwrite, sync=sync)
    from arraystore.drafts.bucket import ManyObjectsDraft, OneObjectDraft
    from arraystore.objects.writer import ObjectWriter

    container = writer_for(PurePosixPath(address.key))
    kind = ManyObjectsDraft if container.root_key else OneObjectDraft
    return kind(ObjectWriter(text, storage_options), overwrite=overwrite)
