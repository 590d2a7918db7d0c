"""fedapt.data.source: choosing rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedapt.data.source import sample, split_off
from fedapt.errors import SetupError


@given(count=st.integers(2, 200), share=st.floats(0.001, 0.999), seed=st.integers(0, 9))
def test_a_split_is_disjoint_complete_ascending_and_never_empty(count, share, seed):
    train, test = split_off(count, share, seed)
    assert sorted([*train, *test]) == list(range(count)) and len(train) and len(test)
    assert (np.diff(train) > 0).all() and (np.diff(test) > 0).all()
    assert abs(len(test) - count * share) <= 1


def test_a_split_follows_from_the_seed():
    assert split_off(50, 0.2, 0)[1].tolist() == split_off(50, 0.2, 0)[1].tolist() != split_off(50, 0.2, 1)[1].tolist()


def test_one_sample_cannot_be_split():
    with pytest.raises(SetupError, match=r"1 samples are too few .* `data\.test`"):
        split_off(1, 0.5, 0)


def test_a_sample_is_a_seeded_random_part_of_the_rows_in_their_order():
    rows = np.arange(100) * 3
    chosen = sample(rows, 10, 0, "train")
    assert len(chosen) == 10 and set(chosen) <= set(rows) and (np.diff(chosen) > 0).all()
    assert chosen.tolist() == sample(rows, 10, 0, "train").tolist() != sample(rows, 10, 1, "train").tolist()
    assert chosen.tolist() != rows[:10].tolist()


@pytest.mark.parametrize("count", [None, 5, 6])
def test_all_rows_are_used_where_there_are_no_more(count):
    assert sample(np.arange(5), count, 0, "train").tolist() == [0, 1, 2, 3, 4]
