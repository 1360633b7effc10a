"""CRC-32C checksums of images, of chunks of columns, and of lines of a journal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import google_crc32c
import numpy as np

if TYPE_CHECKING:
    from typing_extensions import Buffer


def crc32c(data: Buffer, value: int = 0) -> int:
    """Return the CRC-32C (RFC 3720, section 12.1) of `data`, continued from `value`.

    Examples
    --------
    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    # google_crc32c refuses a memoryview of writable memory but takes any NumPy array.
    result: int = google_crc32c.extend(value, np.frombuffer(data, dtype=np.uint8))
    return result
