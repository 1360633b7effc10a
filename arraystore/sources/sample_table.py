"""What a source tells a conversion: tables of samples, and where their bytes lie."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from arraystore.errors import SourceError
from arraystore.schema import file_name_fault
from arraystore.storage.file_states import NO_FILES, FileStates

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from arraystore._typing import Ints
    from arraystore.indexing.hierarchy import Hierarchy
    from arraystore.indexing.packed_names import PackedNames


@dataclass(frozen=True, slots=True)
class SampleTable:
    """The samples of one split, as columns.

    Attributes
    ----------
    file_name : PackedNames, length n
        Unique names.
    label : ndarray of int64, shape (n,)
        Index of the class, or -1.
    file : ndarray of int32, shape (n,)
        Which of `Source.files` holds the encoded image.
    offset, nbytes : ndarray of int64, shape (n,)
        Where in it, in bytes.
    """

    file_name: PackedNames
    label: Ints
    file: NDArray[np.int32]
    offset: Ints
    nbytes: Ints

    def __len__(self) -> int:
        return len(self.file_name)

    def take(self, positions: Ints) -> SampleTable:
        """Return some of the samples, in the order of `positions`."""
        return SampleTable(
            self.file_name.take(positions),
            self.label[positions],
            self.file[positions],
            self.offset[positions],
            self.nbytes[positions],
        )


@dataclass(frozen=True, slots=True)
class Source:
    """A data set as it lies in archives or folders.

    Attributes
    ----------
    name, config, version : str
        As in ``imagenet2012_subset/1pct:5.0.0``.
    description, homepage, citation : str
        For people; `citation` is BibTeX.
    label_name, label_words : tuple of str
        Class ids, and their human-readable names; label k is element k.
    files : tuple of Path
        The files that hold encoded images.
    splits : mapping of str to SampleTable
        In the order they are to be stored.
    origins : tuple of (str, int)
        Base name and size of each thing converted, to be recorded.
    selections : mapping of str to mapping of str to ndarray of int64
        Named subsets to be stored: which samples of each split are in them.
    reencode : bool
        Whether images that are not gray or RGB JPEGs become RGB JPEGs.
    partial : bool
        Whether samples that belong to the data set are missing.
    notes : tuple of str
        What the user should know of what was left out, a sentence each.
    damage : tuple of str
        Those of the notes that report parts of archives that cannot be read.
    hierarchy : Hierarchy, optional
        What the classes are kinds of.
    states : FileStates
        Of `files`, in their order, and then of the lists: taken before anything was read.
    """

    name: str
    config: str
    version: str
    description: str
    homepage: str
    citation: str
    label_name: tuple[str, ...]
    label_words: tuple[str, ...]
    files: tuple[Path, ...]
    splits: Mapping[str, SampleTable]
    origins: tuple[tuple[str, int], ...]
    selections: Mapping[str, Mapping[str, Ints]] = field(default_factory=dict)
    reencode: bool = False
    partial: bool = False
    notes: tuple[str, ...] = field(default=())
    damage: tuple[str, ...] = field(default=())
    hierarchy: Hierarchy | None = None
    states: FileStates = NO_FILES


class Status(Protocol):
    """Told what a long look at a source is doing."""

    def __call__(self, message: str) -> None:
        """Show `message` in the place of the last one."""
        ...


def silent(message: str) -> None:
    """Show nothing: the `Status` of those who do not look."""
    del message


def check_names(where: str, names: Sequence[str]) -> None:
    """Refuse file names that occur twice, or that cannot be stored, with a `SourceError`."""
    if _may_repeat(names):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise SourceError(f"{where}: {first_few(twice)} found more than once")
    for name in names:
        if fault := file_name_fault(name):
            raise SourceError(f"{where}: {fault}")


def _may_repeat(names: Sequence[str]) -> bool:
    """Whether two names have one hash: names in a set would take 8 times the memory."""
    hashes = np.fromiter(map(hash, names), np.int64, len(names))
    hashes.sort()
    return bool(np.any(hashes[1:] == hashes[:-1]))


def first_few(names: Sequence[str], few: int = 3) -> str:
    """Write names as a count and the first few of them.

    Examples
    --------
    >>> first_few(["a", "b", "c", "d"])
    '4 names (a, b, c, …)'
    >>> first_few(["a"])
    '1 name (a)'
    """
    more = ", …" if len(names) > few else ""
    plural = "" if len(names) == 1 else "s"
    return f"{len(names):,} name{plural} ({', '.join(names[:few])}{more})"
