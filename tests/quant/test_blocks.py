"""fedapt.quant.blocks: every number is in one block, in the order of memory."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedapt.quant.blocks import BLOCK, blocks


@given(st.integers(0, 12), st.integers(0, 40), st.integers(1, 30))
def test_blocks_cover_every_number_once_in_order_and_are_no_larger_than_asked(rows, columns, size):
    numbers = np.arange(rows * columns).reshape(rows, columns)
    parts = [numbers[block].flatten().tolist() for block in blocks(rows, columns, size)]
    assert [number for part in parts for number in part] == numbers.flatten().tolist()
    assert all(len(part) <= size for part in parts)


def test_as_many_whole_rows_as_fit_make_a_block():
    assert list(blocks(5, 4, 9)) == [(slice(0, 2), slice(None)), (slice(2, 4), slice(None)), (slice(4, 6), slice(None))]
    assert list(blocks(1, 5, 3)) == [(slice(0, 1), slice(0, 3)), (slice(0, 1), slice(3, 6))]
    assert len(list(blocks(1, 2 * BLOCK))) == 2
