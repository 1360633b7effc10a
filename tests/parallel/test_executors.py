"""Tasks in executors: results, bounds, workers that die, and a lost connection."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from contextlib import closing
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import pytest
from typing_extensions import override

import arraystore
from arraystore.errors import SourceError, WorkersLostError
from arraystore.parallel.executors import Workers, n_workers
from tests.support import picture, write_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

P = ParamSpec("P")
T = TypeVar("T")


def squares(n: int) -> Iterator[tuple[str, int]]:
    return ((f"item {i}", i) for i in range(n))


def square(i: int) -> int:
    return i * i


def die_once(task: tuple[Path, int]) -> int:
    """Kill the process that runs the task 5 for the first time."""
    marker, i = task
    if i == 5 and not marker.exists():
        marker.touch()
        os._exit(1)
    return i * i


def expected(n: int) -> dict[str, int]:
    return {f"item {i}": i * i for i in range(n)}


def workers(executor: Executor | None, n_threads: int = 2, max_in_flight: int = 4) -> Workers:
    return Workers(executor, n_threads=n_threads, max_in_flight=max_in_flight)


@pytest.mark.parametrize("n", [0, 1, 50])
def test_all_tasks_run_in_threads(n: int) -> None:
    with workers(None) as pool:
        assert dict(pool.run(square, squares(n))) == expected(n)
    assert not pool.notes


def test_results_come_in_the_order_of_completion() -> None:
    first_may_end = threading.Event()

    def work(i: int) -> int:
        if i == 0:
            first_may_end.wait()
        return i

    found = []
    with workers(None) as pool:
        for item, _ in pool.run(work, squares(6)):
            found.append(item)
            if len(found) == 3:  # a slow task does not keep the others waiting
                first_may_end.set()
    assert sorted(found) == sorted(expected(6))
    assert "item 0" not in found[:3]


def test_closing_waits_for_tasks_that_run() -> None:
    has_begun, may_end = threading.Event(), threading.Event()
    ended: list[int] = []

    def work(i: int) -> int:
        if i:
            has_begun.set()
            may_end.wait()
            ended.append(i)
        else:
            has_begun.wait()
        return i

    with workers(None) as pool, closing(pool.run(work, squares(50))) as running:
        assert next(running)[0] == "item 0"
        threading.Timer(0.05, may_end.set).start()
    assert 0 < len(ended) <= 4


def test_tasks_of_a_process_that_died_run_in_threads(tmp_path: Path) -> None:
    tasks = ((f"item {i}", (tmp_path / "died", i)) for i in range(20))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context) as processes, workers(processes) as pool:
        assert dict(pool.run(die_once, tasks)) == expected(20)
        assert len(pool.notes) == 1
        assert "died" in pool.notes[0]
        assert dict(pool.run(square, squares(3))) == expected(3)  # the executor stays unused


class Losing(Executor):
    """An executor that cancels a task, as one does whose scheduler is gone."""

    num_workers = 3

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []

    @override
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        self.futures.append(future)
        if len(self.futures) == 4:
            for lost in self.futures[2:]:
                lost.cancel()
                lost.set_running_or_notify_cancel()
        elif len(self.futures) < 3:
            future.set_result(fn(*args, **kwargs))
        return future


def test_tasks_that_are_cancelled_elsewhere_are_an_error() -> None:
    losing = Losing()
    found: list[tuple[str, int]] = []
    with (
        workers(losing) as pool,
        pytest.raises(WorkersLostError, match="connection to its workers is lost"),
    ):
        found.extend(pool.run(square, squares(50)))
    assert found == [("item 0", 0), ("item 1", 1)]
    assert all(future.done() for future in losing.futures)


def test_error_of_a_task_is_raised() -> None:
    with workers(None) as pool, pytest.raises(ZeroDivisionError):
        list(pool.run(lambda i: 1 // (i - 20), squares(50)))


def test_tasks_may_run_here_beside_an_executor() -> None:
    with ThreadPoolExecutor(1) as threads, workers(threads) as pool:
        idents = {thread for _, thread in pool.run(lambda _: threading.get_ident(), squares(3))}
        here = pool.run(lambda _: threading.get_ident(), squares(3), here=True)
        assert idents.isdisjoint({thread for _, thread in here})


class Unknown(Executor):
    """An executor that does not state how many workers it has."""


def test_number_of_workers_is_that_of_the_executor() -> None:
    with ThreadPoolExecutor(3) as threads, ProcessPoolExecutor(2) as processes:
        assert [n_workers(threads), n_workers(processes), n_workers(Losing())] == [3, 2, 3]
    assert n_workers(Unknown()) == 32


def test_forked_pool_does_not_keep_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "photos", {f"a/{i}.jpg": picture(seed=i) for i in range(3)})
    monkeypatch.setattr(sys.modules["arraystore.convert"], "seal", broken)
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(1, context) as pool:
        with pytest.raises(SourceError, match="broken"):
            # The process is forked to read headers, when the workspace is locked already.
            arraystore.convert(f"folder:{tmp_path / 'photos'}", tmp_path / "a.h5", executor=pool)
        monkeypatch.undo()
        arraystore.convert(f"folder:{tmp_path / 'photos'}", tmp_path / "a.h5", resume=True)
    assert arraystore.verify(tmp_path / "a.h5").ok


def broken(*_: object) -> None:
    raise SourceError("broken")


def test_report_says_once_that_a_process_died(tmp_path: Path) -> None:
    names = [f"{split}/a/{i}.jpg" for split in ("train", "test") for i in range(3)]
    write_folder(tmp_path / "photos", {name: picture(seed=i) for i, name in enumerate(names)})
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        with pytest.raises(BrokenExecutor):
            pool.submit(os._exit, 1).result()
        report = arraystore.convert(
            f"folder:{tmp_path / 'photos'}", tmp_path / "a.h5", executor=pool
        )
    assert ["died" in note for note in report.notes] == [True]
    assert len(report.splits) == 2
