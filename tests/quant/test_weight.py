"""fedapt.quant.weight: the update of the codes is that of design.md, `q = clip(q - round(lr * d / scale), 0, 2**k - 1)`.

Reference in numpy: `moves` below. Its inputs are whole multiples of small powers of two, so that float32 and float64 agree on
every bit; the sum of a step and its noise alone is one of float32.
"""

import math

import numpy as np
import pytest
import torch

from fedapt.quant.grid import Grid, GridOptions
from fedapt.quant.rounding import uniform
from fedapt.quant.weight import UPDATED, CodedWeight, FloatWeight, MasterWeight, gavg_at, quantise_tensor, refit
from tests.quant.live import Storages

LR = 2.0**-3
SCALES = np.array([2.0**-4, 2.0**-6, 2.0**-2, 2.0**-5])
ROUNDINGS = ["truncate", "nearest", "stochastic"]


def moves(codes, direction, scale, bits, rounding, noise):
    """Return the new codes, and the counts of APT: the sum of |d| / scale, underflows, clipped codes."""
    u = LR * direction / scale
    step = {"truncate": np.trunc(u), "nearest": np.rint(u), "stochastic": -np.floor(np.float32(noise) - np.float32(u))}[rounding]
    moved = codes - step
    new = np.clip(moved, 0, 2**bits - 1)
    underflow = ((direction != 0) & (step == 0)).sum()
    return new, np.abs(direction / scale).sum(), underflow, (moved != new).sum()


def case(bits, channels, shape=(4, 5, 7)):
    """Return codes over the whole range, directions from far below a code to beyond the range, and scales of (channels,)."""
    rng = np.random.default_rng(bits)
    codes = rng.integers(0, 2**bits, shape)
    direction = rng.integers(-31, 32, shape) * 2.0 ** rng.integers(-10, bits - 1, shape)
    return codes, direction, SCALES[:channels]


def coded(codes, scale, bits):
    grid = Grid(torch.tensor(scale, dtype=torch.float32), torch.full((len(scale),), 2.0 ** (bits - 1)), bits)
    return CodedWeight(torch.tensor(codes).to(torch.uint8 if bits <= 8 else torch.uint16), grid)


def apply(weight, direction, lr, rounding, seed=0, observe=True):
    direction = torch.as_tensor(direction, dtype=torch.float32)
    return weight.apply(direction, lr, rounding, torch.Generator().manual_seed(seed), observe)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("bits", range(2, 17))
def test_the_update_is_the_formula(bits, rounding, channels):
    codes, direction, scale = case(bits, channels)
    weight = coded(codes, scale, bits)
    statistics = apply(weight, direction, LR, rounding, seed=7)
    # The code compares the noise v with the fraction; floor(u + 1 - v) is the same.
    noise = uniform(codes.size, torch.Generator().manual_seed(7)).numpy().reshape(codes.shape)
    new, step_sum, underflow, clipped = moves(codes, direction, scale.reshape(-1, 1, 1), bits, rounding, noise)
    assert np.array_equal(weight.codes.numpy(), new)
    assert weight.codes.dtype == (torch.uint8 if bits <= 8 else torch.uint16)
    assert statistics.step_sum == pytest.approx(step_sum, rel=1e-5)
    assert (statistics.underflow, statistics.clipped) == (underflow, clipped)
    assert 0 < clipped < codes.size and 0 < underflow < codes.size


@pytest.mark.parametrize("bits", [2, 8, 9, 16])
def test_codes_stop_at_both_edges_and_are_counted(bits):
    highest = 2**bits - 1
    weight = coded([[0, 0, highest, highest]], [1.0], bits)
    statistics = apply(weight, [[1.0, -1.0, 1.0, -1e9]], 1.0, "nearest")
    assert weight.codes.tolist() == [[0, 1, highest - 1, highest]]
    assert statistics.clipped == 2 and statistics.underflow == 0


def test_statistics_of_one_update_by_hand():
    # Two scales of 0.5 and 0.25, lr 0.5: u is [[0.5, -2], [0, 0.2]], so Gavg's sum is (1 + 4 + 0 + 0.4), one code underflows.
    weight = coded([[8, 8], [8, 8]], [0.5, 0.25], 4)
    statistics = apply(weight, [[0.5, -2.0], [0.0, 0.1]], 0.5, "nearest")
    assert weight.codes.tolist() == [[8, 10], [8, 8]]
    assert statistics.step_sum == pytest.approx(5.4) and statistics.underflow == 2 and statistics.clipped == 0


def test_a_direction_of_zero_is_no_underflow():
    assert apply(coded([[1, 2]], [1.0], 4), [[0.0, 1e-30]], 1.0, "truncate").underflow == 1


def test_without_observation_the_codes_move_the_same_and_nothing_is_counted():
    codes, direction, scale = case(4, 4)
    seen, unseen = coded(codes, scale, 4), coded(codes, scale, 4)
    apply(seen, direction, LR, "stochastic", seed=3)
    assert apply(unseen, direction, LR, "stochastic", seed=3, observe=False) is None
    assert torch.equal(seen.codes, unseen.codes)


@pytest.mark.parametrize("fraction", [0.99, 0.5, 0.01, -0.01, -0.6, -0.99])
def test_at_four_bits_truncating_loses_an_update_below_one_code_and_stochastic_does_not(fraction):
    count = 40_000
    for rounding, expected in (("truncate", 0.0), ("stochastic", -fraction)):
        weight = coded(np.full((1, count), 8), [2.0**-4], 4)
        apply(weight, np.full((1, count), fraction * 2.0**-4), 1.0, rounding)
        mean = float(weight.codes.double().mean()) - 8
        tolerance = 5 * math.sqrt(abs(fraction) * (1 - abs(fraction)) / count) + 2**-17 if expected else 0
        assert abs(mean - expected) <= tolerance


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("shape", [(5, UPDATED // 2 - 2), (2, UPDATED + 6), (3 * UPDATED, 1), (1, 3 * UPDATED + 1)])
def test_a_large_layer_is_updated_block_by_block_to_the_same_codes_and_counts(shape, rounding):
    codes, direction, scale = case(8, 1, shape)
    weight = coded(codes, scale, 8)
    statistics = apply(weight, direction, LR, rounding, seed=7)
    # With one scale for all, all weights are one row.
    generator, blocks_of = torch.Generator().manual_seed(7), range(0, codes.size, UPDATED)
    noise = np.concatenate([uniform(min(UPDATED, codes.size - first), generator).numpy() for first in blocks_of])
    noise = noise.reshape(shape)
    new, step_sum, underflow, clipped = moves(codes, direction, scale, 8, rounding, noise)
    assert np.array_equal(weight.codes.numpy(), new)
    assert statistics.step_sum == pytest.approx(step_sum, rel=1e-5)
    assert (statistics.underflow, statistics.clipped) == (underflow, clipped)


def test_channels_of_a_large_layer_move_by_their_own_scale():
    shape = (4, UPDATED // 3, 2)
    codes, direction, scale = case(8, 4, shape)
    weight = coded(codes, scale, 8)
    apply(weight, direction, LR, "nearest")
    assert np.array_equal(weight.codes.numpy(), moves(codes, direction, scale.reshape(-1, 1, 1), 8, "nearest", 0)[0])


@pytest.mark.parametrize("shape", [(2000, 500), (3, 300_000)])
@pytest.mark.parametrize("bits", [8, 12])
def test_an_update_takes_a_quarter_of_a_megabyte_for_a_layer_of_any_size(shape, bits):
    weight, direction = coded(np.ones(shape, np.int64), [0.1] * shape[0], bits), torch.ones(shape)
    with Storages(least=1) as storages:
        weight.apply(direction, 0.1, "stochastic", torch.Generator(), True)
    # The direction itself is the optimiser's.
    assert storages.most_bytes - direction.nbytes <= 262_144 + 4 * shape[0]


def test_quantising_takes_its_codes_and_a_quarter_of_a_megabyte():
    weight = torch.ones(1000, 1000)
    with Storages(least=1) as storages:
        quantise_tensor(weight, 8, GridOptions(), "stochastic", torch.Generator())
    # Of its floats only blocks, and a few numbers a channel.
    assert storages.most_bytes - weight.nbytes <= 262_144 + 20 * 4000


def test_a_master_takes_the_update_and_its_copy_is_its_nearest_codes():
    """w -= lr * d; scale = 1.5 * max|w| / 7 a row; codes = rint(w / scale) + 8"""
    rng = np.random.default_rng(0)
    values, direction = rng.normal(size=(3, 5)).astype(np.float32), rng.normal(size=(3, 5)).astype(np.float32)
    master = torch.from_numpy(values.copy())
    weight = MasterWeight(master, 4, GridOptions())
    for _ in range(3):
        scale = 1.5 * np.abs(values).max(1, keepdims=True) / 7
        assert weight.copy.codes.tolist() == (np.rint(values / scale) + 8).tolist()
        assert weight.dequantise().numpy() == pytest.approx(np.rint(values / scale) * scale, rel=1e-5)
        assert apply(weight, direction.copy(), 0.25, "stochastic") is None
        values = values - np.float32(0.25) * direction
    assert master.numpy() == pytest.approx(values, rel=1e-5) and weight.master().values is master
    assert weight.bits == 4 and weight.master().bits == 32 and weight.shape == (3, 5)


def test_a_master_gathers_what_its_copy_cannot_show():
    master = torch.tensor([[0.0, 1.0]])
    weight = MasterWeight(master, 4, GridOptions())
    for expected in (0.0, 0.0, 1.5 / 7):
        # Steps of 0.05 in a grid of 0.214: the third is beyond half a step.
        apply(weight, [[-0.05, 0.0]], 1.0, "nearest")
        assert weight.dequantise()[0, 0].item() == pytest.approx(expected)


def test_the_copy_of_a_master_is_one_tensor_of_codes_for_good_also_above_8_bits():
    weight = MasterWeight(torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), 12, GridOptions(granularity="tensor"))
    assert weight.copy.codes.dtype == torch.uint16 and weight.copy.grid.scale.shape == (1,)
    codes = weight.copy.codes
    apply(weight, torch.ones(20, 3), 0.5, "nearest")
    assert weight.copy.codes is codes


def test_dequantising_is_the_affine_formula_channel_by_channel():
    grid = Grid(torch.tensor([0.5, 2.0]), torch.tensor([3.0, 0.0]), 4)
    weight = CodedWeight(torch.tensor([[0, 3, 15], [1, 0, 7]], dtype=torch.uint8), grid)
    assert weight.dequantise().tolist() == [[-1.5, 0, 6], [2, 0, 14]]
    assert weight.dequantise().dtype == torch.float32 and weight.bits == 4
    weight.dequantise().zero_()
    assert weight.codes.tolist() == [[0, 3, 15], [1, 0, 7]]


def test_the_largest_codes_of_16_bits_are_exact():
    grid = Grid(torch.tensor([1.0]), torch.tensor([32_768.0]), 16)
    weight = CodedWeight(torch.tensor([0, 65_535], dtype=torch.uint16), grid)
    assert weight.dequantise().tolist() == [-32_768, 32_767]
    apply(weight, [-1.0, 1.0], 1.0, "stochastic")
    assert weight.codes.tolist() == [1, 65_534]


def test_a_float_weight_takes_a_plain_step_in_place():
    weight = FloatWeight(torch.tensor([[1.0, -2.0]]))
    values = weight.dequantise()
    assert apply(weight, [[0.5, 4.0]], 0.25, "truncate") is None
    assert weight.bits == 32 and weight.dequantise() is values and values.tolist() == [[0.875, -3.0]]


def test_32_bits_copy_the_weight():
    source = torch.nn.Parameter(torch.tensor([[1.0, 2.0]]))
    weight = quantise_tensor(source, 32, GridOptions(), "stochastic", torch.Generator())
    weight.values.zero_()
    assert source.tolist() == [[1, 2]] and not weight.values.requires_grad


def test_quantising_draws_from_its_generator_alone():
    weight = torch.linspace(-1, 1, 60).view(4, 15)

    def codes(seed):
        return quantise_tensor(weight, 3, GridOptions(), "stochastic", torch.Generator().manual_seed(seed)).codes

    assert torch.equal(codes(1), codes(1)) and not torch.equal(codes(1), codes(2))


def test_a_refitted_weight_has_room_again_and_the_same_bits_and_values():
    grid = Grid(torch.tensor([0.25, 1.0]), torch.tensor([8.0, 8.0]), 4)
    clipping = CodedWeight(torch.tensor([[15, 0, 15], [9, 8, 7]], dtype=torch.uint8), grid)
    fresh = refit(clipping, GridOptions(), torch.Generator().manual_seed(0))
    # 1.5 times the largest of 1.75, 2.0 and of 1.0, over seven codes.
    assert fresh.bits == 4 and fresh.grid.scale.tolist() == pytest.approx([3 / 7, 1.5 / 7])
    step = fresh.grid.scale.view(2, 1)
    assert bool(((fresh.dequantise() - clipping.dequantise()).abs() < step).all())
    assert fresh.codes.min() > 0 and fresh.codes.max() < 15
    assert clipping.codes.tolist() == [[15, 0, 15], [9, 8, 7]]


@pytest.mark.parametrize(("bits", "other"), [(6, 7), (8, 9), (9, 8), (16, 2)])
def test_a_weight_refitted_to_other_bits_keeps_its_values_on_average_and_each_within_a_new_step(bits, other):
    values = torch.linspace(-1, 1, 50).reshape(2, 25)
    coded = quantise_tensor(values, bits, GridOptions(), "nearest", torch.Generator())
    fresh = [refit(coded, GridOptions(), torch.Generator().manual_seed(seed), other) for seed in range(400)]
    assert {weight.bits for weight in fresh} == {other} and coded.bits == bits
    wanted, step = coded.dequantise(), fresh[0].grid.scale.view(2, 1)
    assert all(bool(((weight.dequantise() - wanted).abs() < step * (1 + 1e-4)).all()) for weight in fresh)
    # The rounding of one weight has at most half a step of standard deviation; 5 sigmas of the mean over 400.
    mean = torch.stack([weight.dequantise() for weight in fresh]).mean(0)
    assert bool(((mean - wanted).abs() < 5 * 0.5 * step / 20).all())


def test_gavg_at_another_width_is_as_if_the_range_had_that_many_steps():
    # Seven steps at 4 bits, 31 at 6: the same gradient is 31 / 7 times as many of them; 15 and 63 under min/max.
    assert gavg_at(2.0, 4, 6, GridOptions()) == pytest.approx(2 * 31 / 7)
    assert gavg_at(2.0, 6, 4, GridOptions()) == pytest.approx(2 * 7 / 31)
    assert gavg_at(2.0, 4, 6, GridOptions(range="min_max")) == pytest.approx(2 * 63 / 15)
