"""fedapt.quant.grid: which numbers the codes of a tensor stand for."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pydantic import ValidationError

from fedapt.quant.grid import GridOptions, fit, levels
from fedapt.quant.weight import quantise_tensor

WEIGHTS = arrays(np.float32, array_shapes(max_dims=4, max_side=5), elements=st.floats(-(2.0**100), 2.0**100, width=32)) | arrays(
    np.float32, array_shapes(max_dims=4, max_side=5), elements=st.floats(-2, 2, width=32)
)
OPTIONS = st.builds(
    GridOptions,
    granularity=st.sampled_from(["channel", "tensor"]),
    range=st.sampled_from(["symmetric", "min_max"]),
    headroom=st.floats(1, 4),
)
BITS = st.integers(2, 16)
EVERY_GRID = [GridOptions(granularity=g, range=r) for g, r in product(["channel", "tensor"], ["symmetric", "min_max"])]


def distance(weight, coded):
    """Return how far each weight is from its code, in steps."""
    scale, zero = (values.double() for values in coded.grid.like(coded.codes))
    return (((coded.codes.double() - zero) * scale - torch.from_numpy(weight).double()) / scale).abs()


def test_the_default_grid_is_per_channel_symmetric_and_reaches_half_beyond_the_largest_weight():
    grid = fit(torch.tensor([[1.0, -2.0], [0.5, 0.25]]), 4, GridOptions())
    # 1.5 * 2 and 1.5 * 0.5 over the seven codes above the middle one.
    assert grid.scale.tolist() == pytest.approx([3 / 7, 0.75 / 7]) and grid.zero.tolist() == [8, 8] and grid.bits == 4


def test_per_tensor_there_is_one_scale_for_the_largest_of_all_weights():
    grid = fit(torch.tensor([[1.0, -2.0], [0.5, 0.25]]), 3, GridOptions(granularity="tensor", headroom=1.0))
    assert grid.scale.tolist() == pytest.approx([2 / 3]) and grid.zero.tolist() == [4]


def test_a_min_max_grid_spans_from_the_least_to_the_largest_weight():
    grid = fit(torch.tensor([[-1.0, 2.0, 0.0], [3.0, 1.0, 2.0], [-6.0, -1.0, -3.0]]), 2, GridOptions(range="min_max", headroom=1))
    # Zero is always on the grid: [-1, 2], [0, 3] and [-6, 0] in three steps each.
    assert grid.scale.tolist() == pytest.approx([1, 1, 2]) and grid.zero.tolist() == [1, 0, 3]


def test_headroom_widens_a_min_max_grid_on_both_sides():
    grid = fit(torch.tensor([[-1.0, 2.0]]), 2, GridOptions(range="min_max", headroom=2.0))
    assert grid.scale.tolist() == pytest.approx([2]) and grid.zero.tolist() == [1]


def test_a_zero_between_two_codes_widens_the_grid_until_both_ends_are_on_it():
    # 1.6 and 5.4 steps of 1 become 2 and 5 of 1.08: the upper end decides.
    grid = fit(torch.tensor([[-1.6, 5.4]]), 3, GridOptions(range="min_max", headroom=1.0))
    assert grid.zero.tolist() == [2] and grid.scale.tolist() == pytest.approx([1.08])


@given(WEIGHTS, BITS, OPTIONS)
def test_a_grid_covers_every_weight_and_zero(weight, bits, options):
    grid = fit(torch.from_numpy(weight), bits, options)
    scale, zero = (values.double() for values in grid.like(torch.from_numpy(weight)))
    places = torch.from_numpy(weight).double() / scale + zero
    slack = 1e-6 * 2**bits
    assert places.min() >= -slack and places.max() <= 2**bits - 1 + slack
    assert torch.equal(grid.zero, grid.zero.round()) and grid.zero.min() >= 0 and grid.zero.max() <= 2**bits - 1
    assert bool((grid.scale > 0).all()) and grid.scale.dtype == grid.zero.dtype == torch.float32


@given(WEIGHTS, BITS, OPTIONS)
def test_the_nearest_code_is_at_most_half_a_step_away(weight, bits, options):
    coded = quantise_tensor(torch.from_numpy(weight), bits, options, "nearest", torch.Generator())
    assert distance(weight, coded).max() <= 0.5 + 1e-6 * 2**bits


@given(WEIGHTS, BITS, OPTIONS)
def test_a_stochastic_code_is_less_than_a_step_away(weight, bits, options):
    coded = quantise_tensor(torch.from_numpy(weight), bits, options, "stochastic", torch.Generator().manual_seed(1))
    assert distance(weight, coded).max() < 1 + 1e-6 * 2**bits


@pytest.mark.parametrize(("range", "headroom"), list(product(["symmetric", "min_max"], [1.0, 1.5])))
def test_quantising_down_is_unbiased_at_the_ends_of_the_grid_too(range, headroom):
    weight = torch.tensor([[-1.6, 5.4, 0.3, -0.01]]).expand(20_000, 4)
    options = GridOptions(range=range, headroom=headroom)
    coded = quantise_tensor(weight, 3, options, "stochastic", torch.Generator().manual_seed(3))
    error = (coded.dequantise().double() - weight.double()).mean(0) / coded.grid.scale[0]
    assert error.abs().max() < 5 * math.sqrt(1 / 4 / 20_000) + 2**-17


@pytest.mark.parametrize("options", EVERY_GRID, ids=str)
def test_a_channel_of_zeros_takes_the_range_of_the_tensor_in_both_directions(options):
    coded = quantise_tensor(torch.tensor([[0.0, 0.0], [1.0, -2.0]]), 4, options, "stochastic", torch.Generator())
    assert coded.dequantise()[0].tolist() == [0, 0]
    for target in (1.0, -1.0):
        coded.apply(torch.tensor([[-target, -target], [0.0, 0.0]]), 1.0, "nearest", torch.Generator(), observe=False)
        assert coded.dequantise()[0].tolist() == pytest.approx([target] * 2, abs=float(coded.grid.scale[0]) / 2 + 1e-6)
        coded.apply(torch.tensor([[target, target], [0.0, 0.0]]), 1.0, "nearest", torch.Generator(), observe=False)


@pytest.mark.parametrize("options", EVERY_GRID, ids=str)
@pytest.mark.parametrize("value", [0.0, 1e-42, -1e-42, 1e-9])
def test_a_tensor_of_nothing_stays_nothing_and_has_room_on_both_sides(options, value):
    coded = quantise_tensor(torch.full((2, 3), value), 4, options, "nearest", torch.Generator())
    assert coded.dequantise().abs().max() == 0
    assert bool((coded.grid.zero > 0).all()) and bool((coded.grid.zero < 15).all())
    assert bool((coded.grid.scale > 1e-12).all())


@pytest.mark.parametrize("options", EVERY_GRID, ids=str)
@pytest.mark.parametrize("value", [0.7, -0.7, 1e30, -1e30])
def test_one_element_and_huge_weights_are_quantised_like_others(options, value):
    coded = quantise_tensor(torch.tensor([value]), 6, options, "nearest", torch.Generator())
    assert float(coded.dequantise()) == pytest.approx(value, abs=float(coded.grid.scale[0]) / 2 * 1.001)


def test_the_number_of_steps_is_that_of_the_codes_on_one_side_or_of_all_of_them():
    assert [levels(bits, GridOptions()) for bits in (2, 4, 16)] == [1, 7, 32_767]
    assert [levels(bits, GridOptions(range="min_max")) for bits in (2, 4, 16)] == [3, 15, 65_535]


@pytest.mark.parametrize("bits", [-1, 0, 1, 17, 31, 32])
def test_a_width_that_codes_cannot_have_is_refused(bits):
    with pytest.raises(ValueError, match=f"codes have 2 to 16 bits, got {bits}; 32 means float and has no grid"):
        fit(torch.ones(2, 2), bits, GridOptions())


@pytest.mark.parametrize(
    "wrong",
    [{"headroom": 0.9}, {"headroom": 17.0}, {"headroom": math.nan}, {"range": "max"}, {"granularity": "row"}, {"bits": 4}],
)
def test_options_that_make_no_grid_are_refused(wrong):
    with pytest.raises(ValidationError):
        GridOptions(**wrong)
