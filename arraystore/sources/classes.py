"""Labels as a source states them, and the classes that they become.

A source states labels as numbers, as names, or as text that may be either (``.cls`` members,
columns of a CSV file). They become positions in one list of classes, which all splits share.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from array import array
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from arraystore._arguments import as_count, as_path
from arraystore.errors import SourceError, brief, escaped
from arraystore.indexing.hierarchy import Hierarchy
from arraystore.schema import UNLABELLED
from arraystore.sources.sample_table import first_few
from arraystore.storage.buckets import ObjectPath

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from arraystore._typing import Ints
    from arraystore.storage.buckets import SourcePath

    Label = int | str | None

MAX_CLASSES: Final = 10_000_000

_NAME: Final = "name"
_WORDS: Final = "words"
_PARENT: Final = "parent"
_LABEL: Final = "label"

_NUMBER: Final = re.compile(r"-?[0-9]{1,18}")
_REMEDY: Final = (
    "pass classes=[…] (--classes FILE, one name a line), or classes=N (--classes N) for N classes "
    "without names"
)


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes of a data set.

    Attributes
    ----------
    names : tuple of str
        Unique; label k is element k.
    words : tuple of str
        Their human-readable names.
    hierarchy : Hierarchy, optional
        What they are kinds of.
    """

    names: tuple[str, ...]
    words: tuple[str, ...]
    hierarchy: Hierarchy | None = None


def as_classes(
    value: Sequence[str] | int | str | os.PathLike[str] | ObjectPath | None,
    *,
    where: str = "classes",
) -> Classes | None:
    """Return the classes that a caller states.

    Parameters
    ----------
    value : sequence of str, int, path-like or ObjectPath, optional
        The names in the order of the labels; a number of classes, which are then named ``"0"``,
        ``"1"``, …; or a file of names, one a line, each perhaps followed by a tab and words. If
        the first line has the columns ``name`` and ``parent`` or ``label``, the file is a table
        with tabs: ``words`` are optional, ``parent`` names what a class is a kind of, and lines
        whose ``label`` is empty are ancestors, not classes.
    where : str, default "classes"
        What to call them in messages.

    Raises
    ------
    SourceError
        If a name is empty or occurs twice, or the file cannot be read as text.
    FileNotFoundError
        If the file does not exist.

    Examples
    --------
    >>> as_classes(["cat", "dog"]).names, as_classes(3).names
    (('cat', 'dog'), ('0', '1', '2'))
    """
    if value is None:
        return None
    if isinstance(value, str) and value.isdecimal() and not Path(value).exists():
        value = int(value)
    if isinstance(value, int | np.integer):
        n_classes = as_count(value, "classes", least=1, most=MAX_CLASSES)
        names = tuple(map(str, range(n_classes)))
        return Classes(names, names)
    if isinstance(value, ObjectPath):
        return _of_lines(value)
    if isinstance(value, str) or hasattr(value, "__fspath__"):
        path = as_path(value)
        return _of_lines(path)
    names = tuple(value)
    return checked(names, names, where=where)


def _of_lines(path: SourcePath) -> Classes:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except FileNotFoundError:
        raise FileNotFoundError(
            escaped(
                f"{path}: no such file; classes (--classes) are a file with one name a line, or "
                "their number"
            )
        ) from None
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: must be UTF-8 text with one class a line: {error}") from None
    while lines and not lines[-1].strip():
        lines.pop()
    columns = [column.strip().lower() for column in lines[0].split("\t")] if lines else []
    if _NAME in columns and (_PARENT in columns or _LABEL in columns):
        return _of_table(path, columns, lines[1:])
    pairs = [line.partition("\t") for line in lines]
    names = tuple(name.strip() for name, _, _ in pairs)
    words = tuple(words.strip() or name.strip() for name, _, words in pairs)
    return checked(names, words, where=str(path))


def _of_table(path: SourcePath, columns: Sequence[str], lines: Sequence[str]) -> Classes:
    """Return classes from lines with tabs, with their hierarchy if parents are stated."""
    names: list[str] = []
    words: dict[str, str] = {}
    parents: dict[str, list[str]] = {}
    for number, line in enumerate(lines, 2):
        values = line.split("\t")
        if len(values) > len(columns):
            raise SourceError(
                f"{path}: line {number} must have {len(columns)} columns, got {len(values)}"
            )
        row = {column: nfc(value.strip()) for column, value in zip(columns, values, strict=False)}
        name, label = row[_NAME], row.get(_LABEL, str(len(names)))
        if not name or name in words:
            raise SourceError(
                f"{path}: line {number}: expected a name that no other line has, got {brief(name)}"
            )
        if label not in ("", str(len(names))):
            raise SourceError(
                f"{path}: line {number}: label must be {len(names)}, or empty for an ancestor, got "
                f"{brief(label)}"
            )
        words[name] = row.get(_WORDS, "") or name
        if label:
            names.append(name)
        if parent := row.get(_PARENT, ""):
            parents[name] = [parent]
    classes = checked(tuple(names), tuple(words[name] for name in names), where=str(path))
    if not parents:
        return classes
    for some in parents.values():
        words.setdefault(some[0], some[0])
    try:
        hierarchy = Hierarchy.from_parents(names, parents, words)
    except ValueError as error:
        raise SourceError(f"{path}: parents: {error}") from None
    return replace(classes, hierarchy=hierarchy)


def checked(names: tuple[str, ...], words: tuple[str, ...], *, where: str) -> Classes:
    """Return classes; `SourceError` if there are none, or a name is empty or occurs twice.

    Names are compared in Unicode's form NFC.
    """
    for k, name in enumerate(names):
        if not isinstance(name, str):
            raise SourceError(f"{where}: class {k} must be a text, got {brief(name)}")
        if not name:
            raise SourceError(f"{where}: class {k} has no name")
    if not names:
        raise SourceError(f"{where}: must have a class or more, got none")
    counts = Counter(map(nfc, names))
    if twice := [name for name, count in counts.items() if count > 1]:
        raise SourceError(f"{where}: {first_few(twice)} occur more than once")
    return Classes(names, words)


class LabelColumn:
    """The labels that a source states for the samples of one split.

    Parameters
    ----------
    is_text : bool, default False
        Whether all labels are text, so that ``"7"`` may be a number or a name.
    """

    def __init__(self, *, is_text: bool = False) -> None:
        self.is_text = is_text
        self._code_of: dict[Label, int] = {}
        self._first: list[int] = []
        self._codes = array("i")

    def __len__(self) -> int:
        return len(self._codes)

    def append(self, label: Label) -> None:
        """Add the label of one sample; None if it has none."""
        code = self._code_of.get(label)
        if code is None:
            code = self._code_of[label] = len(self._first)
            self._first.append(len(self._codes))
        self._codes.append(code)

    def extend(self, labels: NDArray[np.integer]) -> None:
        """Add labels that are numbers."""
        values, first, codes = np.unique(labels, return_index=True, return_inverse=True)
        begin = len(self._codes)
        known = []
        for value, at in zip(values.tolist(), first.tolist(), strict=True):
            code = self._code_of.get(value)
            if code is None:
                code = self._code_of[value] = len(self._first)
                self._first.append(begin + at)
            known.append(code)
        self._codes.frombytes(np.array(known, np.int32)[codes].tobytes())

    @property
    def first(self) -> Mapping[Label, int]:
        """Each distinct label, and the position of the first sample that has it."""
        return dict(zip(self._code_of, self._first, strict=True))

    def resolved(self, number_of: Mapping[Label, int]) -> Ints:
        """Return the position of each sample's class in the list of classes."""
        numbers = np.array([number_of[label] for label in self._code_of], np.int64)
        return numbers[np.frombuffer(self._codes, np.int32)]


@dataclass(frozen=True, slots=True)
class ResolvedLabels:
    """The classes of all splits together.

    Attributes
    ----------
    classes : Classes
    labels : dict of str to ndarray of int64
        Labels of each split.
    notes : tuple of str
        What was decided.
    """

    classes: Classes
    labels: dict[str, Ints]
    notes: tuple[str, ...]


def resolve(
    where: str, columns: Mapping[str, LabelColumn], classes: Classes | None
) -> ResolvedLabels:
    """Turn the labels of all splits into positions in one list of classes.

    Parameters
    ----------
    where : str
        Name of the source, for messages.
    columns : mapping of str to LabelColumn
        The labels of each split.
    classes : Classes, optional
        What the caller states, or the data set itself. Without, labels must be names, and the
        classes are the names in sorted order.

    Raises
    ------
    SourceError
        If a label is not among the classes, or labels are numbers and there are no classes.

    Examples
    --------
    >>> column = LabelColumn()
    >>> for label in ("dog", "cat", None):
    ...     column.append(label)
    >>> found = resolve("pets", {"train": column}, None)
    >>> found.classes.names, found.labels["train"].tolist()
    (('cat', 'dog'), [1, 0, -1])
    """
    found: dict[Label, str] = {}
    for split, column in columns.items():
        for label, i in column.first.items():
            found.setdefault(label, f"{split}, sample {i}")
    is_text = all(column.is_text for column in columns.values())
    stated = [label for label in found if label is not None]
    if classes is None:
        number_of, classes, notes = _sorted_names(where, stated, is_text=is_text)
    else:
        number_of, notes = _positions(where, stated, classes, found, is_text=is_text)
    number_of[None] = UNLABELLED
    labels = {split: column.resolved(number_of) for split, column in columns.items()}
    return ResolvedLabels(classes, labels, tuple(notes))


def resolve_names(
    where: str, found: Mapping[str, str], classes: Classes | None
) -> tuple[Classes, dict[str, int], list[str]]:
    """Return the label of each name of a class.

    Parameters
    ----------
    where : str
        Name of the source, for messages.
    found : mapping of str to str
        The names, and where each was found. Names that differ only in Unicode normalization are
        one class, which is named in the form NFC.
    classes : Classes, optional
        What the caller states; then the names are among these, or all of them are numbers. By
        default the classes are the names in sorted order.

    Returns
    -------
    Classes
    dict of str to int
        The label of each name.
    list of str
        What was decided.

    Raises
    ------
    SourceError
        If a name is not among the classes, or two that are different numbers are one.

    Examples
    --------
    >>> resolve_names("pets", {"7": "train/7", "10": "train/10"}, as_classes(20))[1]
    {'7': 7, '10': 10}
    """
    names = list(found)
    places: dict[Label, str] = {name: found[name] for name in names}
    if classes is None:
        number_of, classes, notes = _sorted_names(where, names, is_text=False)
    else:
        number_of, notes = _positions(where, names, classes, places, is_text=True)
    first: dict[int, str] = {}
    for name in names:
        other = first.setdefault(number_of[name], name)
        if nfc(other) != nfc(name):
            raise SourceError(
                f"{where}: {found[other]} and {found[name]} have the same label, "
                f"{number_of[name]}; rename one of them, or merge them"
            )
    return classes, {name: number_of[name] for name in names}, notes


def _sorted_names(
    where: str, stated: Sequence[int | str], *, is_text: bool
) -> tuple[dict[Label, int], Classes, list[str]]:
    """Return classes for labels that are names; refuse numbers, whose classes nobody knows."""
    numbers = [label for label in stated if _is_number(label, is_text=is_text)]
    if numbers and len(numbers) == len(stated):
        if set(map(int, numbers)) == {UNLABELLED}:
            return dict.fromkeys(numbers, UNLABELLED), Classes((), ()), []
        raise SourceError(
            f"{where}: labels are numbers ({_few(sorted(map(int, numbers)))}) and their classes "
            f"are not known; {_REMEDY}"
        )
    if numbers:
        names = [label for label in stated if label not in set(numbers)]
        raise SourceError(
            f"{where}: some labels are numbers ({_few(numbers)}), others are names "
            f"({_few(names)}); {_REMEDY}"
        )
    normal = {name: nfc(str(name)) for name in stated}
    names_sorted = tuple(sorted(set(normal.values())))
    number = {name: k for k, name in enumerate(names_sorted)}
    notes = []
    forms = [str(name) for name, is_now in normal.items() if name != is_now]
    if len(names_sorted) < len(normal):
        notes.append(
            f"{first_few(forms)} differ from a class only in Unicode normalization (NFC) and were "
            "merged with it"
        )
    elif forms:
        notes.append(f"{first_few(forms)} are stored and sorted in Unicode's form NFC")
    classes = checked(names_sorted, names_sorted, where=where) if names_sorted else Classes((), ())
    return {name: number[is_now] for name, is_now in normal.items()}, classes, notes


def _positions(
    where: str,
    stated: Sequence[int | str],
    classes: Classes,
    found: Mapping[Label, str],
    *,
    is_text: bool,
) -> tuple[dict[Label, int], list[str]]:
    """Return the place of each label in given classes."""
    position = {unicodedata.normalize("NFC", name): k for k, name in enumerate(classes.names)}
    names = [label for label in stated if isinstance(label, str)]
    numbers = [label for label in stated if _is_number(label, is_text=is_text)]
    notes: list[str] = []
    # Text such as "7" is a name if all labels are names of classes, or another cannot be a number.
    are_names = bool(names) and (
        all(nfc(name) in position for name in names) or len(numbers) < len(stated)
    )
    number_of: dict[Label, int] = {}
    for label in stated:
        is_name = isinstance(label, str) and are_names
        if is_name and (place := position.get(nfc(str(label)))) is not None:
            number_of[label] = place
        elif not is_name and _is_number(label, is_text=is_text):
            number_of[label] = _in_range(where, int(label), classes, found[label])
        else:
            near = difflib.get_close_matches(nfc(str(label)), position, 1)
            raise SourceError(
                f"{where}: {found[label]}: label {brief(label)} is not among the "
                f"{len(classes.names):,} classes ({_few(classes.names)})"
                + (f"; did you mean {brief(near[0])}?" if near else "")
            )
    differing = [label for label in numbers if are_names and number_of[label] != int(label)]
    if differing:
        example = differing[0]
        notes.append(
            f"labels such as {brief(example)} are taken for names of classes, not for numbers: "
            f"{brief(example)} is class {number_of[example]}"
        )
    return number_of, notes


def _in_range(where: str, number: int, classes: Classes, sample: str) -> int:
    if not UNLABELLED <= number < len(classes.names):
        raise SourceError(
            f"{where}: {sample}: label {number} must be less than the number of classes, "
            f"{len(classes.names):,}, or -1 for none"
        )
    return number


def _is_number(label: Label, *, is_text: bool) -> bool:
    if isinstance(label, str):
        return is_text and _NUMBER.fullmatch(label) is not None
    return label is not None


def nfc(name: str) -> str:
    """Return a name in the form in which names of classes are compared: Unicode's NFC."""
    return unicodedata.normalize("NFC", name)


def _few(values: Iterable[object]) -> str:
    few = [str(value) for _, value in zip(range(4), values, strict=False)]
    return ", ".join([*few[:3], *(["…"] if len(few) > 3 else [])])
