"""Samples that arrive one after another, gathered as the sample tables of a source."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

import numpy as np

from arraystore.errors import SourceError, brief
from arraystore.indexing.packed_names import PackedNames
from arraystore.sources.classes import LabelColumn
from arraystore.sources.image_suffix import suffix_of
from arraystore.sources.sample_table import SampleTable, check_names
from arraystore.sources.spool import SPOOL
from arraystore.sources.value_column import ValueColumn

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from arraystore._typing import Ints

_DIGITS: Final = 6


class SampleCollector:
    """The samples of one split, packed as they arrive: about 40 bytes each, and their names.

    Parameters
    ----------
    split : str
        Name of the split, for messages.
    labels_are_text : bool, default False
        See `LabelColumn`.
    columns : iterable of str, optional
        Names of further columns. After each sample, a value is added to each of them.
    columns_are_typed : bool, default False
        Whether their text is text even if it is of numbers and labels are text.

    Attributes
    ----------
    labels : LabelColumn
    faults : dict of int to str
        Samples without a readable image, by position, with the reason.
    n_generated : int
        Samples whose names were generated.
    parts : list of (int, str)
        See `Source.parts`.
    values : dict of str to ValueColumn
        Further columns.
    """

    def __init__(
        self,
        split: str,
        *,
        labels_are_text: bool = False,
        columns: Iterable[str] = (),
        columns_are_typed: bool = False,
    ) -> None:
        self.split = split
        self.labels = LabelColumn(is_text=labels_are_text)
        self.faults: dict[int, str] = {}
        self.n_generated = 0
        self._example = ""
        self.parts: list[tuple[int, str]] = []
        self._names = bytearray()
        self._n_names = 0
        self._file, self._offset, self._nbytes = array("i"), array("q"), array("q")
        self.values = {
            name: ValueColumn(name, is_text=labels_are_text and not columns_are_typed)
            for name in columns
        }

    def __len__(self) -> int:
        return self._n_names

    def begin_part(self, name: str) -> None:
        """Note that the samples from here on come from a file or list of this name."""
        self.parts.append((len(self), name))

    def append(
        self,
        name: str | None,
        label: int | str | None,
        file: int,
        offset: int,
        nbytes: int,
        *,
        start: bytes = b"",
    ) -> None:
        """Add a sample.

        Parameters
        ----------
        name : str or None
            Its file name; without, one is generated from its position.
        label : int, str or None
            As the source states it.
        file, offset, nbytes : int
            Where its image lies; see `SampleTable`.
        start : bytes, optional
            First bytes of the image, for the suffix of a generated name.
        """
        self._add_name(name, start)
        self.labels.append(label)
        self._file.append(file)
        self._offset.append(offset)
        self._nbytes.append(nbytes)

    def append_fault(self, name: str | None, label: int | str | None, why: str) -> None:
        """Add a sample whose image cannot be read."""
        self.faults[len(self)] = why
        self.append(name, label, SPOOL, 0, 0)

    def extend(
        self,
        names: Sequence[str | None],
        starts: Sequence[bytes],
        file: int,
        offset: Ints,
        nbytes: Ints,
    ) -> None:
        """Add samples whose images lie in one file; their labels are added to `labels`."""
        for name, start in zip(names, starts, strict=True):
            self._add_name(name, start)
        self._file.frombytes(np.full(len(offset), file, np.int32).tobytes())
        self._offset.frombytes(np.ascontiguousarray(offset, np.int64).tobytes())
        self._nbytes.frombytes(np.ascontiguousarray(nbytes, np.int64).tobytes())

    def _add_name(self, name: str | None, start: bytes) -> None:
        if name is None:
            name = f"{self._n_names:0{_DIGITS}}{suffix_of(start)}"
            self.n_generated += 1
            self._example = self._example or name
        if "\0" in name or not name:
            raise SourceError(f"{self._last_part}: a file cannot be named {brief(name)}")
        try:
            self._names += name.encode() + b"\0"
        except UnicodeEncodeError:
            raise SourceError(
                f"{self._last_part}: file names must be Unicode, got {brief(name)}"
            ) from None
        self._n_names += 1

    @property
    def _last_part(self) -> str:
        return self.parts[-1][1] if self.parts else self.split

    @property
    def note(self) -> tuple[str, ...]:
        """Says that names were generated, if any were."""
        if not self.n_generated:
            return ()
        count = f"{self.n_generated:,} samples"
        return (f"{self.split}: the file names of {count} were generated ({self._example}, …)",)

    def table(self, labels: Ints, n_files: int, where: str) -> SampleTable:
        """Return the samples.

        Parameters
        ----------
        labels : ndarray of int64, shape (n,)
            Their resolved labels.
        n_files : int
            Number of files of the source: the index of the spool.
        where : str
            Name of the source, for messages.

        Raises
        ------
        SourceError
            If two samples have one name, or a name cannot be stored.
        """
        names = PackedNames(self._names)
        check_names(f"{where}: {self.split}", names)
        file = np.frombuffer(self._file, np.int32)
        if (file < 0).any():
            file = np.where(file < 0, np.int32(n_files), file).astype(np.int32)
        return SampleTable(
            names,
            labels,
            file,
            np.frombuffer(self._offset, np.int64),
            np.frombuffer(self._nbytes, np.int64),
            {
                name: column.finished(len(self), f"{where}: {self.split}")
                for name, column in self.values.items()
            },
        )
