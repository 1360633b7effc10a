"""What is wrong with a store: all problems are counted, the first are kept, with their places."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Final

from arraystore.errors import escaped

MAX_KEPT: Final = 1_000
"""Most problems that are kept; the others are counted."""

MAX_OF_ONE: Final = 500
"""Most that are kept of one stored object or array, so that one does not hide all others."""

_NUMBER: Final = re.compile(r"0x[0-9a-f]+|\d+")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it must be, and where.

    Attributes
    ----------
    message : str
        What must be, and what was found.
    split : str
        The split; empty if it is of the whole store.
    position : int or None
        The sample, counted from the first of the stored split.
    file_name : str
        Its file name, if that could be read.
    key : str
        The stored object, below the store, or the array; empty where the message says it.
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
        """Return one line that is safe to print, whatever a damaged store has in its names."""
        sample = "" if self.position is None else f"{self.split}[{self.position}]"
        place = " ".join(filter(None, (sample, self.file_name, self.key)))
        return escaped(f"{place or self.split}: {self.message}".removeprefix(": "))


@dataclass(frozen=True, slots=True)
class ProblemGroup:
    """Problems of images that differ in no more than the image, and numbers in the message.

    Attributes
    ----------
    first : Problem
        The first of them; what is of no image is a group of its own.
    count : int
        Number of all.
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
        The first of them: `MAX_KEPT`, and `MAX_OF_ONE` of one object or array.
    count : int
        Number of all.

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
        self._of_one: Counter[tuple[str, str]] = Counter()
        self._first: dict[tuple[object, ...], Problem] = {}
        self._number: Counter[tuple[object, ...]] = Counter()
        self._groups_of_one: Counter[tuple[str, str]] = Counter()

    def add(self, problem: Problem) -> None:
        """Take one more."""
        self.count += 1
        place = problem.split, problem.key
        if len(self.kept) < MAX_KEPT and self._of_one[place] < MAX_OF_ONE:
            self._of_one[place] += 1
            self.kept.append(problem)
        of_no_image = self.count if problem.position is None else None
        group = *place, _NUMBER.sub("", problem.message), of_no_image
        if group in self._first:
            self._number[group] += 1
        elif len(self._first) < MAX_KEPT and self._groups_of_one[place] < MAX_OF_ONE:
            self._groups_of_one[place] += 1
            self._first[group], self._number[group] = problem, 1

    @property
    def groups(self) -> list[ProblemGroup]:
        """The first `MAX_KEPT` kinds of them, each with the number of all of its kind.

        Of one object or array there are `MAX_OF_ONE`.
        """
        return [ProblemGroup(first, self._number[group]) for group, first in self._first.items()]
