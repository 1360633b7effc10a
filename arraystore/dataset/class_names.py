"""What a user calls a class, as its label."""

from __future__ import annotations

import difflib
from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING, Final

from arraystore._arguments import as_integer
from arraystore.errors import brief, escaped

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import SupportsIndex

_MAX_DIGITS: Final = 18


class Vocabulary:
    """The classes of a data set, by their numbers, ids and words.

    Parameters
    ----------
    names, words : sequence of str
        Id of each class, and its words with ``", "`` between them.

    Examples
    --------
    >>> classes = Vocabulary(["n01", "n02", "n03"], ["crane", "goldfish, Carassius", "crane, lift"])
    >>> classes.label("Goldfish"), classes.label("n03"), classes.label(0)
    (1, 2, 0)
    >>> classes.label("crane")
    Traceback (most recent call last):
    ...
    KeyError: "'crane' means several classes: 0 n01 (crane), 2 n03 (crane, lift)"
    """

    def __init__(self, names: Sequence[str], words: Sequence[str]) -> None:
        self._names = names
        self._words = words

    def label(self, key: str | SupportsIndex) -> int:
        """Return the label of a class.

        Parameters
        ----------
        key : int or str
            A label; or, looked for in this order, an id such as ``n01443537``, a
            label in digits, and words such as ``goldfish`` or ``Goldfish, Carassius
            auratus``, in any case.

        Raises
        ------
        KeyError
            If there is no such class, or words mean several; the message lists
            the nearest there are, or those meant.
        TypeError
            If `key` is neither an integer nor text.
        """
        if isinstance(key, str):
            return self._named(key)
        label = as_integer(key, "a label that is not text")
        if not 0 <= label < len(self._names):
            raise KeyError(f"label {brief(label)} is not in range({len(self._names)})")
        return label

    @cached_property
    def by_name(self) -> dict[str, int]:
        """Label of each id."""
        return {name: label for label, name in enumerate(self._names)}

    @cached_property
    def _by_word(self) -> dict[str, list[int]]:
        meant = defaultdict(list)
        for label, words in enumerate(self._words):
            for word in {words.casefold(), *words.casefold().split(", ")} - {""}:
                meant[word].append(label)
        return dict(meant)

    def _named(self, text: str) -> int:
        label = self.by_name.get(text)
        if label is not None:
            return label
        if text.isdecimal() and len(text) <= _MAX_DIGITS:
            return self.label(int(text))
        meant = self._by_word.get(text.casefold(), [])
        if len(meant) == 1:
            return meant[0]
        if meant:
            listed = ", ".join(f"{k} {self._names[k]} ({self._words[k]})" for k in meant)
            raise KeyError(escaped(f"{brief(text)} means several classes: {listed}"))
        spelled = {word.casefold(): word for words in self._words for word in words.split(", ")}
        spelled |= {name.casefold(): name for name in self._names}
        near = [spelled[n] for n in difflib.get_close_matches(text.casefold(), sorted(spelled))]
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise KeyError(escaped(f"there is no class {brief(text)}{hint}"))
