"""Work done ahead of a loop, in threads, a bounded number of items at a time."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

T = TypeVar("T")
Done = TypeVar("Done")


def ahead(
    items: Generator[T], work: Callable[[T], Done], *, n_ahead: int = 2, n_threads: int = 1
) -> Generator[Done]:
    """Yield ``work(item)`` of every item, in order, while the next ones are worked on.

    When the loop is left, what has not begun is cancelled, what has is waited for, and
    `items` is closed. An exception in `work` or in `items` comes in its turn. In a process that
    was forked in the middle the work goes on without threads.

    Parameters
    ----------
    items : generator
    work : callable
        Called in other threads.
    n_ahead : int, default 2
        Items that are at most under way, or done and not yet yielded.
    n_threads : int, default 1
        Items worked on at the same time.

    Examples
    --------
    >>> list(ahead((i for i in range(5)), lambda i: i * i))
    [0, 1, 4, 9, 16]
    """
    process = os.getpid()
    running: deque[tuple[T | None, Future[Done]]] = deque()
    with (
        closing(items),
        ThreadPoolExecutor(n_threads, thread_name_prefix="arraystore-read-ahead") as pool,
    ):

        def begin(n: int) -> None:
            try:
                running.extend((item, pool.submit(work, item)) for item in islice(items, n))
            except Exception as error:  # noqa: BLE001 - raised when its turn comes
                running.append((None, _failed(error)))

        begin(n_ahead)
        try:
            while running:
                if os.getpid() != process:  # forked meanwhile: the threads are not here
                    for item, future in running:
                        yield future.result() if item is None else work(item)
                    yield from map(work, items)
                    return
                _, future = running.popleft()
                done = future.result()
                begin(1)
                yield done
        finally:
            for _, future in running:
                future.cancel()


def _failed(error: Exception) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(error)
    return future
