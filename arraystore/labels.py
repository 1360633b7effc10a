"""What a user calls a class, as its label."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def find_label(text: str, names: Sequence[str], words: Sequence[str]) -> int:
    """Return the label of a class, by its number, its id, or a word for it.

    Parameters
    ----------
    text : str
        Such as ``1``, ``n01443537``, ``goldfish`` or ``Goldfish, Carassius auratus``;
        words in any case.
    names, words : sequence of str
        Id of each class, and its words with ``", "`` between them.

    Returns
    -------
    int

    Raises
    ------
    KeyError
        If there is no such class, or the word means several; the message lists the
        nearest there are, or those it means.

    Examples
    --------
    >>> names, words = ["n01", "n02", "n03"], ["crane", "goldfish, Carassius", "crane, derrick"]
    >>> find_label("Goldfish", names, words)
    1
    >>> find_label("crane", names, words)
    Traceback (most recent call last):
    ...
    KeyError: "'crane' means several classes: 0 n01 (crane), 2 n03 (crane, derrick)"
    """
    if text.isdecimal():
        if int(text) >= len(names):
            raise KeyError(f"label {text} is not in range({len(names)})")
        return int(text)
    if text in names:
        return names.index(text)
    wanted = text.casefold()
    meant = [
        label
        for label, word in enumerate(words)
        if wanted in (word.casefold(), *word.casefold().split(", "))
    ]
    if len(meant) == 1:
        return meant[0]
    if meant:
        listed = ", ".join(f"{k} {names[k]} ({words[k]})" for k in meant)
        raise KeyError(f"{text!r} means several classes: {listed}")
    known = {single for word in words for single in word.split(", ")} | set(names)
    near = difflib.get_close_matches(text, sorted(known))
    hint = f"; near it: {', '.join(near)}" if near else ""
    raise KeyError(f"there is no class {text!r}{hint}")
