"""One event loop in one background thread: where all requests of a process run."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, TypeVar

from arraystore.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator, Iterable, Sequence

T = TypeVar("T")

_PATIENCE: Final = 5
"""Seconds to wait at exit for the thread to end."""


class _Background:
    """The loop, and the process that first used it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._process: int | None = None

    def check_process(self) -> None:
        # obstore's own threads are not in a forked child; it would wait for them for ever.
        # Nothing is locked before this is known: another thread may have held the lock then.
        if self._process is None:
            self._process = os.getpid()
        elif self._process != os.getpid():
            raise StorageError(
                "this process was forked after its parent had read from a bucket or a web server, "
                "and such reading does not survive a fork; start workers with "
                'multiprocessing_context="forkserver" (or "spawn")'
            )

    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="arraystore-objects", daemon=True
                )
                self._thread.start()
            return self._loop

    def stop(self) -> None:
        if self._process == os.getpid() and self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_PATIENCE)


_background: Final = _Background()
atexit.register(_background.stop)


def check_process() -> None:
    """Refuse to go on in a child that was forked after the first use.

    Raises
    ------
    StorageError
        With the way out.
    """
    _background.check_process()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in the background and wait for its result.

    Raises
    ------
    StorageError
        In a child that was forked after the first use.
    """
    try:
        check_process()
    except StorageError:
        work.close()
        raise
    future = asyncio.run_coroutine_threadsafe(work, _background.loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()  # Ctrl-C leaves nothing running
        raise


def arrivals(works: Sequence[Coroutine[Any, Any, T]]) -> Generator[tuple[int, T]]:
    """Run coroutines at once, and yield the number and the result of each that has ended.

    Raises
    ------
    StorageError
        In a child that was forked after the first use.
    Exception
        What the first raised that failed; the others are ended.
    """
    arrived: SimpleQueue[tuple[int, T] | None] = SimpleQueue()

    async def tell(number: int, work: Coroutine[Any, Any, T]) -> None:
        arrived.put((number, await work))

    async def tell_all() -> None:
        try:
            await gather(tell(*numbered) for numbered in enumerate(works))
        finally:
            arrived.put(None)

    future = asyncio.run_coroutine_threadsafe(tell_all(), _background.loop())
    try:
        while (found := arrived.get()) is not None:
            yield found
        future.result()
    finally:
        future.cancel()


async def gather(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines at once; the first that fails ends them all."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
