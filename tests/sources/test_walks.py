"""Walks of many archives in an executor: in order, several in a task."""

from __future__ import annotations

import io
import tarfile
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import pytest
from typing_extensions import override

from arraystore.sources.walks import Walk, walk_all

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

P = ParamSpec("P")
T = TypeVar("T")


class Counting(ThreadPoolExecutor):
    """Two threads; counts the tasks."""

    n_tasks = 0

    def __init__(self) -> None:
        super().__init__(2)

    @override
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        self.n_tasks += 1
        return super().submit(fn, *args, **kwargs)


@pytest.mark.parametrize(("n", "n_tasks"), [(0, 0), (1, 1), (31, 31), (40, 20), (320, 20)])
def test_tasks_walk_several_of_many_archives(n: int, n_tasks: int, tmp_path: Path) -> None:
    walks = []
    for i in range(n):
        path = tmp_path / f"{i % 50}.tar"
        walks.append(Walk(path, path.name))
        with tarfile.open(path, "w") as archive:
            info = tarfile.TarInfo(f"{i % 50}.jpg")
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))
    with Counting() as executor:
        names = [list(members.names) for members in walk_all(executor, walks)]
        assert executor.n_tasks == n_tasks
    assert names == [[f"{i % 50}.jpg"] for i in range(n)]
