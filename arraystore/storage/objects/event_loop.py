"""One event loop in one background thread, which runs all requests of a process."""

from __future__ import annotations

import asyncio
import atexit
import inspect
import os
import threading
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

from arraystore._threads import Scope, WorkCancelledError, current_scope, next_of
from arraystore.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Iterable, Sequence

T = TypeVar("T")
Done = TypeVar("Done")

_PATIENCE: Final = 5
"""Seconds to wait at exit for the thread to end."""

TIDYING_SECONDS: float = 5
"""Most seconds for a consumer to clean up when producing its items failed."""


class _Background:
    """The event loop, and the process that first used it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._process: int | None = None
        self._is_stopped = False

    def check_process(self) -> None:
        # A forked child has none of obstore's threads and would wait for them for ever. No lock is
        # taken before this check: another thread may have held it during the fork.
        if self._process is None:
            self._process = os.getpid()
        elif self._process != os.getpid():
            raise StorageError(
                "this process was forked after its parent had read from a bucket or a web server, "
                "so it cannot read from there; start workers with "
                'multiprocessing_context="forkserver" (or "spawn")'
            )

    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._is_stopped:
                raise StorageError("cannot read while the interpreter shuts down")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="arraystore-objects", daemon=True
                )
                self._thread.start()
            return self._loop

    def stop(self) -> None:
        """Cancel all requests, so that no thread waits for one, and end the background thread."""
        if self._process != os.getpid():
            return
        with self._lock:
            self._is_stopped = True
        if self._loop is not None and self._thread is not None:
            asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop)
            self._thread.join(_PATIENCE)


async def _cancel_all() -> None:
    loop = asyncio.get_running_loop()
    requests = asyncio.all_tasks() - {asyncio.current_task()}
    for request in requests:
        request.cancel()
    if requests:
        await asyncio.wait(requests, timeout=_PATIENCE / 2)
    loop.stop()


_background: Final = _Background()
atexit.register(_background.stop)


def check_process() -> None:
    """Raise in a child that was forked after the first use.

    Raises
    ------
    StorageError
        With the remedy.
    """
    _background.check_process()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in the background and return its result.

    Raises
    ------
    StorageError
        In a child that was forked after the first use.
    WorkCancelledError
        If the scope of this thread is cancelled; the coroutine is cancelled, too.
    """
    ((_, result),) = arrivals([work])
    return result


def arrivals(works: Sequence[Coroutine[Any, Any, T]]) -> Generator[tuple[int, T]]:
    """Run coroutines concurrently; yield the number and the result of each as it ends.

    Closing the generator, or freeing it, cancels those that still run, without waiting.

    Raises
    ------
    StorageError
        In a child that was forked after the first use.
    WorkCancelledError
        If the scope of this thread is cancelled; the coroutines are cancelled, too.
    Exception
        The first error of a coroutine; the others are cancelled.
    """
    arrived: SimpleQueue[tuple[int, T] | BaseException | None] = SimpleQueue()
    tasks: list[asyncio.Task[None]] = []

    async def report(number: int, work: Coroutine[Any, Any, T]) -> None:
        arrived.put((number, await work))

    async def report_all() -> None:
        await gather(report(*numbered) for numbered in enumerate(works))

    def end(task: asyncio.Task[None]) -> None:
        _close_unstarted(works)
        arrived.put(WorkCancelledError() if task.cancelled() else task.exception())

    def begin() -> None:
        tasks.append(loop.create_task(report_all()))
        tasks[0].add_done_callback(end)

    try:
        check_process()
        loop = _background.loop()
    except StorageError:
        _close_unstarted(works)
        raise
    loop.call_soon_threadsafe(begin)
    scope = current_scope() or Scope()
    try:
        with scope.waking(partial(arrived.put, WorkCancelledError())):
            while (found := next_of(arrived)) is not None:
                if isinstance(found, BaseException):
                    raise found
                yield found
    finally:
        # Not through a `concurrent` future, whose lock the thread of the loop may hold.
        loop.call_soon_threadsafe(lambda: tasks[0].cancel())


class NoMoreItemsError(Exception):
    """Producing the items of a `Stream` failed."""


class Stream(Generic[T]):
    """Items that one thread produces and a coroutine consumes, one at a time; see `feed`."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[T | None] = asyncio.Queue(1)
        self._is_failed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        item = await self._queue.get()
        if item is not None:
            return item
        raise NoMoreItemsError if self._is_failed else StopAsyncIteration

    async def put(self, item: T | None, consumer: asyncio.Task[Any]) -> None:
        """Add an item, or the end, when the queue has space; or return when the consumer ends."""
        putting = asyncio.create_task(self._queue.put(item))
        try:
            await asyncio.wait({putting, consumer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            putting.cancel()

    async def fail(self, consumer: asyncio.Task[Any]) -> None:
        """Raise `NoMoreItemsError` in the consumer, and wait a little until it has cleaned up."""
        self._is_failed = True
        with suppress(TimeoutError):
            async with asyncio.timeout(TIDYING_SECONDS):
                await self.put(None, consumer)
                await asyncio.wait({consumer})


def feed(consume: Callable[[Stream[T]], Coroutine[Any, Any, Done]], items: Iterable[T]) -> Done:
    """Run a coroutine in the background that consumes items, and produce them in this thread.

    Parameters
    ----------
    consume : callable
        Called with the stream of items.
    items : iterable
        No item may be None.

    Raises
    ------
    Exception
        The error of `consume`, after which no more items are produced. Or the error of producing an
        item: `consume` gets a `NoMoreItemsError`, and is cancelled if it does not end soon.
    """
    stream, begun = Stream[T](), list[asyncio.Task[Done]]()

    async def begin() -> None:
        begun.append(asyncio.create_task(consume(stream)))

    async def outcome() -> Done:
        return await consumer

    def cancel() -> None:
        for task in begun:
            task.cancel()

    loop = _background.loop()
    try:
        run(begin())
        (consumer,) = begun
        for item in items:
            run(stream.put(item, consumer))
            if consumer.done():
                break
        else:
            run(stream.put(None, consumer))
        return run(outcome())
    except BaseException:
        if begun:
            run(stream.fail(begun[0]))
        raise
    finally:
        loop.call_soon_threadsafe(cancel)


def _close_unstarted(works: Iterable[Coroutine[Any, Any, Any]]) -> None:
    """Close coroutines that will never be awaited, so that Python does not warn."""
    for work in works:
        if inspect.getcoroutinestate(work) == inspect.CORO_CREATED:
            work.close()


async def gather(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines concurrently; the first error cancels the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
