"""What a store in the making can do; `local` and `bucket` beside this file make it.

::

    lay out ──▶ fill, block by block ──▶ seal: columns, attributes, the version last ──▶ publish

A draft is a context: when it is left, what was not published is gone, or can be resumed.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final, Protocol, Self

import numpy as np

from arraystore._threads import Scope
from arraystore.errors import ChecksumError, escaped
from arraystore.indexing.layout import Block, blocks
from arraystore.writing.fill import FilePlaces, FillTask, fill
from arraystore.writing.resuming import check_recorded, doubted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from arraystore._typing import Checksums
    from arraystore.containers.protocol import ContainerWriter
    from arraystore.writing.fill import Filled, Target
    from arraystore.writing.image_source import ImageBytes
    from arraystore.writing.journal import Plan
    from arraystore.writing.progress import Meter

MAX_BLOCKS_IN_FLIGHT: Final = 8
"""Blocks being filled at a time, so that memory does not grow with the number of cores."""

NOT_AS_WRITTEN: Final = "the image does not match its checksum; it is damaged"


class Draft(Protocol):
    """A store in the making.

    Attributes
    ----------
    max_in_flight : int
        Blocks being filled at a time.
    n_threads : int
        Threads that fill them, if no executor was handed in.
    notes : tuple of str
        What the report has to say of the place.
    is_source_touched : bool
        Whether status change times or inodes of the source differ from those of the store that
        is resumed, so that all of its blocks must be compared with the source.
    """

    max_in_flight: ClassVar[int] = MAX_BLOCKS_IN_FLIGHT
    n_threads: ClassVar[int] = min(MAX_BLOCKS_IN_FLIGHT, os.cpu_count() or 1)
    notes: tuple[str, ...] = ()
    is_source_touched: bool = False

    @property
    def spool(self) -> Path:
        """Where images that were encoded anew are kept."""
        ...

    def import_libraries(self) -> None:
        """Import the libraries that write the container; see `ContainerWriter`."""
        ...

    def expect(self, known: Plan) -> None:
        """Refuse what is known of a plan, before the rest takes long to be found out.

        Parameters
        ----------
        known : mapping of str to mapping of str to str
            Some parts of what `lay_out` is going to be given.

        Raises
        ------
        ValueError
            If an unfinished store is resumed, and is not of this plan.
        """
        del known

    def lay_out(self, payloads: Mapping[str, int], plan: Plan | None = None) -> None:
        """Create the groups of some splits, and their payloads of so many bytes.

        Parameters
        ----------
        payloads : mapping of str to int
            Size of each split's payload.
        plan : mapping of str to mapping of str to str, optional
            All that the bytes of the store depend on, to be told if it has changed when
            the store is resumed. Without, it cannot be resumed.

        Raises
        ------
        ValueError
            If an unfinished store is resumed, and is not of this plan.
        """
        ...

    def recorded(self, split: str, block: Block) -> Checksums | None:
        """Return the checksums of a block that need not be filled again, else None."""
        del split, block
        return None

    def record(self, split: str, block: Block, filled: Filled) -> None:
        """Note, once nothing can lose it any more, that a block need not be filled again."""
        del split, block, filled

    def target(self, split: str, block: Block) -> Target:
        """Return where a block of a split's payload is to be."""
        ...

    def writer(self) -> AbstractContextManager[ContainerWriter]:
        """Write columns and attributes for as long as the context lasts."""
        ...

    def publish(self, meter: Meter) -> None:
        """Let the finished store appear where it is to be.

        Raises
        ------
        FileExistsError
            If something is there that was not there before.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

    def fill(
        self,
        split: str,
        images: ImageBytes,
        meter: Meter,
        *,
        expected: Checksums | None = None,
        executor: Executor | None = None,
    ) -> Checksums:
        """Copy the images of a split to their places.

        Parameters
        ----------
        split : str
        images : ImageBytes
        meter : Meter
        expected : ndarray of uint32, shape (n,), optional
            What their checksums must be.
        executor : concurrent.futures.Executor, optional
            What runs it; by default threads.

        Returns
        -------
        ndarray of uint32, shape (n,)
            Their checksums.

        Raises
        ------
        ChecksumError
            If one is not as expected.
        SourceChangedError
            If the source has other bytes than those that are recorded of it.
        """
        total = int(images.nbytes.sum())
        all_blocks = blocks(images.nbytes)
        found = {block: self.recorded(split, block) for block in all_blocks}
        there = {
            block: part
            for block, part in found.items()
            if part is not None and len(part) == _n_begun(block)
        }
        parts, compared = doubted(there, is_touched=self.is_source_touched)
        done = sum(map(len, parts.values())), sum(block.stop - block.start for block in parts)
        meter.start(f"{split}: copying images", len(images.nbytes), total, done=done)
        # Only of all that is to be read, and where it is read.
        is_announced = executor is None and not parts and images.announce_all()
        tasks = (
            (block, FillTask(rows, block.skip, self.target(split, block), is_announced))
            for block in all_blocks
            if block not in parts
            for rows in [images.rows(block.first, block.last)]
        )
        pool = executor or ThreadPoolExecutor(self.n_threads)
        try:
            self.compare(images, {block: parts[block] for block in compared}, pool)
            with closing(run(pool, tasks, self.max_in_flight)) as filling:
                for block, filled in filling:
                    part = filled.checksums
                    if expected is not None and (i := first_difference(block, part, expected)) >= 0:
                        raise ChecksumError(f"{images.where(i)}: {NOT_AS_WRITTEN}")
                    parts[block] = part
                    self.record(split, block, filled)
                    meter.advance(len(part), block.stop - block.start)
        finally:
            if executor is None:
                pool.shutdown(cancel_futures=True)
        return np.concatenate([np.empty(0, np.uint32), *(parts[block] for block in all_blocks)])

    def compare(
        self, images: ImageBytes, recorded: Mapping[Block, Checksums], pool: Executor
    ) -> None:
        """Compare recorded blocks with the source; nothing is written.

        Raises
        ------
        SourceChangedError
            If the source has other bytes than those that are recorded of it.
        """
        tasks = (
            (block, FillTask(images.rows(block.first, block.last), block.skip, FilePlaces()))
            for block in recorded
        )
        with closing(run(pool, tasks, self.max_in_flight)) as reading:
            for block, filled in reading:
                check_recorded(images.where(block.first), filled.checksums, recorded[block])


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


def run(
    pool: Executor, tasks: Iterator[tuple[Block, FillTask]], max_in_flight: int
) -> Generator[tuple[Block, Filled]]:
    """Fill blocks, a bounded number at a time; yield what comes of it in order.

    To be closed, which waits for the blocks that are being filled: they write to a place that is
    about to be removed, or to be resumed. What they wait for from a network is cancelled first.
    """
    # Work in another process cannot be cancelled.
    scope = Scope() if isinstance(pool, ThreadPoolExecutor) else None
    work = fill if scope is None else partial(scope.run, fill)
    running: deque[tuple[Block, Future[Filled]]] = deque()
    try:
        for block, task in tasks:
            if len(running) == max_in_flight:
                first, future = running.popleft()
                yield first, future.result()
            running.append((block, pool.submit(work, task)))
        while running:
            first, future = running.popleft()
            yield first, future.result()
    finally:
        left = [future for _, future in running if not future.cancel()]
        if scope is not None:
            scope.cancel()
        wait(left)


@contextmanager
def writing(
    open_writer: Callable[[Path], ContainerWriter], path: Path
) -> Iterator[ContainerWriter]:
    """Open a writer, and close it at the end."""
    writer = open_writer(path)
    try:
        yield writer
    except BaseException as error:
        # A library would write what it holds back later, to a store that is resumed by then.
        try:
            writer.close()
        except (OSError, RuntimeError, ValueError) as another:
            error.add_note(escaped(f"and what was written could not be finished: {another}"))
        raise
    writer.close()
