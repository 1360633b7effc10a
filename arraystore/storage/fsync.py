"""Wait until written data is on the disk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_SYNCERS: Final = 8


def sync_tree(store: Path) -> None:
    """Wait until a file, or a folder with all its entries, is on the disk."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_SYNCERS) as pool:
        # In parallel, so that the file system can commit many in one transaction.
        list(pool.map(sync_path, [store, *store.rglob("*")]))


def sync_path(path: Path) -> None:
    """Wait until the bytes of a file, or the entries of a folder, are on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
