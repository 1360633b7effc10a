"""The chunks of a column in Zarr, decompressed only after a check of their size."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore.schema import MAX_CHUNK_NBYTES, STRING

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_ID_NBYTES: Final = (0, 1, 2, 4)
_SIZES: Final = {0: ("<B", 0), 1: ("<H", 256), 2: ("<I", 0), 3: ("<Q", 0)}


def content_nbytes(frame: memoryview) -> int:
    """Return how many bytes a zstd frame says that it decompresses to (RFC 8878, section 3.1.1.1).

    Raises
    ------
    ValueError
        If it is none, or does not say.

    Examples
    --------
    >>> content_nbytes(memoryview(bytes.fromhex("28b52ffd 20 0a 510000")))
    10
    """
    if bytes(frame[:4]) != _MAGIC or len(frame) < len(_MAGIC) + 2:
        raise ValueError("is no zstd frame")
    described = frame[4]
    is_single = bool(described & 0x20)
    if described < 0x40 and not is_single:
        raise ValueError("is a zstd frame that does not tell the size of its content")
    code, more = _SIZES[described >> 6]
    at = 5 + (not is_single) + _ID_NBYTES[described & 3]
    try:
        (nbytes,) = struct.unpack_from(code, frame, at)
    except struct.error:
        raise ValueError("is a truncated zstd frame") from None
    return int(nbytes) + more


def import_codecs() -> None:
    """Import what `decode_chunk` needs."""
    import numcodecs.vlen
    import numcodecs.zstd  # noqa: F401


def decode_chunk(frame: memoryview, data_type: str, n_values: int) -> NDArray[Any]:
    """Return the values of a chunk; text as Python's objects.

    Raises
    ------
    ValueError, RuntimeError, TypeError
        If it is damaged, or does not hold `n_values`.
    """
    from numcodecs.vlen import VLenUTF8
    from numcodecs.zstd import Zstd

    nbytes = content_nbytes(frame)
    if data_type == STRING:
        if nbytes > MAX_CHUNK_NBYTES:
            raise ValueError(f"would become {nbytes} bytes, at most {MAX_CHUNK_NBYTES} are read")
        plain = Zstd().decode(bytes(frame))
        found = int.from_bytes(plain[:4], "little")  # which numcodecs believes
        _check_number(found, n_values)
        return np.asarray(VLenUTF8().decode(plain))
    dtype = np.dtype(data_type)
    _check_number(nbytes / dtype.itemsize, n_values)
    values = np.frombuffer(Zstd().decode(bytes(frame)), dtype.newbyteorder("<"))
    return values.astype(dtype, copy=False)


def _check_number(found: float, n_values: int) -> None:
    if found != n_values:
        raise ValueError(f"must hold {n_values} values, got {found:.0f}")
