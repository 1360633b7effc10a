"""The journal of an unfinished export: what it is of, and its finished shards.

Lines are those of `arraystore.writing.journal`. The first holds the fingerprint, all that the
export depends on as text; each further one a shard that is on the disk.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from arraystore.errors import FormatError, brief, escaped
from arraystore.storage.fsync import sync_path
from arraystore.writing.journal import as_line, as_text, from_text, whole_lines

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from arraystore._typing import Checksums
    from arraystore.exporting.shard_format import Written

ShardKey = tuple[str, int]
"""Split and number of a shard."""


@dataclass(frozen=True, slots=True)
class FinishedShard:
    """A shard on the disk.

    Attributes
    ----------
    checksums : ndarray of uint32
        CRC-32C of each image, of the bytes that were read.
    skipped : dict of int to str
        Images left out: index in the split, and why.
    nbytes_of : dict of str to int
        Size of each of its files, which are relative to the export.
    state : str
        See `Written`.
    """

    checksums: Checksums
    skipped: dict[int, str]
    nbytes_of: dict[str, int]
    state: str

    @classmethod
    def of(
        cls, checksums: Checksums, skipped: dict[int, str], written: Written, target: Path
    ) -> Self:
        """Return a shard that was just written below `target`, or as `target`."""
        nbytes_of = {name: (target / name).stat().st_size for name in written.files}
        return cls(checksums, skipped, nbytes_of, written.state)

    def is_in(self, target: Path) -> bool:
        """Whether all files exist with the recorded sizes."""
        try:
            return all((target / name).stat().st_size == n for name, n in self.nbytes_of.items())
        except (FileNotFoundError, NotADirectoryError):
            return False


class ExportJournal:
    """A journal that is read, and written to.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fingerprint: Mapping[str, str] | None = None
        self.shards: dict[ShardKey, FinishedShard] = {}
        self._nbytes = 0
        if path.exists():
            with path.open("rb") as file:
                for value, stop in whole_lines(file, str(path)):
                    self._take(value)
                    self._nbytes = stop

    def _take(self, value: Any) -> None:
        try:
            if self.fingerprint is None:
                self.fingerprint = {str(name): str(text) for name, text in value.items()}
                return
            split, number, checksums, skipped, files, state = value
            sizes = {str(name): int(nbytes) for name, nbytes in files.items()}
            faults = {int(index): str(reason) for index, reason in skipped}
            shard = FinishedShard(from_text(checksums), faults, sizes, str(state))
            self.shards[str(split), int(number)] = shard
        except (AttributeError, TypeError, ValueError):
            raise FormatError(
                f"{self.path}: must record a shard of an export, got {brief(value)}; delete "
                f"{self.path.parent}"
            ) from None

    def begin(self, fingerprint: Mapping[str, str]) -> None:
        """Begin a new journal."""
        self.path.unlink(missing_ok=True)
        self.fingerprint, self.shards, self._nbytes = fingerprint, {}, 0
        self._append(dict(fingerprint))

    def check(self, fingerprint: Mapping[str, str]) -> None:
        """Compare the fingerprint of the interrupted run with that of this one.

        Raises
        ------
        ValueError
            With the first difference.
        """
        recorded = self.fingerprint or {}
        for name in dict.fromkeys((*fingerprint, *recorded)):
            text, before = (some.get(name, "") for some in (fingerprint, recorded))
            if before != text:
                raise ValueError(
                    escaped(
                        f"{self.path.parent}: cannot resume: {name} is {brief(text)}, but the "
                        f"interrupted export has {brief(before)}; pass what it had, or delete "
                        f"{self.path.parent} to begin again"
                    )
                )

    def add(self, key: ShardKey, shard: FinishedShard) -> None:
        """Record a shard that is on the disk."""
        self.shards[key] = shard
        skipped = [*shard.skipped.items()]
        self._append([*key, as_text(shard.checksums), skipped, shard.nbytes_of, shard.state])

    def _append(self, value: Any) -> None:
        line = as_line(value)
        with self.path.open("ab") as file:
            file.truncate(self._nbytes)  # a torn line
            file.write(line)
        sync_path(self.path)
        self._nbytes += len(line)

    @property
    def files(self) -> set[str]:
        """Files of all recorded shards."""
        return {name for shard in self.shards.values() for name in shard.nbytes_of}


def remove_others(target: Path, kept: set[str]) -> None:
    """Delete files of an unfinished export that belong to no finished shard."""
    for folder, _, names in os.walk(target):
        for name in names:
            path = os.path.join(folder, name)  # noqa: PTH118 - there may be a million
            if os.path.relpath(path, target) not in kept:
                os.unlink(path)  # noqa: PTH108
