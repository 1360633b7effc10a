"""Types of arrays that many modules name."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Ints: TypeAlias = NDArray[np.int64]
"""Positions, offsets, sizes, labels."""

Checksums: TypeAlias = NDArray[np.uint32]
"""CRC-32C of images or chunks."""

Pixels: TypeAlias = NDArray[np.uint8]
"""Decoded images, (height, width, 3) or with further dimensions before these."""

Bytes: TypeAlias = NDArray[np.uint8]
"""Encoded images, (byte,)."""

Mask: TypeAlias = NDArray[np.bool_]
"""Which of an array's rows are meant, (row,)."""
