"""The threads of a process: a bounded number, which belong to no loop and no call.

Work is handed to them as a `Task`. They only hasten it: a task that no thread has begun is done by
whoever waits for it. So nothing waits for a thread to be free, to start or to outlive a fork.

What is no longer wanted is cancelled with its `Scope`, which takes no lock and waits for nothing. A
finalizer may do that: the garbage collector runs it in any thread, between any two instructions.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections import deque
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")
Done = TypeVar("Done")

IDLE_SECONDS: float = 1.0
"""How long a thread waits for work before it ends."""

_PATIENCE: Final = 5.0
"""Seconds to wait at the end of the interpreter for work that cannot be interrupted."""

_MIN_READERS: Final = 32
"""Threads that may read ahead at a time on a machine of few processors: they mostly wait."""


class WorkCancelledError(BaseException):
    """Work is no longer wanted. Raised in the thread that does it, and never seen outside."""


class Scope:
    """Work that is cancelled together, such as all that a loop has begun.

    Attributes
    ----------
    is_cancelled : bool
    """

    __slots__ = ("_wakers", "is_cancelled")

    def __init__(self) -> None:
        self.is_cancelled = False
        self._wakers: dict[object, Callable[[], object]] = {}

    def cancel(self) -> None:
        """Let work end soon, and begin no more of it. Waits for nothing and takes no lock."""
        self.is_cancelled = True
        for wake in list(self._wakers.values()):
            wake()

    def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Return ``work(*arguments)``, done in this thread as part of the scope."""
        thread = threading.get_ident()
        outer = _scopes.get(thread)
        _scopes[thread] = self
        try:
            self.check()
            return work(*arguments)
        finally:
            if outer is None:
                _scopes.pop(thread, None)
            else:
                _scopes[thread] = outer

    def check(self) -> None:
        """Raise `WorkCancelledError` if the scope is cancelled."""
        if self.is_cancelled:
            raise WorkCancelledError

    @contextmanager
    def waking(self, wake: Callable[[], object]) -> Iterator[None]:
        """Call `wake` when the scope is cancelled, or raise if it is already.

        Parameters
        ----------
        wake : callable
            Called in any thread; must neither wait nor take a lock.
        """
        key = object()
        self._wakers[key] = wake  # before the check: `cancel` sets the flag before it looks here
        try:
            self.check()
            yield
        finally:
            self._wakers.pop(key, None)


_scopes: Final[dict[int, Scope]] = {}
"""What each thread works for at the moment, by the thread's number."""


def current_scope() -> Scope | None:
    """Return the scope that this thread works for, if it works for one."""
    return _scopes.get(threading.get_ident())


class Task(Generic[Done]):
    """Work that a thread of a pool does, unless the one who waits for it comes first.

    Parameters
    ----------
    work : callable
        Called once at most, with no arguments.
    scope : Scope, optional
        What it is part of.
    """

    __slots__ = ("_done", "_ended", "_error", "_scope", "_work")

    def __init__(self, work: Callable[[], Done], scope: Scope | None) -> None:
        self._work = deque((work,))  # whoever takes it out does it
        self._scope = scope
        self._ended = threading.Event()
        self._done: Done
        self._error: BaseException | None = None

    def run(self) -> None:
        """Do the work, unless it is begun."""
        try:
            work = self._work.pop()
        except IndexError:
            return
        try:
            self._done = work() if self._scope is None else self._scope.run(work)
        except BaseException as error:  # noqa: BLE001 - raised by `result`
            self._error = error
        self._ended.set()

    def result(self) -> Done:
        """Return what the work returned, or raise what it raised; to be called once."""
        self.run()
        self._ended.wait()
        if self._error is not None:
            error, self._error = self._error, None
            try:
                raise error
            finally:
                del error  # its traceback leads here
        return self._done

    def cancel(self) -> None:
        """Do not begin it, if it is not begun."""
        self._work.clear()


class Pool:
    """Threads that start when there is work, and end when there was none for a while.

    Without a lock: a task may be left without a thread for a moment, which harms nobody, since
    those who wait for tasks do what is not begun.

    Parameters
    ----------
    name : str
        Of the threads.
    most : int
        Threads at a time.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._places = deque(range(most))  # a thread has one while it lives
        self._idle: deque[None] = deque()  # one for each thread that waits and is not counted on
        self._threads: dict[int, threading.Thread] = {}
        self._has_ended = False

    def submit(self, job: Callable[[], None]) -> None:
        """Let a thread call `job`, which must raise nothing, when one is free."""
        if self._has_ended:
            return
        self._jobs.put(job)
        try:
            self._idle.pop()
        except IndexError:
            self._start()

    def end(self) -> None:
        """Begin no more work, and let idle threads end."""
        self._has_ended = True
        for _ in self._threads.copy():
            self._jobs.put(None)

    def join(self, until: float) -> None:
        """Wait for the threads to end, until some time of `monotonic`."""
        for thread in self._threads.copy().values():
            thread.join(max(0.0, until - monotonic()))

    def _start(self) -> None:
        try:
            place = self._places.pop()
        except IndexError:  # all are at work: one of them will come to it
            return
        thread = threading.Thread(
            target=self._work, args=(place,), name=f"{self._name}-{place}", daemon=True
        )
        self._threads[place] = thread
        try:
            thread.start()
        except RuntimeError:  # there may be no more threads, or the interpreter ends
            self._leave(place)

    def _work(self, place: int) -> None:
        try:
            while not self._has_ended and (job := self._next()) is not None:
                job()
                del job  # while this thread waits it holds nothing
        finally:
            self._leave(place)

    def _leave(self, place: int) -> None:
        self._threads.pop(place, None)
        self._places.append(place)

    def _next(self) -> Callable[[], None] | None:
        """Return the next job, or None if there was none for a while."""
        while True:
            try:
                return self._jobs.get_nowait()
            except Empty:
                self._idle.append(None)
            try:
                return self._jobs.get(timeout=IDLE_SECONDS)
            except Empty:
                pass
            try:
                self._idle.pop()
            except IndexError:  # somebody counts on this thread
                continue
            return None


def in_threads(work: Callable[[int], Done], n: int) -> list[Done]:
    """Return ``work(i)`` for each i of ``range(n)``, done in this and other threads at once.

    Each thread takes the next as soon as it is done with one, so all are busy up to the last.

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
    scope = current_scope()

    def take() -> None:
        while left:
            if scope is not None:
                scope.check()
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
        helpers = [in_a_thread(take) for _ in range(min(n, n_cpus()) - 1)]
        take()
        for helper in helpers:
            helper.result()
    finally:
        left.clear()
    if failed:  # those before the first were begun before it
        raise failed[min(failed)]
    return [done[i] for i in range(n)]


def in_a_thread(work: Callable[[], Done]) -> Task[Done]:
    """Let a thread that decodes do some work, as part of what this thread works for."""
    task = Task(work, current_scope())
    decoders.submit(task.run)
    return task


@contextmanager
def alongside(work: Callable[[], object]) -> Iterator[threading.Thread]:
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

    thread = threading.Thread(target=run, name="arraystore-alongside")
    thread.start()
    try:
        yield thread
    finally:
        thread.join()


def n_cpus() -> int:
    """Return the number of processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _make_pools() -> None:
    """Make the pools of this process: threads do not survive a fork."""
    global decoders, readers
    decoders = Pool("arraystore-decode", n_cpus())
    readers = Pool("arraystore-read-ahead", max(_MIN_READERS, 2 * n_cpus()))
    _scopes.clear()


decoders: Pool
"""Threads that decode, as many as there are processors."""

readers: Pool
"""Threads that read ahead of loops."""


def _end() -> None:
    """Cancel what threads are at, and wait a little for them: they need the interpreter."""
    pools = (readers, decoders)
    for pool in pools:
        pool.end()
    for scope in list(_scopes.values()):
        scope.cancel()
    until = monotonic() + _PATIENCE
    for pool in pools:
        pool.join(until)


_make_pools()
os.register_at_fork(after_in_child=_make_pools)
atexit.register(_end)
