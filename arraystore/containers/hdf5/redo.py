"""Redo journals: what a change of a finished HDF5 file writes over older bytes of it.

A file is never in a state that cannot be repaired::

    append      new arrays behind the old end, which the file does not refer to yet
    journal     record all pages to be written over old ones; wait for the disk
    mark        write MARK over the signature: no program can open the file from now on
    apply       write the pages; wait for the disk; write the signature last
    delete      the journal

A process killed before the mark leaves the old file, with unused bytes at its end. One that is
killed later leaves a file with MARK, and the next that opens it applies the journal.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from arraystore._checksum import crc32c
from arraystore.errors import FormatError, StorageError, brief
from arraystore.storage.fsync import sync_path

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"
"""First bytes of every HDF5 file that has no user block."""

MARK: Final = b"\x89HDFredo"
"""Written over the signature of a file while a journal is applied to it."""

PAGE_NBYTES: Final = 4096
"""Unit in which old bytes are replaced."""

_MAGIC: Final = b"arraystore redo 1\n"
_CHECKSUM: Final = struct.Struct("<I")
_PROBE_NBYTES: Final = 2**20
_MAX_PAGES: Final = 2**20


@dataclass(frozen=True, slots=True)
class Redo:
    """Pages to be written over old ones of a file.

    Attributes
    ----------
    pages : mapping of int to bytes
        New bytes by their offset. Among them is offset 0.
    end : int
        Length of the file.
    start : int
        Where the bytes begin that were appended.
    appended_crc32c : int
        Of the first and the last megabyte that was appended: identifies the file.
    """

    pages: Mapping[int, bytes]
    end: int
    start: int
    appended_crc32c: int

    @classmethod
    def of(cls, pages: Mapping[int, bytes], fd: int, start: int, end: int) -> Redo:
        """Return the journal of a change of an open file to which bytes were appended."""
        return cls(pages, end, start, _probe(fd, start, end))

    def write(self, path: Path) -> None:
        """Write the journal to a new file, and wait until it is on the disk."""
        places = [[offset, len(data)] for offset, data in self.pages.items()]
        head = {
            "pages": places,
            "end": self.end,
            "start": self.start,
            "appended_crc32c": self.appended_crc32c,
        }
        line = json.dumps(head).encode() + b"\n"
        data = b"".join([_MAGIC, line, *self.pages.values()])
        with path.open("xb") as file:
            file.write(data + _CHECKSUM.pack(crc32c(memoryview(data))))
        sync_path(path)
        sync_path(path.parent)

    @classmethod
    def read(cls, path: Path) -> Redo | None:
        """Return a journal; None if it is incomplete."""
        data = path.read_bytes()
        body = memoryview(data)[: -_CHECKSUM.size]
        if not data.startswith(_MAGIC) or data[len(body) :] != _CHECKSUM.pack(crc32c(body)):
            return None
        stop = data.index(b"\n", len(_MAGIC)) + 1
        head: dict[str, Any] = json.loads(data[len(_MAGIC) : stop])
        pages = {}
        for offset, nbytes in head["pages"]:
            pages[offset] = data[stop : stop + nbytes]
            stop += nbytes
        return cls(pages, head["end"], head["start"], head["appended_crc32c"])

    def apply(self, file: Path) -> None:
        """Write the pages over those of a file, which has `MARK` or gets it now.

        Raises
        ------
        FormatError
            If the journal belongs to another file.
        """
        fd = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        try:
            found = os.fstat(fd).st_size
            if found < self.end or _probe(fd, self.start, self.end) != self.appended_crc32c:
                raise FormatError(
                    f"{file}: an interrupted change of its columns cannot be completed, because "
                    "the file is not the one that was changed; restore it from a copy"
                )
            os.pwrite(fd, MARK, 0)
            os.fsync(fd)
            for offset, data in self.pages.items():
                skipped = 0 if offset else len(MARK)
                os.pwrite(fd, data[skipped:], offset + skipped)
            os.ftruncate(fd, self.end)
            os.fsync(fd)
            os.pwrite(fd, self.pages[0][: len(MARK)], 0)
            os.fsync(fd)
        finally:
            os.close(fd)


def _probe(fd: int, start: int, end: int) -> int:
    first = os.pread(fd, min(_PROBE_NBYTES, end - start), start)
    last = os.pread(fd, min(_PROBE_NBYTES, end - start), max(start, end - _PROBE_NBYTES))
    return crc32c(memoryview(first + last))


def complete(file: Path, journal: Path) -> None:
    """Complete an interrupted change of a file, whose workspace is locked; delete its journal.

    Raises
    ------
    StorageError
        If the file has the mark, and there is no journal.
    FormatError
        If the journal belongs to another file.
    """
    redo = Redo.read(journal) if journal.exists() else None
    with file.open("rb") as opened:
        signature = opened.read(len(MARK))
    # A loss of power may have left neither the mark nor the signature.
    if signature != SIGNATURE and (redo is not None or signature == MARK):
        if redo is None:
            raise StorageError(
                f"{file}: a change of its columns was interrupted, and its journal "
                f"{brief(str(journal))} is missing or damaged; restore the file from a copy"
            )
        redo.apply(file)
    journal.unlink(missing_ok=True)
