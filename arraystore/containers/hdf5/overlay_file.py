"""An HDF5 file as a file object that can be written to, while its old bytes stay as they are."""

from __future__ import annotations

import io
import os
import struct
from typing import TYPE_CHECKING, Final

from typing_extensions import Buffer, override

from arraystore.containers.hdf5.redo import PAGE_NBYTES
from arraystore.errors import FormatError

if TYPE_CHECKING:
    from pathlib import Path

_END_OFFSETS: Final = {0: 40, 1: 44, 2: 28, 3: 28}
"""By version of the superblock: where it states the end of the file, with offsets of 8 bytes."""


class OverlayFile(io.RawIOBase):
    """A file whose old bytes are replaced in memory, while new ones are appended to it.

    Parameters
    ----------
    path : Path
        The file; what is behind its stated end is cut off.

    Attributes
    ----------
    fd : int
        Descriptor of the file.
    start : int
        Length of the old file.
    pages : dict of int to bytearray
        Replaced pages, by offset. The last one may be shorter than a page.

    Raises
    ------
    FormatError
        If it has a superblock of another version than 0 to 3, or is truncated.
    """

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._offset = 0
        self.pages: dict[int, bytearray] = {}
        try:
            self.start = self._end = _stated_end(self.fd, str(path))
            os.ftruncate(self.fd, self._end)
        except BaseException:
            self.close()
            raise

    @override
    def close(self) -> None:
        if not self.closed:
            os.close(self.fd)
        super().close()

    @override
    def readable(self) -> bool:
        return True

    @override
    def writable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._offset, io.SEEK_END: self._end}[whence]
        self._offset = base + offset
        return self._offset

    @override
    def tell(self) -> int:
        return self._offset

    @override
    def truncate(self, size: int | None = None) -> int:
        end = self._offset if size is None else size
        self._end = max(end, self.start)
        os.ftruncate(self.fd, self._end)
        return end

    def readinto(self, buffer: Buffer) -> int:
        """Read up to ``len(buffer)`` bytes at the current offset; return their number."""
        view = memoryview(buffer).cast("B")
        view = view[: max(0, self._end - self._offset)]
        done = 0
        while done < len(view):
            at = self._offset + done
            first = at - at % PAGE_NBYTES
            page = self.pages.get(first) if at < self.start else None
            if page is not None:
                data: Buffer = memoryview(page)[at - first :][: len(view) - done]
            else:
                # To the next replaced page; old pages are few, so most reads are one.
                stop = self._offset + len(view)
                if at < self.start and self.pages:
                    later = (offset for offset in self.pages if offset > at)
                    stop = min(stop, min(later, default=stop))
                data = os.pread(self.fd, stop - at, at)
            nbytes = memoryview(data).nbytes
            if not nbytes:
                break
            view[done : done + nbytes] = data
            done += nbytes
        self._offset += done
        return done

    @override
    def write(self, data: Buffer) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            at = self._offset + done
            if at >= self.start:
                done += os.pwrite(self.fd, view[done:], at)
                continue
            first = at - at % PAGE_NBYTES
            page = self._page(first)
            some = view[done : done + len(page) - (at - first)]
            page[at - first : at - first + len(some)] = some
            done += len(some)
        self._offset += done
        self._end = max(self._end, self._offset)
        return done

    def _page(self, first: int) -> bytearray:
        """Return the new bytes of an old page."""
        if first not in self.pages:
            nbytes = min(PAGE_NBYTES, self.start - first)
            self.pages[first] = bytearray(os.pread(self.fd, nbytes, first))
        return self.pages[first]

    def touch(self, offset: int) -> None:
        """Add the old page at an offset to the replaced ones."""
        self._page(offset)

    @property
    def end(self) -> int:
        """Length of the new file."""
        return self._end

    def give_up(self) -> None:
        """Cut off what was appended."""
        os.ftruncate(self.fd, self.start)


def _stated_end(fd: int, location: str) -> int:
    head = os.pread(fd, 64, 0)
    version = head[8] if len(head) > 8 else -1
    size_at = 13 if version in (0, 1) else 9
    if version not in _END_OFFSETS or len(head) < 64 or head[size_at] != 8:
        raise FormatError(f"{location}: has a superblock of an unknown version; copy the store")
    (end,) = struct.unpack_from("<Q", head, _END_OFFSETS[version])
    found = os.fstat(fd).st_size
    if not 64 <= end <= found:
        raise FormatError(f"{location}: must have {end} bytes, got {found}; the file is truncated")
    return int(end)
