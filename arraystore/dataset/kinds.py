"""Classes by what they are a kind of: words for a wider concept, as labels."""

from __future__ import annotations

import difflib
from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING

from arraystore.errors import brief, escaped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from arraystore._typing import Ints
    from arraystore.indexing.hierarchy import Hierarchy


class Kinds:
    """The classes and their ancestors, by ids and words.

    Parameters
    ----------
    names, words : sequence of str
        Id of each class, and its words with ``", "`` between them.
    hierarchy : Hierarchy
        The ancestors of the classes.

    Examples
    --------
    >>> from arraystore.indexing.hierarchy import Hierarchy
    >>> parents = {"n1": ["n3"], "n2": ["n3"]}
    >>> kinds = Kinds(
    ...     ["n1", "n2"],
    ...     ["tench", "shark"],
    ...     Hierarchy.from_parents(["n1", "n2"], parents, {"n3": "fish"}),
    ... )
    >>> kinds.labels("Fish"), kinds.labels("n2")
    (array([0, 1]), array([1]))
    """

    def __init__(self, names: Sequence[str], words: Sequence[str], hierarchy: Hierarchy) -> None:
        self._names = (*names, *hierarchy.names)
        self._words = (*words, *hierarchy.words)
        self._hierarchy = hierarchy

    def labels(self, key: str) -> Ints:
        """Return the ascending labels of the classes that are a kind of something.

        Parameters
        ----------
        key : str
            An id of a class or of an ancestor, such as ``n02084071``; or words for it, such as
            ``dog``, in any case of letters.

        Returns
        -------
        ndarray of int64
            A class is a kind of itself.

        Raises
        ------
        KeyError
            If nothing is called that, with the nearest words; or if the words have several
            senses, with their ids.
        TypeError
            If `key` is not text.
        """
        if not isinstance(key, str):
            raise TypeError(f"is_a must be an id or words, got {brief(key)}")
        return self._hierarchy.classes_below(self._node(key))

    def _node(self, text: str) -> int:
        if text in self._by_name:
            return self._by_name[text]
        nodes = self._by_word.get(text.casefold(), [])
        if len(nodes) == 1:
            return nodes[0]
        if nodes:
            senses = "; ".join(
                f"{self._names[k]} ({self._words[k]}: "
                f"{_classes(len(self._hierarchy.classes_below(k)))})"
                for k in nodes
            )
            raise KeyError(
                escaped(f"{brief(text)} has {len(nodes)} senses: {senses}; give the id of one")
            )
        spelled = {word.casefold(): word for words in self._words for word in words.split(", ")}
        spelled |= {name.casefold(): name for name in self._names}
        near = [spelled[n] for n in difflib.get_close_matches(text.casefold(), sorted(spelled))]
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise KeyError(escaped(f"no class or ancestor is called {brief(text)}{hint}"))

    @cached_property
    def _by_name(self) -> dict[str, int]:
        return {name: node for node, name in enumerate(self._names)}

    @cached_property
    def _by_word(self) -> dict[str, list[int]]:
        nodes = defaultdict(list)
        for node, words in enumerate(self._words):
            for word in {words.casefold(), *words.casefold().split(", ")} - {""}:
                nodes[word].append(node)
        return dict(nodes)


def _classes(n: int) -> str:
    return f"{n:,} class{'' if n == 1 else 'es'}"
