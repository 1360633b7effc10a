"""Sets of positions, compared with plain Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from arraystore.indexing.positions import (
    as_mask,
    compact,
    indices_among,
    indices_of,
    is_ascending,
    rows,
    take,
    union,
)

if TYPE_CHECKING:
    from arraystore._typing import Ints

small = st.lists(st.integers(0, 12), max_size=9).map(lambda values: np.array(values, np.int64))
ranges = st.tuples(st.integers(0, 9), st.integers(0, 9)).map(lambda ends: range(*sorted(ends)))
owned = small | ranges


@given(small)
def test_compact_returns_range_for_consecutive_positions(positions: Ints) -> None:
    values = positions.tolist()
    found = compact(positions)
    assert list(found) == values
    is_consecutive = values == list(range(values[0], values[0] + len(values))) if values else True
    assert isinstance(found, range) == is_consecutive


@given(owned, st.data())
def test_take_and_rows_equal_indexing(own: range | Ints, data: st.DataObject) -> None:
    n = len(own)
    indices = data.draw(
        st.lists(st.integers(0, n - 1), max_size=5).map(lambda v: np.array(v, np.int64))
        if n
        else st.just(np.empty(0, np.int64))
    )
    start, stop = sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n))))
    assert np.asarray(take(own, indices)).tolist() == [int(own[i]) for i in indices.tolist()]
    assert list(take(own, range(start, stop))) == [int(own[i]) for i in range(start, stop)]
    column = np.arange(13) * 10
    assert rows(column, own).tolist() == [i * 10 for i in own]


@given(owned, small)
def test_indices_of_finds_first_index(own: range | Ints, positions: Ints) -> None:
    values = list(own)
    expected = [values.index(i) if i in values else -1 for i in positions.tolist()]
    assert indices_of(own, positions).tolist() == expected


@given(owned, small)
def test_indices_among_finds_every_index(own: range | Ints, positions: Ints) -> None:
    expected = [index for index, i in enumerate(own) if i in positions]
    assert indices_among(own, np.unique(positions)).tolist() == expected


@given(owned)
def test_is_ascending_is_false_for_repeats(own: range | Ints) -> None:
    assert is_ascending(own) == (list(own) == sorted(set(own)))


@given(st.lists(small.map(np.unique), max_size=4), small)
def test_union_and_as_mask_equal_sets(some: list[Ints], one: Ints) -> None:
    assert union(some).tolist() == sorted({i for part in some for i in part.tolist()})
    assert np.flatnonzero(as_mask(13, one)).tolist() == sorted(set(one.tolist()))
