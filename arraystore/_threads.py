"""The threads of a process: a bounded number, shared by all iterators and calls.

Threads receive work as a `Task`. If no thread has begun a task, the thread that waits for its
result runs it. So nothing waits for a thread to become free or to start, or hangs after a fork.

Unneeded work is cancelled through its `Scope`, without locks and without waiting. A finalizer may
therefore cancel: the garbage collector runs it in any thread, between any two instructions.
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

_SIGNAL_SECONDS: Final = 0.5
"""Most seconds until a signal is handled that arrived just before the thread began to wait."""

_PATIENCE: Final = 5.0
"""Seconds to wait at the exit of the interpreter for work that cannot be interrupted."""

_MIN_READERS: Final = 32
"""Threads that read ahead on a machine with few processors; they mostly wait."""


class WorkCancelledError(BaseException):
    """Work was cancelled. Raised in the thread that runs it; never reaches the user."""


class Scope:
    """Work that is cancelled together, such as all tasks of one iterator.

    Attributes
    ----------
    is_cancelled : bool
    """

    __slots__ = ("_wakers", "is_cancelled")

    def __init__(self) -> None:
        self.is_cancelled = False
        self._wakers: dict[object, Callable[[], object]] = {}

    def cancel(self) -> None:
        """End the work soon and begin no more of it; return without waiting or locking."""
        self.is_cancelled = True
        for wake in list(self._wakers.values()):
            wake()

    def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Return ``work(*arguments)``, run in this thread as part of the scope."""
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
"""The scope that each thread works for, by the number of the thread."""


def current_scope() -> Scope | None:
    """Return the scope that this thread works for, or None."""
    return _scopes.get(threading.get_ident())


class Task(Generic[Done]):
    """Work for a thread of a pool, or for the thread that waits for the result.

    Parameters
    ----------
    work : callable
        Called once at most, without arguments.
    scope : Scope, optional
        The scope that it is part of.
    """

    __slots__ = ("_done", "_ended", "_error", "_scope", "_work")

    def __init__(self, work: Callable[[], Done], scope: Scope | None) -> None:
        self._work = deque((work,))  # the thread that pops it runs it
        self._scope = scope
        self._ended = threading.Event()
        self._done: Done
        self._error: BaseException | None = None

    def run(self) -> None:
        """Run the work, unless it has begun."""
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
        """Return the result of the work, or raise its error; to be called once."""
        self.run()
        self._ended.wait()
        if self._error is not None:
            error, self._error = self._error, None
            try:
                raise error
            finally:
                del error  # its traceback refers to this frame
        return self._done

    def cancel(self) -> None:
        """Do not begin the work, if it has not begun."""
        self._work.clear()


class Pool:
    """Threads that start when there is work and end after a while without work.

    The pool has no lock. A task may lack a thread for a moment, which does no harm: the thread
    that waits for a task runs it if it has not begun.

    Parameters
    ----------
    name : str
        Prefix of the names of the threads.
    most : int
        Most threads at a time.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._places = deque(range(most))  # a thread holds one while it lives
        self._idle: deque[None] = deque()  # one for each waiting thread that no job counts on
        self._threads: dict[int, threading.Thread] = {}
        self._has_ended = False

    def submit(self, job: Callable[[], None]) -> None:
        """Call `job`, which must not raise, in the next free thread."""
        if self._has_ended:
            return
        self._jobs.put(job)
        try:
            self._idle.pop()
        except IndexError:
            self._start()

    def end(self) -> None:
        """Begin no more work, and end idle threads."""
        self._has_ended = True
        for _ in self._threads.copy():
            self._jobs.put(None)

    def join(self, until: float) -> None:
        """Wait for the threads to end, until `monotonic` reaches `until`."""
        for thread in self._threads.copy().values():
            thread.join(max(0.0, until - monotonic()))

    def _start(self) -> None:
        try:
            place = self._places.pop()
        except IndexError:  # all are busy: one of them will take the job
            return
        thread = threading.Thread(
            target=self._work, args=(place,), name=f"{self._name}-{place}", daemon=True
        )
        self._threads[place] = thread
        try:
            thread.start()
        except RuntimeError:  # no more threads are allowed, or the interpreter ends
            self._leave(place)

    def _work(self, place: int) -> None:
        try:
            while not self._has_ended and (job := self._next()) is not None:
                job()
                del job  # an idle thread must not keep objects alive
        finally:
            self._leave(place)

    def _leave(self, place: int) -> None:
        self._threads.pop(place, None)
        self._places.append(place)

    def _next(self) -> Callable[[], None] | None:
        """Return the next job, or None after `IDLE_SECONDS` without one."""
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
            except IndexError:  # a job counts on this thread
                continue
            return None


def next_of(queue: SimpleQueue[T], check: Callable[[], object] = lambda: None) -> T:
    """Wait for the next item of a queue, such that Ctrl-C always ends the wait.

    A signal wakes a thread that waits, but not one that is about to: it would wait for the item.

    Parameters
    ----------
    queue : SimpleQueue
    check : callable, optional
        Called about every half second; may raise.
    """
    while True:
        with suppress(Empty):
            return queue.get(timeout=_SIGNAL_SECONDS)
        check()


def in_threads(work: Callable[[int], Done], n: int) -> list[Done]:
    """Return ``work(i)`` for each i of ``range(n)``, run in this and other threads.

    Each thread takes the next i as soon as it has finished one, so all are busy until the last.

    Raises
    ------
    Exception
        The error of the first i that failed. No more calls begin after an error.

    Examples
    --------
    >>> in_threads(lambda i: i * i, 5)
    [0, 1, 4, 9, 16]
    """
    if n < 2:
        return [work(i) for i in range(n)]
    left = deque(range(n))  # several threads may pop from a deque
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
    if failed:  # calls with a smaller i have begun before
        raise failed[min(failed)]
    return [done[i] for i in range(n)]


def in_a_thread(work: Callable[[], Done]) -> Task[Done]:
    """Submit work to the decoding threads, in the scope of this thread."""
    task = Task(work, current_scope())
    decoders.submit(task.run)
    return task


@contextmanager
def alongside(work: Callable[[], object]) -> Iterator[threading.Thread]:
    """Run `work` in a separate thread, which has ended when the context exits.

    Errors of `work` are dropped: it prepares a step that is repeated, and raises again, later.

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
    """Make the pools of this process; threads do not survive a fork."""
    global decoders, readers
    decoders = Pool("arraystore-decode", n_cpus())
    readers = Pool("arraystore-read-ahead", max(_MIN_READERS, 2 * n_cpus()))
    _scopes.clear()


decoders: Pool
"""Threads that decode: one for each processor."""

readers: Pool
"""Threads that read ahead of iterators."""


def _end() -> None:
    """Cancel the work of all threads and wait a little for them; they need the interpreter."""
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
