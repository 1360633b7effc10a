"""One split as it is stored: its columns, and its encoded images, read as byte ranges."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from typing_extensions import override

from arraystore import image
from arraystore.columns import StoredColumns
from arraystore.errors import ChecksumError, FormatError, ShortReadError
from arraystore.layout import content_digest
from arraystore.schema import PAYLOAD
from arraystore.storage import crc32c, plan_elements, read_elements
from arraystore.threads import in_threads

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from arraystore.byterange import ChunkManifest
    from arraystore.containers.opening import Opening
    from arraystore.storage import RangeReader

    Ints = NDArray[np.int64]
    Pixels = NDArray[np.uint8]
    Size = int | tuple[int, int]

_FOR_BYTES: Final = ("image_start", "image_nbytes", "image_crc32c")

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
    """

    def __init__(self, opening: Opening, name: str) -> None:
        super().__init__(opening, name)
        self._always = opening.options.checksum == "always"
        self._is_digested = False

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
    def labelled(self, label: int) -> Ints:
        positions = super().labelled(label)
        if self._always and np.any(self.column("label")[positions] != label):
            raise ChecksumError(f"{self.where}/label_order: has others where label {label} is")
        return positions

    @cached_property
    def _reader(self) -> RangeReader:
        return self._opening.reader

    def plan(self, positions: Ints) -> tuple[set[str], int, int]:
        """Return the objects, and the number of requests and bytes, that reading images takes."""
        start, nbytes = self._ranges
        _, _, spans = plan_elements(
            self._manifest, start[positions], nbytes[positions], max_gap=self._reader.max_gap
        )
        sizes = spans.stop - spans.start
        longest = self._reader.max_request
        requests = len(sizes) if longest is None else int(np.sum(-(-sizes // longest)))
        keys = {self._manifest.keys[i] for i in np.unique(spans.object).tolist()}
        return keys, requests, int(sizes.sum())

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
        if not self._reader.is_remote:
            images = self._read(positions)
            if self._always:
                self._check(images, positions)
            return images
        try:
            images = self._read(positions)
            wrong = self._damaged(images, positions)
        except ShortReadError:
            images, wrong = [], np.arange(len(positions))
        if len(wrong):
            self._look_up(positions[wrong])
            again = self._read(positions[wrong])
            self._check(again, positions[wrong])
            replaced = dict(zip(wrong.tolist(), again, strict=True))
            images = [replaced[i] if i in replaced else images[i] for i in range(len(positions))]
        return images

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
            Where to put each, resized to that shape; see `arraystore.image.decode_resized`.

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
        is_checked = self._always or self._reader.is_remote
        expected = None if is_checked else self.column("image_crc32c")[positions]

        def work(i: int) -> Pixels:
            if expected is not None and crc32c(encoded[i]) != expected[i]:
                self._check(encoded[i : i + 1], positions[i : i + 1])
            try:
                if into is None:
                    return image.decode(encoded[i])
                image.decode_resized(encoded[i], into[i])
            except ValueError as error:
                raise FormatError(f"{self._image(int(positions[i]))}: {error}") from error
            return into[i]

        return in_threads(work, len(encoded))

    @cached_property
    def _ranges(self) -> tuple[Ints, Ints]:
        self.load(_FOR_BYTES if self._reader.is_remote else _FOR_BYTES[:2])
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
        manifest = self._opening.container.manifest(f"{self.name}/{PAYLOAD}")
        if manifest.nbytes != self.info.num_bytes:
            raise FormatError(
                f"{self.where}/{PAYLOAD}: must have {self.info.num_bytes} bytes, "
                f"got {manifest.nbytes}"
            )
        return manifest

    def _read(self, positions: Ints) -> list[memoryview]:
        start, nbytes = self._ranges
        return read_elements(self._reader, self._manifest, start[positions], nbytes[positions])

    def _look_up(self, positions: Ints) -> None:
        """Look up where the chunks of some images are, in place of what was promised."""
        start, nbytes = self._ranges
        objects = self._manifest.locate(start[positions], nbytes[positions]).object
        doubted = {self._manifest.keys[index] for index in np.unique(objects)}
        self._manifest = self._opening.container.manifest(f"{self.name}/{PAYLOAD}", doubted)

    def _damaged(self, images: Sequence[memoryview], positions: Ints) -> Ints:
        """Return which of some images do not match their checksum."""
        expected = self.column("image_crc32c")[positions]
        found = np.fromiter(map(crc32c, images), dtype=np.uint32, count=len(images))
        return np.flatnonzero(found != expected)

    def _check(self, images: Sequence[memoryview], positions: Ints) -> None:
        wrong = self._damaged(images, positions)
        if len(wrong):
            i = int(positions[wrong[0]])
            expected, found = self.column("image_crc32c")[i], crc32c(images[wrong[0]])
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
        return f"{self.where}: {self.column('file_name')[position]!r} (position {position})"
