"""Walk many tar archives at the same time, in the workers of an executor."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from arraystore.parallel.executors import Workers, in_order
from arraystore.sources.tar import TarMembers, open_archive, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from concurrent.futures import Executor

    from arraystore.storage.buckets import SourcePath


@dataclass(frozen=True, slots=True)
class Walk:
    """The walk of one archive, or of one in another; see `arraystore.sources.tar.walk`.

    Attributes
    ----------
    path : Path or ObjectPath
    location : str
    start, stop : int
    partial : bool
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


def walk_all(executor: Executor, walks: Iterable[Walk]) -> Generator[TarMembers]:
    """Walk archives in an executor; yield their members in the order of the archives.

    Raises
    ------
    SourceError
        If an archive is damaged, or of another format.
    """
    tasks = ((number, _portable(one)) for number, one in enumerate(walks))
    with (
        Workers(executor, n_threads=1, max_in_flight=1) as workers,
        closing(workers.run(_walk, tasks)) as found,
    ):
        yield from in_order(found)


def _portable(one: Walk) -> Walk:
    return replace(one, path=one.path.absolute()) if isinstance(one.path, Path) else one


def _walk(one: Walk) -> TarMembers:
    with open_archive(one.path, is_one_of_many=True) as archive:
        return walk(
            archive,
            one.location,
            start=one.start,
            stop=one.stop,
            partial=one.partial,
            keep=one.keep,
        )
