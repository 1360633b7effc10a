"""Write an HDF5 file in a bucket: one upload, which cannot be resumed.

Without an executor this process sends the file from front to back. With one, workers send the
parts that lie in a payload, if the service can take parts from several processes::

    file     skeleton │ payload of train                      │ skeleton │ payload of validation
    part     0              │ 1          │ 2          │ 3               │ 4          │ 5
    sent by  this process     worker       worker       this process      worker
"""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from arraystore.errors import ChecksumError, SourceError, StorageError, escaped
from arraystore.indexing.layout import Block, blocks
from arraystore.reading.read_ahead import ahead
from arraystore.storage.objects.part_upload import PartUpload, can_send_parts
from arraystore.storage.objects.writer import MAX_PART_NBYTES, MAX_PARTS, part_nbytes
from arraystore.writing.bucket import BucketStoreWriter
from arraystore.writing.fill import BlockPlace, FilePlace, MemorySink, copy_images
from arraystore.writing.store_writer import NOT_AS_WRITTEN, fill_tasks, first_difference

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping
    from concurrent.futures import Executor
    from typing import BinaryIO

    from arraystore._typing import Checksums
    from arraystore.containers.protocol import ContainerWriter
    from arraystore.storage.objects.writer import ObjectWriter
    from arraystore.writing.fill import Sink
    from arraystore.writing.image_source import ImageSource
    from arraystore.writing.journal import Fingerprint
    from arraystore.writing.lock_object import LockObject
    from arraystore.writing.progress import Meter

_PIECE_NBYTES: Final = 16 * 2**20
_PIECES_AHEAD: Final = 2

_ALONE: Final = (
    "the HDF5 file was sent by this process alone; workers can send it to S3, if boto3 is "
    "installed (pip install 'arraystore[aws]')"
)


class HDF5BucketWriter(BucketStoreWriter):
    """Write a store in one object, which must be sent front to back.

    The source is read twice: first for the checksums, so that the skeleton can be completed, then
    for the payloads, which are sent in the places of the skeleton's holes.
    """

    def __init__(
        self,
        objects: ObjectWriter,
        container_type: type[ContainerWriter],
        *,
        overwrite: bool,
        resume: bool = False,
    ) -> None:
        super().__init__(objects, container_type, overwrite=overwrite, resume=resume)
        self._payloads: dict[str, _Payload] = {}
        self._executor: Executor | None = None

    @override
    def _checked_lock(self) -> LockObject:
        lock = super()._checked_lock()
        if self._resume:
            raise ValueError(
                escaped(
                    f"{self._objects.at(self._key)}: resume=True (--resume) is not possible for an "
                    "HDF5 file in a bucket, because its upload must start again; write a .zarr "
                    "store, or to a disk, or omit resume"
                )
            )
        return lock

    @override
    def create_arrays(
        self, payloads: Mapping[str, int], fingerprint: Fingerprint | None = None
    ) -> None:
        nbytes = sum(payloads.values())
        if nbytes > MAX_PARTS * MAX_PART_NBYTES:
            raise ValueError(
                escaped(
                    f"{self._objects.at(self._key)}: an HDF5 file of {nbytes:,} bytes needs parts "
                    f"of more than {MAX_PART_NBYTES:,} bytes, which S3 refuses; write a .zarr store"
                )
            )
        # libhdf5 does not report that a file system has no files as large as the skeleton.
        scratch = self._folder / "scratch"
        scratch.touch()
        os.truncate(scratch, nbytes)
        scratch.unlink()
        super().create_arrays(payloads, fingerprint)

    @override
    def place_of(self, split: str, block: Block) -> BlockPlace:
        return FilePlace()

    @override
    def fill(
        self,
        split: str,
        images: ImageSource,
        meter: Meter,
        *,
        expected: Checksums | None = None,
        executor: Executor | None = None,
    ) -> Checksums:
        self._executor = executor
        checksums = expected
        if checksums is None:
            checksums = super().fill(split, images, meter, executor=executor)
        self._payloads[split] = _Payload(images, checksums, is_expected=expected is not None)
        return checksums

    @override
    def publish(self, meter: Meter) -> None:
        nbytes = self._skeleton.stat().st_size
        if self._executor is not None:
            if can_send_parts(self._objects.location):
                self._send_parts(nbytes, meter)
                return
            self.notes = (*self.notes, _ALONE)
        with self._skeleton.open("rb") as skeleton:  # here, to be closed after an interrupt too
            pieces = partial(self._pieces, skeleton, nbytes, meter)
            self._objects.upload(self._key, nbytes, pieces)

    def _send_parts(self, nbytes: int, meter: Meter) -> None:
        """Send the file in parts from the workers and this process."""
        size = part_nbytes(nbytes)
        upload = PartUpload.begin(self._objects.location)
        try:
            etags: dict[int, str] = {}
            for start, _, split in self._holes():
                etags |= self._sent_by_workers(split, start, upload, size, meter)
            with self._skeleton.open("rb") as skeleton:
                for part, start in enumerate(range(0, nbytes, size)):
                    if part not in etags:
                        skeleton.seek(start)
                        etags[part] = upload.send(part, skeleton.read(size))
            self._check_target()
            upload.complete([etags[part] for part in sorted(etags)], replaces=self._overwrite)
        except BaseException as error:
            try:
                upload.abort()
            except StorageError as another:
                error.add_note(escaped(f"parts sent so far are left in the bucket: {another}"))
            raise

    def _sent_by_workers(
        self, split: str, start: int, upload: PartUpload, size: int, meter: Meter
    ) -> dict[int, str]:
        """Send the parts that lie in the payload of a split; return the etag of each.

        The bytes that the payload has in other parts are written to the skeleton.
        """
        payload = self._payloads[split]
        images = payload.images
        meter.start(f"{split}: sending images", len(images.nbytes), int(images.nbytes.sum()))
        all_blocks = blocks(images.nbytes, block_nbytes=size, before=start)
        whole = [block for block in all_blocks if block.stop - block.start == size]
        with self._skeleton.open("r+b") as skeleton:
            for block in all_blocks:
                if block.stop - block.start < size:
                    piece, found = _read_block(images, block)
                    payload.check(block, found)
                    skeleton.seek(start + block.start)
                    skeleton.write(piece)
                    meter.advance(len(found), block.stop - block.start)
        etags = {}
        tasks = fill_tasks(
            images, whole, lambda block: PartPlace(upload, (start + block.start) // size, size)
        )
        with (
            self._workers(images, self._executor) as workers,
            closing(self._run(workers, tasks)) as sending,
        ):
            for (block, _), filled in sending:
                payload.check(block, filled.checksums)
                etags[(start + block.start) // size] = filled.etag
                meter.advance(len(filled.checksums), block.stop - block.start)
        return etags

    def _pieces(self, skeleton: BinaryIO, nbytes: int, meter: Meter) -> Generator[Any]:
        """Yield the whole file: the skeleton, with the payloads in its holes."""
        offset = 0
        for start, stop, split in self._holes():
            yield from _read(skeleton, offset, start)
            yield from self._payload(split, meter)
            offset = stop
        yield from _read(skeleton, offset, nbytes)
        self._check_target()

    def _check_target(self) -> None:
        """Refuse to complete the upload if another process took the target."""
        self._lock.check()
        if not self._overwrite and self._objects.status(self._key):
            raise FileExistsError(
                escaped(f"{self._objects.at(self._key)}: was created by another process meanwhile")
            )

    def _holes(self) -> list[tuple[int, int, str]]:
        """Return start, stop and split of the hole of each payload, in the order of the file."""
        starts = {
            split: manifest.start.item(0)
            for split, manifest in self.manifests.items()
            if manifest.nbytes
        }
        return sorted(
            (start, start + self.manifests[split].nbytes, split) for split, start in starts.items()
        )

    def _payload(self, split: str, meter: Meter) -> Generator[Any]:
        """Yield a payload piece by piece, and read the next pieces meanwhile."""
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
    """Images to send, and the checksums they must have.

    `is_expected` is true if the caller passed the checksums, false if the first reading of the
    source computed them.
    """

    images: ImageSource
    checksums: Checksums
    is_expected: bool

    def check(self, block: Block, found: Checksums) -> None:
        i = first_difference(block, found, self.checksums)
        if i < 0:
            return
        if self.is_expected:
            raise ChecksumError(f"{self.images.location(i)}: {NOT_AS_WRITTEN}")
        raise SourceError(
            f"{self.images.location(i)}: the image has other bytes than when its checksum was "
            "computed; the source has changed since the conversion began"
        )


@dataclass(frozen=True, slots=True)
class PartPlace(BlockPlace):
    """A part of an upload that holds one block.

    Attributes
    ----------
    upload : PartUpload
    part : int
        Number of the part.
    nbytes : int
        Length of the block.
    """

    upload: PartUpload
    part: int
    nbytes: int

    @property
    @override
    def keys(self) -> tuple[str, ...]:
        return ()

    @override
    def open(self) -> Sink:
        return MemorySink(self.nbytes, send=partial(self.upload.send, self.part))


def _read_block(images: ImageSource, block: Block) -> tuple[Any, Checksums]:
    rows = images.rows(block.first, block.last)
    rows.prefetch()
    sink = MemorySink(block.stop - block.start)
    checksums = copy_images(rows, block.skip, sink)
    return sink.buffer, checksums


def _read(file: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
    file.seek(start)
    for offset in range(start, stop, _PIECE_NBYTES):
        yield file.read(min(_PIECE_NBYTES, stop - offset))
