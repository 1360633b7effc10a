"""Walk many tar archives at the same time, in the workers of an executor."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from arraystore.parallel.executors import Workers, in_order, n_workers
from arraystore.sources.tar import TarMembers, open_archive, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from concurrent.futures import Executor

    from arraystore.storage.buckets import SourcePath

_TASKS_PER_WORKER: Final = 8
_MOST_PER_TASK: Final = 16
"""Archives that a task walks at most: walking a small one takes less time than sending a task."""


@dataclass(frozen=True, slots=True)
class Walk:
    """The walk of one archive, or of one in another; see `arraystore.sources.tar.walk`.

    Attributes
    ----------
    path : Path or ObjectPath
    location : str
    start, stop : int
    partial, frames : bool
        See there.
    keep : callable, optional
        See there; it can be pickled.
    """

    path: SourcePath
    location: str = ""
    start: int = 0
    stop: int | None = None
    partial: bool = False
    keep: Callable[[str, int], int] | None = None
    frames: bool = False


def walk_all(executor: Executor, walks: Iterable[Walk]) -> Generator[TarMembers]:
    """Walk archives in an executor; yield their members in the order of the archives.

    Raises
    ------
    SourceError
        If an archive is damaged, or of another format.
    """
    wanted = [_portable(one) for one in walks]
    size = max(1, min(_MOST_PER_TASK, len(wanted) // (_TASKS_PER_WORKER * n_workers(executor))))
    starts = range(0, len(wanted), size)
    tasks = ((number, wanted[first : first + size]) for number, first in enumerate(starts))
    with (
        Workers(executor, n_threads=1, max_in_flight=1) as workers,
        closing(workers.run(_walk, tasks)) as found,
    ):
        for members in in_order(found):
            yield from members


def _portable(one: Walk) -> Walk:
    return replace(one, path=one.path.absolute()) if isinstance(one.path, Path) else one


def _walk(some: list[Walk]) -> list[TarMembers]:
    return [_walk_one(one) for one in some]


def _walk_one(one: Walk) -> TarMembers:
    with open_archive(one.path, is_one_of_many=True) as archive:
        return walk(
            archive,
            one.location,
            start=one.start,
            stop=one.stop,
            partial=one.partial,
            keep=one.keep,
            frames=one.frames,
        )
