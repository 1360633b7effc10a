"""One split as it is stored: columns loaded on first use, encoded images read as byte ranges."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from arraystore import image
from arraystore.errors import ChecksumError, FormatError
from arraystore.layout import name_hashes
from arraystore.names import NameIndex
from arraystore.sampling import Groups
from arraystore.schema import (
    COLUMN_CHUNK_ROWS,
    COLUMNS,
    ORDERS,
    PAYLOAD,
    SELECTIONS,
    UNLABELLED,
    SplitInfo,
)
from arraystore.storage import crc32c, plan_elements, read_elements

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from arraystore.byterange import ChunkManifest
    from arraystore.containers.base import ContainerReader
    from arraystore.storage import RangeReader

    Ints = NDArray[np.int64]
    Pixels = NDArray[np.uint8]
    Size = int | tuple[int, int]

CHECKSUMS: Final = ("auto", "always")
"""When to compare an image's bytes with their checksum; the first is the default."""


class StoredSplit:
    """The columns and encoded images of one split of a store.

    Parameters
    ----------
    reader : RangeReader
        What reads the payload.
    container : ContainerReader
        What tells where it is.
    name : str
        The split.
    where : str
        Address of the store, for messages.
    checksum : {"auto", "always"}
        Whether encoded bytes are compared with their checksum when they are
        decoded, or whenever they are read.
    """

    def __init__(
        self,
        reader: RangeReader,
        container: ContainerReader,
        name: str,
        where: str,
        checksum: str,
    ) -> None:
        self.name = name
        self.where = f"{where}/{name}"
        self._reader = reader
        self._container = container
        self._always = checksum == "always"
        self._columns: dict[str, NDArray[Any]] = {}
        self._chunks: dict[tuple[str, int], Ints] = {}
        self._name_keys: dict[int, NDArray[np.uint64]] = {}

    def __len__(self) -> int:
        return self.info.num_samples

    @cached_property
    def info(self) -> SplitInfo:
        """The attributes of the split."""
        return SplitInfo.from_attributes(self._container.attributes(self.name), where=self.where)

    def column(self, name: str) -> NDArray[Any]:
        """Return a whole column, read-only.

        Raises
        ------
        FormatError
            If it is missing, damaged, or its values cannot be.
        """
        values = self._columns.get(name)
        if values is None:
            data_type, dimension, _ = COLUMNS[name]
            values = self._container.read_column(f"{self.name}/{name}", data_type)
            if dimension == "sample" and len(values) != len(self):
                raise FormatError(
                    f"{self.where}/{name}: must have {len(self)} values, one a sample, "
                    f"got {len(values)}"
                )
            if name == "label":
                self._check_labels(values)
            values.flags.writeable = False
            self._columns[name] = values
        return values

    def labelled(self, label: int) -> Ints:
        """Return the ascending positions of the samples of one label.

        Of the columns of the index only the chunks that hold the answer are read.

        Parameters
        ----------
        label : int
            0 or more.
        """
        bounds = self._rows("label_indptr", label, label + 2)
        if len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1] <= len(self):
            raise FormatError(
                f"{self.where}/label_indptr: label {label} must be a range inside of {len(self)} "
                f"samples, got {bounds.tolist()}"
            )
        positions = self._rows("label_order", *bounds.tolist())
        self._check_positions("label_order", positions, int(bounds[1] - bounds[0]), ascending=True)
        return positions

    @cached_property
    def groups(self) -> Groups:
        """Positions of all labelled samples, grouped by label: the whole index."""
        order, indptr = self.column("label_order"), self.column("label_indptr")
        sizes = np.diff(indptr)
        if not len(indptr) or indptr[0] != 0 or indptr[-1] != len(order) or np.any(sizes < 0):
            raise FormatError(
                f"{self.where}/label_indptr: must ascend from 0 to the {len(order)} values of "
                f"label_order"
            )
        self._check_positions("label_order", order, len(order))
        ends = np.zeros(len(order) + 1, dtype=np.bool_)
        ends[indptr] = True
        if np.any((np.diff(order) <= 0) & ~ends[1:-1]):
            raise FormatError(f"{self.where}/label_order: must ascend in each label")
        return Groups(order, indptr)

    def label_counts(self) -> Ints:
        """Return the number of samples of each label, from the index's bounds alone."""
        return np.diff(self.column("label_indptr"))

    @cached_property
    def names(self) -> NameIndex:
        """Where each file name is."""
        return NameIndex(self.column("file_name"))

    def is_hashed(self, seed: int) -> bool:
        """Whether the samples are stored in the order of the hashes of this seed."""
        return (self.info.order, self.info.seed) == (ORDERS[0], seed)

    def name_keys(self, seed: int) -> NDArray[np.uint64]:
        """Return the keyed hash of each file name as a number; those of one seed are kept."""
        if seed not in self._name_keys:
            hashes = b"".join(name_hashes(self.column("file_name").tolist(), seed))
            self._name_keys = {seed: np.frombuffer(hashes, dtype=">u8").astype(np.uint64)}
        return self._name_keys[seed]

    def selection(self, name: str) -> Ints:
        """Return the positions that the store keeps under a name."""
        positions = self._container.read_column(f"{SELECTIONS}/{name}/{self.name}", "int64")
        self._check_positions(f"../{SELECTIONS}/{name}/{self.name}", positions, len(positions))
        return positions

    def plan(self, positions: Ints) -> tuple[int, int, int]:
        """Return the objects, requests and bytes that reading some images takes."""
        start, nbytes = self._ranges
        _, _, spans = plan_elements(self._manifest, start[positions], nbytes[positions])
        total = int((spans.stop - spans.start).sum())
        return len(np.unique(spans.object)), len(spans.object), total

    def _rows(self, name: str, start: int, stop: int) -> Ints:
        """Return some rows of a column of the index, and keep the chunks that hold them."""
        whole = self._columns.get(name)
        if whole is not None:
            return whole[start:stop]
        first, last = start // COLUMN_CHUNK_ROWS, max(start, stop - 1) // COLUMN_CHUNK_ROWS
        parts = [self._chunk(name, number) for number in range(first, last + 1)]
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
        rows: Ints = joined[start - first * COLUMN_CHUNK_ROWS : stop - first * COLUMN_CHUNK_ROWS]
        return rows

    def _chunk(self, name: str, number: int) -> Ints:
        chunk = self._chunks.get((name, number))
        if chunk is None:
            start = number * COLUMN_CHUNK_ROWS
            chunk = self._container.read_column(
                f"{self.name}/{name}", COLUMNS[name].data_type, (start, start + COLUMN_CHUNK_ROWS)
            )
            chunk.flags.writeable = False
            self._chunks[name, number] = chunk
        return chunk

    def _check_positions(
        self, name: str, positions: Ints, n: int, *, ascending: bool = False
    ) -> None:
        if len(positions) != n:
            raise FormatError(f"{self.where}/{name}: {n - len(positions)} values are missing")
        if not n:
            return
        if ascending:
            is_wrong = positions[0] < 0 or positions[-1] >= len(self)
            is_wrong = is_wrong or bool(np.any(positions[1:] <= positions[:-1]))
        else:
            is_wrong = positions.min() < 0 or positions.max() >= len(self)
        if is_wrong:
            kind = "ascending positions" if ascending else "positions"
            raise FormatError(f"{self.where}/{name}: must hold {kind} in range({len(self)})")

    def read(self, positions: Ints) -> list[memoryview]:
        """Read the encoded images at some positions, in their order."""
        start, nbytes = self._ranges
        images = read_elements(self._reader, self._manifest, start[positions], nbytes[positions])
        if self._always:
            self._check(images, positions)
        return images

    def decode(self, positions: Ints, size: Size | None = None) -> list[Pixels]:
        """Read and decode the images at some positions, in their order.

        Parameters
        ----------
        positions : ndarray of int64, shape (n,)
        size : int or (int, int), optional
            Height and width to resize each to, see `arraystore.image.resize`.

        Returns
        -------
        list of ndarray of uint8, shape (height, width, 3)

        Raises
        ------
        ChecksumError
            If the bytes read are not those that were written.
        FormatError
            If they cannot be decoded.
        """
        return self.pixels(self.read(positions), positions, size)

    def pixels(
        self, encoded: Sequence[memoryview], positions: Ints, size: Size | None = None
    ) -> list[Pixels]:
        """Decode images that were read from some positions, see `decode`."""
        if not self._always:
            self._check(encoded, positions)
        work = partial(self._pixels, size=size)
        if len(encoded) < 2:
            return list(map(work, encoded, positions))
        return list(_decoders().map(work, encoded, positions))

    @cached_property
    def _ranges(self) -> tuple[Ints, Ints]:
        start, nbytes = self.column("image_start"), self.column("image_nbytes")
        outside = (start < 0) | (nbytes < 0) | (start > self.info.num_bytes - nbytes)
        if outside.any():
            i = int(np.flatnonzero(outside)[0])
            raise FormatError(
                f"{self.where}: image {i} is {nbytes[i]} bytes at {start[i]}, which is outside "
                f"the payload of {self.info.num_bytes} bytes"
            )
        return start, nbytes

    @cached_property
    def _manifest(self) -> ChunkManifest:
        manifest = self._container.manifest(f"{self.name}/{PAYLOAD}")
        if manifest.nbytes != self.info.num_bytes:
            raise FormatError(
                f"{self.where}/{PAYLOAD}: must have {self.info.num_bytes} bytes, "
                f"got {manifest.nbytes}"
            )
        return manifest

    def _check_labels(self, label: Ints) -> None:
        n_classes = len(self.column("label_indptr")) - 1
        outside = np.flatnonzero((label < UNLABELLED) | (label >= n_classes))
        if len(outside):
            i = int(outside[0])
            raise FormatError(
                f"{self.where}/label: must be -1 or in range({n_classes}), got {label[i]} at {i}"
            )

    def _check(self, images: Sequence[memoryview], positions: Ints) -> None:
        expected = self.column("image_crc32c")
        for data, i in zip(images, positions, strict=True):
            found = crc32c(data)
            if found != expected[i]:
                raise ChecksumError(
                    f"{self._image(i)}: crc32c must be {expected[i]:#010x}, got {found:#010x}; "
                    "the stored bytes are damaged"
                )

    def _pixels(self, data: memoryview, position: int, size: Size | None) -> Pixels:
        try:
            pixels = image.decode(data)
        except ValueError as error:
            raise FormatError(f"{self._image(position)}: {error}") from error
        return pixels if size is None else image.resize(pixels, size)

    def _image(self, position: int) -> str:
        return f"{self.where}: {self.column('file_name')[position]!r} (position {position})"


_pool: ThreadPoolExecutor | None = None


def _decoders() -> ThreadPoolExecutor:
    """Return the threads that decode; the decoders let go of Python's lock."""
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(n_cpus(), thread_name_prefix="arraystore-decode")
    return _pool


def n_cpus() -> int:
    """Return the number of processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _forget_decoders() -> None:
    """Threads do not survive a fork; the child starts its own when it needs them."""
    global _pool
    _pool = None


os.register_at_fork(after_in_child=_forget_decoders)
