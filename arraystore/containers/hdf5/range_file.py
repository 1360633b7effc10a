"""A stored object as a file object that h5py can open."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from typing_extensions import Buffer, override

from arraystore.indexing.byte_range import ByteRange

if TYPE_CHECKING:
    from arraystore.storage.range_reader import RangeReader


class RangeFile(io.RawIOBase):
    """A stored object as a file object that h5py can open.

    Parameters
    ----------
    reader : RangeReader
        Reads the object.
    key : str
        Its key.
    """

    def __init__(self, reader: RangeReader, key: str) -> None:
        self._reader = reader
        self._key = key
        self._size = reader.size(key)
        self._offset = 0

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._offset, io.SEEK_END: self._size}[whence]
        self._offset = base + offset
        return self._offset

    @override
    def tell(self) -> int:
        return self._offset

    def readinto(self, buffer: Buffer) -> int:
        """Read up to ``len(buffer)`` bytes at the current offset; return their number."""
        view = memoryview(buffer).cast("B")
        stop = min(self._offset + len(view), self._size)
        if stop <= self._offset:
            return 0
        (data,) = self._reader.read_ranges([ByteRange(self._key, self._offset, stop)])
        view[: len(data)] = data
        self._offset += len(data)
        return len(data)
