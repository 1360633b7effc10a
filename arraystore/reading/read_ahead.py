"""Work ahead of a loop in threads, on a limited number of items at a time."""

from __future__ import annotations

import os
from collections import deque
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Generic, TypeVar

from arraystore import _threads as threads
from arraystore._threads import Scope, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

T = TypeVar("T")
Done = TypeVar("Done")


def ahead(
    items: Generator[T],
    work: Callable[[T], Done],
    *,
    n_ahead: int = 2,
    n_threads: int = 1,
    prepare: Callable[[], object] | None = None,
) -> Generator[Done]:
    """Yield ``work(item)`` of every item, in order, while the next ones are worked on.

    The threads belong to the process, not to the loop. When the loop is left, or freed by the
    garbage collector in any thread, work that has not begun is cancelled, work that waits for a
    network is woken and ends, and `items` is closed. This waits for nothing; running work may end
    a moment later. An exception in `work` or in `items` is raised when its turn comes. A loop
    continues in a process that was forked in the middle.

    Parameters
    ----------
    items : generator
    work : callable
        Called in other threads, or in this one if none has begun.
    n_ahead : int, default 2
        Most items that are being worked on, or done and not yet yielded.
    n_threads : int, default 1
        Most items that other threads work on at the same time.
    prepare : callable, optional
        Called first, in this thread: must import whatever `work` would import.

    Examples
    --------
    >>> list(ahead((i for i in range(5)), lambda i: i * i))
    [0, 1, 4, 9, 16]
    """
    process = os.getpid()
    scope = Scope()
    queue = _Queue[Done](scope, n_threads)
    running: deque[tuple[T, Task[Done]]] = deque()
    failure: Exception | None = None

    def begin(n: int) -> None:
        nonlocal failure
        try:
            running.extend((item, queue.add(partial(work, item))) for item in islice(items, n))
        except Exception as error:  # noqa: BLE001 - raised when its turn comes
            failure = error

    try:
        if prepare is not None:
            prepare()
        begin(n_ahead)
        while running:
            if os.getpid() != process:  # forked: the threads are in the parent
                process, scope = os.getpid(), Scope()
                queue = _Queue[Done](scope, n_threads)
                running = deque((item, queue.add(partial(work, item))) for item, _ in running)
            _, task = running.popleft()
            done = task.result()
            begin(1)
            yield done
        if failure is not None:
            raise failure
    finally:
        # The garbage collector runs this too: it must not wait or take a lock.
        scope.cancel()
        failure = None  # its traceback refers to this frame
        items.close()


class _Queue(Generic[Done]):
    """Tasks of one loop, a limited number at a time.

    Parameters
    ----------
    scope : Scope
        Scope of the tasks.
    n_threads : int
        Most threads that work on them.
    """

    def __init__(self, scope: Scope, n_threads: int) -> None:
        self._scope = scope
        self._waiting: deque[Task[Done]] = deque()
        self._places = deque(range(n_threads))  # a thread holds one while it works here

    def add(self, work: Callable[[], Done]) -> Task[Done]:
        """Return a task that begins after those before it."""
        task = Task(work, self._scope)
        self._waiting.append(task)
        if self._places:
            threads.readers.submit(self._work)
        return task

    def _work(self) -> None:
        """Run tasks in a thread of the pool until none is left."""
        while self._waiting:
            try:
                place = self._places.pop()
            except IndexError:  # enough threads work; each looks again before it leaves
                return
            try:
                while self._waiting:
                    self._waiting.popleft().run()
            except IndexError:  # another thread was faster
                pass
            finally:
                self._places.append(place)
