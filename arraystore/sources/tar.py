"""Where the members of an uncompressed tar archive lie.

An archive is a run of 512-byte blocks. The walk reads the headers, works out
from each where the next one is, and reads nothing else::

    header  data, padded to whole blocks   header  data …   one block of zeros, or more
    ▲ pread ░░░░░░ stepped over ░░░░░░░░   ▲ pread          the end-of-archive marker

POSIX ends an archive with two blocks of zeros; some programs write one. All that follows must be
zeros: a header that was lost to zeros, or a second archive behind the first, looks like an end.
A member that is itself an uncompressed tar archive is walked in place, as a
byte range of the outer file. V7, ustar, GNU and pax archives are understood.
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

BLOCK_NBYTES: Final = 512
"""Size of a header, and of the unit that data is padded to."""

MAX_EXTENSION_NBYTES: Final = 2**20
"""Most bytes that are read for a GNU long name or a pax extended header."""

_BATCH: Final = 1024
"""Headers whose checksums are verified in one go: 512 KiB, about what a core's cache holds."""

_END_MARKER: Final = bytes(BLOCK_NBYTES)
_TAIL_NBYTES: Final = 2**16  # of what follows the end marker, read at a time
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
    """A tar archive that is open for reading.

    Attributes
    ----------
    fd : int
        Descriptor of the file.
    nbytes : int
        Size of the file.
    name : str
        Base name of its path.
    state : FileState, optional
        What the file was when it was opened.
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
        Says where other bytes than zeros follow the end-of-archive marker, if they do.
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
        If there is nothing at `path`.
    SourceError
        If it is plain at the first look that this is no uncompressed tar
        archive: a directory, an empty file, a compressed file, a web page.
    SourceChangedError
        If an error of the archive follows a change of the file.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        kind = "a directory" if stat.S_ISDIR(found.st_mode) else "a pipe or device"
        raise SourceError(f"{path}: must be a tar archive, but is {kind}; name the archive file")
    if found.st_size == 0:
        raise SourceError(f"{path}: must be a tar archive, but is empty; download it again")
    fd = os.open(path, os.O_RDONLY)
    try:
        state = state_of(fd)
        _refuse_other_formats(os.pread(fd, BLOCK_NBYTES, 0), path)
        if hasattr(os, "posix_fadvise"):
            # Headers lie far apart: what the kernel would read ahead is data to be stepped over.
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
    *,
    start: int = 0,
    stop: int | None = None,
    where: str = "",
    partial: bool = False,
) -> TarMembers:
    """Find the regular files of an archive, or of one nested in it.

    Directories are stepped over. What cannot be a sample and would be dropped
    in silence, such as a link, is an error.

    Parameters
    ----------
    archive : Archive
        The open file.
    start, stop : int, default all of the file
        Byte range ``[start, stop)`` of the archive inside the file.
    where : str, default the name of the file
        What to call the archive in error messages.
    partial : bool, default False
        Report other bytes than zeros behind the end-of-archive marker, instead of refusing them.

    Returns
    -------
    TarMembers
        Names and places of the files. Bytes in the messages of errors are
        counted as its offsets are, from the start of the file.

    Raises
    ------
    SourceError
        If the archive is damaged, truncated, or holds what cannot be read; if
        other bytes than zeros follow its end-of-archive marker, and `partial` is
        false. A header with a wrong checksum is reported before anything that
        follows from it.
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
    ...     members = walk(Archive(file.fileno(), file.tell(), "a.tar"))
    >>> members.names, members.offsets.tolist(), members.nbytes.tolist()
    (['a.jpg'], [512], [3])
    """
    stop = archive.nbytes if stop is None else stop
    if not 0 <= start <= stop <= archive.nbytes:
        raise ValueError(f"bytes {start} to {stop} are not a range of {archive.nbytes} bytes")
    tape = _Tape(archive.fd, stop, where or archive.name)
    try:
        files, end = _files(tape, start)
    except SourceError:
        tape.verify_checksums()  # a header damaged further up is the cause: let it speak first
        raise
    tape.verify_checksums()
    unread = tape.unread(end)
    if unread and not partial:
        raise SourceError(
            f"{unread}; download the archive again, or give partial=True (--partial) to convert "
            "the files before it alone"
        )
    return TarMembers(
        names=[name for name, _, _ in files],
        offsets=np.array([offset for _, offset, _ in files], dtype=np.int64),
        nbytes=np.array([nbytes for _, _, nbytes in files], dtype=np.int64),
        unread=(unread,) if unread else (),
    )


def next_header(archive: Archive, start: int) -> int:
    """Return where the header after the one at `start` lies; `start` itself if that is none."""
    header = os.pread(archive.fd, BLOCK_NBYTES, start)
    try:
        after = start + BLOCK_NBYTES + _padded(_nbytes(header.ljust(BLOCK_NBYTES)))
    except _MalformedError:
        return start  # the walk will tell
    return min(after, archive.nbytes)


class _MalformedError(Exception):
    """What is wrong with a header; the place is added where it is known."""


class _Tape:
    """The blocks of one archive. Checksums are verified a batch at a time."""

    def __init__(self, fd: int, stop: int, where: str) -> None:
        self._fd = fd
        self._stop = stop
        self._where = where
        self._unverified: dict[int, bytes] = {}

    def header(self, position: int) -> bytes:
        """Read the header at `position`; empty at the end-of-archive marker."""
        header = os.pread(self._fd, BLOCK_NBYTES, position)
        if len(header) < BLOCK_NBYTES or position + BLOCK_NBYTES > self._stop:
            end = min(self._stop, position + len(header))
            raise self.error(
                f"expected a header or the end-of-archive marker at byte {position}, but the "
                f"archive ends at {end}; it is truncated"
            )
        if header == _END_MARKER:
            return b""
        if len(self._unverified) == _BATCH:
            self.verify_checksums()
        self._unverified[position] = header
        return header

    def data(self, position: int, nbytes: int, name: str | None = None) -> int:
        """Return where the data of the header at `position` begins; all of it must be there."""
        first = position + BLOCK_NBYTES
        if first + nbytes > self._stop:
            what = "extended header" if name is None else f"member {name!r}"
            raise self.error(
                f"{what} at byte {position} needs bytes {first} to {first + nbytes}, but the "
                f"archive ends at {self._stop}; it is truncated"
            )
        return first

    def read(self, start: int, nbytes: int) -> bytes:
        """Read the data of an extended header."""
        if nbytes > MAX_EXTENSION_NBYTES:
            limit = f"{MAX_EXTENSION_NBYTES} bytes"
            raise _MalformedError(f"extended header must have at most {limit}, got {nbytes}")
        return os.pread(self._fd, nbytes, start)

    def verify_checksums(self) -> None:
        """Refuse the first damaged header of those read since the last call."""
        headers, self._unverified = self._unverified, {}
        stated, holds = checksums(list(headers.values()))
        if not holds.all():
            row = int(np.argmin(holds))
            raise self.error(
                f"header at byte {list(headers)[row]} must have the checksum of its bytes, got "
                f"{stated[row].tobytes()!r}; the archive is damaged, or this is no tar archive"
            )

    def unread(self, end: int) -> str:
        """Say where other bytes than zeros follow the marker at `end`; nothing if none do."""
        for at in range(end, self._stop, _TAIL_NBYTES):
            tail = os.pread(self._fd, min(_TAIL_NBYTES, self._stop - at), at)
            if found := tail.lstrip(b"\0"):
                first = at + len(tail) - len(found)
                block = first - (first - end) % BLOCK_NBYTES
                header = os.pread(self._fd, BLOCK_NBYTES, block)
                is_header = len(header) == BLOCK_NBYTES and checksums([header])[1].all()
                what = "another archive" if is_header else "data, so that a header may be lost"
                return (
                    f"{self._where}: expected zeros up to the end at byte {self._stop} after the "
                    f"end-of-archive marker at byte {end}, but byte {first} begins {what}; the "
                    "files from there on cannot be read"
                )
        return ""

    def error(self, message: str) -> SourceError:
        """Put the name of the archive before a message."""
        return SourceError(f"{self._where}: {message}")


def _files(tape: _Tape, position: int) -> tuple[list[tuple[str, int, int]], int]:
    """Return name, offset and size of each regular file, and where the end marker lies."""
    files = []
    told: dict[bytes, bytes] = {}
    while header := tape.header(position):
        kind = header[_KIND]
        try:
            if kind in _EXTENSIONS:
                nbytes = _nbytes(header)
                offset = tape.data(position, nbytes)
                told |= _extension(kind, tape, offset, nbytes)
            else:
                name = _text(told[b"path"] if b"path" in told else _name(header))
                nbytes = int(told[b"size"]) if b"size" in told else _nbytes(header)
                offset = tape.data(position, nbytes, name)
                told = {}
                if kind in _FILES and name and name[-1] != "/":
                    files.append((_without_dot(name), offset, nbytes))
                else:
                    _require_directory(kind, name, nbytes)
        except _MalformedError as error:
            raise tape.error(f"header at byte {position}: {error}") from None
        position = offset + _padded(nbytes)
    if told:
        raise tape.error(f"expected the member of an extended header at byte {position}, got none")
    return files, position


def _extension(kind: bytes, tape: _Tape, offset: int, nbytes: int) -> dict[bytes, bytes]:
    """Return the ``path`` and ``size`` that an extended header gives to the next member."""
    if kind == b"L":
        return {b"path": tape.read(offset, nbytes).partition(b"\0")[0]}
    if kind != b"x":
        # K names the target of a link, which is refused anyway. g speaks of all members that
        # follow, and a name or size that all of them share can be that of none.
        return {}
    records = _pax_records(tape.read(offset, nbytes))
    if any(key.startswith(b"GNU.sparse.") for key in records):
        raise _MalformedError("member must be a file or directory, but is a GNU sparse file")
    told = {key: records[key] for key in _PAX_VALUES if key in records}
    for key, value in told.items():
        if not _PAX_VALUES[key].fullmatch(value):
            raise _MalformedError(f"pax record must hold a {key.decode()}, got {value[:40]!r}")
    return told


def _pax_records(payload: bytes) -> dict[bytes, bytes]:
    """Split records such as ``17 path=a/b.jpg`` and a line feed, 17 bytes in all."""
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
    # GNU and V7 headers keep other things where POSIX ones keep the start of a long name.
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
    return -(-nbytes // BLOCK_NBYTES) * BLOCK_NBYTES


def _require_directory(kind: bytes, name: str, nbytes: int) -> None:
    if kind not in _FILES and kind != _DIRECTORY:
        what = _REFUSED.get(kind, "unknown") + f" (type {kind!r})"
        raise _MalformedError(f"member {name!r} must be a file or directory, but is {what}")
    if not name:
        raise _MalformedError("member must have a name, got none")
    if nbytes:
        raise _MalformedError(f"directory {name!r} must have size 0, got {nbytes}")


def _refuse_other_formats(start: bytes, path: Path) -> None:
    if len(start) == BLOCK_NBYTES and checksums([start])[1].all():
        return  # a tar archive begins with a member's name, and that may look like anything
    for signature, (what, tool) in _OTHER_FORMATS.items():
        if start.startswith(signature):
            raise SourceError(
                f"{path}: is {what}, not a plain tar archive; unpack it with {tool} first"
            )
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise SourceError(
            f"{path}: is an HTML page, perhaps a login or error page saved in place of the "
            "archive; download it again"
        )
