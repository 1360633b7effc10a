"""The sample tables of a source: names, labels, and the byte range of each image."""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, Protocol

from arraystore.errors import SourceError
from arraystore.indexing.packed_names import repeated
from arraystore.schema import are_file_names, file_name_fault
from arraystore.storage.file_bytes import FileBytes
from arraystore.storage.file_states import NO_FILES, FileStates

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from arraystore._typing import Ints
    from arraystore.indexing.hierarchy import Hierarchy
    from arraystore.indexing.packed_names import PackedNames
    from arraystore.storage.buckets import SourcePath

_PIECE: Final = 2**14
"""Names that are Python objects at a time."""


@dataclass(frozen=True, slots=True)
class SampleTable:
    """The samples of one split as columns.

    Attributes
    ----------
    file_name : PackedNames, length n
        Unique names.
    label : ndarray of int64, shape (n,)
        Index of the class, or -1.
    file : ndarray of int32, shape (n,)
        Number of the file that holds the encoded image; see `Source.place`.
    offset, nbytes : ndarray of int64, shape (n,)
        Offset and length of the image in this file, in bytes.
    extra : mapping of str to ndarray, shape (n, ...), or list of ndarray, length n
        Further values of each sample, by name; a list if their number differs. Instead of an
        array, anything with a shape and a data type that is read by slices.
    frames : ndarray of int32, shape (n, 2), optional
        Height and width of JPEGs whose frame header was read already, zeros where it was not.
    """

    file_name: PackedNames
    label: Ints
    file: NDArray[np.int32]
    offset: Ints
    nbytes: Ints
    extra: Mapping[str, Any] = field(default_factory=dict)
    frames: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.file_name)

    def take(self, rows: Ints) -> SampleTable:
        """Return some of the samples, in the order of `rows`, without `frames`."""
        return SampleTable(
            self.file_name.take(rows).repacked(),
            self.label[rows],
            self.file[rows],
            self.offset[rows],
            self.nbytes[rows],
            {name: _rows(values, rows) for name, values in self.extra.items()},
        )


def _rows(values: NDArray[Any] | list[Any], rows: Ints) -> NDArray[Any] | list[Any]:
    return [values[i] for i in rows.tolist()] if isinstance(values, list) else values[rows]


@dataclass(frozen=True, slots=True)
class Source:
    """A data set in archives or folders.

    Attributes
    ----------
    name, config, version : str
        As in ``imagenet2012_subset/1pct:5.0.0``.
    description, homepage, citation : str
        For users of the store; `citation` is BibTeX.
    label_name, label_words : tuple of str
        Class ids, and their human-readable names; label k is element k.
    files : sequence of Path or ObjectPath
        The files, or objects in buckets, that hold encoded images.
    splits : mapping of str to SampleTable
        In the order in which they are stored.
    origins : tuple of (str, int)
        Base name and size of each archive, folder or list, to be recorded in the store.
    selections : mapping of str to mapping of str to ndarray of int64
        Named subsets to be stored: rows of each split's table, by name and split.
    reencode : bool
        Whether images that are neither gray nor RGB JPEGs are re-encoded as RGB JPEGs.
    partial : bool
        Whether samples that belong to the data set are missing.
    notes : tuple of str
        One sentence on each part of the source that is left out.
    damage : tuple of str
        The notes on parts of archives that cannot be read.
    hierarchy : Hierarchy, optional
        What the classes are kinds of.
    states : FileStates
        States of `files`, in their order, followed by those of the lists; taken before anything
        was read.
    spool : Path, optional
        Holds encoded images that are not a byte range of any of `files`, because these are
        compressed, or because the images come from Python. See `arraystore.sources.spool`.
    content : str
        Identifies the images of the spool if they come from Python. Otherwise `states` does.
    faults : mapping of str to mapping of int to str
        Samples of each split without a readable image, by position, with the reason.
    parts : mapping of str to sequence of (int, str)
        The files or lists that the samples of each split come from, where `files` does not
        show that: position of the first sample, and a name for messages.
    """

    name: str
    config: str
    version: str
    description: str
    homepage: str
    citation: str
    label_name: tuple[str, ...]
    label_words: tuple[str, ...]
    files: Sequence[SourcePath]
    splits: Mapping[str, SampleTable]
    origins: tuple[tuple[str, int], ...]
    selections: Mapping[str, Mapping[str, Ints]] = field(default_factory=dict)
    reencode: bool = False
    partial: bool = False
    notes: tuple[str, ...] = field(default=())
    damage: tuple[str, ...] = field(default=())
    hierarchy: Hierarchy | None = None
    states: FileStates = NO_FILES
    spool: Path | None = None
    content: str = ""
    faults: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    parts: Mapping[str, Sequence[tuple[int, str]]] = field(default_factory=dict)

    def place(self, number: int) -> SourcePath:
        """Return the file that a number in `SampleTable.file` stands for."""
        return self.spool if self.spool and number == len(self.files) else self.files[number]

    def reader(self) -> FileBytes:
        """Return a reader of `places`, for one thread."""
        spool = "" if self.spool is None else str(self.spool)
        return FileBytes(self.states, spool, len(self.files))

    def location(self, split: str, i: int) -> str:
        """Return a name for the origin of a sample, for messages."""
        parts = self.parts.get(split, ())
        number = bisect.bisect_right(parts, i, key=itemgetter(0)) - 1
        if number < 0:
            return split
        first, name = parts[number]
        return f"{name}: sample {i - first}"


class Status(Protocol):
    """Show the current step of reading a source."""

    def __call__(self, message: str) -> None:
        """Replace the message that is shown."""
        ...


def silent(message: str) -> None:
    """Show nothing."""
    del message


def check_names(location: str, names: Sequence[str]) -> None:
    """Raise `SourceError` if a file name occurs twice, or cannot be stored."""
    if twice := repeated(names):
        raise SourceError(
            f"{location}: {first_few(twice)} found more than once; file names must be unique"
        )
    for start in range(0, len(names), _PIECE):
        some = list(names[start : start + _PIECE])
        if are_file_names(some):
            continue
        for name in some:
            if fault := file_name_fault(name):
                raise SourceError(f"{location}: {fault}")


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
