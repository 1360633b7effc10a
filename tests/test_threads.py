"""Work divided among threads, tasks, pools and scopes."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from arraystore._threads import (
    Pool,
    Scope,
    Task,
    WorkCancelledError,
    alongside,
    current_scope,
    in_threads,
    n_cpus,
)
from arraystore.reading.read_ahead import ahead
from tests.support import no_threads_are_left

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


def test_in_threads_uses_all_processors() -> None:
    meeting = threading.Barrier(n_cpus(), timeout=30)
    assert in_threads(lambda _: meeting.wait(), n_cpus()) != [0] * n_cpus() or n_cpus() == 1


def test_alongside_runs_in_a_thread_that_ends() -> None:
    began, released, ran_in = threading.Event(), threading.Event(), []

    def work() -> None:
        began.set()
        assert released.wait(30)
        ran_in.append(threading.current_thread())

    with alongside(work):
        assert began.wait(30)
        released.set()
    (thread,) = ran_in
    assert thread is not threading.current_thread()
    assert not thread.is_alive()


def test_alongside_drops_errors_of_work_only() -> None:
    def fail() -> None:
        raise ImportError("of the work")

    with alongside(fail):
        pass
    before = threading.active_count()
    with pytest.raises(ValueError, match="of the body"), alongside(fail):
        raise ValueError("of the body")
    assert threading.active_count() == before


def test_in_threads_returns_results_in_order() -> None:
    second = threading.Event()

    def work(i: int) -> int:
        if i == 0 and n_cpus() > 1:
            assert second.wait(30)
        second.set()
        return -i

    assert in_threads(work, 50) == [-i for i in range(50)]


def test_in_threads_stops_after_an_error() -> None:
    begun: list[int] = []

    def work(i: int) -> None:
        begun.append(i)
        raise ValueError(i)

    with pytest.raises(ValueError, match=r"^0$"):
        in_threads(work, 500)
    assert len(begun) <= n_cpus()


@pytest.mark.skipif(n_cpus() < 2, reason="needs two processors")
def test_in_threads_raises_the_first_error_in_order() -> None:
    both = threading.Barrier(2, timeout=30)

    def work(i: int) -> None:
        both.wait()
        raise ValueError(i)

    with pytest.raises(ValueError, match=r"^0$"):
        in_threads(work, 2)


@pytest.mark.skipif(n_cpus() < 2, reason="needs two processors")
def test_in_threads_runs_beside_another_call() -> None:
    ended = threading.Event()

    def long(i: int) -> bool:
        return i > 0 or ended.wait(30)  # the first holds one thread until the other call is done

    with ThreadPoolExecutor(1) as caller:
        waiting = caller.submit(in_threads, long, 2)
        in_threads(lambda _: None, 2 * n_cpus())
        ended.set()
        assert waiting.result() == [True, True]


# Tasks, pools and scopes


def test_task_is_run_by_the_waiting_thread() -> None:
    pool = Pool("arraystore-test", 0)
    task = Task(threading.get_ident, None)
    pool.submit(task.run)
    assert task.result() == threading.get_ident()


def test_nested_tasks_of_a_full_pool_end() -> None:
    pool = Pool("arraystore-test", 1)

    def submitted(work: Callable[[], int]) -> Task[int]:
        task = Task(work, None)
        pool.submit(task.run)
        return task

    outer = [submitted(lambda: submitted(lambda: 1).result() + 1) for _ in range(20)]
    assert [task.result() for task in outer] == [2] * 20


def test_pool_limits_its_threads() -> None:
    pool = Pool("arraystore-bounded", 3)
    most: list[int] = []

    def work() -> None:
        most.append(sum(t.name.startswith("arraystore-bounded") for t in threading.enumerate()))

    tasks = [Task(work, None) for _ in range(200)]
    for task in tasks:
        pool.submit(task.run)
    for task in tasks:
        task.result()
    assert max(most) <= 3


def test_work_is_done_without_new_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert in_threads(lambda i: -i, 100) == [-i for i in range(100)]
    assert list(ahead((i for i in range(9)), lambda i: -i, n_threads=2)) == [-i for i in range(9)]


def test_ended_pool_leaves_work_to_the_waiting_thread() -> None:
    pool = Pool("arraystore-test", 2)
    pool.end()
    task = Task(lambda: 1, None)
    pool.submit(task.run)
    assert task.result() == 1


def test_idle_threads_end() -> None:
    in_threads(lambda i: i, 50)
    list(ahead((i for i in range(9)), lambda i: i))
    assert no_threads_are_left()


def test_cancelled_scope_ends_all_its_work() -> None:
    scope = Scope()
    begun: list[int] = []

    def work(i: int) -> None:
        begun.append(i)
        scope.cancel()

    with pytest.raises(WorkCancelledError):
        scope.run(in_threads, work, 500)
    assert len(begun) <= n_cpus()
    assert current_scope() is None


def test_cancelled_scope_calls_its_wakers() -> None:
    scope, woken = Scope(), threading.Event()
    with scope.waking(woken.set):
        scope.cancel()
    assert woken.is_set()
    with pytest.raises(WorkCancelledError), scope.waking(woken.set):
        pass


def test_iterator_freed_in_its_own_thread_does_not_wait() -> None:
    held: deque[Generator[int]] = deque()
    begun, freed = threading.Event(), threading.Event()

    def work(i: int) -> int:
        if i == 1:
            begun.set()
            assert freed.wait(30)
            held.pop().close()  # as the garbage collector might, in the middle of the work
            freed.clear()
        return i

    loop = ahead((i for i in range(9)), work)
    assert next(loop) == 0
    assert begun.wait(30)
    held.append(loop)
    del loop
    freed.set()
    assert no_threads_are_left()
    assert not freed.is_set()
    assert not held
