"""Encoded images of selected samples, read from their stores: the images of a copy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from arraystore.errors import ChecksumError
from arraystore.writing.store_writer import NOT_AS_WRITTEN

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from arraystore._typing import Checksums, Ints
    from arraystore.indexing.byte_range import Pieces
    from arraystore.reading.stored_split import ImageRows, StoredSplit

WINDOW_NBYTES: Final = 8 * 2**20
"""Bytes of images that are read together, to be coalesced, and held in memory."""

_MOST_IMAGES: Final = 4096
"""Most images that are read together."""


class SelectedImages:
    """Images of some stored splits; an `arraystore.writing.image_source.ImageSource`.

    Parameters
    ----------
    stored : sequence of StoredSplit
        The splits.
    number : ndarray of integers, shape (n,)
        The split of each image.
    rows : ImageRows
        Where each image is in its split, with its checksum.
    """

    def __init__(self, stored: Sequence[StoredSplit], number: Ints, rows: ImageRows) -> None:
        self._stored, self._number, self._rows = stored, number, rows
        self.nbytes = rows.nbytes
        self._window: list[memoryview] = []
        self._first = 0

    @classmethod
    def of(cls, stored: StoredSplit) -> SelectedImages:
        """Return all images of a split."""
        n = len(stored)
        rows, _ = stored.rows(np.arange(n), with_checksums=True)
        return cls((stored,), np.zeros(n, np.int64), rows)

    def rows(self, first: int, last: int) -> SelectedImages:
        """See `ImageSource`."""
        part = self._rows.part(np.arange(first, last))
        return SelectedImages(self._stored, self._number[first:last], part)

    def take(self, indices: Ints) -> SelectedImages:
        """Return some of the images."""
        return SelectedImages(self._stored, self._number[indices], self._rows.part(indices))

    def places(self) -> Iterator[tuple[StoredSplit, Ints, Pieces, Sequence[str]]]:
        """Yield each split, the indices of its images, their pieces, and the keys of these."""
        for k, stored in enumerate(self._stored):
            mine = np.flatnonzero(self._number == k)
            if len(mine):
                yield stored, mine, *stored.places(self._rows.part(mine))

    @property
    def is_remote(self) -> bool:
        """See `ImageSource`."""
        return any(stored.is_remote for stored in self._stored)

    def location(self, i: int) -> str:
        """See `ImageSource`."""
        stored = self._stored[int(self._number[i])]
        return stored.describe(int(self._rows.positions[i]))

    def reads(self, path: str) -> bool:
        """See `ImageSource`."""
        del path
        return False

    def portable(self) -> SelectedImages:
        """See `ImageSource`; other processes open the stores by their addresses."""
        used, number = np.unique(self._number, return_inverse=True)
        return SelectedImages([self._stored[k] for k in used.tolist()], number, self._rows)

    def check(self, checksums: Checksums) -> None:
        """Compare the checksums of the images that were copied with those that are known.

        Raises
        ------
        ChecksumError
            If one differs.
        """
        is_known = np.array([stored.has_checksums for stored in self._stored])[self._number]
        wrong = np.flatnonzero(is_known & (checksums != self._rows.crc32c))
        if len(wrong):
            raise ChecksumError(f"{self.location(int(wrong[0]))}: {NOT_AS_WRITTEN}")

    def prefetch(self) -> None:
        """See `ImageSource`; not needed, because many images are read together."""

    def prefetch_all(self) -> bool:
        """See `ImageSource`."""
        return True

    def read(self, i: int, start: int, buffer: memoryview) -> None:
        """See `ImageSource`."""
        if not self._first <= i < self._first + len(self._window):
            self._move_window(i)
        buffer[:] = self._window[i - self._first][start : start + len(buffer)]

    def _move_window(self, first: int) -> None:
        ends = np.cumsum(self.nbytes[first : first + _MOST_IMAGES])
        n = max(1, int(np.searchsorted(ends, WINDOW_NBYTES, side="right")))
        number = self._number[first : first + n]
        self._window = []  # free it before the next one is read
        found = [memoryview(b"")] * n
        for k in np.unique(number).tolist():
            mine = np.flatnonzero(number == k)
            images = self._stored[k].read(self._rows.part(first + mine))
            for i, image in zip(mine.tolist(), images, strict=True):
                found[i] = image
        self._window, self._first = found, first
