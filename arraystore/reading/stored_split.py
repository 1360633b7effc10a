"""One split as it is stored: its attributes, columns, index of labels, names and images."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TypeVar

import numpy as np

from arraystore._checksum import crc32c
from arraystore.errors import ChecksumError, FormatError, ShortReadError, StoreChangedError
from arraystore.indexing.layout import hash_numbers
from arraystore.indexing.packed_names import NameIndex
from arraystore.indexing.sampling import ranked
from arraystore.reading.column_reader import ColumnReader
from arraystore.reading.image_reader import ImageReader
from arraystore.reading.label_index import LabelIndex
from arraystore.reading.user_column import UserColumn
from arraystore.schema import (
    COLUMN_CHUNK_ROWS,
    COLUMNS,
    ORDERS,
    PAYLOAD,
    SELECTIONS,
    STRING,
    USER_COLUMNS,
    SplitInfo,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from arraystore._typing import Checksums, Ints
    from arraystore.indexing.byte_range import Pieces
    from arraystore.indexing.sampling import Groups
    from arraystore.reading.referenced_images import ReferencedImages
    from arraystore.reading.store_handle import StoreHandle

    Identity = tuple[str, str]
    _Copy = Callable[[int, int], bytes]

T = TypeVar("T")

_UNCHECKED_SAMPLES: Final = 2**21
"""Samples that a split may state before their number is compared with a column.

Positions of so many take 16 MiB, and columns are compared with the number when they are read.
"""

_COUNTED_BY: Final = "image_nbytes"

_SEEDS_KEPT: Final = 3
"""Seeds whose hashes of all names are kept, 8 bytes per sample each."""

_RANGES: Final = ("image_start", "image_nbytes")
_CHECKSUM: Final = "image_crc32c"
_FILE: Final = "image_file"

_NO_CHECKSUMS: Final[Checksums] = np.empty(0, dtype=np.uint32)
_NONE: Final[Ints] = np.empty(0, dtype=np.int64)


class ImageRows(NamedTuple):
    """Rows of the columns that reading some encoded images needs.

    Attributes
    ----------
    positions : ndarray of int64, shape (n,)
        Positions in the stored split.
    start, nbytes : ndarray of int64, shape (n,)
        Byte range of each image in the payload, which it is within. The payload of a split with
        images in other files is a `ReferencedPayload`.
    crc32c : ndarray of uint32, shape (n,) or (0,)
        Checksum of each image; empty if they were not requested.
    """

    positions: Ints
    start: Ints
    nbytes: Ints
    crc32c: Checksums

    def part(self, indices: Ints) -> ImageRows:
        """Return some of the rows, which have checksums."""
        positions, start, nbytes, checksums = self
        return ImageRows(positions[indices], start[indices], nbytes[indices], checksums[indices])


class StoredSplit:
    """One split of a store.

    Encoded images that come over a network are compared with their checksums when they are read;
    with the option ``checksum="always"`` also those from a local disk.

    Parameters
    ----------
    handle : StoreHandle
        The store.
    name : str
        Name of the split.
    expected : (str, str), optional
        The `identity` that the split must have. It is compared before anything else is read.
    replaced : ndarray of int64, optional
        Positions of samples that later parts replace, ascending.

    Attributes
    ----------
    handle : StoreHandle
    name : str
    location : str
        Address of the store, and name of the split.
    replaced : ndarray of int64
        See above; empty for most splits.
    """

    def __init__(
        self,
        handle: StoreHandle,
        name: str,
        expected: Identity | None = None,
        replaced: Ints = _NONE,
    ) -> None:
        self.name = name
        self.replaced = replaced
        self.location = f"{handle.address}/{name}"
        self.handle = handle
        self._expected = expected
        self._always = handle.options.checksum == "always"
        self._name_keys: dict[int, NDArray[np.uint64]] = {}
        self._ranked: dict[int, Groups] = {}
        self._one: tuple[Callable[[int], int], Callable[[int], int], _Copy] | None = None

    def __len__(self) -> int:
        return self.info.num_samples

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...]]:
        replaced = (self.replaced,) if len(self.replaced) else ()
        return type(self), (self.handle, self.name, self.identity, *replaced)

    def import_libraries(self) -> None:
        """Import what reading columns would import, before threads read them."""
        self.handle.container.import_libraries()

    @cached_property
    def stated(self) -> SplitInfo:
        """Attributes of the split, not compared with anything yet."""
        attributes = self.handle.container.attributes(self.name)
        return SplitInfo.from_attributes(attributes, location=self.location)

    @cached_property
    def info(self) -> SplitInfo:
        """Attributes of the split.

        Raises
        ------
        FormatError
            If they state many samples that are not stored.
        StoreChangedError
            If the split does not have the identity that it must have.
        """
        n = self.stated.num_samples
        if n > _UNCHECKED_SAMPLES:
            path = f"{self.name}/{_COUNTED_BY}"
            self.handle.container.check_column(path, COLUMNS[_COUNTED_BY].data_type, n)
        if self._expected is not None:
            self._check_identity(self._expected, self._identity_of(self.stated))
        return self.stated

    @property
    def identity(self) -> Identity:
        """The content digest and a text for the order; both are equal where positions agree.

        The order of shuffled samples, and of samples ordered by label, follows from the content
        and two attributes, so nothing else is read. For any other order the text contains a digest
        of all file names.
        """
        return self._own_identity if self._expected is None else self._expected

    @cached_property
    def _own_identity(self) -> Identity:
        return self._identity_of(self.info)

    def _identity_of(self, info: SplitInfo) -> Identity:
        if info.order in ORDERS[:2]:
            return info.content_digest, f"{info.order}, seed {info.seed}"
        digest = hashlib.blake2b(digest_size=16)
        path, starts = f"{self.name}/file_name", range(0, info.num_samples, COLUMN_CHUNK_ROWS)
        chunks = [(path, STRING, (start, start + COLUMN_CHUNK_ROWS)) for start in starts]
        for names in self.handle.container.read_rows(chunks):
            digest.update("\0".join([*names.tolist(), ""]).encode())
        return info.content_digest, f"{info.order}, names {digest.hexdigest()}"

    def _check_identity(self, expected: Identity, found: Identity) -> None:
        if found == expected:
            return
        if found[0] == expected[0]:
            difference = f"order was {expected[1]}, is {found[1]}"
        else:
            difference = f"content digest was {expected[0][:12]}…, is {found[0][:12]}…"
        raise StoreChangedError(
            f"{self.location}: the store was replaced after this split was pickled ({difference}); "
            "open the store and make the split again, or save split.selection(), which fits "
            "every order of the same content"
        )

    @cached_property
    def columns(self) -> ColumnReader:
        """Columns of the split."""
        return ColumnReader(self.handle, self.name, self.info)

    @cached_property
    def user_columns(self) -> dict[str, UserColumn]:
        """Further columns, by name; listed when this is first used."""
        members = self.handle.container.members(f"{self.name}/{USER_COLUMNS}")
        n = len(self)
        return {
            name: UserColumn(self.handle, self.name, name, n, is_ragged=is_group)
            for name, is_group in members.items()
        }

    @cached_property
    def labels(self) -> LabelIndex:
        """Index of the labels."""
        return LabelIndex(self.columns, check_labels=self._always)

    @cached_property
    def names(self) -> NameIndex:
        """Index of the file names."""
        return NameIndex(self.columns["file_name"])

    def name_hashes(self) -> Ints:
        """Return Python's hash of each file name: ndarray of int64, shape (n,).

        The names of a large split are not kept.
        """
        hashes = [
            np.fromiter(map(hash, names.tolist()), np.int64, len(names))
            for names in self.columns.runs("file_name")
        ]
        return np.concatenate([_NONE, *hashes])

    def selection(self, name: str) -> Ints:
        """Return the positions of a named selection of the store."""
        path = f"{SELECTIONS}/{name}/{self.name}"
        columns = self.columns
        positions = self.handle.container.read_column(path, "int64")
        columns.check_positions(f"../{path}", positions, len(positions))
        return positions

    # Draws

    def is_hashed(self, seed: int) -> bool:
        """Whether the samples are stored in the order of the hashes of this seed."""
        return (self.info.order, self.info.seed) == (ORDERS[0], seed)

    def ranked(self, seed: int) -> Groups:
        """Return the groups of the label index, each in the order of the hashes of its names.

        The groups of the last few seeds are kept.
        """
        groups = self.labels.groups
        if self.is_hashed(seed):
            return groups
        return _kept(self._ranked, seed, lambda: ranked(groups, self.name_keys(seed)))

    def name_keys(self, seed: int, positions: Ints | None = None) -> NDArray[np.uint64]:
        """Return the keyed hashes of the file names at some positions, or of all, as numbers.

        The hashes of all names are kept for the last few seeds.
        """
        names = self.columns["file_name"]
        if positions is None:
            return _kept(self._name_keys, seed, lambda: hash_numbers(names.tolist(), seed))
        keys = self._name_keys.get(seed)
        return hash_numbers(names[positions].tolist(), seed) if keys is None else keys[positions]

    # Images

    @cached_property
    def references(self) -> ReferencedImages | None:
        """The files that hold images; None if the store itself holds all of them."""
        if not self.stated.is_referenced:
            return None
        from arraystore.reading.referenced_images import ReferencedImages

        return ReferencedImages(self.handle, self.name)

    @cached_property
    def is_remote(self) -> bool:
        """Whether images come over a network."""
        if self.references is not None:
            return self.references.reader.is_remote
        return self.handle.reader.is_remote

    @cached_property
    def is_checked(self) -> bool:
        """Whether reading compares encoded images with their checksums."""
        return (self._always or self.is_remote) and self.has_checksums

    @cached_property
    def has_checksums(self) -> bool:
        """Whether the checksums of the images are known."""
        return self.stated.has_checksums

    def rows(
        self, positions: Ints, others: Sequence[str] = (), *, with_checksums: bool = False
    ) -> tuple[ImageRows, list[NDArray[Any]]]:
        """Read, at once, the rows of all columns that reading some samples needs.

        Parameters
        ----------
        positions : ndarray of int64, shape (n,)
            In any order.
        others : sequence of str, optional
            Further columns with one value per sample.
        with_checksums : bool, default False
            Whether to take the checksums although reading does not compare them.

        Returns
        -------
        ImageRows
        list of ndarray, shape (n,)
            The values of each of the other columns.

        Raises
        ------
        FormatError
            If an image is outside the payload, or a column is missing or damaged.
        """
        has_checksums = with_checksums or self.is_checked
        names = (*_RANGES, _CHECKSUM, *others) if has_checksums else (*_RANGES, *others)
        if self.references is not None:
            names = (_FILE, *names)
        with self.handle.container.keep_open():
            _ = self._images
            start, nbytes, *more = self.columns.take(names, positions)
        if self.references is not None:
            file, start, nbytes = start, nbytes, more.pop(0)
            start = self.references.start_of(file, start, nbytes, positions)
            if "_ranges" not in vars(self) and self.columns.has_loaded((_FILE, *_RANGES)):
                _ = self._ranges
        elif "_ranges" not in vars(self):
            if self.columns.has_loaded(_RANGES):
                _ = self._ranges
            else:
                self._check_inside(start, nbytes, positions)
        checksums = more.pop(0) if has_checksums else _NO_CHECKSUMS
        return ImageRows(positions, start, nbytes, checksums), more

    def plan(self, rows: ImageRows) -> tuple[set[str], int, int]:
        """Return the objects, and the number of requests and bytes, that images are read with."""
        return self._images.plan(rows.start, rows.nbytes)

    def check_ranges(self) -> None:
        """Check where all images are, so that errors of later reads are of images.

        Raises
        ------
        FormatError
            If an image is outside the payload, or a column is missing or damaged.
        """
        _ = self._ranges

    def places(self, rows: ImageRows) -> tuple[Pieces, Sequence[str]]:
        """Return the pieces of stored objects that hold images, and the keys of all objects."""
        manifest = self._images.manifest
        return manifest.locate(rows.start, rows.nbytes), manifest.keys

    def read(self, rows: ImageRows) -> list[memoryview]:
        """Read encoded images, in the order of the rows; see `read_each`."""
        return self.read_each(rows, lambda _, data: data)

    def read_each(self, rows: ImageRows, work: Callable[[int, memoryview], T]) -> list[T]:
        """Read encoded images, and pass the index and the bytes of each to a function.

        Remote images are compared with their checksums and passed on while others are in transit.
        Those that differ, or are cut short, are read once more, after looking up where they are
        instead of relying on the metadata.

        Returns
        -------
        list
            What the function returned for each image, in the order of the rows.

        Raises
        ------
        ChecksumError
            If the bytes read are not those that were written.
        ShortReadError
            If an object ends before an image does.
        """
        if not self.is_checked:
            images = self._images.read(rows.start, rows.nbytes)
            return list(map(work, range(len(images)), images))
        if not self.is_remote:
            images = self._images.read(rows.start, rows.nbytes)
            self.check(images, rows)
            return list(map(work, range(len(images)), images))
        expected = rows.crc32c.tolist()
        done: dict[int, T] = {}
        with suppress(ShortReadError):  # images that do not arrive are read again below
            for i, data in self._images.arrivals(rows.start, rows.nbytes):
                if crc32c(data) == expected[i]:
                    done[i] = work(i, data)
        if len(done) < len(rows.positions):
            left = np.setdiff1d(np.arange(len(rows.positions)), np.fromiter(done, np.int64))
            again = rows.part(left)
            self._images.look_up(again.start, again.nbytes)
            images = self._images.read(again.start, again.nbytes)
            self.check(images, again)
            numbers = left.tolist()
            done |= zip(numbers, map(work, numbers, images), strict=True)
        return [done[i] for i in range(len(rows.positions))]

    def views(self, rows: ImageRows) -> list[memoryview]:
        """Return encoded images, read-only, as views of a memory map where possible."""
        if self.is_checked:
            return [view.toreadonly() for view in self.read(rows)]
        return self._images.views(rows.start, rows.nbytes)

    def copies(self, rows: ImageRows) -> list[bytes]:
        """Return encoded images as bytes, copied from a memory map where possible."""
        if self.is_checked:
            return self.read_each(rows, lambda _, data: bytes(data))
        return self._images.copies(rows.start, rows.nbytes)

    def copy(self, position: int) -> bytes:
        """Return one encoded image as bytes, see `copies`."""
        if self._one is None:
            rows, _ = self.rows(np.array([position]))
            if self.is_checked:
                return self.copies(rows)[0]
            if "_ranges" not in vars(self):  # the columns of a large split are not loaded
                return self._images.copy(rows.start.item(), rows.nbytes.item())
            start, nbytes = self._ranges
            self._one = start.item, nbytes.item, self._images.copy
        start_of, nbytes_of, copy = self._one
        return copy(start_of(position), nbytes_of(position))

    def check(self, images: Sequence[memoryview], rows: ImageRows) -> None:
        """Compare encoded images with their checksums, if these are known.

        Parameters
        ----------
        images : sequence of memoryview, length n
        rows : ImageRows
            Of the same images, with their checksums.

        Raises
        ------
        ChecksumError
            If one differs; the message names it.
        """
        if not self.has_checksums:
            return
        found = np.fromiter(map(crc32c, images), dtype=np.uint32, count=len(images))
        wrong = np.flatnonzero(found != rows.crc32c)
        if len(wrong):
            i = wrong[0]
            raise ChecksumError(
                f"{self.describe(int(rows.positions[i]))}: crc32c must be {rows.crc32c[i]:#010x}, "
                f"got {found[i]:#010x}; the stored bytes are damaged"
            )

    def describe(self, position: int) -> str:
        """Return the location, file name and position of a sample, for messages."""
        (names,) = self.columns.take(("file_name",), np.array([position]))
        return f"{self.location}: {names[0]!r} (position {position})"

    @cached_property
    def _images(self) -> ImageReader:
        path, nbytes = f"{self.name}/{PAYLOAD}", self.info.num_bytes
        return ImageReader(self.handle, path, nbytes, self.references)

    @cached_property
    def _ranges(self) -> tuple[Ints, Ints]:
        """Byte range of each image in the payload, from whole columns, checked."""
        start, nbytes = (self.columns[name] for name in _RANGES)
        if self.references is not None:
            file, positions = self.columns[_FILE], np.arange(len(start))
            return self.references.start_of(file, start, nbytes, positions), nbytes
        self._check_inside(start, nbytes, np.arange(len(start)))
        total = np.sum(nbytes, dtype=np.float64)  # integers could overflow
        if total > self.info.num_bytes:
            raise FormatError(
                f"{self.location}/image_nbytes: must be {self.info.num_bytes} bytes together, got "
                f"{total:.0f}"
            )
        return start, nbytes

    def _check_inside(self, start: Ints, nbytes: Ints, positions: Ints) -> None:
        outside = (start < 0) | (nbytes < 0) | (start > self.info.num_bytes - nbytes)
        if outside.any():
            i = int(np.flatnonzero(outside)[0])
            raise FormatError(
                f"{self.location}: image {positions[i]} is {nbytes[i]} bytes at {start[i]}, which "
                f"is outside the payload of {self.info.num_bytes} bytes"
            )


def _kept(kept: dict[int, T], seed: int, make: Callable[[], T]) -> T:
    """Return the value kept for a seed, or make one and drop the oldest."""
    value = kept.get(seed)
    if value is None:
        value = make()
        kept[seed] = value
        for oldest in list(kept)[:-_SEEDS_KEPT]:
            kept.pop(oldest, None)
    return value
