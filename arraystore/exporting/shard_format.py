"""What a format must provide to be exported, shard by shard."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from arraystore.exporting.contents import bounds_by_nbytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from arraystore.exporting.contents import Contents, ExportedSplit, Group, Shard


@dataclass(frozen=True, slots=True)
class Written:
    """A shard that was written.

    Attributes
    ----------
    files : tuple of str
        Its files, relative to the export.
    state : str
        What `ShardFormat.finish` needs to know of it.
    """

    files: tuple[str, ...]
    state: str = ""


class ShardFormat(ABC):
    """One export in one format.

    Everything is written to a path that gets its final name when the export is complete. A shard
    that is not recorded as finished is written again by the next process.

    Parameters
    ----------
    contents : Contents
        Checked here: whatever the format has no place for raises an error before anything is
        written.
    """

    takes_repeats: ClassVar[bool] = True
    """Whether a sample that occurs several times is written several times."""

    is_one_file: ClassVar[bool] = False
    """Whether the target is a file: after a kill, nothing of it is kept."""

    is_gapless: ClassVar[bool] = False
    """Whether the number of samples must be right before the first is written."""

    reads_images: ClassVar[bool] = True
    """Whether groups have the images."""

    def __init__(self, contents: Contents) -> None:
        self.contents = contents

    def bounds(self, split: ExportedSplit, shard_nbytes: int) -> list[int]:
        """Return the index of the first sample of each shard of a split, and the end."""
        bounds = bounds_by_nbytes(split.nbytes, shard_nbytes)
        return bounds if len(bounds) > 1 else [0, 0]  # one empty shard

    def begin(self, target: Path) -> None:
        """Prepare the target, before shards are written; also of an export that is resumed."""
        target.mkdir(exist_ok=True)

    @abstractmethod
    def write(self, target: Path, shard: Shard, groups: Iterator[Group]) -> Written:
        """Write a shard; parts of it may be left by a killed process.

        Unless the format `is_gapless`, damaged images may be missing in the groups, or all of them.
        """

    def finish(self, target: Path, shards: Sequence[tuple[Shard, str]]) -> None:
        """Write what describes all shards, given each with the state of `Written`."""
        del target, shards  # most formats describe each shard in itself

    @property
    def left_out(self) -> tuple[str, ...]:
        """Further columns that the format has no place for."""
        return ()
