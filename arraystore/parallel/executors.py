"""Run tasks in an executor: threads, processes, or the workers of a cluster.

A task must give the same result, and write the same bytes, if it runs twice: a scheduler repeats
the tasks of a worker that died, and may not know that it had completed one.
"""

from __future__ import annotations

from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from contextlib import suppress
from functools import partial
from itertools import chain
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from arraystore._threads import Scope, next_of
from arraystore.errors import WorkersLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from types import TracebackType

Item = TypeVar("Item")
Argument = TypeVar("Argument")
Done = TypeVar("Done")

_PER_WORKER: Final = 2
"""Tasks per worker that are submitted: one runs while the next is on its way."""

_LOST: Final = (
    "the executor has cancelled tasks: it was shut down, or the connection to its workers is lost"
)

_CHECKED_SECONDS: Final = 0.5
"""Seconds after which the connection to a cluster is looked at."""

_CLOSED: Final = "ClosedClientError"
"""Name of what distributed raises if the scheduler is lost; others raise a RuntimeError."""

_UNKNOWN_WORKERS: Final = 32
"""Assumed number of workers of an executor that does not state it."""


def n_workers(executor: Executor) -> int:
    """Return the number of tasks that an executor runs at a time.

    Examples
    --------
    >>> with ThreadPoolExecutor(3) as pool:
    ...     n_workers(pool)
    3
    """
    if _is_distributed(executor):  # nothing public states it
        return max(1, sum(map(int, vars(executor)["_client"].nthreads().values())))
    for name in ("num_workers", "_max_workers"):  # mpi4py; the standard library and loky
        found = getattr(executor, name, None)
        if isinstance(found, int) and found > 0:
            return found
    return _UNKNOWN_WORKERS


def _is_distributed(executor: Executor) -> bool:
    """Whether an executor is `distributed.Client.get_executor()`."""
    return type(executor).__module__.startswith("distributed.")


def in_order(results: Iterable[tuple[int, Done]]) -> Generator[Done]:
    """Yield numbered results by their numbers, which count from 0; early ones are kept meanwhile.

    Examples
    --------
    >>> list(in_order([(1, "b"), (0, "a"), (2, "c")]))
    ['a', 'b', 'c']
    """
    early: dict[int, Done] = {}
    following = 0
    for number, result in results:
        early[number] = result
        while following in early:
            yield early.pop(following)
            following += 1


class _Packed:
    """Work that the task itself unpickles, so that a failure is an error of the task.

    If a worker of distributed fails to unpickle a task, it dies, and so does the next one.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __call__(self, argument: Any) -> Any:
        from distributed.protocol import pickle

        serializer: Any = pickle  # its functions have no annotations
        try:
            work = serializer.loads(self._data)
        except Exception as error:
            error.add_note(
                "a worker of the cluster could not receive the function: its modules must be "
                "installed there, or sent with Client.upload_file"
            )
            raise
        return work(argument)


def packed(
    work: Callable[[Argument], Done], executor: Executor | None
) -> Callable[[Argument], Done]:
    """Return work that calls a function of the user, in the form in which an executor gets it."""
    if executor is None or not _is_distributed(executor):
        return work
    from distributed.protocol import pickle

    serializer: Any = pickle
    return _Packed(bytes(serializer.dumps(work)))


def _check_connected(executor: Executor) -> None:
    """Raise if the connection is lost; distributed leaves some futures pending for ever then."""
    if _is_distributed(executor) and vars(executor)["_client"].status == "closed":
        raise WorkersLostError(_LOST)


class Workers:
    """Run tasks in an executor of the caller, or in threads of this process.

    A context; its threads end with it, and an executor of the caller stays usable.

    Parameters
    ----------
    executor : concurrent.futures.Executor or None
    n_threads : int
        Threads, if there is no executor.
    max_in_flight : int
        Tasks that are submitted and not completed, if there is no executor.

    Attributes
    ----------
    notes : list of str
        What the caller should know, such as that a process died.
    """

    def __init__(self, executor: Executor | None, *, n_threads: int, max_in_flight: int) -> None:
        self._executor = executor
        self._n_threads, self._max_in_flight = n_threads, max_in_flight
        self._threads: ThreadPoolExecutor | None = None
        self.notes: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)

    @property
    def is_here(self) -> bool:
        """Whether tasks run in threads of this process."""
        return self._executor is None

    def run(
        self,
        work: Callable[[Argument], Done],
        tasks: Iterable[tuple[Item, Argument]],
        *,
        here: bool = False,
    ) -> Generator[tuple[Item, Done]]:
        """Run tasks, a bounded number at a time; yield results in the order of completion.

        The caller must close the generator. Closing waits for the tasks that run, because they
        may write to a place that is about to be removed or resumed; their network requests are
        cancelled first if they run in threads.

        Parameters
        ----------
        work : callable
            What a task does with its argument. It and the arguments can be pickled.
        tasks : iterable of (item, argument)
            The item comes with the result.
        here : bool, default False
            Whether to use threads of this process even if there is an executor.

        Raises
        ------
        WorkersLostError
            If the executor cancels tasks: it was shut down, or the connection to it is lost.
        """
        left = iter(tasks)
        if self._executor is not None and not here:
            lost: list[tuple[Item, Argument]] = []
            n_in_flight = _PER_WORKER * n_workers(self._executor)
            yield from _completed(self._executor, work, left, n_in_flight, lost)
            if not lost:
                return
            self._executor = None
            self.notes.append(
                "a process of the executor died; this process did the rest of the work in threads"
            )
            left = chain(lost, left)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._n_threads)
        yield from _completed(self._threads, work, left, self._max_in_flight, [])


def _completed(
    executor: Executor,
    work: Callable[[Argument], Done],
    tasks: Iterator[tuple[Item, Argument]],
    n_in_flight: int,
    lost: list[tuple[Item, Argument]],
) -> Generator[tuple[Item, Done]]:
    """Run tasks until the executor breaks; add those that it has not completed to `lost`."""
    # Work in another process cannot be cancelled.
    scope = Scope() if isinstance(executor, ThreadPoolExecutor) else None
    call: Callable[..., Done] = work if scope is None else partial(scope.run, work)
    # Otherwise distributed may return the result of an equal task that wrote an earlier file.
    keywords: dict[str, Any] = {"pure": False} if _is_distributed(executor) else {}
    running: dict[Future[Done], tuple[Item, Argument]] = {}
    ended: SimpleQueue[Future[Done]] = SimpleQueue()
    is_broken = False
    try:
        while True:
            while not is_broken and len(running) < n_in_flight:
                task = next(tasks, None)
                if task is None:
                    break
                try:
                    future = executor.submit(call, task[1], **keywords)
                except BrokenExecutor:
                    lost.append(task)
                    is_broken = True
                    break
                except Exception as error:
                    if isinstance(error, RuntimeError) or type(error).__name__ == _CLOSED:
                        raise WorkersLostError(f"the executor takes no tasks: {error}") from error
                    raise
                running[future] = task
                future.add_done_callback(ended.put)
            if not running:
                return
            future = next_of(ended, partial(_check_connected, executor))
            task = running.pop(future)
            try:
                done = future.result()
            except BrokenExecutor:
                lost.append(task)
                is_broken = True
                continue
            except CancelledError:
                raise WorkersLostError(_LOST) from None
            yield task[0], done
    finally:
        # A future of distributed can be cancelled while its task runs, and says nothing of its end.
        left = [f for f in running if _is_distributed(executor) or not f.cancel()]
        if scope is not None:
            scope.cancel()
        with suppress(WorkersLostError):
            while wait(left, timeout=_CHECKED_SECONDS).not_done:
                _check_connected(executor)
