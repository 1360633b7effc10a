"""A store in the making in a bucket: what is small is made on the local disk, and sent at the end.

::

    bucket/data/1pct.zarr/…          Zarr: shards as they are filled, zarr.json of the root last
    bucket/data/1pct.h5              HDF5: one upload, front to back, seen when it is complete
    bucket/data/.1pct.zarr.partial   while the conversion runs, so that there is only one
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import numpy as np
from typing_extensions import override

from arraystore.containers import open_local, writer_for
from arraystore.drafts.base import NOT_AS_WRITTEN, Draft, first_difference, writing
from arraystore.errors import ChecksumError, SourceError, StorageError
from arraystore.fill import FilePlaces, MemorySink, Target, copy_images
from arraystore.layout import Block, blocks
from arraystore.schema import PAYLOAD
from arraystore.storage import close_idle_files, full_disk_is_told

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from concurrent.futures import Executor
    from contextlib import AbstractContextManager

    from arraystore.containers.base import ContainerWriter
    from arraystore.drafts.base import Checksums
    from arraystore.fill import ImageBytes, Sink
    from arraystore.journal import Plan
    from arraystore.objects.writer import ObjectWriter
    from arraystore.progress import Meter

_BLOCKS_IN_FLIGHT: Final = 4
"""Shards of 64 MiB that are held in memory while they are sent."""

_FILES_IN_FLIGHT: Final = 16
_PIECE_NBYTES: Final = 16 * 2**20
_PIECES_AHEAD: Final = 2


class BucketDraft(Draft):
    """What both kinds of store in a bucket have in common: a claim, and a local skeleton.

    Parameters
    ----------
    objects : ObjectWriter
        Its key is that of the store.
    overwrite : bool
        Whether a store that is there may be replaced.
    """

    max_in_flight: ClassVar[int] = _BLOCKS_IN_FLIGHT
    n_threads: ClassVar[int] = _BLOCKS_IN_FLIGHT

    def __init__(self, objects: ObjectWriter, *, overwrite: bool) -> None:
        self._objects = objects
        self._key = objects.key
        self._overwrite = overwrite
        self._container = writer_for(PurePosixPath(self._key))
        path = PurePosixPath(self._key)
        self._claim = str(path.with_name(f".{path.name}.partial"))
        self._is_begun = self._is_published = False

    @override
    def __enter__(self) -> Self:
        self._check_place()
        with ExitStack() as stack:
            import tempfile

            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="arraystore-"))
            self._folder = Path(folder)
            stack.enter_context(full_disk_is_told(self._folder))
            self._take_claim()
            self._stack = stack.pop_all()
        return self

    @override
    def __exit__(self, *exception: object) -> None:
        try:
            if self._is_begun and not self._is_published:
                self._remove()
            self._objects.delete([self._claim])
        except OSError as error:
            if not isinstance(exception[1], BaseException):
                raise
            exception[1].add_note(f"what was written could not be deleted: {error}")
        finally:
            close_idle_files()  # else the space of the spool would be kept
            self._stack.__exit__(*exception)  # type: ignore[arg-type] # the three of a with statement

    @property
    @override
    def spool(self) -> Path:
        return self._folder / "spool"

    @property
    def _skeleton(self) -> Path:
        return self._folder / "store"

    @override
    def lay_out(self, payloads: Mapping[str, int], plan: Plan | None = None) -> None:
        with self.writer() as writer:
            for split, nbytes in payloads.items():
                writer.create_group(split)
                writer.create_payload(f"{split}/{PAYLOAD}", nbytes)

    @override
    def writer(self) -> AbstractContextManager[ContainerWriter]:
        return writing(partial(self._container, is_skeleton=True), self._skeleton)

    def _check_place(self) -> None:
        """Refuse to write where something is, unless it is a store that may be replaced."""
        where = self._objects.at(self._key)
        root = f"{self._key}/{name}" if (name := self._container.root_key) else self._key
        found = self._objects.start(root, self._container.root_nbytes)
        is_claimed = self._objects.start(self._claim, 1) is not None
        if not self._overwrite:
            if found is not None:
                raise FileExistsError(
                    f"{where}: exists; choose another name, or give overwrite=True (--overwrite)"
                )
            if is_claimed:
                raise StorageError(
                    f"{self._objects.at(self._claim)}: another process is writing to the same "
                    "target, or was killed while it did; wait for it, or, if it is no more, give "
                    "overwrite=True (--overwrite)"
                )
        if found is not None and not self._container.is_root(found):
            raise FileExistsError(
                f"{where}: is neither a Zarr group nor an HDF5 file, and is not overwritten"
            )
        if found is None and not is_claimed and self._objects.keys(self._key):
            raise FileExistsError(
                f"{where}: there are objects below, but no store of arraystore's making; choose "
                "another name, or delete them"
            )

    def _take_claim(self) -> None:
        token = os.urandom(16).hex().encode()
        if self._overwrite:
            self._objects.put(self._claim, token)
        else:
            self._objects.create(self._claim, token)

    def _remove(self) -> None:
        """Delete what was written of a store that is not going to be finished."""


class ManyObjectsDraft(BucketDraft):
    """A store of many objects: each block of a payload is one, and so is each file of the rest."""

    def __init__(self, objects: ObjectWriter, *, overwrite: bool) -> None:
        super().__init__(objects, overwrite=overwrite)
        self._root_key = f"{self._key}/{self._container.root_key}"
        self._root: bytes | None = None

    @override
    def lay_out(self, payloads: Mapping[str, int], plan: Plan | None = None) -> None:
        self._is_begun = True
        # The root first: what is left without it is no store any more.
        self._objects.delete([self._root_key])
        self._remove()
        super().lay_out(payloads, plan)

    @override
    def target(self, split: str, block: Block) -> Target:
        path = f"{split}/{PAYLOAD}"
        key, tail = self._container.payload_object(path, block.start, block.stop)
        return ObjectTarget(self._objects, f"{self._key}/{key}", block.stop - block.start, tail)

    @override
    def publish(self, meter: Meter) -> None:
        meter.status("sending columns")
        files = (path for path in sorted(self._skeleton.rglob("*")) if path.is_file())
        documents = {path.relative_to(self._skeleton).as_posix(): path for path in files}
        self._root = documents.pop(self._container.root_key).read_bytes()
        with ThreadPoolExecutor(_FILES_IN_FLIGHT) as pool:
            sent = [pool.submit(self._send, name, path) for name, path in documents.items()]
            for future in sent:
                future.result()
        self._objects.create(self._root_key, self._root)
        self._is_published = True

    def _send(self, name: str, path: Path) -> None:
        self._objects.put(f"{self._key}/{name}", path.read_bytes())

    @override
    def _remove(self) -> None:
        # It comes last, so it is somebody else's; or ours, and only the answer was lost.
        if self._root is not None and self._objects.read(self._root_key) == self._root:
            return
        keys = self._objects.keys(self._key)
        self._objects.delete([key for key in keys if key != self._root_key])


@dataclass(frozen=True, slots=True)
class ObjectTarget(Target):
    """An object that holds one block, and what comes after it.

    Attributes
    ----------
    objects : ObjectWriter
        The bucket.
    key : str
        Its key.
    nbytes : int
        Length of the block.
    tail : bytes
        What comes after it.
    """

    objects: ObjectWriter
    key: str
    nbytes: int
    tail: bytes

    @override
    def open(self) -> Sink:
        return _ObjectSink(self)


class _ObjectSink(MemorySink):
    """Keeps a block in memory, and sends it when it is complete."""

    def __init__(self, target: ObjectTarget) -> None:
        super().__init__(target.nbytes, len(target.tail))
        self.buffer[target.nbytes :] = np.frombuffer(target.tail, dtype=np.uint8)
        self._target = target

    @override
    def __exit__(self, *exception: object) -> None:
        if exception[0] is None:
            self._target.objects.put(self._target.key, self.buffer)


class OneObjectDraft(BucketDraft):
    """A store in one object, which has to be written front to back.

    The sources are read twice: first for the checksums, so that the skeleton of the
    file can be finished, then for the payloads, which are sent in their places.
    """

    def __init__(self, objects: ObjectWriter, *, overwrite: bool) -> None:
        super().__init__(objects, overwrite=overwrite)
        self._payloads: dict[str, _Payload] = {}

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
        self._is_published = True

    def _pieces(self, nbytes: int, meter: Meter) -> Iterator[Any]:
        """Yield the whole file: the skeleton, and the payloads in its holes."""
        at = 0
        with ThreadPoolExecutor(_PIECES_AHEAD) as pool, self._skeleton.open("rb") as skeleton:
            for start, stop, split in self._holes():
                yield from _read(skeleton, at, start)
                yield from self._payload(split, pool, meter)
                at = stop
            yield from _read(skeleton, at, nbytes)
            # In a thread of its own: this one is in the midst of the upload.
            if not self._overwrite and pool.submit(self._objects.status, self._key).result():
                raise FileExistsError(
                    f"{self._objects.at(self._key)}: was created by somebody else in the meantime"
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

    def _payload(self, split: str, pool: ThreadPoolExecutor, meter: Meter) -> Iterator[Any]:
        """Yield a payload piece by piece, the next ones being read meanwhile."""
        payload = self._payloads[split]
        images = payload.images
        meter.start(f"{split}: sending images", len(images.nbytes), int(images.nbytes.sum()))
        waiting: deque[tuple[Block, Future[tuple[Any, Checksums]]]] = deque()
        rest = iter(blocks(images.nbytes, block_nbytes=_PIECE_NBYTES))
        try:
            while True:
                while len(waiting) < _PIECES_AHEAD and (block := next(rest, None)):
                    waiting.append((block, pool.submit(_read_block, images, block)))
                if not waiting:
                    return
                block, future = waiting.popleft()
                piece, found = future.result()
                payload.check(block, found)
                yield piece
                meter.advance(len(found), block.stop - block.start)
        finally:
            for _, future in waiting:
                future.cancel()


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
