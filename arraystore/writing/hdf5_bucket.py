"""A store in the making in a bucket, in one object: one upload, and nothing to resume."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from typing_extensions import override

from arraystore.containers import open_local
from arraystore.errors import ChecksumError, SourceError, escaped
from arraystore.indexing.layout import Block, blocks
from arraystore.reading.read_ahead import ahead
from arraystore.schema import PAYLOAD
from arraystore.writing.bucket import BucketDraft
from arraystore.writing.fill import FilePlaces, MemorySink, Target, copy_images
from arraystore.writing.store_writer import NOT_AS_WRITTEN, first_difference

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from concurrent.futures import Executor

    from arraystore._typing import Checksums
    from arraystore.storage.objects.writer import ObjectWriter
    from arraystore.writing.image_source import ImageBytes
    from arraystore.writing.lock_object import Claim
    from arraystore.writing.progress import Meter

_PIECE_NBYTES: Final = 16 * 2**20
_PIECES_AHEAD: Final = 2


class OneObjectDraft(BucketDraft):
    """A store in one object, which has to be written front to back.

    The sources are read twice: first for the checksums, so that the skeleton of the
    file can be finished, then for the payloads, which are sent in their places.
    """

    def __init__(self, objects: ObjectWriter, *, overwrite: bool, resume: bool = False) -> None:
        super().__init__(objects, overwrite=overwrite, resume=resume)
        self._payloads: dict[str, _Payload] = {}

    @override
    def _looked_at(self) -> Claim:
        claim = super()._looked_at()
        if self._resume:
            raise ValueError(
                escaped(
                    f"{self._objects.at(self._key)}: resume=True (--resume) cannot continue one "
                    "file in a bucket: its upload begins again; a .zarr store can be resumed "
                    "there, and any store on a disk"
                )
            )
        return claim

    @override
    def target(self, split: str, block: Block) -> Target:
        return FilePlaces()

    @override
    def fill(
        self,
        split: str,
        images: ImageBytes,
        meter: Meter,
        *,
        expected: Checksums | None = None,
        executor: Executor | None = None,
    ) -> Checksums:
        checksums = expected
        if checksums is None:
            checksums = super().fill(split, images, meter, executor=executor)
        self._payloads[split] = _Payload(images, checksums, is_known=expected is not None)
        return checksums

    @override
    def publish(self, meter: Meter) -> None:
        nbytes = self._skeleton.stat().st_size
        self._objects.upload(self._key, nbytes, partial(self._pieces, nbytes, meter))

    def _pieces(self, nbytes: int, meter: Meter) -> Generator[Any]:
        """Yield the whole file: the skeleton, and the payloads in its holes."""
        at = 0
        with self._skeleton.open("rb") as skeleton:
            for start, stop, split in self._holes():
                yield from _read(skeleton, at, start)
                yield from self._payload(split, meter)
                at = stop
            yield from _read(skeleton, at, nbytes)
        self._check_place()

    def _check_place(self) -> None:
        """Refuse to complete the upload, if it is not our turn any more."""
        self._claim.check()
        if not self._overwrite and self._objects.status(self._key):
            raise FileExistsError(
                escaped(
                    f"{self._objects.at(self._key)}: was created by somebody else in the meantime"
                )
            )

    def _holes(self) -> list[tuple[int, int, str]]:
        """Return where in the file each payload is, in order."""
        _, container = open_local(self._skeleton)
        holes = []
        for split, payload in self._payloads.items():
            total = payload.images.nbytes.sum(keepdims=True)
            pieces = container.manifest(f"{split}/{PAYLOAD}").locate(np.zeros(1, np.int64), total)
            if len(pieces.start):
                (start,) = pieces.start.tolist()
                holes.append((start, start + int(total[0]), split))
        return sorted(holes)

    def _payload(self, split: str, meter: Meter) -> Generator[Any]:
        """Yield a payload piece by piece, the next ones being read meanwhile."""
        payload = self._payloads[split]
        images = payload.images
        meter.start(f"{split}: sending images", len(images.nbytes), int(images.nbytes.sum()))
        pieces = (block for block in blocks(images.nbytes, block_nbytes=_PIECE_NBYTES))
        read = ahead(
            pieces,
            lambda block: (block, *_read_block(images, block)),
            n_ahead=_PIECES_AHEAD,
            n_threads=_PIECES_AHEAD,
        )
        for block, piece, found in read:
            payload.check(block, found)
            yield piece
            meter.advance(len(found), block.stop - block.start)


@dataclass(frozen=True, slots=True)
class _Payload:
    """Images that are to be sent, and what their checksums must be.

    `is_known` tells whether those were known before the images were read.
    """

    images: ImageBytes
    checksums: Checksums
    is_known: bool

    def check(self, block: Block, found: Checksums) -> None:
        i = first_difference(block, found, self.checksums)
        if i < 0:
            return
        if self.is_known:
            raise ChecksumError(f"{self.images.where(i)}: {NOT_AS_WRITTEN}")
        raise SourceError(
            f"{self.images.where(i)}: the image has other bytes than when it was read for its "
            "checksum; the source has changed since the conversion began"
        )


def _read_block(images: ImageBytes, block: Block) -> tuple[Any, Checksums]:
    rows = images.rows(block.first, block.last)
    rows.announce()
    sink = MemorySink(block.stop - block.start)
    checksums = copy_images(rows, block.skip, sink)
    return sink.buffer, checksums


def _read(file: Any, start: int, stop: int) -> Iterator[bytes]:
    file.seek(start)
    for at in range(start, stop, _PIECE_NBYTES):
        yield file.read(min(_PIECE_NBYTES, stop - at))
