"""Reading and decoding samples of a set: one, a batch, or all of them in turn."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import numpy as np

from arraystore._checksum import crc32c
from arraystore._threads import in_a_thread, in_threads
from arraystore.dataset.batch import Batch, Encoded, Sample
from arraystore.errors import FormatError
from arraystore.images import decode
from arraystore.indexing.selection import as_positions
from arraystore.reading.image_reader import ReadPlan
from arraystore.reading.read_ahead import ahead
from arraystore.reading.stored_split import StoredSplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from arraystore._threads import Task
    from arraystore._typing import Checksums, Ints, Pixels
    from arraystore.dataset.sample_set import SampleSet
    from arraystore.images.crops import Framing
    from arraystore.reading.stored_split import ImageRows

T = TypeVar("T")

_READ_AHEAD: Final = 64
"""Samples read at a time when a split is iterated."""

_ANNOTATIONS: Final = ("label", "file_name")

_NO_PIXELS: Final = np.empty((0, 0, 3), dtype=np.uint8)


class SampleReader:
    """Read samples by their index in a set.

    A batch is located once, and takes its rows of all columns at once.

    Parameters
    ----------
    samples : SampleSet
        The samples.
    title : str
        Text for the `repr` of what reads through this.
    """

    def __init__(self, samples: SampleSet, title: str) -> None:
        self.title = title
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def fingerprint(self) -> str:
        """Digest of the samples and their order, see `SampleSet.fingerprint`."""
        return self._samples.fingerprint

    def __iter__(self) -> Iterator[Sample]:
        """Yield every sample in order; the next ones are read meanwhile."""
        n = len(self)
        groups = (np.arange(i, min(i + _READ_AHEAD, n)) for i in range(0, n, _READ_AHEAD))
        for samples in ahead(groups, self.samples, prepare=self.import_libraries):
            yield from samples

    def import_libraries(self) -> None:
        """Import what reading and decoding would import, before threads do either."""
        decode.import_decoders()
        for stored, _ in self._samples:
            stored.import_libraries()

    def samples(self, selection: Sequence[int] | Ints) -> list[Sample]:
        """Return several samples, each by itself."""
        batch = self.batch(as_positions(selection, len(self)))
        return list(map(Sample, batch.image, batch.label.tolist(), batch.file_name.tolist()))

    def batch(
        self, indices: Ints, framing: Framing | None = None, faults: dict[int, str] | None = None
    ) -> Batch[Any]:
        """Read and decode samples.

        Parameters
        ----------
        indices : ndarray of int64, shape (n,)
        framing : Framing, optional
            How images become one array; without it they are a list.
        faults : dict of int to str, optional
            Receives the index of each image that cannot be decoded, and why. The batch lacks these
            samples.

        Raises
        ------
        ChecksumError
            If an image is not the one that was written.
        FormatError
            If an image cannot be decoded, unless there are `faults`.
        """
        batch = Batch(*self._read_and_decode(indices, framing, _ANNOTATIONS, faults))
        return _without(batch, indices, faults, framing)

    def columns(self, names: Sequence[str], indices: Ints) -> list[NDArray[Any]]:
        """Return the values of columns at some samples, see `ColumnReader.take`."""

        def read(stored: StoredSplit, positions: Ints, _: Sequence[int]) -> list[NDArray[Any]]:
            return stored.columns.take(names, positions)

        return self._samples.gather(indices, read)

    def encoded_batch(self, indices: Ints) -> Batch[list[bytes]]:
        """Read samples with their encoded images, which are compared with their checksums."""
        images = list(map(bytes, self.checked(indices)))
        return Batch(images, *self.columns(_ANNOTATIONS, indices))

    def batch_without_images(self, indices: Ints) -> Batch[None]:
        """Read the labels and file names of samples."""
        return Batch(None, *self.columns(_ANNOTATIONS, indices))

    def images(self, indices: Ints, framing: Framing | None = None) -> Any:
        """Read and decode images, into a list of arrays or one array; see `batch`."""
        (images,) = self._read_and_decode(indices, framing, (), None)
        return images

    def read(self, indices: Ints) -> Encoded:
        """Read samples without decoding them."""

        def read(stored: StoredSplit, positions: Ints, _: Sequence[int]) -> tuple[Any, ...]:
            rows, annotations = stored.rows(positions, _ANNOTATIONS, with_checksums=True)
            images = stored.read(rows)
            return images, _checksums(stored, rows, images), *annotations

        return Encoded(indices, *self._samples.gather(indices, read))

    def decode(
        self, encoded: Encoded, framing: Framing | None = None, faults: dict[int, str] | None = None
    ) -> Batch[Any]:
        """Decode samples that were read before; see `batch`."""
        resized = None if framing is None else _Framed.of(framing, encoded.indices)

        def work(i: int) -> Pixels:
            index, crc = int(encoded.indices[i]), encoded.crc32c[i]
            return self._decoded(encoded.views[i], index, resized, i, crc, faults)

        if len(encoded.indices) > 1:
            decode.import_decoders()
        images = in_threads(work, len(encoded.indices))
        batch: Batch[Any] = Batch(
            images if resized is None else resized.images, encoded.label, encoded.file_name
        )
        return _without(batch, encoded.indices, faults, framing)

    def copy(self, index: int) -> bytes:
        """Return one encoded image as bytes."""
        stored, position = self._samples.locate_one(index)
        return stored.copy(position)

    def copies(self, indices: Ints) -> list[bytes]:
        """Return encoded images as bytes."""
        return self._encoded(indices, StoredSplit.copies)

    def views(self, indices: Ints) -> list[memoryview]:
        """Return encoded images, read-only, as views of a memory map where possible."""
        return self._encoded(indices, StoredSplit.views)

    def checked(self, indices: Ints) -> list[memoryview]:
        """Read encoded images and compare them with their checksums."""

        def read(stored: StoredSplit, rows: ImageRows) -> list[memoryview]:
            images = stored.read(rows)
            if not stored.is_checked:  # otherwise reading compared them
                stored.check(images, rows)
            return images

        return self._encoded(indices, read, with_checksums=True)

    def plan(self, indices: Ints) -> ReadPlan:
        """Return the cost of reading encoded images, without reading them."""
        objects: set[str] = set()
        costs = np.zeros(3, dtype=np.int64)
        for stored, positions, _ in self._samples.locate(indices):
            rows, _ = stored.rows(positions)
            keys, requests, nbytes = stored.plan(rows)
            objects |= keys
            costs += requests, nbytes, int(rows.nbytes.sum())
        return ReadPlan(len(objects), *costs.tolist())

    def _encoded(
        self,
        indices: Ints,
        read: Callable[[StoredSplit, ImageRows], list[T]],
        *,
        with_checksums: bool = False,
    ) -> list[T]:
        def read_part(stored: StoredSplit, positions: Ints, _: Sequence[int]) -> tuple[list[T]]:
            return (read(stored, stored.rows(positions, with_checksums=with_checksums)[0]),)

        images: list[T]
        (images,) = self._samples.gather(indices, read_part)
        return images

    def _read_and_decode(
        self,
        indices: Ints,
        framing: Framing | None,
        columns: Sequence[str],
        faults: dict[int, str] | None,
    ) -> tuple[Any, ...]:
        """Return decoded images, and the values of further columns."""
        resized = None if framing is None else _Framed.of(framing, indices)

        def read(stored: StoredSplit, positions: Ints, which: Sequence[int]) -> tuple[Any, ...]:
            rows, values = stored.rows(positions, columns, with_checksums=True)
            return self._pixels(stored, rows, indices, which, resized, faults), *values

        images, *values = self._samples.gather(indices, read)
        return images if resized is None else resized.images, *values

    def _pixels(
        self,
        stored: StoredSplit,
        rows: ImageRows,
        indices: Ints,
        which: Sequence[int],
        resized: _Framed | None,
        faults: dict[int, str] | None,
    ) -> list[Pixels]:
        """Read and decode images of one stored split, remote ones while others are in transit."""

        def work(i: int, data: memoryview) -> Pixels:
            place = which[i]
            # Reading has compared the checksums already, or decoding does it now, in threads.
            is_compared = stored.has_checksums and not stored.is_checked
            expected = rows.crc32c[i] if is_compared else None
            return self._decoded(data, int(indices[place]), resized, place, expected, faults)

        if not stored.is_remote or len(rows.positions) < 2:
            encoded = stored.read(rows)
            if len(encoded) > 1:
                decode.import_decoders()
            return in_threads(lambda i: work(i, encoded[i]), len(encoded))
        decode.import_decoders()
        begun: list[Task[Pixels]] = []

        def begin(i: int, data: memoryview) -> Task[Pixels]:
            begun.append(in_a_thread(partial(work, i, data)))
            return begun[-1]

        try:
            return [decoding.result() for decoding in stored.read_each(rows, begin)]
        finally:
            for decoding in begun:
                decoding.cancel()

    def _decoded(
        self,
        encoded: memoryview,
        index: int,
        resized: _Framed | None,
        place: int,
        expected: np.uint32 | None,
        faults: dict[int, str] | None,
    ) -> Pixels:
        """Compare the checksum of an image, and decode it, to its place in an array if any."""
        if expected is not None and crc32c(encoded) != expected:
            stored, position = self._samples.locate_one(index)
            rows, _ = stored.rows(np.array([position]), with_checksums=True)
            stored.check([encoded], rows)
        try:
            if resized is None:
                return decode.decode(encoded)
            resized.decode(encoded, place)
        except ValueError as error:
            stored, position = self._samples.locate_one(index)
            message = f"{stored.describe(position)}: {error}"
            if faults is None:
                raise FormatError(message) from error
            faults[index] = message
        return _NO_PIXELS


def _checksums(stored: StoredSplit, rows: ImageRows, images: Sequence[memoryview]) -> Checksums:
    """Return the checksums of images: those of the bytes read where none are stored."""
    if stored.has_checksums:
        return rows.crc32c
    return np.fromiter(map(crc32c, images), np.uint32, len(images))


def _without(
    batch: Batch[Any], indices: Ints, faults: dict[int, str] | None, framing: Framing | None
) -> Batch[Any]:
    """Return a batch without the samples that have faults."""
    if not faults:
        return batch
    kept = np.flatnonzero(~np.isin(indices, list(faults)))
    if framing is None:
        sound: Any = [batch.image[i] for i in kept.tolist()]
    else:
        sound = batch.image.take(kept, axis=framing.axis)
    return Batch(sound, batch.label[kept], batch.file_name[kept])


class _Framed(NamedTuple):
    """Images of a batch in one array, and the random numbers of their crops."""

    framing: Framing
    images: Pixels
    numbers: NDArray[np.float64]

    @classmethod
    def of(cls, framing: Framing, indices: Ints) -> _Framed:
        """Return an array for the images of samples, given by their index in the split."""
        return cls(framing, framing.empty(len(indices)), framing.numbers(indices.tolist()))

    def decode(self, encoded: memoryview, place: int) -> None:
        """Decode an image to a place in the array."""
        crops = partial(self.framing.crops, self.numbers[place])
        places = self.framing.places(self.images, place)
        decode.decode_crops(encoded, places, crops, self.framing.resize)
