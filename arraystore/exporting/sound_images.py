"""Images that are read for an export, without those that are damaged if so chosen."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from arraystore.errors import ChecksumError, FormatError, ReferencedFileError, ShortReadError

if TYPE_CHECKING:
    from arraystore._typing import Ints
    from arraystore.dataset.split import Split

_DAMAGE: Final = (ChecksumError, FormatError, ShortReadError, ReferencedFileError)
"""Errors that the next attempt raises again, since stored bytes are wrong or missing.

A server that does not respond, or a store that was replaced, says nothing about an image.
"""


def read_images(samples: Split, indices: Ints, faults: dict[int, str] | None) -> list[memoryview]:
    """Read encoded images and compare them with their checksums.

    Parameters
    ----------
    samples : Split
    indices : ndarray of int64, shape (n,)
        Ascending.
    faults : dict of int to str, optional
        Receives the index of each damaged image, and why; the images returned lack these.

    Raises
    ------
    ArrayStoreError
        If an image is damaged, unless there are `faults`, or if it cannot be read.
    """
    try:
        return samples._reader.checked(indices)
    except (*_DAMAGE, OSError) as error:
        if not _is_damage(error):
            raise
        if faults is None:
            error.add_note("pass on_error='skip' (--on-error skip) to leave damaged images out")
            raise
        if len(indices) == 1:
            faults[int(indices[0])] = str(error)
            return []
    # Halves are read again, so that one damaged image of n takes 2 log2 n reads.
    middle = len(indices) // 2
    return [
        *read_images(samples, indices[:middle], faults),
        *read_images(samples, indices[middle:], faults),
    ]


def _is_damage(error: Exception) -> bool:
    if isinstance(error, ReferencedFileError):
        return not error.is_refused
    return (
        isinstance(error, _DAMAGE)
        or isinstance(error.__cause__, FileNotFoundError)
        or (isinstance(error, OSError) and error.errno == errno.EIO)
    )
