"""File names end to end in memory; lists of texts are the oracle."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from arraystore.indexing.packed_names import PackedNames, packed

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4)


@given(names=st.lists(texts, min_size=1, max_size=6), data=st.data())
def test_repacked_names_are_those_taken(names: list[str], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(names) - 1), max_size=8))
    taken = PackedNames(packed(names)).take(np.array(rows, np.int64))
    expected = [names[i] for i in rows]
    assert list(taken) == list(taken.repacked()) == expected
    assert taken.repacked().data == packed(expected)
