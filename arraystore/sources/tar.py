"""Find the byte ranges of the members of a tar archive, or read them front to back.

An archive is a sequence of 512-byte records. The walk reads the headers, computes the offset of the
next header from each, and reads nothing else::

    header  data, padded to whole records  header  data …   one record of zeros, or more
    ▲ pread ░░░░░░░░░ skipped ░░░░░░░░░░   ▲ pread          the end-of-archive marker

POSIX ends an archive with two records of zeros; some programs write one. Everything after that must
be zeros: a header overwritten with zeros, or a second archive after the first, looks like an end.
A member that is itself an uncompressed tar archive is walked in place, as a byte range of the outer
file. A compressed archive is read front to back, with the same checks. V7, ustar, GNU and pax
archives are understood.

In a bucket each read is a request of 4 KiB. Where members are small, longer ranges are requested
one after another instead, because that takes less time than a round trip for each header.
"""

from __future__ import annotations

import functools
import os
import re
import stat
import sys
from array import array
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol, Self

import numpy as np

from arraystore.errors import SourceError
from arraystore.images.jpeg import frame_sizes
from arraystore.sources.junk import has_junk, is_junk
from arraystore.sources.tar_headers import (
    OCTAL,
    block_checksums,
    checksums,
    plain_name,
    plain_names,
)
from arraystore.storage.buckets import ObjectFile, ObjectPath, SourcePath
from arraystore.storage.file_states import FileState, changed, check_open, state_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from numpy.typing import NDArray

    from arraystore._typing import Ints

RECORD_NBYTES: Final = 512
"""Size of a header, and of the records to which data is padded."""

MAX_EXTENSION_NBYTES: Final = 2**20
"""Largest GNU long name or pax extended header that is read."""

_BATCH: Final = 1024
"""Headers that are examined at once: 512 KiB, about the size of a core's cache."""

_FIRST_BATCH: Final = 64
"""Headers that are read before it is known whether the first of them is plain."""

_PLAIN_BEFORE: Final = 8
"""Plain headers after another one, until more are read on the assumption that they are plain."""

_FRAME_NBYTES: Final = 1024
"""Bytes of an image that are read with its header: of most photographs enough."""

_REMOTE_NBYTES: Final = 2**12
"""Bytes of an object that are requested for a header: often enough for small members behind it."""

_REMOTE_SKIP: Final = {False: (2**20, 2**24), True: (2**16, 2**20)}
"""Of one walk, and of one among many at the same time: the longest data that is read rather than
skipped, in bytes, and the most bytes of a request."""

_END_MARKER: Final = bytes(RECORD_NBYTES)
_TAIL_NBYTES: Final = 2**16  # of the bytes after the end marker, read at a time; whole records
_PIECE_NBYTES: Final = 2**20  # of an archive that is read front to back
_UNKNOWN: Final = FileState(0, 0, 0, 0, 0)
_NAME: Final = slice(0, 100)
_SIZE: Final = slice(124, 136)
_OCTAL_SIZE: Final = slice(124, 135)
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
        Descriptor of the file; -1 of an object in a bucket.
    nbytes : int
        Size of the file.
    name : str
        Base name of its path.
    state : FileState, optional
        State of the file when it was opened.
    object : ObjectFile, optional
        The object, if the archive lies in a bucket.
    """

    fd: int
    nbytes: int
    name: str
    state: FileState = _UNKNOWN
    object: ObjectFile | None = None

    def reader(self, start: int = 0) -> Callable[[int, int], bytes]:
        """Return a function that reads some bytes from an offset, for one thread.

        Parameters
        ----------
        start : int
            Offset that reading begins with.
        """
        if self.object is None:
            return functools.partial(os.pread, self.fd)
        # Only one thread walks from the beginning.
        file = self.object.again() if start else self.object
        return lambda nbytes, offset: file.read_at(offset, nbytes)


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
    kept : dict of int to bytes
        First bytes of files, by their offsets; see `walk`.
    frames : ndarray of int32, shape (n, 2), optional
        Height and width of JPEGs, zeros where they are not known; see `walk`.
    """

    names: list[str]
    offsets: NDArray[np.int64]
    nbytes: NDArray[np.int64]
    unread: tuple[str, ...] = ()
    kept: dict[int, bytes] = field(default_factory=dict)
    frames: NDArray[np.int32] | None = None

    def without_junk(self) -> tuple[Self, list[str]]:
        """Return the members that belong to the data set, and the names of the others.

        Examples
        --------
        >>> members = TarMembers(["a.jpg", "._a.jpg"], np.array([512, 1536]), np.array([3, 4]))
        >>> kept, junk = members.without_junk()
        >>> kept.names, kept.offsets.tolist(), junk
        (['a.jpg'], [512], ['._a.jpg'])
        """
        if not has_junk(self.names):
            return self, []
        junk = [name for name in self.names if is_junk(name)]
        return self.take([i for i, name in enumerate(self.names) if not is_junk(name)]), junk

    def take(self, rows: Sequence[int]) -> Self:
        """Return some of the members."""
        some = np.array(rows, np.int64)
        return replace(
            self,
            names=[self.names[i] for i in rows],
            offsets=self.offsets[some],
            nbytes=self.nbytes[some],
            frames=None if self.frames is None else self.frames[some],
        )


@contextmanager
def open_archive(path: SourcePath, *, is_one_of_many: bool = False) -> Iterator[Archive]:
    """Open an archive for as long as the context lasts.

    Parameters
    ----------
    path : Path or ObjectPath
        An uncompressed tar archive.
    is_one_of_many : bool, default False
        Whether many archives, or parts of this one, are walked at the same time. Then objects
        are read with fewer bytes and more round trips.

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
    if isinstance(path, ObjectPath):
        with _open_object(path, *_REMOTE_SKIP[is_one_of_many]) as archive:
            yield archive
        return
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


@contextmanager
def _open_object(path: ObjectPath, max_gap: int, most: int) -> Iterator[Archive]:
    state = path.state()
    if state.nbytes == 0:
        raise SourceError(f"{path}: must be a tar archive, but is empty; download it again")
    file = ObjectFile(path, state, least=_REMOTE_NBYTES, most=most, max_gap=max_gap)
    _refuse_other_formats(file.read_at(0, RECORD_NBYTES), path)
    try:
        yield Archive(-1, state.nbytes, path.name, state, file)
    except SourceError:
        now = path.state()
        if not state.matches(now):
            raise changed(str(path), state, now) from None
        raise


def walk(
    archive: Archive,
    location: str = "",
    *,
    start: int = 0,
    stop: int | None = None,
    partial: bool = False,
    keep: Callable[[str, int], int] | None = None,
    frames: bool = False,
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
    keep : callable, optional
        Receives name and size of each file; returns how many bytes of it to keep. In a bucket they
        are read with the headers around them.
    frames : bool, default False
        Read the first bytes of the files on a disk with their headers, and return the sizes of
        JPEGs that have a plain frame header there. A call of the system costs more than the bytes.

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
    tape = _Tape(archive.reader(start), stop, location or archive.name)
    kept: dict[int, bytes] = {}
    files = _Files(array("i") if frames else None)
    run = None
    if keep is None and archive.object is None:
        run = functools.partial(tape.plain_run, files)
    for name, offset, nbytes in tape.files(start, run):
        files.add([name], [offset], [nbytes])
        if keep is not None and (n_kept := keep(name, nbytes)):
            kept[offset] = tape.read(offset, min(n_kept, nbytes))
    return TarMembers(
        names=files.names,
        offsets=np.array(files.offsets, dtype=np.int64),
        nbytes=np.array(files.nbytes, dtype=np.int64),
        unread=tape.unread(partial=partial),
        kept=kept,
        frames=None if files.frames is None else np.array(files.frames, np.int32).reshape(-1, 2),
    )


class _Files:
    """The files that a walk has found until now; `TarMembers` says what their values are."""

    def __init__(self, frames: array[int] | None) -> None:
        self.names: list[str] = []
        self.offsets, self.nbytes = array("q"), array("q")
        self.frames = frames

    def add(
        self,
        names: Sequence[str],
        offsets: Sequence[int],
        nbytes: Sequence[int],
        frames: Ints | None = None,
    ) -> None:
        self.names.extend(names)
        self.offsets.extend(offsets)
        self.nbytes.extend(nbytes)
        if self.frames is not None:
            known = np.zeros((len(names), 2)) if frames is None else frames
            self.frames.frombytes(known.astype(np.int32).tobytes())


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class TarStream:
    """The regular files of an archive that can only be read front to back.

    Parameters
    ----------
    file : file object
        The archive, decompressed.
    location : str
        Name of the archive in error messages.
    partial : bool, default False
        See `walk`.

    Attributes
    ----------
    unread : tuple of str
        As of `TarMembers`, when all files were listed.

    Examples
    --------
    >>> import io, tarfile
    >>> archive = io.BytesIO()
    >>> with tarfile.open(fileobj=archive, mode="w") as tar:
    ...     member = tarfile.TarInfo("./a.jpg")
    ...     member.size = 3
    ...     tar.addfile(member, io.BytesIO(b"abc"))
    >>> _ = archive.seek(0)
    >>> stream = TarStream(archive, "a.tar.gz")
    >>> [(name, stream.data()) for name in stream]
    [('a.jpg', b'abc')]
    """

    def __init__(self, file: _Readable, location: str, *, partial: bool = False) -> None:
        self.unread: tuple[str, ...] = ()
        self._file = file
        self._position = 0
        self._tape = _Tape(self._read, sys.maxsize, location)
        self._partial = partial
        self._place = ("", 0, 0)

    def __iter__(self) -> Iterator[str]:
        """Yield the name of each file; raises the errors of `walk`."""
        for place in self._tape.files(0):
            self._place = place
            yield place[0]
        self.unread = self._tape.unread(partial=self._partial)

    def data(self) -> bytes:
        """Return the data of the file whose name was yielded last; call it once at most."""
        name, offset, nbytes = self._place
        pieces = []
        # Nothing shows yet whether the archive has as many bytes as the header states.
        for start in range(offset, offset + nbytes, _PIECE_NBYTES):
            length = min(_PIECE_NBYTES, offset + nbytes - start)
            pieces.append(self._read(length, start))
            if len(pieces[-1]) < length:
                raise self._tape.cut_short(name, offset - RECORD_NBYTES, nbytes, self._position)
        return b"".join(pieces)

    def _read(self, nbytes: int, offset: int) -> bytes:
        """Skip to an offset, and read."""
        while self._position < offset:
            skipped = self._file.read(min(_PIECE_NBYTES, offset - self._position))
            if not skipped:
                return b""
            self._position += len(skipped)
        data = self._file.read(nbytes)
        self._position += len(data)
        return data


def next_header(archive: Archive, start: int) -> int:
    """Return the offset of the header after the one at `start`; `start` itself if malformed."""
    header = archive.reader(start)(RECORD_NBYTES, start)
    try:
        after = start + RECORD_NBYTES + _padded(_nbytes(header.ljust(RECORD_NBYTES)))
    except _MalformedError:
        return start  # the walk reports the error
    return min(after, archive.nbytes)


class _MalformedError(Exception):
    """A fault of a header; the caller adds the location."""


class _Tape:
    """The records of one archive. Checksums are verified a batch at a time.

    Parameters
    ----------
    read : callable
        ``read(nbytes, offset)`` returns bytes of the archive, fewer at its end.
    stop : int
        Where the archive ends at the latest.
    location : str
        Name of the archive in error messages.

    Attributes
    ----------
    stop : int
        See above.
    """

    def __init__(self, read: Callable[[int, int], bytes], stop: int, location: str) -> None:
        self._read = read
        self.stop = stop
        self._end = 0
        self._location = location
        self._unverified: dict[int, bytes] = {}
        self._ahead = -1, b""  # offset and bytes of a header that was read but not taken

    def files(
        self, offset: int, run: Callable[[int], int] | None = None
    ) -> Iterator[tuple[str, int, int]]:
        """Yield name, offset and size of each regular file, from the header at `offset` on.

        Parameters
        ----------
        offset : int
        run : callable, optional
            `plain_run`, which takes some files instead.
        """
        try:
            self._end = yield from _files(self, offset, run)
        except SourceError:
            self.verify_checksums()  # an earlier damaged header is the cause, and reported instead
            raise
        self.verify_checksums()

    def plain_run(self, files: _Files, at: int) -> int:
        """Add the files whose headers follow each other from `at` on and are plain.

        Nearly all headers are. This takes them in a third of the time, because they are examined
        together, after they were read on the assumption that they are plain.

        Returns
        -------
        int
            Offset of the first header that is not plain, or whose data is not complete.
        """
        nbytes = RECORD_NBYTES + (0 if files.frames is None else _FRAME_NBYTES)
        limit = _FIRST_BATCH
        while True:
            pieces, starts, sizes = self._read_on(at, nbytes, limit)
            read = np.frombuffer(b"".join(pieces[: len(sizes)]), np.uint8).reshape(-1, nbytes)
            headers = read[:, :RECORD_NBYTES].copy()
            names = plain_names(headers)
            n = len(names)
            self.verify_checksums()
            self._verify(starts, headers[:n])
            frames = None
            if files.frames is not None and n:
                first = np.arange(n) * nbytes + RECORD_NBYTES
                last = first + np.minimum(sizes[:n], _FRAME_NBYTES)
                frames = frame_sizes(read.reshape(-1), first, last)
            files.add(names, [start + RECORD_NBYTES for start in starts[:n]], sizes[:n], frames)
            at = starts[n]
            if n < limit:
                self._ahead = at, pieces[n][:RECORD_NBYTES]
                return at
            limit = _BATCH

    def _read_on(
        self, at: int, nbytes: int, limit: int
    ) -> tuple[list[bytes], list[int], list[int]]:
        """Read headers and what follows them, each where the size in the one before says it is.

        Returns
        -------
        pieces : list of bytes
            The last one may be something else, or too short.
        starts : list of int
            Their offsets, and that of the header after those with a size.
        sizes : list of int
            The size in each header, but not in such a last one.
        """
        pieces, starts, sizes = list[bytes](), [at], list[int]()
        read, last = self._read, self.stop - RECORD_NBYTES
        while len(sizes) < limit:
            pieces.append(piece := read(nbytes, at))
            try:
                size = int(piece[_OCTAL_SIZE], 8)
            except ValueError:
                break
            if not 0 <= size <= last - at or len(piece) < nbytes:
                break
            sizes.append(size)
            at += RECORD_NBYTES + size + -size % RECORD_NBYTES
            starts.append(at)
        return pieces, starts, sizes

    def header(self, offset: int) -> bytes:
        """Read the header at `offset`; empty at the end-of-archive marker."""
        at, header = self._ahead
        if at != offset:
            header = self._read(RECORD_NBYTES, offset)
        if len(header) < RECORD_NBYTES or offset + RECORD_NBYTES > self.stop:
            end = min(self.stop, offset + len(header))
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
        if first + nbytes > self.stop:
            raise self.cut_short(name, offset, nbytes, self.stop)
        return first

    def cut_short(self, name: str | None, offset: int, nbytes: int, end: int) -> SourceError:
        """Return the error for data that the archive does not have in full."""
        what = "extended header" if name is None else f"member {name!r}"
        first = offset + RECORD_NBYTES
        return self.error(
            f"{what} at byte {offset} needs bytes {first} to {first + nbytes}, but the "
            f"archive ends at {end}; it is truncated; download it again"
        )

    def read(self, start: int, nbytes: int) -> bytes:
        """Read the data of an extended header."""
        if nbytes > MAX_EXTENSION_NBYTES:
            limit = f"{MAX_EXTENSION_NBYTES} bytes"
            raise _MalformedError(f"extended header must have at most {limit}, got {nbytes}")
        return self._read(nbytes, start)

    def verify_checksums(self) -> None:
        """Raise an error for the first damaged header among those read since the last call."""
        headers, self._unverified = self._unverified, {}
        joined = np.frombuffer(bytearray().join(headers.values()), np.uint8)
        self._verify(list(headers), joined.reshape(-1, RECORD_NBYTES))

    def _verify(self, starts: Sequence[int], headers: NDArray[np.uint8]) -> None:
        stated, holds = block_checksums(headers)
        if not holds.all():
            row = int(np.argmin(holds))
            raise self.error(
                f"header at byte {starts[row]} must have the checksum of its bytes, got "
                f"{stated[row].tobytes()!r}; the archive is damaged, or not a tar archive; "
                "download it again"
            )

    def unread(self, *, partial: bool) -> tuple[str, ...]:
        """Return a message about bytes other than zeros after the end marker, if there are any.

        Raises
        ------
        SourceError
            If there are, and `partial` is false.
        """
        begin = self._end + RECORD_NBYTES  # after the marker itself
        for offset in range(begin, self.stop, _TAIL_NBYTES):
            tail = self._read(min(_TAIL_NBYTES, self.stop - offset), offset)
            if not tail:
                break
            if found := tail.lstrip(b"\0"):
                message = self._describe(tail, offset, len(tail) - len(found))
                if not partial:
                    raise SourceError(
                        f"{message}; download the archive again, or pass partial=True (--partial) "
                        "to convert only the files before it"
                    )
                return (message,)
        return ()

    def _describe(self, tail: bytes, offset: int, first: int) -> str:
        """Say what begins at the byte `first` of a tail, which begins at `offset`."""
        record = first - first % RECORD_NBYTES
        header = tail[record : record + RECORD_NBYTES]
        is_header = len(header) == RECORD_NBYTES and checksums([header])[1].all()
        what = "another archive" if is_header else "data, so a header may be lost"
        stop = "" if self.stop == sys.maxsize else f" at byte {self.stop}"
        return (
            f"{self._location}: expected zeros up to the end{stop} after the end-of-archive marker "
            f"at byte {self._end}, but byte {offset + first} begins {what}; the files from there "
            "on cannot be read"
        )

    def error(self, message: str) -> SourceError:
        """Put the name of the archive before a message."""
        return SourceError(f"{self._location}: {message}")


def _files(
    tape: _Tape, offset: int, run: Callable[[int], int] | None
) -> Generator[tuple[str, int, int], None, int]:
    """Yield name, offset and size of each regular file; return the offset of the end marker."""
    extended: dict[bytes, bytes] = {}
    n_plain = _PLAIN_BEFORE
    while True:
        if run is not None and n_plain >= _PLAIN_BEFORE:
            offset, n_plain = run(offset), 0
        if not (header := tape.header(offset)):
            break
        n_plain = n_plain + 1 if run is not None and plain_name(header) else 0
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
                if kind in _FILES and not name.endswith("/") and name != "":
                    yield _without_dot(name), data, nbytes
                else:
                    _require_directory(kind, name, nbytes)
        except _MalformedError as error:
            raise tape.error(f"header at byte {offset}: {error}") from None
        offset = data + _padded(nbytes)
    if extended:
        raise tape.error(f"expected the member of an extended header at byte {offset}, got none")
    return offset


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


def _refuse_other_formats(start: bytes, path: SourcePath) -> None:
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
