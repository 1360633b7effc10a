"""Keep the memory of large batches, which glibc would return to the system after each of them.

glibc takes blocks of more than 128 KiB from the system one by one, and returns them when they are
freed. Then each page of the next batch is faulted in again, which takes longer than copying the
images. Both limits rise when a larger block is freed, up to 32 MiB (``mallopt(3)``,
M_MMAP_THRESHOLD), so one such block is allocated and freed. The process keeps up to twice its size.
"""

from __future__ import annotations

import os
from typing import Final

import numpy as np

VARIABLE: Final = "ARRAYSTORE_KEEP_MEMORY"
"""Environment variable; 0 leaves the allocator as it is."""

_NBYTES: Final = 31 * 2**20

_is_done = False


def keep_large_blocks() -> None:
    """Raise the limits of glibc, once in a process; nothing happens with other C libraries."""
    global _is_done
    if _is_done:
        return
    _is_done = True
    if os.environ.get(VARIABLE) != "0" and _has_glibc():
        np.empty(_NBYTES, dtype=np.uint8)  # no page of it is touched


def _has_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, OSError, ValueError):  # not Linux, or another C library
        return False
