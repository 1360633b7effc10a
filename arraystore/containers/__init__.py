"""Zarr and HDF5 behind one protocol; no other package knows which of them a store is."""

from arraystore.containers.open_container import (
    bucket_editor_for,
    check_changeable,
    editor_for,
    is_container,
    open_local,
    open_remote,
    writer_for,
)

__all__ = [
    "bucket_editor_for",
    "check_changeable",
    "editor_for",
    "is_container",
    "open_local",
    "open_remote",
    "writer_for",
]
