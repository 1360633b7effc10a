"""One split as it is stored: its columns, and its encoded images, read as byte ranges."""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from typing_extensions import override

from arraystore._checksum import crc32c
from arraystore._threads import in_a_thread, in_threads
from arraystore.errors import ChecksumError, FormatError, ShortReadError
from arraystore.images import decode as image
from arraystore.indexing.layout import content_digest
from arraystore.indexing.positions import distinct
from arraystore.reading.column_reader import StoredColumns
from arraystore.reading.image_reader import Payload
from arraystore.schema import COLUMN_CHUNK_ROWS, PAYLOAD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from arraystore._threads import Task
    from arraystore._typing import Ints, Pixels
    from arraystore.reading.column_reader import Identity
    from arraystore.reading.store_handle import Opening
    from arraystore.storage.range_reader import RangeReader

    Size = int | tuple[int, int]
    _Copy = Callable[[int, int], bytes]

T = TypeVar("T")

_FOR_BYTES: Final = ("image_start", "image_nbytes", "image_crc32c")

_FETCHED_CHUNKS: Final = 9
"""Chunks of each column that are fetched for a batch beforehand: as many as will be kept."""

_DIGESTED: Final = ("file_name", "label", "image_nbytes", "image_crc32c")
"""What the content digest is of, in the order of its function."""

SAMPLE_COLUMNS: Final = (*_FOR_BYTES, "label", "file_name")
"""What is needed to read samples."""


class StoredSplit(StoredColumns):
    """The columns and encoded images of one split of a store.

    Encoded bytes from a local disk are compared with their checksum when they are
    decoded, or whenever they are read, as the opening's option `checksum` says; then also
    labels and names with the content digest, and the index of the labels with the labels.

    Parameters
    ----------
    opening : Opening
        What opens the store.
    name : str
        The split.
    expected : (str, str), optional
        See `StoredColumns`.
    """

    def __init__(self, opening: Opening, name: str, expected: Identity | None = None) -> None:
        super().__init__(opening, name, expected)
        self._always = opening.options.checksum == "always"
        self._is_digested = False
        self._one: tuple[Callable[[int], int], Callable[[int], int], _Copy] | None = None

    @override
    def column(self, name: str) -> NDArray[Any]:
        if self._always and not self._is_digested and name in _DIGESTED:
            self.load((name,))
        return super().column(name)

    @override
    def load(self, names: Iterable[str]) -> None:
        wanted = tuple(names)
        if self._always and not self._is_digested and not {*wanted}.isdisjoint(_DIGESTED):
            super().load((*_DIGESTED, *wanted))
            self._check_digest()
            self._is_digested = True
        super().load(wanted)

    @override
    def take_all(self, names: Sequence[str], positions: Ints) -> list[NDArray[Any]]:
        if self._always and not self._is_digested and not {*names}.isdisjoint(_DIGESTED):
            self.load(names)
        return super().take_all(names, positions)

    @override
    def labelled(self, label: int) -> Ints:
        positions = super().labelled(label)
        if self._always and np.any(self.column("label")[positions] != label):
            raise ChecksumError(f"{self.where}/label_order: has others where label {label} is")
        return positions

    def import_libraries(self) -> None:
        """Import what reading and decoding would import, before threads do either."""
        image.import_decoders()
        self._opening.container.import_libraries()

    @cached_property
    def _reader(self) -> RangeReader:
        return self._opening.reader

    def fetch(self, positions: Ints) -> None:
        """Fetch the columns that samples need in one round trip, if round trips are dear."""
        if not self._reader.is_remote:
            return
        if len(distinct(positions // COLUMN_CHUNK_ROWS)) <= _FETCHED_CHUNKS or self.is_small:
            self.take_all(SAMPLE_COLUMNS, positions)

    @cached_property
    def _is_checked(self) -> bool:
        """Whether encoded images are compared with their checksum."""
        return self._always or self._reader.is_remote

    def plan(self, positions: Ints) -> tuple[set[str], int, int]:
        """Return the objects, and the number of requests and bytes, that reading images takes."""
        payload, start, nbytes = self._located(positions)
        return payload.plan(start, nbytes)

    def read(self, positions: Ints) -> list[memoryview]:
        """Read the encoded images at some positions, in their order.

        What came over a network is compared with its checksum. What is wrong or cut
        short is read once more, after looking up where it is instead of relying on it.

        Raises
        ------
        ChecksumError
            If the bytes read are not those that were written.
        ShortReadError
            If an object ends before an image does.
        """
        return self._taken(positions, lambda _, data: data)

    def checked(self, positions: Ints) -> list[memoryview]:
        """Read encoded images, and compare them with their checksums; see `read`."""
        images = self.read(positions)
        if not self._is_checked:  # else `read` did
            self._check(images, positions)
        return images

    def views(self, positions: Ints) -> list[memoryview]:
        """Return encoded images, read-only, where they lie if that is possible; else as `read`."""
        if self._is_checked:
            return [view.toreadonly() for view in self.read(positions)]
        payload, start, nbytes = self._located(positions)
        return payload.views(start, nbytes)

    def copies(self, positions: Ints) -> list[bytes]:
        """Return encoded images as bytes, read by the shortest way; raise as `read` does."""
        if self._is_checked:
            return self._taken(positions, lambda _, data: bytes(data))
        payload, start, nbytes = self._located(positions)
        return payload.copies(start, nbytes)

    def copy(self, position: int) -> bytes:
        """Return one encoded image as bytes, see `copies`."""
        if self._one is None:
            if self._is_checked:
                return self.copies(np.array([position]))[0]
            if "_ranges" not in vars(self):  # of a large split they are not all in memory
                payload, start, nbytes = self._located(np.array([position]))
                return payload.copy(start.item(), nbytes.item())
            start, nbytes = self._ranges
            self._one = start.item, nbytes.item, self._payload.copy
        start_of, nbytes_of, copy = self._one
        return copy(start_of(position), nbytes_of(position))

    def decode(
        self,
        encoded: Sequence[memoryview],
        positions: Ints,
        into: Sequence[Pixels] | None = None,
    ) -> list[Pixels]:
        """Decode the images that were read from some positions.

        Parameters
        ----------
        encoded : sequence of memoryview, length n
            What `read` returned.
        positions : ndarray of int64, shape (n,)
        into : sequence of ndarray of uint8, shape (height, width, 3), optional
            Where to put each, resized to that shape; see `arraystore.images.decode.decode_resized`.

        Returns
        -------
        list of ndarray of uint8, shape (height, width, 3)
            New arrays, or those of `into`.

        Raises
        ------
        ChecksumError
            If the bytes read are not those that were written.
        FormatError
            If they cannot be decoded.
        """
        expected = None if self._is_checked else self.take("image_crc32c", positions)

        def work(i: int) -> Pixels:
            if expected is not None and crc32c(encoded[i]) != expected[i]:
                self._check(encoded[i : i + 1], positions[i : i + 1])
            return self._pixels(encoded[i], int(positions[i]), None if into is None else into[i])

        if len(encoded) > 1:
            image.import_decoders()
        return in_threads(work, len(encoded))

    def images(self, positions: Ints, into: Sequence[Pixels] | None = None) -> list[Pixels]:
        """Read and decode images, from afar each while others are on their way; see `decode`."""
        if not self._reader.is_remote or len(positions) < 2:
            return self.decode(self.read(positions), positions, into)
        image.import_decoders()
        begun: list[Task[Pixels]] = []

        def begin(i: int, data: memoryview) -> Task[Pixels]:
            out = None if into is None else into[i]
            begun.append(in_a_thread(partial(self._pixels, data, int(positions[i]), out)))
            return begun[-1]

        try:
            return [decoding.result() for decoding in self._taken(positions, begin)]
        finally:
            for decoding in begun:
                decoding.cancel()

    def _pixels(self, encoded: memoryview, position: int, into: Pixels | None) -> Pixels:
        """Decode one image, into an array if there is one."""
        try:
            if into is None:
                return image.decode(encoded)
            image.decode_resized(encoded, into)
        except ValueError as error:
            raise FormatError(f"{self._image(position)}: {error}") from error
        return into

    @cached_property
    def _ranges(self) -> tuple[Ints, Ints]:
        """Where in the payload each image begins, and its size."""
        self.load(self._for_bytes)
        start, nbytes = self.column("image_start"), self.column("image_nbytes")
        self._check_inside(start, nbytes, np.arange(len(start)))
        total = np.sum(nbytes, dtype=np.float64)  # integers could overflow
        if total > self.info.num_bytes:
            raise FormatError(
                f"{self.where}/image_nbytes: must be {self.info.num_bytes} bytes together, got "
                f"{total:.0f}"
            )
        return start, nbytes

    @cached_property
    def _for_bytes(self) -> tuple[str, ...]:
        return _FOR_BYTES if self._reader.is_remote else _FOR_BYTES[:2]

    def _check_inside(self, start: Ints, nbytes: Ints, positions: Ints) -> None:
        outside = (start < 0) | (nbytes < 0) | (start > self.info.num_bytes - nbytes)
        if outside.any():
            i = int(np.flatnonzero(outside)[0])
            raise FormatError(
                f"{self.where}: image {positions[i]} is {nbytes[i]} bytes at {start[i]}, which is "
                f"outside the payload of {self.info.num_bytes} bytes"
            )

    @cached_property
    def _payload(self) -> Payload:
        return Payload(self._opening, f"{self.name}/{PAYLOAD}", self.info.num_bytes)

    def _located(self, positions: Ints) -> tuple[Payload, Ints, Ints]:
        """Return the payload, where in it some images begin, and their sizes."""
        with self._opening.container.keep_open():
            return self._payload, *self._where(positions)

    def _where(self, positions: Ints) -> tuple[Ints, Ints]:
        if "_ranges" in vars(self) or self.are_whole(self._for_bytes, positions):
            start, nbytes = self._ranges
            return start[positions], nbytes[positions]
        start, nbytes, *_ = self.take_all(self._for_bytes, positions)
        self._check_inside(start, nbytes, positions)
        return start, nbytes

    def _taken(self, positions: Ints, take: Callable[[int, memoryview], T]) -> list[T]:
        """Read images, and take each, given its number; from afar while others come. See `read`."""
        payload, *where = self._located(positions)
        if not self._reader.is_remote:
            images = payload.read(*where)
            if self._always:
                self._check(images, positions)
            return list(map(take, range(len(images)), images))
        expected = self.take("image_crc32c", positions).tolist()
        taken: dict[int, T] = {}
        with suppress(ShortReadError):  # what does not come now is read again
            for i, data in payload.arrivals(*where):
                if crc32c(data) == expected[i]:
                    taken[i] = take(i, data)
        if len(taken) < len(positions):
            left = np.setdiff1d(np.arange(len(positions)), np.fromiter(taken, np.int64))
            start, nbytes = (column[left] for column in where)
            payload.look_up(start, nbytes)
            again = payload.read(start, nbytes)
            self._check(again, positions[left])
            numbers = left.tolist()
            taken |= zip(numbers, map(take, numbers, again), strict=True)
        return [taken[i] for i in range(len(positions))]

    def _damaged(self, images: Sequence[memoryview], positions: Ints) -> Ints:
        """Return which of some images do not match their checksum."""
        expected = self.take("image_crc32c", positions)
        found = np.fromiter(map(crc32c, images), dtype=np.uint32, count=len(images))
        return np.flatnonzero(found != expected)

    def _check(self, images: Sequence[memoryview], positions: Ints) -> None:
        wrong = self._damaged(images, positions)
        if len(wrong):
            i = int(positions[wrong[0]])
            (expected,) = self.take("image_crc32c", positions[wrong[:1]])
            found = crc32c(images[wrong[0]])
            raise ChecksumError(
                f"{self._image(i)}: crc32c must be {expected:#010x}, got {found:#010x}; "
                "the stored bytes are damaged"
            )

    def _check_digest(self) -> None:
        """Compare names, labels, sizes and checksums with the digest of the content."""
        names, *numbers = (super(StoredSplit, self).column(name) for name in _DIGESTED)
        found = content_digest(names.tolist(), *numbers)
        if found != self.info.content_digest:
            raise ChecksumError(
                f"{self.where}: names, labels, sizes and checksums have the content digest "
                f"{found}, must be {self.info.content_digest}; one of these columns is damaged"
            )

    def _image(self, position: int) -> str:
        (name,) = self.take("file_name", np.array([position]))
        return f"{self.where}: {name!r} (position {position})"
