"""The encoded images of one split: where each lies, and its bytes by the shortest way.

On a local disk there are two. What is in the page cache is copied out of a memory map, or only
looked at there; for what is not, the disk is asked all at once before it is read. From afar
images are read, all at once as well.
"""

from __future__ import annotations

import math
import weakref
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeVar

import numpy as np

from arraystore.byterange import ZEROS, ByteRange
from arraystore.errors import FormatError
from arraystore.files import MAPS_TAKE_DESCRIPTORS, read_at
from arraystore.positions import distinct
from arraystore.storage import (
    LocalReader,
    arriving_elements,
    check_length,
    plan_elements,
    read_elements,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from arraystore.byterange import ChunkManifest
    from arraystore.containers.opening import Opening
    from arraystore.files import OpenFile

    Ints = NDArray[np.int64]

Data = TypeVar("Data", bytes, memoryview)
Data_co = TypeVar("Data_co", bytes, memoryview, covariant=True)

_PROBES: Final = 8
"""Images of a batch that are looked at to tell whether it is in the page cache."""

SECONDS_TRUSTED: Final = 0.01
"""How long after a look at a file single images are taken from its map without another.

A look takes half the time that a copy of 100 KB does.
"""

_MAX_DESCRIPTORS: Final = 16
"""Descriptors that the views of one batch may take."""

_MAX_KNOWN: Final = 2**12
"""Chunks of which the files are known without a look-up."""


class ReadPlan(NamedTuple):
    """What reading encoded images takes.

    Attributes
    ----------
    objects : int
        Stored objects that are read from.
    requests : int
        Byte ranges that are asked for.
    nbytes : int
        Bytes in those ranges.
    nbytes_wanted : int
        Bytes of the images; more than `nbytes` where an image is wanted twice.
    """

    objects: int
    requests: int
    nbytes: int
    nbytes_wanted: int


class Payload:
    """The encoded images of one split, end to end: one array of bytes.

    Everywhere below `start` and `nbytes`, ndarrays of int64 of shape (n,), say which bytes
    are wanted: those of n images. They must be inside the payload.

    Parameters
    ----------
    opening : Opening
        What opens the store.
    path : str
        Of the array.
    nbytes : int
        What its length must be.

    Raises
    ------
    FormatError
        If the array is not there, or of another length.
    """

    def __init__(self, opening: Opening, path: str, nbytes: int) -> None:
        self._container = opening.container
        self._reader = opening.reader
        self._path = path
        self.manifest = self._container.manifest(path)
        if self.manifest.nbytes != nbytes:
            raise FormatError(
                f"{opening.address}/{path}: must have {nbytes} bytes, got {self.manifest.nbytes}"
            )
        self._local: _LocalPayload | None = None
        if isinstance(self._reader, LocalReader):
            self._local = _LocalPayload(self._reader, self.manifest)

    def plan(self, start: Ints, nbytes: Ints) -> tuple[set[str], int, int]:
        """Return the objects, and the number of requests and bytes, that reading images takes."""
        _, _, spans = plan_elements(self.manifest, start, nbytes, max_gap=self._reader.max_gap)
        sizes = spans.stop - spans.start
        longest = self._reader.max_request
        requests = len(sizes) if longest is None else int(np.sum(-(-sizes // longest)))
        keys = {self.manifest.keys[i] for i in distinct(spans.object).tolist()}
        return keys, requests, int(sizes.sum())

    def read(self, start: Ints, nbytes: Ints) -> list[memoryview]:
        """Read images, those together that lie close together; their views share memory.

        Raises
        ------
        ShortReadError
            If an object ends before an image does.
        """
        return read_elements(self._reader, self.manifest, start, nbytes)

    def arrivals(self, start: Ints, nbytes: Ints) -> Iterator[tuple[int, memoryview]]:
        """Yield which image it is, and its bytes, of each as soon as it is read; see `read`."""
        return arriving_elements(self._reader, self.manifest, start, nbytes)

    def views(self, start: Ints, nbytes: Ints) -> list[memoryview]:
        """Return images, read-only, where they lie if that is possible; raise as `read` does."""
        if self._local is None or not self._local.may_view(start):
            return [view.toreadonly() for view in self.read(start, nbytes)]
        return self._in_pieces(start, nbytes, self._local.views, memoryview.toreadonly)

    def copies(self, start: Ints, nbytes: Ints) -> list[bytes]:
        """Return images as bytes; raise as `read` does."""
        if self._local is None:
            return list(map(bytes, self.read(start, nbytes)))
        return self._in_pieces(start, nbytes, self._local.copies, bytes)

    def copy(self, start: int, nbytes: int) -> bytes:
        """Return one image as bytes; raise as `read` does."""
        data = None if self._local is None else self._local.copy(start, nbytes)
        if data is None:
            (data,) = self.copies(np.array([start]), np.array([nbytes]))
        return data

    def look_up(self, start: Ints, nbytes: Ints) -> None:
        """Look up where the chunks of some images are, in place of what was promised."""
        objects = self.manifest.locate(start, nbytes).object
        doubted = {self.manifest.keys[index] for index in distinct(objects)}
        self.manifest = self._container.manifest(self._path, doubted)

    def _in_pieces(
        self,
        start: Ints,
        nbytes: Ints,
        take: Callable[[Ints, Ints, Ints], list[Data]],
        other: Callable[[memoryview], Data],
    ) -> list[Data]:
        """Take images that are stored in one piece, and read the others, which are few."""
        pieces = self.manifest.locate(start, nbytes)
        places = (pieces.object, pieces.start, pieces.start + pieces.nbytes)
        is_whole = np.bincount(pieces.wanted, minlength=len(start)) == 1
        is_whole[pieces.wanted[pieces.start == ZEROS]] = False
        if len(start) and is_whole.all():
            return take(*places)
        found: dict[int, Data] = {}
        whole, apart = np.flatnonzero(is_whole), np.flatnonzero(~is_whole)
        if len(whole):
            mine = is_whole[pieces.wanted]
            taken = take(*(column[mine] for column in places))
            found |= zip(whole.tolist(), taken, strict=True)
        read = map(other, self.read(start[apart], nbytes[apart]))
        found |= zip(apart.tolist(), read, strict=True)
        return [found[i] for i in range(len(start))]


class _Memory(Protocol[Data_co]):
    """What slices are taken of: those of a map are bytes, those of a view of it are views."""

    def __getitem__(self, where: slice, /) -> Data_co: ...


class _Chunk:
    """Where a chunk of the payload is: in the file `key`, from `start` on; or -1, if in pieces.

    `file` was what it must be until `until`, and more is not asked.
    """

    __slots__ = ("file", "key", "start", "until")

    def __init__(self) -> None:
        self.key = ""
        self.start = -1
        self.file: Callable[[], OpenFile | None] = _no_file
        self.until = -math.inf


def _no_file() -> None:
    return None


class _LocalPayload:
    """A payload on a local disk, by memory maps of its files if they may be used.

    Where nothing else is said `objects`, `start` and `stop`, ndarrays of int64 of shape (n,),
    tell which of the manifest's keys each image is in, and which bytes of it.
    """

    def __init__(self, reader: LocalReader, manifest: ChunkManifest) -> None:
        self.is_mapped = reader.mmap
        self._reader = reader
        self._manifest = manifest
        self._chunk_nbytes = manifest.chunk_nbytes
        self._known: dict[int, _Chunk] = {}

    def may_view(self, start: Ints) -> bool:
        """Whether views of images take no descriptors, or few (before Python 3.13, one a file)."""
        return self.is_mapped and (
            not MAPS_TAKE_DESCRIPTORS
            or len(distinct(start // self._chunk_nbytes)) <= _MAX_DESCRIPTORS
        )

    def copy(self, start: int, nbytes: int) -> bytes | None:
        """Return one image, or None if it is not in one piece; `start` is in the payload."""
        chunk, at = divmod(start, self._chunk_nbytes)
        known = self._known.get(chunk) or self._find(chunk)
        if known.start < 0 or at + nbytes > self._chunk_nbytes:
            return None
        if not self.is_mapped or monotonic() > known.until:
            file = self._look(known)
        else:
            file = known.file() or self._look(known)
        first = known.start + at
        data = file.map[first : first + nbytes] if self.is_mapped else read_at(file, first, nbytes)
        return data if len(data) == nbytes else None

    def _find(self, chunk: int) -> _Chunk:
        """Find out where a chunk is."""
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        start = chunk * self._chunk_nbytes
        nbytes = max(0, min(self._chunk_nbytes, self._manifest.nbytes - start))
        pieces = self._manifest.locate(np.array([start]), np.array([nbytes]))
        found = _Chunk()
        if len(pieces.start) == 1:
            found.key = self._manifest.keys[int(pieces.object[0])]
            found.start = int(pieces.start[0])
        self._known[chunk] = found
        return found

    def _look(self, chunk: _Chunk) -> OpenFile:
        """Return the file of a chunk, after a look whether it and the root are what they were."""
        self._reader.check_first()
        file = self._reader.file(chunk.key)
        chunk.file = weakref.ref(file)
        chunk.until = monotonic() + SECONDS_TRUSTED
        return file

    def copies(self, objects: Ints, start: Ints, stop: Ints) -> list[bytes]:
        """Copy images, if they are in the page cache; else read them."""
        if self.is_mapped and self._is_cached(objects, start, stop):
            return self._take(objects, start, stop, lambda file: file.map)
        order = np.lexsort((start, objects))
        ranges = self._ranges(objects[order], start[order], stop[order])
        found: dict[int, bytes] = {}
        for i, wanted, got in zip(
            order.tolist(), ranges, self._reader.read_each(ranges), strict=True
        ):
            check_length(wanted, len(got))
            found[i] = got
        return [found[i] for i in range(len(order))]

    def views(self, objects: Ints, start: Ints, stop: Ints) -> list[memoryview]:
        """Return images where they lie; the disk is asked for them, if they are only there."""
        if not self._is_cached(objects, start, stop):
            self._reader.read_ahead(self._ranges(objects, start, stop))
        return self._take(objects, start, stop, lambda file: memoryview(file.map))

    def _is_cached(self, objects: Ints, start: Ints, stop: Ints) -> bool:
        few = slice(None, None, max(1, len(start) // _PROBES))
        return self._reader.is_cached(self._ranges(objects[few], start[few], stop[few]))

    def _take(
        self,
        objects: Ints,
        start: Ints,
        stop: Ints,
        memory: Callable[[OpenFile], _Memory[Data]],
    ) -> list[Data]:
        self._reader.check_first()
        first, last = start.tolist(), stop.tolist()
        number = int(objects[0])
        data = memory(self._file(number))
        if (objects == number).all():
            taken = [data[a:b] for a, b in zip(first, last, strict=True)]
        else:
            taken = [data[0:0]] * len(first)
            numbers = objects.tolist()
            for i in np.argsort(objects, kind="stable").tolist():
                if numbers[i] != number:
                    number = numbers[i]
                    data = memory(self._file(number))
                taken[i] = data[first[i] : last[i]]
        if sum(map(len, taken)) != int((stop - start).sum()):
            for wanted, got in zip(self._ranges(objects, start, stop), taken, strict=True):
                check_length(wanted, len(got))
        return taken

    def _file(self, number: int) -> OpenFile:
        return self._reader.file(self._manifest.keys[number])

    def _ranges(self, objects: Ints, start: Ints, stop: Ints) -> list[ByteRange]:
        columns = zip(objects.tolist(), start.tolist(), stop.tolist(), strict=True)
        return [ByteRange(self._manifest.keys[i], first, last) for i, first, last in columns]
