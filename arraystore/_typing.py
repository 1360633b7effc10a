"""Array types that several modules use."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Ints: TypeAlias = NDArray[np.int64]
"""Positions, offsets, sizes, labels."""

Hashes: TypeAlias = NDArray[np.uint64]
"""Hashes of file names, random words: keys to sort by."""

Checksums: TypeAlias = NDArray[np.uint32]
"""CRC-32C of images or chunks."""

Pixels: TypeAlias = NDArray[np.uint8]
"""Decoded images, (height, width, 3), possibly with further dimensions before these."""

Bytes: TypeAlias = NDArray[np.uint8]
"""Encoded images, (byte,)."""

Mask: TypeAlias = NDArray[np.bool_]
"""True for the selected rows of an array, (row,)."""

Size: TypeAlias = tuple[int, int]
"""Height and width in pixels."""
