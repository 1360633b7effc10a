"""Names of classes: ids and words, and the labels that they stand for."""

from __future__ import annotations

import difflib
from collections import defaultdict
from functools import cached_property
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

from arraystore._arguments import as_integer
from arraystore.errors import brief, escaped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import SupportsIndex

_MAX_DIGITS: Final = 18


class ClassNames:
    """Ids and words of the classes of a data set, and the label that each stands for.

    Parameters
    ----------
    ids, words : sequence of str
        Id of each class, and its words, separated by ``", "``.

    Examples
    --------
    >>> words = ["crane", "goldfish, Carassius", "crane, lift"]
    >>> classes = ClassNames(["n01", "n02", "n03"], words)
    >>> classes.label("Goldfish"), classes.label("n03"), classes.label(0)
    (1, 2, 0)
    >>> classes.label("crane")
    Traceback (most recent call last):
    ...
    KeyError: "'crane' means several classes: 0 n01 (crane), 2 n03 (crane, lift)"
    """

    def __init__(self, ids: Sequence[str], words: Sequence[str]) -> None:
        self.ids = tuple(ids)
        self.words = tuple(words)

    def id_of(self, label: int) -> str:
        """Return the id of a class.

        Raises
        ------
        ValueError
            If the label is out of range.
        TypeError
            If it is not an integer.
        """
        number = as_integer(label, "label")
        if not 0 <= number < len(self.ids):
            raise ValueError(f"label {brief(number)} is not in range({len(self.ids)})")
        return self.ids[number]

    def label(self, key: str | SupportsIndex) -> int:
        """Return the label of a class.

        Parameters
        ----------
        key : int or str
            A label; or text, looked up in this order: an id such as ``n01443537``, a label in
            digits, words such as ``goldfish`` or ``Goldfish, Carassius auratus`` in any case.

        Raises
        ------
        KeyError
            If no class has that name, with the closest matches; or if several classes have it,
            with all of them.
        TypeError
            If `key` is neither an integer nor text.
        """
        if isinstance(key, str):
            return self._named(key)
        label = as_integer(key, "a label that is not text")
        if not 0 <= label < len(self.ids):
            raise KeyError(f"label {brief(label)} is not in range({len(self.ids)})")
        return label

    def first_difference(self, other: ClassNames) -> int:
        """Return the first label that stands for another class in `other`, or -1.

        Ids must be equal, and words too, unless one side has no words beside the id.

        Examples
        --------
        >>> plain = ClassNames(["n01", "n02"], ["n01", "n02"])
        >>> plain.first_difference(ClassNames(["n01", "n02"], ["crane", "goldfish"]))
        -1
        >>> plain.first_difference(ClassNames(["n01", "n03"], ["crane", "goldfish"]))
        1
        """
        for label, (mine, theirs) in enumerate(zip_longest(self._classes, other._classes)):
            if mine is None or theirs is None or mine[0] != theirs[0]:
                return label
            named = {words for _, words in (mine, theirs)} - {"", mine[0]}
            if len(named) > 1:
                return label
        return -1

    @property
    def _classes(self) -> Iterator[tuple[str, str]]:
        return zip(self.ids, self.words, strict=True)

    def describe(self, label: int) -> str:
        """Return the id and the words of a class, for messages.

        Examples
        --------
        >>> ClassNames(["n01"], ["crane, lift"]).describe(0), ClassNames([], []).describe(0)
        ("'n01' (crane, lift)", 'none')
        """
        if label >= len(self.ids):
            return "none"
        return f"{brief(self.ids[label])} ({escaped(self.words[label])})"

    @cached_property
    def label_of_id(self) -> dict[str, int]:
        """Label of each id."""
        return {name: label for label, name in enumerate(self.ids)}

    @cached_property
    def _by_word(self) -> dict[str, list[int]]:
        meant = defaultdict(list)
        for label, words in enumerate(self.words):
            for word in {words.casefold(), *words.casefold().split(", ")} - {""}:
                meant[word].append(label)
        return dict(meant)

    def _named(self, text: str) -> int:
        label = self.label_of_id.get(text)
        if label is not None:
            return label
        if text.isdecimal() and len(text) <= _MAX_DIGITS:
            return self.label(int(text))
        meant = self._by_word.get(text.casefold(), [])
        if len(meant) == 1:
            return meant[0]
        if meant:
            listed = ", ".join(f"{k} {self.ids[k]} ({self.words[k]})" for k in meant)
            raise KeyError(escaped(f"{brief(text)} means several classes: {listed}"))
        spelled = {word.casefold(): word for words in self.words for word in words.split(", ")}
        spelled |= {name.casefold(): name for name in self.ids}
        near = [spelled[n] for n in difflib.get_close_matches(text.casefold(), sorted(spelled))]
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise KeyError(escaped(f"there is no class {brief(text)}{hint}"))
