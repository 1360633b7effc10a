"""Errors of libhdf5, translated to errors of arraystore."""

from __future__ import annotations

from typing import Final

from arraystore.errors import FormatError, ShortReadError

RAISED: Final = (
    OSError,
    RuntimeError,
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
    MemoryError,
)
"""Exceptions that h5py raises when libhdf5 or NumPy cannot interpret a file."""


def translate_error(error: Exception, location: str) -> FormatError | ShortReadError:
    """Return arraystore's error for one that h5py raised.

    Parameters
    ----------
    error : Exception
        One of `RAISED` that does not come from the operating system.
    location : str
        The store, group or dataset, for the message.
    """
    text = f"{location}: HDF5 cannot read it: {error}"
    return ShortReadError(text) if is_truncation(error) else FormatError(text)


def is_truncation(error: Exception) -> bool:
    """Return whether an error means that the file is shorter than its superblock states.

    libhdf5 distinguishes causes by numbers, but h5py reduces them to an exception class that
    damaged files share and to the text. The text is therefore tested, in this place alone.
    """
    return isinstance(error, OSError) and "truncated file" in str(error)
