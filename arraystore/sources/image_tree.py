"""Image files by their paths, in a folder or in an archive of it: tar, compressed tar or zip.

Images in plain archives, and those that a zip archive holds uncompressed, are byte ranges; others
are decompressed into the spool.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from arraystore.errors import SourceError
from arraystore.images.probe import IMAGE_SUFFIXES
from arraystore.sources.compressed import decompressed, is_compressed
from arraystore.sources.junk import is_junk
from arraystore.sources.spool import SPOOL
from arraystore.sources.tar import TarStream, open_archive, walk
from arraystore.storage.buckets import ObjectPath, start_of, states_of
from arraystore.storage.file_states import FileState, FileStates, state_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO

    from arraystore._typing import Ints
    from arraystore.sources.spool import Spool
    from arraystore.storage.buckets import SourcePath

    Wanted = Callable[[str], bool]

_SUFFIXES: Final = tuple(IMAGE_SUFFIXES)
_ZIP: Final = b"PK"
_LOCAL_HEADER_NBYTES: Final = 30
_LOCAL_HEADER: Final = b"PK\x03\x04"


@dataclass
class ImageTree:
    """Images that were found.

    Attributes
    ----------
    path : Path or ObjectPath
        The folder or the archive.
    names : list of str
        Path of each image in it.
    files : list of Path or ObjectPath
        Files that hold images.
    states : FileStates
        Of `files`, before they were read.
    damage : tuple of str
        Parts of an archive that cannot be read.
    hidden, others : list of str
        Paths that were left out: hidden files and those of the system, and files without the
        suffix of an image.
    """

    path: SourcePath
    names: list[str] = field(default_factory=list)
    files: list[SourcePath] = field(default_factory=list)
    states: FileStates = field(default_factory=lambda: FileStates.known([]))
    damage: tuple[str, ...] = ()
    hidden: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    _file: array[int] = field(default_factory=lambda: array("i"))
    _offset: array[int] = field(default_factory=lambda: array("q"))
    _nbytes: array[int] = field(default_factory=lambda: array("q"))

    def add(self, name: str, file: int, offset: int, nbytes: int) -> None:
        """Add an image."""
        self.names.append(name)
        self._file.append(file)
        self._offset.append(offset)
        self._nbytes.append(nbytes)

    def accepts(self, name: str) -> bool:
        """Whether a path is that of an image; others are kept in `hidden` and `others`."""
        if is_junk(name):
            self.hidden.append(name)
        elif not name.lower().endswith(_SUFFIXES):
            self.others.append(name)
        else:
            return True
        return False

    @property
    def places(self) -> tuple[Ints, Ints, Ints]:
        """The file (or `SPOOL`), offset and size of each image."""
        return (
            np.frombuffer(self._file, np.int32),
            np.frombuffer(self._offset, np.int64),
            np.frombuffer(self._nbytes, np.int64),
        )


def read_tree(
    path: SourcePath, wanted: Wanted, spool: Spool | None, *, partial: bool = False
) -> ImageTree:
    """List the images in a folder, or in an archive of one.

    Parameters
    ----------
    path : Path or ObjectPath
    wanted : callable
        Receives the path of each image, and returns whether it is kept.
    spool : Spool, optional
        Takes images that are compressed.
    partial : bool, default False
        Accept other bytes than zeros behind the end of a plain archive.

    Raises
    ------
    SourceError
        If the archive is damaged, or the path leads to something else.
    SourceChangedError
        If it changed meanwhile.
    """
    tree = ImageTree(path)
    if path.is_dir():
        (_read_bucket if isinstance(path, ObjectPath) else _read_folder)(tree, wanted)
        return tree
    tree.files = [path]
    tree.states = states_of([path])
    with tree.states.unchanged():
        if start_of(path, 2) == _ZIP:
            _read_zip(tree, wanted, spool)
        elif is_compressed(path):
            _read_compressed_tar(tree, wanted, spool, partial=partial)
        else:
            _read_tar(tree, wanted, partial=partial)
    return tree


def _read_folder(tree: ImageTree, wanted: Wanted) -> None:
    listed: list[tuple[str, FileState]] = []
    root = str(tree.path)
    for folder, folders, files in os.walk(root, followlinks=True):
        if len(listed) > 1 and folder.count("/") - root.count("/") > 8:
            raise SourceError(f"{folder}: folders are nested too deeply; is a link to one above?")
        listed.append((folder, state_of(folder)))
        folders.sort()
        below = folder[len(root) :].lstrip("/")
        for name in sorted(files):
            inside = f"{below}/{name}" if below else name
            if tree.accepts(inside) and wanted(inside):
                tree.add(inside, len(tree.files), 0, 0)
                tree.files.append(Path(f"{root}/{inside}"))
    FileStates.known(listed).check()
    tree.states = FileStates.of([str(path) for path in tree.files])
    tree._nbytes = array("q", tree.states.values[:, 0].tolist())


def _read_bucket(tree: ImageTree, wanted: Wanted) -> None:
    assert isinstance(tree.path, ObjectPath)
    paths, states = tree.path.below()
    rows = [row for row, path in enumerate(paths) if tree.accepts(path) and wanted(path)]
    tree.states = states.take(np.array(rows, np.int64))
    for number, row in enumerate(rows):
        tree.add(paths[row], number, 0, int(states.values[row, 0]))
        tree.files.append(tree.path / paths[row])


def _read_tar(tree: ImageTree, wanted: Wanted, *, partial: bool) -> None:
    with open_archive(tree.path) as archive:
        members = walk(archive, partial=partial)
    tree.damage = members.unread
    places = zip(members.offsets.tolist(), members.nbytes.tolist(), strict=True)
    for name, (offset, nbytes) in zip(members.names, places, strict=True):
        if tree.accepts(name) and wanted(name):
            tree.add(name, 0, offset, nbytes)


def _read_compressed_tar(
    tree: ImageTree, wanted: Wanted, spool: Spool | None, *, partial: bool
) -> None:
    with decompressed(tree.path) as file:
        stream = TarStream(file, str(tree.path), partial=partial)
        for name in stream:
            if tree.accepts(name) and wanted(name):
                data = stream.data()
                tree.add(name, SPOOL, _spooled(tree, spool, data), len(data))
    tree.damage = stream.unread


def _read_zip(tree: ImageTree, wanted: Wanted, spool: Spool | None) -> None:
    """List a zip archive by its directory, which stands at its end."""
    try:
        with tree.path.open("rb") as file, zipfile.ZipFile(file) as archive:
            members = sorted(archive.infolist(), key=lambda member: member.header_offset)
            for member in members:
                name = member.filename
                if member.is_dir() or not tree.accepts(name) or not wanted(name):
                    continue
                if member.flag_bits & 1:
                    raise SourceError(f"{tree.path}: {name} is encrypted; unpack the archive")
                if member.compress_type == zipfile.ZIP_STORED:
                    tree.add(name, 0, _data_offset(file, member), member.file_size)
                else:
                    data = archive.read(member)
                    tree.add(name, SPOOL, _spooled(tree, spool, data), len(data))
    except (zipfile.BadZipFile, NotImplementedError, zlib.error, EOFError) as error:
        raise SourceError(f"{tree.path}: is damaged ({error}); download it again") from None


def _data_offset(file: IO[bytes], member: zipfile.ZipInfo) -> int:
    """Return where the bytes of a stored member begin; its local header has a length of its own."""
    file.seek(member.header_offset)
    header = file.read(_LOCAL_HEADER_NBYTES)
    if len(header) < _LOCAL_HEADER_NBYTES or header[:4] != _LOCAL_HEADER:
        raise zipfile.BadZipFile(f"no local header at byte {member.header_offset}")
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    return member.header_offset + _LOCAL_HEADER_NBYTES + lengths


def _spooled(tree: ImageTree, spool: Spool | None, data: bytes) -> int:
    if spool is None:
        raise SourceError(f"{tree.path}: needs space for images of compressed files")
    return spool.append(data)
