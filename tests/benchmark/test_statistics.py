"""Paired differences over seeds, against numbers worked out by hand."""

import pytest

from fedapt.benchmark.forecast import Forecast
from fedapt.benchmark.statistics import Paired, holm, paired, sample


def test_a_paired_difference_has_the_mean_interval_and_p_of_the_textbook():
    # Differences 1, 2, 3: mean 2, sd 1, error 1/sqrt(3), t = 3.4641 with 2 degrees of freedom.
    # For 2 degrees p = 1 - t / sqrt(t^2 + 2) = 1 - sqrt(12 / 14) = 0.0741799; t(0.975) = 4.3026527.
    found = paired({0: 11.0, 1: 22.0, 2: 33.0}, {0: 10.0, 1: 20.0, 2: 30.0})
    assert (found.n, found.difference) == (3, 2.0)
    assert found.p == pytest.approx(0.0741799, abs=1e-6)
    assert (found.low, found.high) == (pytest.approx(2 - 2.4841377, abs=1e-6), pytest.approx(2 + 2.4841377, abs=1e-6))


def test_only_seeds_that_both_have_are_paired():
    assert paired({0: 1.0, 5: 9.0}, {0: 0.5, 1: 3.0}) == Paired(1, 0.5)


def test_one_seed_is_no_test_and_none_is_no_difference():
    assert paired({0: 2.0}, {0: 1.0}) == Paired(1, 1.0, None, None, None)
    assert paired({}, {0: 1.0}) == Paired(0, None)


def test_differences_that_do_not_vary_have_no_p():
    assert paired({0: 3.0, 1: 5.0}, {0: 1.0, 1: 3.0}) == Paired(2, 2.0, 2.0, 2.0, None)


def test_holm_corrects_by_rank_keeps_the_order_and_skips_what_is_no_test():
    # 0.01 x 3, 0.03 x 2, and 0.04 x 1 which may not fall below the one before it.
    assert holm([0.04, None, 0.01, 0.03]) == [pytest.approx(0.06), None, pytest.approx(0.03), pytest.approx(0.06)]
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_spread_is_over_n_minus_one():
    assert (sample([1.0, 2.0, 3.0]).sd, sample([1.0]).sd, sample([]).mean) == (1.0, None, None)


def test_a_forecast_takes_the_pace_of_each_arm_and_shares_the_cells_out():
    forecast = Forecast(2)
    assert forecast.left_s([("a", 10)]) is None
    forecast.learn("a", 10, 20.0)
    forecast.learn("b", 10, 40.0)
    # 10 rounds of 2 s, 10 of 4 s, and 10 of an unknown arm at the mean, 3 s: 90 s for two.
    assert forecast.left_s([("a", 10), ("b", 10), ("c", 10)]) == pytest.approx(45.0)
    assert forecast.left_s([("b", 10)]) == pytest.approx(40.0)
