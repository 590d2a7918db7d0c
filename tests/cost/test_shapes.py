import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fedapt.cost.shapes import LayerShape, layer_shapes
from fedapt.quant import quantise


def test_one_convolution_and_one_dense_layer_count_as_by_hand(small):
    """See the fixture for the count."""
    assert layer_shapes(small, (2, 4, 4)) == (
        LayerShape("0", "conv", 54, 3, 3, 864, 32, 48, False),
        LayerShape("3", "linear", 240, 5, 5, 240, 48, 5, True),
    )


@pytest.mark.parametrize(
    ("layer", "shape", "weights", "macs"),
    [
        # Stride 2 and padding 1 on 9x9: (9 + 2 - 3) // 2 + 1 = 5, so 8 * 25 outputs of 3 * 9 MACs.
        (nn.Conv2d(3, 8, 3, stride=2, padding=1), (3, 9, 9), 216, 5400),
        # 4 groups: 12 * 4 * 4 outputs, each over 8 / 4 = 2 channels of 9 taps.
        (nn.Conv2d(8, 12, 3, groups=4), (8, 6, 6), 216, 3456),
        # Depthwise: 6 * 25 outputs of 9 MACs.
        (nn.Conv2d(6, 6, 3, groups=6, padding=1), (6, 5, 5), 54, 1350),
        # Dilation 2 reaches over 5 pixels: 4 * 4 * 4 outputs of 18 MACs.
        (nn.Conv2d(2, 4, 3, dilation=2), (2, 8, 8), 72, 1152),
        # 1-D: 4 * 8 outputs of 6 MACs.
        (nn.Conv1d(2, 4, 3), (2, 10), 24, 192),
        # Dense over a sequence of 3: 3 * 7 outputs of 5 MACs.
        (nn.Linear(5, 7), (3, 5), 35, 105),
    ],
)
def test_macs_and_weights_equal_a_hand_count(layer, shape, weights, macs):
    (found,) = layer_shapes(layer, shape)
    assert (found.weights, found.macs) == (weights, macs)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(6, 9, (3, 5), stride=(2, 1), padding=(1, 2), groups=3), (6, 11, 7)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (4, 5, 5)),
        (nn.Linear(13, 4), (6, 13)),
    ],
)
def test_macs_are_half_of_the_flops_that_torch_counts(layer, shape):
    (found,) = layer_shapes(layer, shape)
    with FlopCounterMode(display=False) as counter:
        layer(torch.zeros(1, *shape))
    assert found.macs == counter.get_total_flops() / 2


def test_quantised_layers_have_the_shapes_of_the_float_model(cnn):
    quantised = copy.deepcopy(cnn)
    quantise(quantised, 4)
    assert layer_shapes(quantised, (1, 28, 28)) == layer_shapes(cnn, (1, 28, 28))


def test_norms_are_float_and_cost_one_mac_an_element():
    """Batch norm of 4 channels: weight, bias, running mean and variance are 16 floats; it touches 4 * 9 elements."""
    (norm,) = layer_shapes(nn.BatchNorm2d(4), (4, 3, 3))
    assert norm == LayerShape("", "float", 0, 0, 16, 36, 36, 36, False)


def test_embeddings_and_recurrent_layers_are_float():
    """Embedding: 6 tokens to 3 numbers, 18 elements. GRU from 3 to 5: 3 gates of 5 * (3 + 5) MACs, 6 steps; 30 biases."""
    model = nn.Sequential(nn.Embedding(11, 3), nn.GRU(3, 5, batch_first=True))
    embedding, gru = layer_shapes(model, (6,), torch.int64)
    assert (embedding.kind, embedding.float_parameters, embedding.macs) == ("float", 33, 18)
    assert (gru.kind, gru.float_parameters, gru.macs) == ("float", 150, 720)


class Odd(nn.Module):
    """Runs one layer twice, another out of order, and one not at all."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(3, 2)
        self.unused = nn.Linear(7, 7)
        self.twice = nn.Linear(3, 3)

    def forward(self, x):
        return self.last(self.twice(self.twice(x)))


def test_a_layer_that_runs_twice_counts_its_macs_twice_and_its_weights_once():
    twice, last, unused = layer_shapes(Odd(), (3,))
    assert (twice.name, twice.weights, twice.macs, twice.trainable_before) == ("twice", 9, 18, True)
    assert (last.name, last.macs) == ("last", 6)
    assert (unused.name, unused.weights, unused.float_parameters, unused.macs) == ("unused", 49, 7, 0)


def test_no_error_is_needed_before_the_first_trainable_layer(cnn):
    cnn[0].requires_grad_(False)
    assert [layer.trainable_before for layer in layer_shapes(cnn, (1, 28, 28))] == [False, False, True, True]


def test_looking_at_a_model_leaves_it_and_the_random_stream_untouched():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    before = copy.deepcopy(model.state_dict())
    state = torch.random.get_rng_state()
    layer_shapes(model, (4,))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert torch.equal(state, torch.random.get_rng_state())
    assert not any(module._forward_hooks for module in model.modules())
