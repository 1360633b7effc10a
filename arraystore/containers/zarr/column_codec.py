"""Chunks of Zarr columns, decoded after their stated size was checked."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore._checksum import crc32c
from arraystore.schema import MAX_CHUNK_NBYTES, STRING

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CHECKSUM_NBYTES: Final = 4
_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_DICTIONARY_ID_NBYTES: Final = (0, 1, 2, 4)
_CONTENT_SIZES: Final = {0: ("<B", 0), 1: ("<H", 256), 2: ("<I", 0), 3: ("<Q", 0)}
"""By the frame's flag for it: struct format of the field ``Frame_Content_Size``, and its bias."""


def check_chunk(chunk: memoryview) -> memoryview:
    """Return a chunk without the CRC-32C at its end.

    Raises
    ------
    ValueError
        If the chunk does not match it.
    """
    body = chunk[:-_CHECKSUM_NBYTES]
    if bytes(chunk[len(body) :]) != struct.pack("<I", crc32c(body)):
        raise ValueError("the chunk does not match its checksum")
    return body


def import_codecs() -> None:
    """Import what `decode_chunk` needs."""
    import numcodecs.vlen
    import numcodecs.zstd  # noqa: F401


def decode_chunk(frame: memoryview, data_type: str, n_values: int) -> NDArray[Any]:
    """Return the values of a chunk; text as Python objects.

    Parameters
    ----------
    frame : memoryview
        The chunk without its checksum: a zstd frame.
    data_type : str
        NumPy name of the values, or ``"string"``.
    n_values : int
        Values that the chunk must hold.

    Raises
    ------
    ValueError, RuntimeError, TypeError
        If the chunk is damaged, or holds another number of values.
    """
    from numcodecs.vlen import VLenUTF8
    from numcodecs.zstd import Zstd

    nbytes = content_nbytes(frame)
    if data_type == STRING:
        if nbytes > MAX_CHUNK_NBYTES:
            raise ValueError(f"would become {nbytes} bytes, at most {MAX_CHUNK_NBYTES} are read")
        plain = Zstd().decode(bytes(frame))
        found = int.from_bytes(plain[:4], "little")  # numcodecs allocates memory for that many
        _check_number(found, n_values)
        return np.asarray(VLenUTF8().decode(plain))
    dtype = np.dtype(data_type)
    _check_number(nbytes / dtype.itemsize, n_values)
    values = np.frombuffer(Zstd().decode(bytes(frame)), dtype.newbyteorder("<"))
    return values.astype(dtype, copy=False)


def content_nbytes(frame: memoryview) -> int:
    """Return the size that a zstd frame states for its content (RFC 8878, section 3.1.1.1).

    Raises
    ------
    ValueError
        If it is not a zstd frame, or does not state the size.

    Examples
    --------
    >>> content_nbytes(memoryview(bytes.fromhex("28b52ffd 20 0a 510000")))
    10
    """
    if bytes(frame[:4]) != _MAGIC or len(frame) < len(_MAGIC) + 2:
        raise ValueError("is not a zstd frame")
    descriptor = frame[4]
    is_single_segment = bool(descriptor & 0x20)
    if descriptor < 0x40 and not is_single_segment:
        raise ValueError("is a zstd frame that does not state the size of its content")
    code, bias = _CONTENT_SIZES[descriptor >> 6]
    offset = 5 + (not is_single_segment) + _DICTIONARY_ID_NBYTES[descriptor & 3]
    try:
        (nbytes,) = struct.unpack_from(code, frame, offset)
    except struct.error:
        raise ValueError("is a truncated zstd frame") from None
    return int(nbytes) + bias


def _check_number(found: float, n_values: int) -> None:
    if found != n_values:
        raise ValueError(f"must hold {n_values} values, got {found:.0f}")
