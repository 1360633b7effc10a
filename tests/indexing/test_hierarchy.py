"""The graph of what classes are kinds of: building, walking, and refusing what is none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arraystore.indexing.hierarchy import Hierarchy


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[str], dict[str, list[str]], dict[str, str]]:
    """Classes and ancestors, where each node's parents come later in a hidden order."""
    n_nodes = draw(st.integers(1, 12))
    names = draw(st.permutations([f"n{k}" for k in range(n_nodes)]))
    parents = {
        name: draw(st.lists(st.sampled_from(names[k + 1 :]), unique=True)) if names[k + 1 :] else []
        for k, name in enumerate(names)
    }
    n_classes = draw(st.integers(0, n_nodes))
    classes = draw(st.permutations(names))[:n_classes]
    return classes, parents, {name: name.upper() for name in names if name not in classes}


def above(name: str, parents: dict[str, list[str]]) -> set[str]:
    """A node and all its ancestors."""
    return {name}.union(*(above(parent, parents) for parent in parents[name]))


@given(graphs())
def test_classes_below_are_those_with_the_node_among_their_ancestors(
    graph: tuple[list[str], dict[str, list[str]], dict[str, str]],
) -> None:
    classes, parents, words = graph
    hierarchy = Hierarchy.from_parents(classes, parents, words)
    assert hierarchy.n_classes == len(classes)
    for node, name in enumerate([*classes, *words]):
        expected = [k for k, below in enumerate(classes) if name in above(below, parents)]
        assert hierarchy.classes_below(node).tolist() == expected


@given(graphs(), st.data())
def test_circle_is_refused(
    graph: tuple[list[str], dict[str, list[str]], dict[str, str]], data: st.DataObject
) -> None:
    classes, parents, words = graph
    low = data.draw(st.sampled_from(sorted(parents)))
    high = data.draw(st.sampled_from(sorted(above(low, parents))))
    circle = parents | {high: [*parents[high], low]}
    with pytest.raises(ValueError, match=r"^a node is its own ancestor$"):
        Hierarchy.from_parents(classes, circle, words)


def test_unknown_parent_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^parent 'fish' is neither a class nor an ancestor$"):
        Hierarchy.from_parents(["tench"], {"tench": ["fish"]}, {"animal": "animal"})


@pytest.mark.parametrize(
    ("parent", "indptr", "fault"),
    [
        ([1], [0, 1], "parent_indptr must have length 3, got 2"),
        ([1], [0, 1, 2], "parent_indptr must ascend from 0 to 1"),
        ([1, 1, 1], [0, 5, 3], "parent_indptr must ascend from 0 to 3"),
        ([2], [0, 1, 1], "parent must have numbers in range(2)"),
        ([-1], [0, 1, 1], "parent must have numbers in range(2)"),
        ([0], [0, 1, 1], "a node is its own ancestor"),
        ([1, 0], [0, 1, 2], "a node is its own ancestor"),
    ],
)
def test_structure_that_cannot_be_used_is_named(
    parent: list[int], indptr: list[int], fault: str
) -> None:
    hierarchy = Hierarchy(("fish",), ("fish",), np.array(parent), np.array(indptr))
    assert list(hierarchy.faults(1)) == [fault]


def test_missing_words_are_named() -> None:
    hierarchy = Hierarchy(("fish",), (), np.array([1]), np.array([0, 1, 1]))
    assert list(hierarchy.faults(1)) == ["must have words for 1 ancestors, got 0"]
