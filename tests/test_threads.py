"""Work divided among threads: all busy, one order of results, one error."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from arraystore.threads import alongside, in_threads, n_cpus


def test_all_threads_work_at_once() -> None:
    meeting = threading.Barrier(n_cpus(), timeout=30)
    assert in_threads(lambda _: meeting.wait(), n_cpus()) != [0] * n_cpus() or n_cpus() == 1


def test_work_alongside_runs_in_another_thread_which_has_ended() -> None:
    began, goes_on, ran_in = threading.Event(), threading.Event(), []

    def work() -> None:
        began.set()
        assert goes_on.wait(30)
        ran_in.append(threading.current_thread())

    with alongside(work):
        assert began.wait(30)
        goes_on.set()
    (thread,) = ran_in
    assert thread is not threading.current_thread()
    assert not thread.is_alive()


def test_error_of_work_alongside_is_dropped_and_that_of_the_body_is_raised() -> None:
    def fail() -> None:
        raise ImportError("of the work")

    with alongside(fail):
        pass
    before = threading.active_count()
    with pytest.raises(ValueError, match="of the body"), alongside(fail):
        raise ValueError("of the body")
    assert threading.active_count() == before


def test_results_are_in_order_whichever_comes_first() -> None:
    second = threading.Event()

    def work(i: int) -> int:
        if i == 0 and n_cpus() > 1:
            assert second.wait(30)
        second.set()
        return -i

    assert in_threads(work, 50) == [-i for i in range(50)]


def test_when_one_has_failed_the_rest_is_left() -> None:
    begun: list[int] = []

    def work(i: int) -> None:
        begun.append(i)
        raise ValueError(i)

    with pytest.raises(ValueError, match=r"^0$"):
        in_threads(work, 500)
    assert len(begun) <= n_cpus()


@pytest.mark.skipif(n_cpus() < 2, reason="needs two processors")
def test_of_two_errors_the_first_in_order_is_raised() -> None:
    both = threading.Barrier(2, timeout=30)

    def work(i: int) -> None:
        both.wait()
        raise ValueError(i)

    with pytest.raises(ValueError, match=r"^0$"):
        in_threads(work, 2)


@pytest.mark.skipif(n_cpus() < 2, reason="needs two processors")
def test_a_call_begins_where_another_has_no_more_for_a_thread() -> None:
    ended = threading.Event()

    def long(i: int) -> bool:
        return i > 0 or ended.wait(30)  # the first holds one thread until the other call is done

    with ThreadPoolExecutor(1) as caller:
        waiting = caller.submit(in_threads, long, 2)
        in_threads(lambda _: None, 2 * n_cpus())
        ended.set()
        assert waiting.result() == [True, True]
