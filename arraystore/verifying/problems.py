"""Problems of a store: all are counted, the first are kept with their places."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Final

from arraystore.errors import escaped

MAX_KEPT: Final = 1_000
"""Maximum number of problems that are kept; more are only counted."""

MAX_KEPT_OF_ONE: Final = 500
"""Maximum number kept of one stored object or array, so that one does not hide all others."""

_NUMBER: Final = re.compile(r"0x[0-9a-f]+|\d+")


@dataclass(frozen=True, slots=True)
class Problem:
    """One deviation from what a store must be, and its place.

    Attributes
    ----------
    message : str
        What was expected and what was found.
    split : str
        The split; empty if the problem concerns the whole store.
    position : int or None
        Position of the sample in the stored split.
    file_name : str
        File name of the sample, if it could be read.
    key : str
        Stored object, relative to the store, or path of the array; empty where the message has it.
    """

    message: str
    split: str = ""
    position: int | None = None
    file_name: str = ""
    key: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the problem as plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """Return one line that is safe to print even if a damaged store has strange names."""
        sample = "" if self.position is None else f"{self.split}[{self.position}]"
        place = " ".join(filter(None, (sample, self.file_name, self.key)))
        return escaped(f"{place or self.split}: {self.message}".removeprefix(": "))


@dataclass(frozen=True, slots=True)
class ProblemGroup:
    """Problems that differ only in the image and in numbers in the message.

    Attributes
    ----------
    first : Problem
        The first of them. A problem without an image is a group of its own.
    count : int
        Number of problems in the group.
    """

    first: Problem
    count: int

    def __str__(self) -> str:
        """Return one line that is safe to print."""
        return f"{self.count:,} images, first {self.first}" if self.count > 1 else str(self.first)


class Findings:
    """The problems found so far.

    Attributes
    ----------
    kept : list of Problem
        The first `MAX_KEPT`, at most `MAX_KEPT_OF_ONE` of one object or array.
    count : int
        Number of all problems.

    Examples
    --------
    >>> findings = Findings()
    >>> findings.add(Problem("must be 3, got 4", split="train", position=7))
    >>> findings.count, str(findings.kept[0])
    (1, 'train[7]: must be 3, got 4')
    >>> findings.add(Problem("must be 5, got 6", split="train", position=8))
    >>> [str(group) for group in findings.groups]
    ['2 images, first train[7]: must be 3, got 4']
    """

    def __init__(self) -> None:
        self.kept: list[Problem] = []
        self.count = 0
        self._n_kept: Counter[tuple[str, str]] = Counter()
        self._first: dict[tuple[object, ...], Problem] = {}
        self._n_in_group: Counter[tuple[object, ...]] = Counter()
        self._n_groups: Counter[tuple[str, str]] = Counter()

    def add(self, problem: Problem) -> None:
        """Count a problem, and keep it if there is space."""
        self.count += 1
        place = problem.split, problem.key
        if len(self.kept) < MAX_KEPT and self._n_kept[place] < MAX_KEPT_OF_ONE:
            self._n_kept[place] += 1
            self.kept.append(problem)
        own_number = self.count if problem.position is None else None
        group = *place, _NUMBER.sub("", problem.message), own_number
        if group in self._first:
            self._n_in_group[group] += 1
        elif len(self._first) < MAX_KEPT and self._n_groups[place] < MAX_KEPT_OF_ONE:
            self._n_groups[place] += 1
            self._first[group], self._n_in_group[group] = problem, 1

    @property
    def groups(self) -> list[ProblemGroup]:
        """The first `MAX_KEPT` groups, at most `MAX_KEPT_OF_ONE` of one object or array."""
        return [
            ProblemGroup(first, self._n_in_group[group]) for group, first in self._first.items()
        ]
