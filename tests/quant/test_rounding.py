"""fedapt.quant.rounding: nothing is lost on average, and whole numbers stay."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedapt.quant.rounding import round_to_whole, uniform

DRAWS = 40_000


def stochastic(values, seed=0):
    return round_to_whole(torch.as_tensor(values, dtype=torch.float32), "stochastic", torch.Generator().manual_seed(seed))


def test_truncate_goes_toward_zero_from_both_sides(generator):
    values = torch.tensor([-2.0, -1.9, -0.5, -1e-6, 0.0, 1e-6, 0.5, 1.9, 2.0])
    assert round_to_whole(values, "truncate", generator).tolist() == [-2, -1, 0, 0, 0, 0, 0, 1, 2]


def test_nearest_takes_ties_to_the_even_code(generator):
    values = torch.tensor([-1.6, -1.5, -0.5, -0.4, 0.4, 0.5, 1.5, 2.5, 2.6])
    assert round_to_whole(values, "nearest", generator).tolist() == [-2, -2, 0, 0, 0, 0, 2, 2, 3]


@pytest.mark.parametrize("value", [0.25, -0.25, 0.001, -0.001, 0.999, -0.999, 3.9, -3.9, 20_000.5, -20_000.75, 65_534.996])
def test_stochastic_rounding_is_unbiased_and_goes_to_a_neighbour(value):
    value = float(torch.tensor(value))
    rounded = stochastic([value] * DRAWS).double()
    fraction = value - math.floor(value)
    assert set(rounded.tolist()) <= {math.floor(value), math.ceil(value)}
    # Five sigmas of a mean of coin throws, and half a step of the noise.
    assert abs(float(rounded.mean()) - value) < 5 * math.sqrt(fraction * (1 - fraction) / DRAWS) + 2**-17


@given(st.integers(0, 2**32))
def test_whole_numbers_never_move_up_to_the_highest_code(seed):
    whole = torch.cat([torch.arange(-300, 300), torch.tensor([-65_535, 32_767, 32_768, 65_534, 65_535])]).float()
    assert torch.equal(stochastic(whole, seed), whole)


def test_no_whole_number_of_16_bits_ever_moves():
    whole = torch.arange(-65_535, 65_536).float()
    assert torch.equal(stochastic(whole), whole)


@pytest.mark.parametrize("rounding", ["truncate", "nearest"])
def test_only_stochastic_rounding_draws(rounding, generator):
    before = generator.get_state()
    round_to_whole(torch.rand(9, generator=torch.Generator().manual_seed(1)), rounding, generator)
    assert torch.equal(generator.get_state(), before)
    round_to_whole(torch.zeros(9), "stochastic", generator)
    assert not torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("rounding", ["truncate", "nearest", "stochastic"])
def test_the_shape_stays_and_the_values_are_not_touched(rounding, generator):
    values = torch.full((3, 1, 5), -0.75)
    assert round_to_whole(values, rounding, generator).shape == (3, 1, 5)
    assert torch.equal(values, torch.full((3, 1, 5), -0.75))


def test_the_noise_has_the_mean_and_the_variance_of_a_uniform_draw_in_each_quarter_of_a_word(generator):
    noise = uniform(400_000, generator).double().view(-1, 4)
    count = len(noise)
    # The mean of n uniform numbers has the variance 1 / 12n, their variance 1 / 180n.
    assert (noise.mean(0) - 1 / 2).abs().max() < 5 / math.sqrt(12 * count)
    assert (noise.var(0) - 1 / 12).abs().max() < 5 / math.sqrt(180 * count)
    correlation = torch.corrcoef(noise.t()) - torch.eye(4)
    assert correlation.abs().max() < 5 / math.sqrt(count)


def test_the_noise_is_strictly_between_0_and_1_and_fills_it_evenly(generator):
    noise = uniform(2**20, generator)
    assert noise.dtype == torch.float32 and noise.min() > 0 and noise.max() < 1
    bins = torch.histc(noise, 64, 0, 1).double()
    expected = 2**20 / 64
    # A chi-square of 63 degrees of freedom has the mean 63 and the variance 126.
    assert abs(float(((bins - expected) ** 2 / expected).sum()) - 63) < 5 * math.sqrt(126)


def test_the_noise_lies_on_multiples_of_two_to_the_minus_24_below_one(generator):
    noise = uniform(100_000, generator).double()
    assert torch.equal(noise * 2**24, (noise * 2**24).round()) and noise.min() >= 0 and noise.max() < 1


def test_an_update_of_a_hundred_thousandth_of_a_code_is_not_lost_on_average(generator):
    # 4 million draws with probability 1e-5 each: 40 expected, standard deviation 6.3; five of them are allowed.
    moved = int(stochastic_sum(1e-5, 4_000_000, generator))
    assert abs(moved - 40) < 5 * 6.3


def stochastic_sum(value, count, generator):
    return round_to_whole(torch.full((count,), value), "stochastic", generator).sum()


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 9])
def test_any_count_of_numbers_can_be_drawn(count, generator):
    assert uniform(count, generator).shape == (count,)


def test_the_same_stream_rounds_the_same_and_another_does_not():
    values = torch.full((64,), 0.5)
    assert torch.equal(stochastic(values, 1), stochastic(values, 1))
    assert not torch.equal(stochastic(values, 1), stochastic(values, 2))
