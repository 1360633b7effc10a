"""Write a new store: the protocol of `local`, `zarr_bucket` and `hdf5_bucket`.

::

    create arrays ──▶ fill blocks ──▶ seal: columns, attributes, the version last ──▶ publish

A store writer is a context. When it is left, a store that was not published is deleted, or kept to
be resumed.
"""

from __future__ import annotations

import os
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final, Protocol, Self

import numpy as np

from arraystore.errors import ChecksumError
from arraystore.indexing.layout import Block, blocks
from arraystore.parallel.executors import Workers
from arraystore.schema import PAYLOAD
from arraystore.writing.fill import BlockPlace, FilePlace, FillTask, fill
from arraystore.writing.resuming import blocks_to_compare, check_recorded

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
    from concurrent.futures import Executor
    from pathlib import Path
    from types import TracebackType

    from arraystore._typing import Checksums
    from arraystore.containers.protocol import ContainerWriter
    from arraystore.indexing.byte_range import ChunkManifest
    from arraystore.writing.fill import Filled
    from arraystore.writing.image_source import ImageSource
    from arraystore.writing.journal import Fingerprint
    from arraystore.writing.progress import Meter
    from arraystore.writing.publish_part import PartRecord

MAX_BLOCKS_IN_FLIGHT: Final = 8
"""Blocks being filled at a time, so that memory does not grow with the number of cores."""

NOT_AS_WRITTEN: Final = "the image does not match its checksum; it is damaged"


class StoreWriter(Protocol):
    """Write a new store to a target.

    Attributes
    ----------
    max_in_flight : int
        Blocks being filled at a time if the caller passes no executor.
    n_threads : int
        Threads that fill them if the caller passes no executor.
    notes : tuple of str
        Notes on the target, for the report.
    is_source_touched : bool
        Whether status change times or inodes of the source differ from those in the store that is
        resumed. Then all of its blocks must be compared with the source.
    is_spool_shared : bool
        Whether workers on other machines that reach the target can read `spool`.
    container_type : type of ContainerWriter
        Chosen by the suffix of the target.
    container : ContainerWriter
        Set when the context is entered.
    manifests : dict of str to ChunkManifest
        Where the payload of each split belongs, once `create_arrays` has returned.
    """

    max_in_flight: ClassVar[int] = MAX_BLOCKS_IN_FLIGHT
    n_threads: ClassVar[int] = min(MAX_BLOCKS_IN_FLIGHT, os.cpu_count() or 1)
    notes: tuple[str, ...] = ()
    is_source_touched: bool = False
    is_spool_shared: ClassVar[bool] = True
    container_type: type[ContainerWriter]
    container: ContainerWriter
    manifests: dict[str, ChunkManifest]

    @property
    def spool(self) -> Path:
        """File of the re-encoded images."""
        ...

    def check_unchanged(self, known: Fingerprint) -> None:
        """Compare parts of the fingerprint before the others are known, which can take long.

        Parameters
        ----------
        known : mapping of str to mapping of str to str
            Some parts of the fingerprint that `create_arrays` will be passed.

        Raises
        ------
        ValueError
            If an unfinished store is resumed and has another fingerprint.
        """
        del known

    def create_arrays(
        self, payloads: Mapping[str, int], fingerprint: Fingerprint | None = None
    ) -> None:
        """Create a group and a payload for each split.

        Parameters
        ----------
        payloads : mapping of str to int
            Size of each split's payload in bytes.
        fingerprint : mapping of str to mapping of str to str, optional
            All that the bytes of the store depend on. Without it, the store cannot be resumed.

        Raises
        ------
        ValueError
            If an unfinished store is resumed and has another fingerprint.
        """
        del fingerprint
        manifests = self.container.create_payloads(paths_of(payloads))
        self.manifests = dict(zip(payloads, manifests, strict=True))

    def recorded(self, split: str, block: Block) -> Checksums | None:
        """Return the checksums of a block that need not be filled again, else None."""
        del split, block
        return None

    def record(self, split: str, block: Block, place: BlockPlace, filled: Filled) -> None:
        """Record that a block need not be filled again, once it is durable."""
        del split, block, place, filled

    def place_of(self, split: str, block: Block) -> BlockPlace:
        """Return the place of a block of a split's payload."""
        ...

    @contextmanager
    def sealing(self) -> Iterator[ContainerWriter]:
        """Return the writer of columns and attributes; complete the container at the end."""
        yield self.container
        self.container.close()

    def publish(self, meter: Meter) -> None:
        """Make the finished store visible at the target.

        Raises
        ------
        FileExistsError
            If the target was created by another process meanwhile.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def fill(
        self,
        split: str,
        images: ImageSource,
        meter: Meter,
        *,
        expected: Checksums | None = None,
        executor: Executor | None = None,
    ) -> Checksums:
        """Copy the images of a split to their places.

        Parameters
        ----------
        split : str
        images : ImageSource
        meter : Meter
        expected : ndarray of uint32, shape (n,), optional
            Checksums that the images must have.
        executor : concurrent.futures.Executor, optional
            Runs the tasks; threads by default.

        Returns
        -------
        ndarray of uint32, shape (n,)
            Checksums of the images.

        Raises
        ------
        ChecksumError
            If one is not as expected.
        SourceChangedError
            If images of the source have other bytes than recorded.
        """
        total = int(images.nbytes.sum())
        all_blocks = blocks(images.nbytes)
        found = {block: self.recorded(split, block) for block in all_blocks}
        complete = {
            block: part
            for block, part in found.items()
            if part is not None and len(part) == _n_begun(block)
        }
        parts, compared = blocks_to_compare(complete, is_touched=self.is_source_touched)
        done = sum(map(len, parts.values())), sum(block.stop - block.start for block in parts)
        meter.start(f"{split}: copying images", len(images.nbytes), total, done=done)
        # Only if all images are read, and on this machine.
        is_prefetched = executor is None and not parts and images.prefetch_all()
        missing = [block for block in all_blocks if block not in parts]
        with self._workers(images, executor) as workers:
            self.compare(images, {block: parts[block] for block in compared}, workers)
            places = partial(self.place_of, split)
            tasks = fill_tasks(images, missing, places, is_prefetched=is_prefetched)
            with closing(self._run(workers, tasks)) as filling:
                for (block, place), filled in filling:
                    part = filled.checksums
                    if expected is not None and (i := first_difference(block, part, expected)) >= 0:
                        raise ChecksumError(f"{images.location(i)}: {NOT_AS_WRITTEN}")
                    parts[block] = part
                    self.record(split, block, place, filled)
                    meter.advance(len(part), block.stop - block.start)
        return np.concatenate([np.empty(0, np.uint32), *(parts[block] for block in all_blocks)])

    def checksums(
        self, split: str, images: ImageSource, meter: Meter, *, executor: Executor | None = None
    ) -> Checksums:
        """Return the checksums of images that stay where they are; nothing is written."""
        total = int(images.nbytes.sum())
        meter.start(f"{split}: reading images", len(images.nbytes), total)
        all_blocks = blocks(images.nbytes)
        parts: dict[Block, Checksums] = {}
        with (
            self._workers(images, executor) as workers,
            closing(self._run(workers, fill_tasks(images, all_blocks))) as reading,
        ):
            for (block, _), filled in reading:
                parts[block] = filled.checksums
                meter.advance(len(filled.checksums), block.stop - block.start)
        return np.concatenate([np.empty(0, np.uint32), *(parts[block] for block in all_blocks)])

    def compare(
        self, images: ImageSource, recorded: Mapping[Block, Checksums], workers: Workers
    ) -> None:
        """Compare recorded blocks with the source; nothing is written.

        Raises
        ------
        SourceChangedError
            If images of the source have other bytes than recorded.
        """
        with closing(self._run(workers, fill_tasks(images, recorded))) as reading:
            for (block, _), filled in reading:
                check_recorded(images.location(block.first), filled.checksums, recorded[block])

    @contextmanager
    def _workers(self, images: ImageSource, executor: Executor | None) -> Iterator[Workers]:
        n_threads = self.max_in_flight if images.is_remote else self.n_threads
        with Workers(executor, n_threads=n_threads, max_in_flight=self.max_in_flight) as workers:
            yield workers
        self.notes = tuple(dict.fromkeys((*self.notes, *workers.notes)))

    def _run(self, workers: Workers, tasks: Iterator[_Task]) -> Generator[tuple[_Item, Filled]]:
        """Run tasks; in this process those that need its spool, if only this process has that."""
        here: list[_Task] = []

        def others() -> Iterator[_Task]:
            spool = "" if self.is_spool_shared else str(self.spool)
            for item, task in tasks:
                if workers.is_here:
                    yield item, task
                elif spool and task.images.reads(spool):
                    here.append((item, task))
                else:
                    yield item, replace(task, images=task.images.portable())

        yield from workers.run(fill, others())
        yield from workers.run(fill, here, here=True)


_Item = tuple[Block, BlockPlace]
_Task = tuple[_Item, FillTask]


def fill_tasks(
    images: ImageSource,
    some: Iterable[Block],
    place_of: Callable[[Block], BlockPlace] = lambda _: FilePlace(),
    *,
    is_prefetched: bool = False,
) -> Iterator[_Task]:
    """Yield the tasks that fill some blocks, or compute the checksums of their images."""
    for block in some:
        place, rows = place_of(block), images.rows(block.first, block.last)
        yield (block, place), FillTask(rows, block.skip, place, is_prefetched)


class PartWriter(StoreWriter, Protocol):
    """Write a part of a store that exists: a group, which `publish` adds to the store.

    Attributes
    ----------
    new_part : PartRecord
        What `publish` adds; to be set before.
    """

    new_part: PartRecord

    def drop_left_over(self, groups: Collection[str]) -> None:
        """Delete what another process left of a part, unless that is resumed.

        Parameters
        ----------
        groups : collection of str
            The splits of the store and their parts, which are not deleted.
        """
        del groups

    def is_free(self, group: str) -> bool:
        """Whether the new part can have a name: nothing else in the store has it."""
        ...


def paths_of(payloads: Mapping[str, int]) -> dict[str, int]:
    """Return the size of each payload by its path, from sizes by split.

    Examples
    --------
    >>> paths_of({"train": 10})
    {'train/image_payload': 10}
    """
    return {f"{split}/{PAYLOAD}": nbytes for split, nbytes in payloads.items()}


def _n_begun(block: Block) -> int:
    """Return the number of images that begin in a block."""
    return block.last - block.first - (block.skip > 0)


def first_difference(block: Block, found: Checksums, expected: Checksums) -> int:
    """Return the first image that begins in a block and has another checksum, or -1.

    Examples
    --------
    >>> block = Block(start=10, stop=18, first=1, last=3, skip=4)
    >>> first_difference(block, np.array([7], np.uint32), np.array([5, 6, 8], np.uint32))
    2
    """
    first = block.first + (block.skip > 0)
    differs = np.flatnonzero(found != expected[first : first + len(found)])
    return first + int(differs[0]) if len(differs) else -1
