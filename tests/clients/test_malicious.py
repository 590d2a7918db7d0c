"""A lie is told in code space: the grid stays, the update turns round or grows, and is clipped where the grid ends."""

import torch

from fedapt.clients.malicious import turned
from fedapt.quant.grid import Grid
from fedapt.quant.weight import CodedWeight, FloatWeight
from fedapt.quant.wire import QuantisedModel


def coded(*codes, scale=0.1, bits=4):
    grid = Grid(torch.tensor([scale]), torch.tensor([8.0]), bits)
    return CodedWeight(torch.tensor([codes], dtype=torch.uint8), grid)


def model(weight, bias):
    return QuantisedModel({"layer": weight}, {"bias": torch.tensor(bias)})


def test_a_turned_update_is_the_start_minus_the_update():
    lie = turned(model(coded(8, 5, 3), [1.0]), model(coded(10, 4, 3), [1.5]), -1)
    assert lie.weights["layer"].codes.tolist() == [[6, 6, 3]]
    assert lie.floats["bias"].tolist() == [0.5]


def test_codes_are_clipped_to_the_ends_of_the_grid_and_floats_are_not():
    lie = turned(model(coded(8, 8, 8), [0.0]), model(coded(9, 7, 8), [2.0]), 100)
    assert lie.weights["layer"].codes.tolist() == [[15, 0, 8]]
    assert lie.weights["layer"].codes.dtype == torch.uint8
    assert lie.floats["bias"].tolist() == [200.0]


def test_a_grid_that_was_laid_anew_is_the_one_that_is_sent():
    # From code 10 of steps of 0.1 (0.2) to code 10 of steps of 0.2 (0.4): turned round 0.0, which is code 8 of the new grid.
    lie = turned(model(coded(10), [0.0]), model(coded(10, scale=0.2), [0.0]), -1)
    assert lie.weights["layer"].codes.tolist() == [[8]]
    assert lie.weights["layer"].grid.scale.item() == torch.tensor(0.2).item()


def test_a_float_weight_is_turned_as_it_is():
    lie = turned(model(FloatWeight(torch.tensor([1.0])), [0.0]), model(FloatWeight(torch.tensor([3.0])), [0.0]), -1)
    assert lie.weights["layer"].values.tolist() == [-1.0]
