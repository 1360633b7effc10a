"""The threads that a process decodes in, as many as it may use processors; and one for a while."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

Done = TypeVar("Done")

_pool: ThreadPoolExecutor | None = None


def in_threads(work: Callable[[int], Done], n: int) -> list[Done]:
    """Return ``work(i)`` for each i of ``range(n)``, done in all threads at once.

    Each thread takes the next as soon as it is done with one: so all are busy up to the last, and
    if there are several calls at a time, the second begins where the first has no more for one.

    Raises
    ------
    Exception
        What the first of them raised that failed. No more are begun then.

    Examples
    --------
    >>> in_threads(lambda i: i * i, 5)
    [0, 1, 4, 9, 16]
    """
    if n < 2:
        return [work(i) for i in range(n)]
    left = deque(range(n))  # a deque is safe to take from in several threads
    done: dict[int, Done] = {}
    failed: dict[int, Exception] = {}

    def take() -> None:
        while left:
            try:
                i = left.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                done[i] = work(i)
            except Exception as error:  # noqa: BLE001 - raised below
                failed[i] = error
                left.clear()

    try:
        wait([_threads().submit(take) for _ in range(min(n, n_cpus()))])
    finally:
        left.clear()
    if failed:  # those before the first were begun before it
        raise failed[min(failed)]
    return [done[i] for i in range(n)]


def in_a_thread(work: Callable[[], Done]) -> Future[Done]:
    """Let one of the threads do some work, when those before it are done."""
    return _threads().submit(work)


@contextmanager
def alongside(work: Callable[[], object]) -> Iterator[None]:
    """Run `work` in a thread of its own, which has ended when the context is left.

    Its errors are dropped: it prepares what is done again, and raises again, where it is needed.

    Examples
    --------
    >>> done = []
    >>> with alongside(lambda: done.append(1)):
    ...     pass
    >>> done
    [1]
    """

    def run() -> None:
        with suppress(Exception):
            work()

    thread = Thread(target=run, name="arraystore-alongside")
    thread.start()
    try:
        yield
    finally:
        thread.join()


def n_cpus() -> int:
    """Return the number of processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _threads() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(n_cpus(), thread_name_prefix="arraystore-decode")
    return _pool


def _forget_threads() -> None:
    """Threads do not survive a fork; the child starts its own when it needs them."""
    global _pool
    _pool = None


os.register_at_fork(after_in_child=_forget_threads)
