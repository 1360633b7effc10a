"""What each class of a label space is a kind of: a tench is a fish, a fish is an animal."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Self

import numpy as np
from typing_extensions import override

from arraystore.errors import brief

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from arraystore._typing import Ints


@dataclass(frozen=True, slots=True, eq=False)
class Hierarchy:
    """A directed graph without circles from classes to ever wider concepts.

    Its nodes have numbers: node k below the number of classes is class k, the others are the
    ancestors that are not classes, in the order of `names`.

    Attributes
    ----------
    names, words : tuple of str, length n_ancestors
        Id of each ancestor that is not a class, and its words with ``", "`` between them.
    parent : ndarray of int64, shape (n_links,)
        Number of the wider concept, for each link of each node.
    parent_indptr : ndarray of int64, shape (n_nodes + 1,)
        The parents of node i are ``parent[parent_indptr[i] : parent_indptr[i + 1]]``.
    notice : str
        Where it is from, and what its licence requires to be shown.

    Examples
    --------
    >>> animals = Hierarchy.from_parents(
    ...     ["tench", "crane"],
    ...     {"tench": ["fish"], "crane": ["bird"], "fish": ["animal"], "bird": ["animal"]},
    ...     {"fish": "fish", "bird": "bird", "animal": "animal, beast"},
    ... )
    >>> animals.names, animals.classes_below(animals.n_classes + 2)
    (('fish', 'bird', 'animal'), array([0, 1]))
    """

    names: tuple[str, ...]
    words: tuple[str, ...]
    parent: Ints
    parent_indptr: Ints
    notice: str = ""

    @classmethod
    def from_parents(
        cls,
        classes: Sequence[str],
        parents: Mapping[str, Sequence[str]],
        words: Mapping[str, str],
        *,
        notice: str = "",
    ) -> Self:
        """Make a hierarchy from the parents of each concept.

        Parameters
        ----------
        classes : sequence of str
            Ids of the classes, by label.
        parents : mapping of str to sequence of str
            Ids of the next wider concepts; a concept that is left out has none.
        words : mapping of str to str
            Id of each ancestor, in the order to be kept, and its words. Classes in it are
            skipped.
        notice : str, optional
            Where it is from.

        Raises
        ------
        ValueError
            If a parent is neither a class nor in `words`, or a concept is above itself.
        """
        number = {name: k for k, name in enumerate(classes)}
        ancestors = [name for name in words if name not in number]
        number |= {name: k for k, name in enumerate(ancestors, len(number))}
        links = [[*parents.get(name, ())] for name in number]
        unknown = [name for some in links for name in some if name not in number]
        if unknown:
            raise ValueError(f"parent {brief(unknown[0])} is neither a class nor an ancestor")
        counts = [len(some) for some in links]
        made = cls(
            tuple(ancestors),
            tuple(words[name] for name in ancestors),
            np.array([number[name] for some in links for name in some], dtype=np.int64),
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            notice,
        )
        for fault in made.faults(len(classes)):
            raise ValueError(fault)
        return made

    @override
    def __eq__(self, other: object) -> bool:
        """Whether names, words and links are equal."""
        if not isinstance(other, Hierarchy):
            return NotImplemented
        return (
            (self.names, self.words) == (other.names, other.words)
            and np.array_equal(self.parent, other.parent)
            and np.array_equal(self.parent_indptr, other.parent_indptr)
        )

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.parent_indptr) - 1 - len(self.names)

    def faults(self, n_classes: int) -> Iterable[str]:
        """Yield what is wrong with the structure; nothing if it can be used.

        Parameters
        ----------
        n_classes : int
            Number of classes of the label space.
        """
        n_nodes = n_classes + len(self.names)
        if len(self.words) != len(self.names):
            yield f"must have words for {len(self.names)} ancestors, got {len(self.words)}"
        if len(self.parent_indptr) != n_nodes + 1:
            yield f"parent_indptr must have length {n_nodes + 1}, got {len(self.parent_indptr)}"
            return
        ends = int(self.parent_indptr[0]), int(self.parent_indptr[-1])
        if ends != (0, len(self.parent)) or bool(np.any(np.diff(self.parent_indptr) < 0)):
            yield f"parent_indptr must ascend from 0 to {len(self.parent)}"
            return
        if len(self.parent) and not 0 <= self.parent.min() <= self.parent.max() < n_nodes:
            yield f"parent must have numbers in range({n_nodes})"
        elif self._has_circle():
            yield "a node is its own ancestor"

    def classes_below(self, node: int) -> Ints:
        """Return the ascending labels of the classes that are a node or below it.

        Parameters
        ----------
        node : int
            In ``range(n_classes + n_ancestors)``.
        """
        below = self._children()
        found, todo = {node}, [node]
        while todo:
            new = set(below[todo.pop()]) - found
            found |= new
            todo += new
        return np.array(sorted(k for k in found if k < self.n_classes), dtype=np.int64)

    def restricted(self, labels: Ints, ids: Sequence[str], words: Sequence[str]) -> Hierarchy:
        """Return the hierarchy of some of the classes: these, and all that is above them.

        Parameters
        ----------
        labels : ndarray of int64, shape (n,)
            Ascending labels of the classes to keep; the first is class 0 of the result.
        ids, words : sequence of str, length n_classes
            Of all classes: one that is above others remains as an ancestor.

        Examples
        --------
        >>> pets = Hierarchy.from_parents(
        ...     ["cat", "animal", "dog"], {"cat": ["animal"], "dog": ["canine"]}, {"canine": "dogs"}
        ... )
        >>> pets.restricted(np.array([0]), ["cat", "animal", "dog"], ["cats", "animals", "dogs"])
        Hierarchy(names=('animal',), words=('animals',), parent=array([1]),
                  parent_indptr=array([0, 1, 1]), notice='')
        """
        bounds = self.parent_indptr.tolist()
        above = [self.parent[a:b].tolist() for a, b in pairwise(bounds)]
        found, todo = set(labels.tolist()), labels.tolist()
        while todo:
            new = set(above[todo.pop()]) - found
            found |= new
            todo += new
        kept = [*labels.tolist(), *sorted(found.difference(labels.tolist()))]
        number = {node: k for k, node in enumerate(kept)}
        all_ids, all_words = [*ids, *self.names], [*words, *self.words]
        ancestors = kept[len(labels) :]
        return Hierarchy(
            tuple(all_ids[node] for node in ancestors),
            tuple(all_words[node] for node in ancestors),
            np.array([number[node] for k in kept for node in above[k]], dtype=np.int64),
            np.cumsum([0, *(len(above[k]) for k in kept)], dtype=np.int64),
            self.notice,
        )

    def _children(self) -> list[list[int]]:
        children: list[list[int]] = [[] for _ in range(len(self.parent_indptr) - 1)]
        child = np.repeat(np.arange(len(children)), np.diff(self.parent_indptr))
        for low, high in zip(child.tolist(), self.parent.tolist(), strict=True):
            children[high].append(low)
        return children

    def _has_circle(self) -> bool:
        """Whether nodes remain when nodes without parents are removed again and again."""
        children = self._children()
        n_parents = np.diff(self.parent_indptr).tolist()
        tops = [node for node, n in enumerate(n_parents) if n == 0]
        n_left = len(children)
        while tops:
            n_left -= 1
            for child in children[tops.pop()]:
                n_parents[child] -= 1
                if n_parents[child] == 0:
                    tops.append(child)
        return n_left > 0
