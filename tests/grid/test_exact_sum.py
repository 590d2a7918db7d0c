"""Sums that no order and no grouping can change."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedapt.errors import DamagedData
from fedapt.grid.exact_sum import ExactSum

UPDATES = st.lists(st.tuples(st.floats(-10, 10, width=32), st.integers(1, 5000)), min_size=1, max_size=12)


SHAPE = {"w": np.zeros(2, np.float32)}


def total(updates):
    result = ExactSum()
    for value, weight in updates:
        result.add({"w": np.float32([value, -value])}, weight)
    return result


@given(UPDATES, st.randoms(use_true_random=False), st.integers(0, 12))
def test_any_order_and_any_grouping_give_the_same_bits(updates, random, cut):
    shuffled = random.sample(updates, len(updates))
    grouped = total(shuffled[:cut])
    grouped.merge(total(shuffled[cut:]))
    assert np.array_equal(total(updates).mean(SHAPE)["w"], grouped.mean(SHAPE)["w"])


@given(UPDATES)
def test_the_mean_is_the_weighted_mean(updates):
    values, weights = np.array([v for v, _ in updates], np.float64), np.array([w for _, w in updates], np.float64)
    expected = (values * weights).sum() / weights.sum()
    assert total(updates).mean(SHAPE)["w"][0] == pytest.approx(expected, abs=2.0**-30)


def test_zero_updates_give_exact_zeros():
    assert not total([(0.0, 7), (0.0, 1)]).mean(SHAPE)["w"].any()


@pytest.mark.parametrize("value", [1e6, np.inf, -np.inf, np.nan])
def test_an_update_that_cannot_be_added_exactly_is_refused_with_advice(value):
    with pytest.raises(DamagedData, match=r"^layer\.weight: an update of .* training diverged: lower lr$"):
        ExactSum().add({"layer.weight": np.float32([0.1, value])}, 1000)


def test_a_refused_update_leaves_the_sum_as_it_was():
    result = total([(1.0, 3)])
    with pytest.raises(DamagedData):
        result.add({"w": np.float32([2.0, np.nan])}, 1000)
    assert result.weight == 3 and result.mean(SHAPE)["w"][0] == 1.0
