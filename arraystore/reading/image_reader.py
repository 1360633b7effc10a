"""Encoded images of one split, read by their byte ranges in its payload.

On a local disk, images in the page cache are copied out of a memory map, or returned as views of
it. Other images are first announced to the disk, all at once, and then read. Remote images are
requested all at once.
"""

from __future__ import annotations

import math
import weakref
from functools import cached_property
from itertools import pairwise
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeVar

import numpy as np

from arraystore.errors import FormatError
from arraystore.indexing.byte_range import ZEROS, ByteRange
from arraystore.indexing.positions import distinct
from arraystore.indexing.referenced_payload import ReferencedPayload
from arraystore.reading.large_blocks import keep_large_blocks
from arraystore.storage.open_files import MAPS_TAKE_DESCRIPTORS
from arraystore.storage.range_reader import (
    arriving_elements,
    check_length,
    check_zeros,
    plan_elements,
    read_elements,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from mmap import mmap

    from arraystore._typing import Ints
    from arraystore.indexing.byte_range import ChunkManifest
    from arraystore.reading.referenced_images import ReferencedImages
    from arraystore.reading.store_handle import StoreHandle
    from arraystore.storage.range_reader import RangeReader

Data = TypeVar("Data", bytes, memoryview)
Data_co = TypeVar("Data_co", bytes, memoryview, covariant=True)

_PROBES: Final = 8
"""Images of a batch that are probed to find out whether it is in the page cache."""

SECONDS_TRUSTED: Final = 0.05
"""How long after a check of a file single images are copied from its map without another check.

A check takes half as long as a copy of 100 KB.
"""

SLOW_SECONDS: Final = 2e-4
_SLOW_SECONDS_PER_BYTE: Final = 1e-9
"""A copy from a map that takes longer than this, in all, has waited for the disk."""

READS_AFTER_SLOW: Final = 256
"""Single images that are read, rather than copied from a map, after a copy that was slow.

A missing page of a map is read with its surroundings (Linux: all that readahead allows) or alone;
a read requests the bytes of the image and no others.
"""

_LARGE_NBYTES: Final = 2**20
"""Bytes of a batch from which its memory is kept; see `arraystore.reading.large_blocks`."""

_MAX_VIEWED: Final = 16
"""Most files that the views of one batch may map, where each map takes a file descriptor."""

_MAX_CHUNKS: Final = 8
"""Most chunks that a single image is copied from one after another."""


class ReadPlan(NamedTuple):
    """Cost of reading encoded images.

    Attributes
    ----------
    objects : int
        Stored objects that are read.
    requests : int
        Byte ranges that are requested.
    nbytes : int
        Bytes in those ranges.
    nbytes_wanted : int
        Bytes of the images; more than `nbytes` where an image is selected twice.
    """

    objects: int
    requests: int
    nbytes: int
    nbytes_wanted: int


class ImageReader:
    """Read encoded images from the payload of a split: one array of all their bytes.

    In all methods `start` and `nbytes`, ndarrays of int64 of shape (n,), are the byte ranges of n
    images in the payload. The caller has checked that they lie within it.

    Parameters
    ----------
    handle : StoreHandle
        The store.
    path : str
        Path of the payload in the container.
    nbytes : int
        Length that the payload must have.
    references : ReferencedImages, optional
        The files that hold images. Then these and the store's own payload are one array.

    Raises
    ------
    FormatError
        If the payload is missing or has another length.
    """

    def __init__(
        self,
        handle: StoreHandle,
        path: str,
        nbytes: int,
        references: ReferencedImages | None = None,
    ) -> None:
        self._container = handle.container
        self._reader = handle.reader if references is None else references.reader
        self._path = path
        self._references = references
        self.manifest: ChunkManifest
        if references is None:
            self.manifest = self._container.manifest(path)
        else:
            self.manifest = references.payload
        if self.manifest.nbytes != nbytes and references is None:
            raise FormatError(
                f"{handle.address}/{path}: must have {nbytes} bytes, got {self.manifest.nbytes}"
            )
        self._local: _LocalImages | None = None
        if self._reader.has_cheap_reads:
            self._local = _LocalImages(self._reader, self.manifest)

    def plan(self, start: Ints, nbytes: Ints) -> tuple[set[str], int, int]:
        """Return the objects, and the number of requests and bytes, that images are read with."""
        _, _, spans = plan_elements(self.manifest, start, nbytes, max_gap=self._reader.max_gap)
        sizes = spans.stop - spans.start
        longest = self._reader.max_request
        requests = len(sizes) if longest is None else int(np.sum(-(-sizes // longest)))
        keys = {self.manifest.keys[i] for i in distinct(spans.object).tolist()}
        return keys, requests, int(sizes.sum())

    def read(self, start: Ints, nbytes: Ints) -> list[memoryview]:
        """Read images; images close to each other are read together, and their views share memory.

        Raises
        ------
        ShortReadError
            If an object ends before an image does.
        """
        return read_elements(self._reader, self.manifest, start, nbytes)

    def arrivals(self, start: Ints, nbytes: Ints) -> Iterator[tuple[int, memoryview]]:
        """Yield the index and the bytes of each image as soon as it is read; see `read`."""
        return arriving_elements(self._reader, self.manifest, start, nbytes)

    def views(self, start: Ints, nbytes: Ints) -> list[memoryview]:
        """Return images, read-only, as views of a memory map where possible; raises as `read`."""
        if self._local is None or not self._local.is_mapped:
            return [view.toreadonly() for view in self.read(start, nbytes)]
        return self._in_pieces(start, nbytes, self._local.views, memoryview)

    def copies(self, start: Ints, nbytes: Ints) -> list[bytes]:
        """Return images as bytes; raises as `read`."""
        if len(nbytes) > 1 and nbytes.sum() > _LARGE_NBYTES:
            keep_large_blocks()
        if self._local is None:
            return list(map(bytes, self.read(start, nbytes)))
        return self._in_pieces(start, nbytes, self._local.copies, bytes)

    @cached_property
    def copy(self) -> Callable[[int, int], bytes]:
        """A function from the start and size of one image to its bytes; it raises as `read`."""

        def copy(start: int, nbytes: int) -> bytes:
            (data,) = self.copies(np.array([start]), np.array([nbytes]))
            return data

        return copy if self._local is None else self._local.copier(copy)

    def look_up(self, start: Ints, nbytes: Ints) -> None:
        """Look up where the chunks of some images are, instead of relying on the metadata."""
        objects = self.manifest.locate(start, nbytes).object
        doubted = {self.manifest.keys[index] for index in distinct(objects)}
        if self._references is None:
            self.manifest = self._container.manifest(self._path, doubted)

    def _in_pieces(
        self,
        start: Ints,
        nbytes: Ints,
        take: Callable[[Ints, Ints, Ints], list[Data]],
        of: Callable[[bytes], Data],
    ) -> list[Data]:
        """Take images, and join the few that are stored in several pieces."""
        pieces = self.manifest.locate(start, nbytes)
        there = pieces.start != ZEROS
        if not there.all():
            check_zeros(pieces)
        columns = (pieces.object, pieces.start, pieces.start + pieces.nbytes)
        if len(there) and there.all():
            taken = take(*columns)
        else:
            taken = take(*(column[there] for column in columns)) if there.any() else []
            stored = iter(taken)
            sizes = zip(there.tolist(), pieces.nbytes.tolist(), strict=True)
            taken = [next(stored) if is_stored else of(bytes(n)) for is_stored, n in sizes]
        counts = np.bincount(pieces.wanted, minlength=len(start))
        if (counts == 1).all():
            return taken
        ends = zip(counts.tolist(), np.cumsum(counts).tolist(), strict=True)
        return [taken[end - 1] if n == 1 else of(b"".join(taken[end - n : end])) for n, end in ends]


class _Memory(Protocol[Data_co]):
    """Memory to slice: slices of a map are bytes, slices of a view of it are views."""

    def __getitem__(self, part: slice, /) -> Data_co: ...


class _LocalImages:
    """A payload on a local disk, read through memory maps of its files where they are allowed.

    In all methods `objects`, `start` and `stop`, ndarrays of int64 of shape (n,), are the index of
    each image's file in the manifest's keys, and the bytes of the file.
    """

    def __init__(self, reader: RangeReader, manifest: ChunkManifest) -> None:
        self.is_mapped = reader.has_maps
        self._reader = reader
        self._manifest = manifest
        self._chunk_nbytes = manifest.chunk_nbytes

    def copier(self, other: Callable[[int, int], bytes]) -> Callable[[int, int], bytes]:
        """Return a function from the start and size of an image to its bytes.

        It calls `other` where it cannot copy the image itself. It is a single function because
        calls are expensive here: a copy drives Python's own data out of the processor's caches.
        """
        if isinstance(self._manifest, ReferencedPayload):
            return self._copier_of_files(self._manifest, other) if self.is_mapped else other
        read = self._range_reader(other)
        if not self.is_mapped:
            return read
        chunk_nbytes = self._chunk_nbytes
        looked_at: dict[int, tuple[Callable[[], mmap | None], int, int]] = {}
        until = -math.inf
        n_reads = 0  # that are left, after a slow copy

        def look(chunk: int) -> tuple[Callable[[], mmap | None], int, int]:
            found = self._manifest.whole(chunk)
            if found is None:
                return (lambda: None), 0, 0
            key, at = found
            map_of = weakref.ref(self._reader.map(key))
            looked_at[chunk] = known = map_of, at - chunk * chunk_nbytes, at + chunk_nbytes
            return known

        def copy(start: int, nbytes: int) -> bytes:
            nonlocal until, n_reads
            if n_reads > 0:  # two threads that count down at once may pass 0
                n_reads -= 1
                return read(start, nbytes)
            chunk = start // chunk_nbytes
            began = monotonic()
            if began > until:
                looked_at.clear()
                self._reader.check_unchanged()
                until = began + SECONDS_TRUSTED
            map_of, shift, end = looked_at.get(chunk) or look(chunk)
            first = start + shift
            memory = map_of()
            if memory is None:
                return other(start, nbytes)
            data = memory[first : min(first + nbytes, end)]
            if first + nbytes > end:
                if nbytes > _MAX_CHUNKS * chunk_nbytes:  # keep the recursion shallow
                    return other(start, nbytes)
                data += copy(start + end - first, first + nbytes - end)
            if monotonic() - began > SLOW_SECONDS + _SLOW_SECONDS_PER_BYTE * nbytes:
                n_reads = READS_AFTER_SLOW
            return data if len(data) == nbytes else other(start, nbytes)

        return copy

    def _range_reader(self, other: Callable[[int, int], bytes]) -> Callable[[int, int], bytes]:
        """Return what `copier` does, without maps."""
        chunk_nbytes = self._chunk_nbytes

        def read(start: int, nbytes: int) -> bytes:
            chunk, at = divmod(start, chunk_nbytes)
            self._reader.check_unchanged()
            found = self._manifest.whole(chunk) if at + nbytes <= chunk_nbytes else None
            if found is None:
                return other(start, nbytes)
            key, first = found
            data = self._reader.read_range(key, first + at, first + at + nbytes)
            return data if len(data) == nbytes else other(start, nbytes)

        return read

    def _copier_of_files(
        self, payload: ReferencedPayload, other: Callable[[int, int], bytes]
    ) -> Callable[[int, int], bytes]:
        """Return what `copier` does, for images in other files; the last of them stays known."""
        n_own, begin = len(payload.own.keys), payload.begin
        until = -math.inf
        n_reads = 0  # that are left, after a slow copy
        # One value, because other threads may replace it: a map, and its place in the payload.
        known: tuple[Callable[[], mmap | None], int, int] = (lambda: None), 0, 0

        def look(start: int) -> tuple[Callable[[], mmap | None], int, int]:
            file = int(np.searchsorted(begin, start, side="right")) - 1
            if file == 0:
                return (lambda: None), 0, 0
            end = begin.item(file + 1) if file + 1 < len(begin) else payload.nbytes
            map_of = weakref.ref(self._reader.map(payload.keys[n_own + file - 1]))
            return map_of, begin.item(file), end

        def copy(start: int, nbytes: int) -> bytes:
            nonlocal known, until, n_reads
            if n_reads > 0:  # two threads that count down at once may pass 0
                n_reads -= 1
                return other(start, nbytes)
            found = known
            began = monotonic()
            if began > until:
                self._reader.check_unchanged()
                found = known = look(start)
                until = began + SECONDS_TRUSTED
            map_of, first, end = found
            if not first <= start < end:
                map_of, first, end = known = look(start)
            memory = map_of()
            if memory is None:
                return other(start, nbytes)
            data = memory[start - first : start - first + nbytes]
            if monotonic() - began > SLOW_SECONDS + _SLOW_SECONDS_PER_BYTE * nbytes:
                n_reads = READS_AFTER_SLOW
            return data if len(data) == nbytes else other(start, nbytes)

        return copy

    def copies(self, objects: Ints, start: Ints, stop: Ints) -> list[bytes]:
        """Copy images if they are in the page cache; read them otherwise."""
        if self.is_mapped and self._is_cached(objects, start, stop):
            return self._take(objects, start, stop, lambda data: data)
        return self._read(objects, start, stop)

    def _read(self, objects: Ints, start: Ints, stop: Ints) -> list[bytes]:
        order = np.lexsort((start, objects))
        ranges = self._ranges(objects[order], start[order], stop[order])
        found: dict[int, bytes] = {}
        for i, wanted, got in zip(
            order.tolist(), ranges, self._reader.read_each(ranges), strict=True
        ):
            check_length(wanted, len(got))
            found[i] = bytes(got)
        return [found[i] for i in range(len(order))]

    def views(self, objects: Ints, start: Ints, stop: Ints) -> list[memoryview]:
        """Return views of memory maps; images outside the page cache are announced to the disk.

        Images in many files are read instead where each map would take a file descriptor.
        """
        if MAPS_TAKE_DESCRIPTORS and len(distinct(objects)) > _MAX_VIEWED:
            return [memoryview(data) for data in self._read(objects, start, stop)]
        if not self._is_cached(objects, start, stop):
            self._reader.read_ahead(self._ranges(objects, start, stop))
        return self._take(objects, start, stop, memoryview)

    def _is_cached(self, objects: Ints, start: Ints, stop: Ints) -> bool:
        few = slice(None, None, max(1, len(start) // _PROBES))
        return self._reader.is_cached(self._ranges(objects[few], start[few], stop[few]))

    def _take(
        self,
        objects: Ints,
        start: Ints,
        stop: Ints,
        memory: Callable[[mmap], _Memory[Data]],
    ) -> list[Data]:
        self._reader.check_unchanged()
        # One file after another, so that one map at a time is held: it may take a descriptor.
        order: Ints = np.argsort(objects, kind="stable")
        file_of: Ints = objects[order]
        first, last = start[order].tolist(), stop[order].tolist()
        bounds = [0, *(np.flatnonzero(file_of[1:] != file_of[:-1]) + 1).tolist(), len(order)]
        found: list[Data] = []
        for begin, end in pairwise(bounds):
            data = memory(self._reader.map(self._manifest.keys[int(file_of[begin])]))
            places = zip(first[begin:end], last[begin:end], strict=True)
            found += [data[a:b] for a, b in places]
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        taken = [found[i] for i in place.tolist()]
        if sum(map(len, taken)) != int((stop - start).sum()):
            for wanted, got in zip(self._ranges(objects, start, stop), taken, strict=True):
                check_length(wanted, len(got))
        return taken

    def _ranges(self, objects: Ints, start: Ints, stop: Ints) -> list[ByteRange]:
        columns = zip(objects.tolist(), start.tolist(), stop.tolist(), strict=True)
        return [ByteRange(self._manifest.keys[i], first, last) for i, first, last in columns]
