"""Verify the checksums of many tar headers at once."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

OCTAL: Final = re.compile(rb" *([0-7]+)[ \0]*")
"""A number in a tar header; programs pad it in different ways."""

_HEADER_NBYTES: Final = 512
_CHECKSUM: Final = slice(148, 156)
_PLACES: Final = 8 ** np.arange(5, -1, -1)


def checksums(headers: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Compare the checksum of each header with its bytes.

    Parameters
    ----------
    headers : sequence of bytes
        Each of 512 bytes.

    Returns
    -------
    stated : ndarray of uint8, shape (n, 8)
        The field that holds the checksum.
    holds : ndarray of bool, shape (n,)
        Whether it matches the header.
    """
    joined = np.frombuffer(bytearray().join(headers), np.uint8)
    blocks = joined.reshape(len(headers), _HEADER_NBYTES)
    stated = blocks[:, _CHECKSUM].copy()
    blocks[:, _CHECKSUM] = ord(" ")
    expected = _octals(stated)
    holds = blocks.sum(axis=1, dtype=np.int32) == expected
    if not holds.all():  # some old programs sum signed bytes
        holds |= blocks.view(np.int8).sum(axis=1, dtype=np.int32) == expected
    return stated, holds


def _octals(fields: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the number in each field, or -1 if it is not a number."""
    digits, ends = fields[:, :6] - ord("0"), fields[:, 6:]  # as nearly all programs write it
    if np.all(digits < 8) and np.all((ends == 0) | (ends == ord(" "))):
        numbers: NDArray[np.int64] = digits @ _PLACES
        return numbers
    octals = [OCTAL.fullmatch(field.tobytes()) for field in fields]
    return np.array([int(octal[1], 8) if octal else -1 for octal in octals])
