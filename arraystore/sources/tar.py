"""Find the byte ranges of the members of an uncompressed tar archive.

An archive is a sequence of 512-byte records. The walk reads the headers, computes the offset of the
next header from each, and reads nothing else::

    header  data, padded to whole records  header  data …   one record of zeros, or more
    ▲ pread ░░░░░░░░░ skipped ░░░░░░░░░░   ▲ pread          the end-of-archive marker

POSIX ends an archive with two records of zeros; some programs write one. Everything after that must
be zeros: a header overwritten with zeros, or a second archive after the first, looks like an end.
A member that is itself an uncompressed tar archive is walked in place, as a byte range of the outer
file. V7, ustar, GNU and pax archives are understood.
"""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from arraystore.errors import SourceError
from arraystore.sources.tar_checksums import OCTAL, checksums
from arraystore.storage.file_states import FileState, check_open, state_of

RECORD_NBYTES: Final = 512
"""Size of a header, and of the records to which data is padded."""

MAX_EXTENSION_NBYTES: Final = 2**20
"""Largest GNU long name or pax extended header that is read."""

_BATCH: Final = 1024
"""Headers whose checksums are verified at once: 512 KiB, about the size of a core's cache."""

_END_MARKER: Final = bytes(RECORD_NBYTES)
_TAIL_NBYTES: Final = 2**16  # of the bytes after the end marker, read at a time
_UNKNOWN: Final = FileState(0, 0, 0, 0, 0)
_NAME: Final = slice(0, 100)
_SIZE: Final = slice(124, 136)
_KIND: Final = slice(156, 157)
_MAGIC: Final = slice(257, 263)
_PREFIX: Final = slice(345, 500)

_FILES: Final = frozenset({b"0", b"\0", b"7"})
_EXTENSIONS: Final = frozenset({b"L", b"K", b"x", b"g"})
_DIRECTORY: Final = b"5"
_REFUSED: Final = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
    b"S": "a GNU sparse file",
}
_PAX_RECORD: Final = re.compile(rb"([1-9][0-9]{0,6}) ([^=\n]+)=")
_PAX_VALUES: Final = {b"path": re.compile(rb"[^\0]+"), b"size": re.compile(rb"[0-9]{1,20}")}

_OTHER_FORMATS: Final = {
    b"\x1f\x8b": ("gzip-compressed", "gunzip"),
    b"BZh": ("bzip2-compressed", "bunzip2"),
    b"\xfd7zXZ\0": ("xz-compressed", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd-compressed", "unzstd"),
    b"PK": ("a zip archive", "unzip"),
}


@dataclass(frozen=True, slots=True)
class Archive:
    """A tar archive open for reading.

    Attributes
    ----------
    fd : int
        Descriptor of the file.
    nbytes : int
        Size of the file.
    name : str
        Base name of its path.
    state : FileState, optional
        State of the file when it was opened.
    """

    fd: int
    nbytes: int
    name: str
    state: FileState = _UNKNOWN


@dataclass(frozen=True, slots=True)
class TarMembers:
    """The regular files of an archive, in archive order.

    Attributes
    ----------
    names : list of str
        Name of each file, without a leading ``./``. Names may repeat.
    offsets : ndarray of int64, shape (n,)
        First byte of each file's data, counted from the start of the outermost
        archive, also when the walk was of a nested one.
    nbytes : ndarray of int64, shape (n,)
        Size of each file's data.
    unread : tuple of str
        A message if bytes other than zeros follow the end-of-archive marker.
    """

    names: list[str]
    offsets: NDArray[np.int64]
    nbytes: NDArray[np.int64]
    unread: tuple[str, ...] = ()


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open an archive for as long as the context lasts.

    Parameters
    ----------
    path : Path
        An uncompressed tar archive.

    Yields
    ------
    Archive
        The open file, ready for `walk`.

    Raises
    ------
    FileNotFoundError
        If `path` does not exist.
    SourceError
        If the beginning shows that it is not an uncompressed tar archive: a directory, an empty
        file, a compressed file, a web page.
    SourceChangedError
        If an error of the archive follows a change of the file.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        kind = "a directory" if stat.S_ISDIR(found.st_mode) else "a pipe or device"
        raise SourceError(
            f"{path}: must be a tar archive, but is {kind}; replace it by the archive"
        )
    if found.st_size == 0:
        raise SourceError(f"{path}: must be a tar archive, but is empty; download it again")
    fd = os.open(path, os.O_RDONLY)
    try:
        state = state_of(fd)
        _refuse_other_formats(os.pread(fd, RECORD_NBYTES, 0), path)
        if hasattr(os, "posix_fadvise"):
            # Headers lie far apart; without this the kernel would read ahead data that is skipped.
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        try:
            yield Archive(fd, state.nbytes, path.name, state)
        except SourceError:
            check_open(str(path), state, fd)
            raise
    finally:
        os.close(fd)


def walk(
    archive: Archive,
    location: str = "",
    *,
    start: int = 0,
    stop: int | None = None,
    partial: bool = False,
) -> TarMembers:
    """Find the regular files of an archive, or of one nested in it.

    Directories are skipped. A member that cannot be a sample, such as a link, is an error, because
    it would be dropped silently.

    Parameters
    ----------
    archive : Archive
        The open file.
    location : str, default the name of the file
        Name of the archive in error messages.
    start, stop : int, default all of the file
        Byte range ``[start, stop)`` of the archive inside the file.
    partial : bool, default False
        Return a message about bytes other than zeros after the end-of-archive marker, instead of
        raising an error.

    Returns
    -------
    TarMembers
        Names and byte ranges of the files. Offsets in error messages count from the start of the
        file, too.

    Raises
    ------
    SourceError
        If the archive is damaged or truncated, or has an unsupported member; if bytes other than
        zeros follow its end-of-archive marker, and `partial` is false. A header with a wrong
        checksum is reported before any error that it causes.
    ValueError
        If ``[start, stop)`` is not a range within the file.

    Examples
    --------
    >>> import io, tarfile, tempfile
    >>> with tempfile.TemporaryFile() as file:
    ...     with tarfile.open(fileobj=file, mode="w") as tar:
    ...         member = tarfile.TarInfo("./a.jpg")
    ...         member.size = 3
    ...         tar.addfile(member, io.BytesIO(b"abc"))
    ...     file.flush()
    ...     members = walk(Archive(file.fileno(), file.seek(0, 2), "a.tar"))
    >>> members.names, members.offsets.tolist(), members.nbytes.tolist()
    (['a.jpg'], [512], [3])
    """
    stop = archive.nbytes if stop is None else stop
    if not 0 <= start <= stop <= archive.nbytes:
        raise ValueError(f"bytes {start} to {stop} are not a range of {archive.nbytes} bytes")
    tape = _Tape(archive.fd, stop, location or archive.name)
    try:
        files, end = _files(tape, start)
    except SourceError:
        tape.verify_checksums()  # an earlier damaged header is the cause, and reported instead
        raise
    tape.verify_checksums()
    unread = tape.unread(end)
    if unread and not partial:
        raise SourceError(
            f"{unread}; download the archive again, or pass partial=True (--partial) to convert "
            "only the files before it"
        )
    return TarMembers(
        names=[name for name, _, _ in files],
        offsets=np.array([offset for _, offset, _ in files], dtype=np.int64),
        nbytes=np.array([nbytes for _, _, nbytes in files], dtype=np.int64),
        unread=(unread,) if unread else (),
    )


def next_header(archive: Archive, start: int) -> int:
    """Return the offset of the header after the one at `start`; `start` itself if malformed."""
    header = os.pread(archive.fd, RECORD_NBYTES, start)
    try:
        after = start + RECORD_NBYTES + _padded(_nbytes(header.ljust(RECORD_NBYTES)))
    except _MalformedError:
        return start  # the walk reports the error
    return min(after, archive.nbytes)


class _MalformedError(Exception):
    """A fault of a header; the caller adds the location."""


class _Tape:
    """The records of one archive. Checksums are verified a batch at a time."""

    def __init__(self, fd: int, stop: int, location: str) -> None:
        self._fd = fd
        self._stop = stop
        self._location = location
        self._unverified: dict[int, bytes] = {}

    def header(self, offset: int) -> bytes:
        """Read the header at `offset`; empty at the end-of-archive marker."""
        header = os.pread(self._fd, RECORD_NBYTES, offset)
        if len(header) < RECORD_NBYTES or offset + RECORD_NBYTES > self._stop:
            end = min(self._stop, offset + len(header))
            raise self.error(
                f"expected a header or the end-of-archive marker at byte {offset}, but the "
                f"archive ends at {end}; it is truncated; download it again"
            )
        if header == _END_MARKER:
            return b""
        if len(self._unverified) == _BATCH:
            self.verify_checksums()
        self._unverified[offset] = header
        return header

    def data(self, offset: int, nbytes: int, name: str | None = None) -> int:
        """Return the offset of the data after the header at `offset`; it must be complete."""
        first = offset + RECORD_NBYTES
        if first + nbytes > self._stop:
            what = "extended header" if name is None else f"member {name!r}"
            raise self.error(
                f"{what} at byte {offset} needs bytes {first} to {first + nbytes}, but the "
                f"archive ends at {self._stop}; it is truncated; download it again"
            )
        return first

    def read(self, start: int, nbytes: int) -> bytes:
        """Read the data of an extended header."""
        if nbytes > MAX_EXTENSION_NBYTES:
            limit = f"{MAX_EXTENSION_NBYTES} bytes"
            raise _MalformedError(f"extended header must have at most {limit}, got {nbytes}")
        return os.pread(self._fd, nbytes, start)

    def verify_checksums(self) -> None:
        """Raise an error for the first damaged header among those read since the last call."""
        headers, self._unverified = self._unverified, {}
        stated, holds = checksums(list(headers.values()))
        if not holds.all():
            row = int(np.argmin(holds))
            raise self.error(
                f"header at byte {list(headers)[row]} must have the checksum of its bytes, got "
                f"{stated[row].tobytes()!r}; the archive is damaged, or not a tar archive; "
                "download it again"
            )

    def unread(self, end: int) -> str:
        """Describe bytes other than zeros after the marker at `end`; empty if none exist."""
        for offset in range(end, self._stop, _TAIL_NBYTES):
            tail = os.pread(self._fd, min(_TAIL_NBYTES, self._stop - offset), offset)
            if found := tail.lstrip(b"\0"):
                first = offset + len(tail) - len(found)
                record = first - (first - end) % RECORD_NBYTES
                header = os.pread(self._fd, RECORD_NBYTES, record)
                is_header = len(header) == RECORD_NBYTES and checksums([header])[1].all()
                what = "another archive" if is_header else "data, so a header may be lost"
                return (
                    f"{self._location}: expected zeros up to the end at byte {self._stop} after "
                    f"the end-of-archive marker at byte {end}, but byte {first} begins {what}; the "
                    "files from there on cannot be read"
                )
        return ""

    def error(self, message: str) -> SourceError:
        """Put the name of the archive before a message."""
        return SourceError(f"{self._location}: {message}")


def _files(tape: _Tape, offset: int) -> tuple[list[tuple[str, int, int]], int]:
    """Return name, offset and size of each regular file, and the offset of the end marker."""
    files = []
    extended: dict[bytes, bytes] = {}
    while header := tape.header(offset):
        kind = header[_KIND]
        try:
            if kind in _EXTENSIONS:
                nbytes = _nbytes(header)
                data = tape.data(offset, nbytes)
                extended |= _extension(kind, tape, data, nbytes)
            else:
                name = _text(extended[b"path"] if b"path" in extended else _name(header))
                nbytes = int(extended[b"size"]) if b"size" in extended else _nbytes(header)
                data = tape.data(offset, nbytes, name)
                extended = {}
                if kind in _FILES and name and name[-1] != "/":
                    files.append((_without_dot(name), data, nbytes))
                else:
                    _require_directory(kind, name, nbytes)
        except _MalformedError as error:
            raise tape.error(f"header at byte {offset}: {error}") from None
        offset = data + _padded(nbytes)
    if extended:
        raise tape.error(f"expected the member of an extended header at byte {offset}, got none")
    return files, offset


def _extension(kind: bytes, tape: _Tape, offset: int, nbytes: int) -> dict[bytes, bytes]:
    """Return the ``path`` and ``size`` in an extended header, which apply to the next member."""
    if kind == b"L":
        return {b"path": tape.read(offset, nbytes).partition(b"\0")[0]}
    if kind != b"x":
        # K has the name behind a link, and links are errors. g applies to all following members,
        # which cannot share a name or a size.
        return {}
    records = _pax_records(tape.read(offset, nbytes))
    if any(key.startswith(b"GNU.sparse.") for key in records):
        raise _MalformedError("member must be a file or directory, but is a GNU sparse file")
    found = {key: records[key] for key in _PAX_VALUES if key in records}
    for key, value in found.items():
        if not _PAX_VALUES[key].fullmatch(value):
            raise _MalformedError(f"pax record must hold a {key.decode()}, got {value[:40]!r}")
    return found


def _pax_records(payload: bytes) -> dict[bytes, bytes]:
    """Split records such as ``17 path=a/b.jpg`` and a line feed, 17 bytes in total."""
    records = {}
    start = 0
    while start < len(payload):
        record = _PAX_RECORD.match(payload, start)
        end = start + int(record[1]) if record else 0
        if not record or payload[end - 1 : end] != b"\n":
            found = payload[start : start + 40]
            raise _MalformedError(f"pax record must be 'length key=value', got {found!r}")
        records[record[2]] = payload[record.end() : end - 1]
        start = end
    return records


def _name(header: bytes) -> bytes:
    name = header[_NAME].partition(b"\0")[0]
    # Only POSIX headers keep the start of a long name in this field.
    if header[_MAGIC] == b"ustar\0" and header[_PREFIX.start]:
        return header[_PREFIX].partition(b"\0")[0] + b"/" + name
    return name


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise _MalformedError(f"name must be UTF-8, got {name!r}") from None


def _without_dot(name: str) -> str:
    while name.startswith("./"):
        name = name[2:]
    return name


def _nbytes(header: bytes) -> int:
    field = header[_SIZE]
    if octal := OCTAL.fullmatch(field):
        return int(octal[1], 8)
    if field[0] == 0x80:  # GNU's mark of a number too large for octal: big-endian bytes follow
        return int.from_bytes(field[1:], "big")
    raise _MalformedError(f"size must be octal or positive base-256, got {field!r}")


def _padded(nbytes: int) -> int:
    return -(-nbytes // RECORD_NBYTES) * RECORD_NBYTES


def _require_directory(kind: bytes, name: str, nbytes: int) -> None:
    if kind not in _FILES and kind != _DIRECTORY:
        what = _REFUSED.get(kind, "unknown") + f" (type {kind!r})"
        raise _MalformedError(f"member {name!r} must be a file or directory, but is {what}")
    if not name:
        raise _MalformedError("member must have a name, got none")
    if nbytes:
        raise _MalformedError(f"directory {name!r} must have size 0, got {nbytes}")


def _refuse_other_formats(start: bytes, path: Path) -> None:
    if len(start) == RECORD_NBYTES and checksums([start])[1].all():
        return  # a tar archive begins with the name of a member, which may look like another format
    for signature, (what, tool) in _OTHER_FORMATS.items():
        if start.startswith(signature):
            raise SourceError(
                f"{path}: is {what}, not a plain tar archive; unpack it with {tool} first"
            )
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise SourceError(
            f"{path}: is an HTML page, perhaps a login or error page that was saved instead of the "
            "archive; download it again"
        )
