"""Byte ranges of rows of an HDF5 dataset; the offset of each row is the oracle."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from arraystore.containers.hdf5.chunks import ChunkedColumn

N_ROWS = 11
ROW_SHAPE = (3,)
ROW_NBYTES = 6


@given(
    chunk_rows=st.integers(1, N_ROWS + 2),
    first=st.integers(0, N_ROWS - 1),
    steps=st.lists(st.sampled_from([0, 1, 1, 1, 2]), max_size=N_ROWS),
    data=st.data(),
)
def test_row_ranges_are_the_bytes_of_the_rows(
    chunk_rows: int, first: int, steps: list[int], data: st.DataObject
) -> None:
    positions = np.cumsum([first, *steps])
    positions = positions[positions < N_ROWS]
    n_chunks = -(-N_ROWS // chunk_rows)
    order = data.draw(st.permutations(range(n_chunks)))
    start = 100 + np.array(order, np.int64) * chunk_rows * ROW_NBYTES
    nbytes = np.full(n_chunks, chunk_rows * ROW_NBYTES)
    column = ChunkedColumn(np.dtype("u2"), N_ROWS, chunk_rows, start, nbytes, [], ROW_SHAPE)
    ranges = column.row_ranges("a.h5", positions)
    expected = [
        int(start[row // chunk_rows]) + row % chunk_rows * ROW_NBYTES + byte
        for row in positions.tolist()
        for byte in range(ROW_NBYTES)
    ]
    assert [byte for _, begin, stop in ranges for byte in range(begin, stop)] == expected
