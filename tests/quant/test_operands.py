"""fedapt.quant.operands: activations and errors at few bits. References in numpy and by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from sklearn.datasets import load_digits
from torch import nn

from fedapt.quant import BackwardRule, GridOptions, OperandWidths, SingleCopySGD, quantise
from fedapt.quant.blocks import BLOCK
from fedapt.quant.lean import LeanMaxPool, LeanReLU
from fedapt.quant.operands import quantise_activations, quantise_errors
from tests.quant.live import Storages, tensors_now, walk
from tests.quant.nets import cnn

VALUES = arrays(
    np.float32, array_shapes(min_dims=0, max_dims=4, max_side=5, min_side=0), elements=st.floats(-(2.0**60), 2.0**60, width=32)
)
BITS = st.integers(2, 16)


@pytest.mark.parametrize("bits", [0, 1, 17, 33])
def test_widths_that_codes_cannot_have_are_refused(bits):
    for wrong in ({"activations": bits}, {"errors": bits}):
        with pytest.raises(ValueError, match=f"codes have 2 to 16 bits, got {bits}"):
            OperandWidths(**wrong)


def test_activations_span_from_the_least_to_the_largest_with_zero_on_the_grid():
    # [-1, 2] in three steps of 1; 1.4 and 1.6 go to the nearest.
    codes, values = quantise_activations(torch.tensor([-1.0, 2.0, 0.0, 1.4, 1.6]), 2)
    assert codes.codes.tolist() == [0, 3, 1, 2, 3] and codes.scale == 1.0 and codes.zero == 1
    assert values.tolist() == [-1, 2, 0, 1, 2]
    # After a ReLU all codes are above zero, before one that never fires all are below.
    assert quantise_activations(torch.tensor([2.0, 6.0]), 2)[0][1:] == (2.0, 0)
    assert quantise_activations(torch.tensor([-2.0, -6.0]), 2)[0][1:] == (2.0, 3)


@given(VALUES, BITS)
def test_an_activation_is_at_most_half_a_step_from_its_code_and_zero_stays_zero(x, bits):
    source = torch.from_numpy(x.copy())
    codes, values = quantise_activations(source, bits)
    assert codes.codes.dtype == (torch.uint8 if bits <= 8 else torch.uint16) and codes.codes.shape == x.shape
    assert torch.equal(codes.dequantise(), values) and np.array_equal(source.numpy(), x)
    reach = max(float(x.max(initial=0.0)), 0.0) - min(float(x.min(initial=0.0)), 0.0)
    assert np.abs(values.numpy().astype(np.float64) - x).max(initial=0.0) <= reach * (0.5 + 1e-6 * 2**bits) / (2**bits - 1)
    assert (values.numpy()[x == 0] == 0).all()


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_shows_in_every_activation(wrong):
    codes, values = quantise_activations(torch.tensor([1.0, wrong, -1.0]), 8)
    assert bool(values.isnan().all()) and bool(codes.dequantise().isnan().all())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_errors_are_right_on_average(bits, generator):
    error = torch.tensor([1.0, -0.6, 0.01, -0.37, 1e-5, 0.0])
    draws = 40_000
    mean = quantise_errors(error.repeat(draws, 1), bits, generator).double().mean(0)
    step = 1.0 / (2 ** (bits - 1) - 1)
    fractions = (error.double() / step) % 1
    sigmas = step * (fractions * (1 - fractions) / draws).sqrt()
    assert bool(((mean - error).abs() <= 5 * sigmas + 1e-7).all())


@given(VALUES, BITS)
def test_an_error_lies_on_a_symmetric_grid_less_than_a_step_away(x, bits):
    quantised = quantise_errors(torch.from_numpy(x.copy()), bits, torch.Generator().manual_seed(0)).numpy().astype(np.float64)
    step = np.abs(x).max(initial=0.0).astype(np.float64) / (2 ** (bits - 1) - 1)
    assert quantised.shape == x.shape
    if step >= 2.0**-126:
        assert np.abs(quantised - x).max() <= step * (1 + 1e-6 * 2**bits)
        assert np.abs(quantised / step - np.rint(quantised / step)).max() <= 1e-6 * 2**bits
        assert np.abs(quantised).max() <= np.abs(x).max() * (1 + 1e-6)


@pytest.mark.parametrize("error", [[0.0, 0.0], [1e-45, 0.0], [math.inf, 1.0], [math.nan, 1.0]])
def test_errors_without_a_scale_are_left_alone(error):
    assert str(quantise_errors(torch.tensor(error), 8, torch.Generator()).tolist()) == str(torch.tensor(error).tolist())


def test_large_errors_are_quantised_block_by_block_and_not_touched(generator):
    error = torch.randn(3, BLOCK, generator=generator).t()
    before = error.clone()
    quantised = quantise_errors(error, 16, generator)
    assert torch.equal(error, before) and quantised.shape == error.shape
    torch.testing.assert_close(quantised, error, rtol=0, atol=float(error.abs().max()) / 32767 * 1.01)


def kept_bytes(model, x):
    """Return the bytes that autograd keeps, as its hooks see them, without parameters and the input."""
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (kept.setdefault(t.untyped_storage().data_ptr(), t), t)[1], lambda t: t
    ):
        output = model(x)
    mine = {t.untyped_storage().data_ptr() for t in (x, *model.parameters())}
    sizes = [tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in mine]
    return sum(sizes), output


def test_at_8_bits_a_cnn_keeps_a_tenth_of_what_it_keeps_in_float(generator):
    x = torch.randn(4, 1, 28, 28, generator=generator)
    float_model, model = cnn(), cnn()
    quantise(float_model, 8)
    quantise(model, 8, operands=OperandWidths(activations=8))
    # By hand, a sample: inputs of the four layers at a byte, three ReLUs at a bit, two pools at a byte an output.
    inputs, relus, pooled = 784 + 2304 + 512 + 64, (9216 + 2048 + 64) // 8, 2304 + 512
    assert kept_bytes(model, x)[0] == 4 * (inputs + relus + pooled)
    # In float the input is free, but each pool keeps its input (which is the ReLU's output) and 8 bytes an output.
    assert kept_bytes(float_model, x)[0] == 4 * (4 * (9216 + 2304 + 2048 + 512 + 64) + 8 * pooled)


def test_a_layer_computes_with_what_its_codes_stand_for(generator):
    model = nn.Sequential(nn.Linear(6, 5), nn.Flatten())
    quantised = quantise(model, 32, operands=OperandWidths(activations=3))
    x = torch.randn(4, 6, generator=generator).requires_grad_()
    read = quantise_activations(x.detach(), 3)[1]
    gradients = []
    layer = quantised.layers["0"]
    layer.on_gradient = lambda _, gradient: gradients.append(gradient)
    output = model(x)
    expected = F.linear(read, layer.weight.values, layer.bias)
    assert torch.equal(output, expected) and not torch.equal(read, x)
    error = torch.randn(output.shape, generator=generator)
    output.backward(error)
    torch.testing.assert_close(gradients[0], error.t() @ read)
    # The rounding passes the error on as if it were not there.
    torch.testing.assert_close(x.grad, error @ layer.weight.values)
    with torch.no_grad():
        assert torch.equal(model(x), expected)


def test_both_gradients_come_from_the_quantised_error():
    model = nn.Sequential(nn.Linear(3, 40), nn.Flatten())
    layer = quantise(model, 32, operands=OperandWidths(errors=4)).layers["0"]
    gradients, x = [], torch.eye(3).requires_grad_()
    layer.on_gradient = lambda _, gradient: gradients.append(gradient)
    layer.generator = torch.Generator().manual_seed(5)
    error = torch.randn(3, 40, generator=torch.Generator().manual_seed(6))
    model(x).backward(error)
    heard = quantise_errors(error, 4, torch.Generator().manual_seed(5))
    assert len(heard.unique()) <= 15
    torch.testing.assert_close(gradients[0], heard.t())
    torch.testing.assert_close(x.grad, heard @ layer.weight.values)
    torch.testing.assert_close(layer.bias.grad, heard.sum(0))


def test_errors_without_an_optimiser_to_round_them_are_refused():
    model = nn.Sequential(nn.Linear(3, 2))
    quantise(model, 4, operands=OperandWidths(errors=8))
    with pytest.raises(RuntimeError, match="0: an optimiser draws what rounds errors; create a SingleCopySGD"):
        model(torch.ones(1, 3)).sum().backward()


def test_relu_and_pooling_are_replaced_only_where_activations_are_quantised():
    model = cnn()
    quantise(model, 8, operands=OperandWidths(errors=4))
    assert [type(m) for m in (model.relu1, model.pool1)] == [nn.ReLU, nn.MaxPool2d]
    model = cnn()
    quantise(model, 8, operands=OperandWidths(activations=16))
    assert [type(m) for m in (model.relu1, model.pool1)] == [LeanReLU, LeanMaxPool]


def test_what_else_a_rule_keeps_is_kept_as_codes_and_comes_back_as_floats():
    class Keeping(BackwardRule):
        def save(self, op, x):
            return x, x.sum(1), x.argmax(1)

        def weight_gradient(self, op, saved, weight_shape, grad_output):
            seen.append(saved)
            return super().weight_gradient(op, saved, weight_shape, grad_output)

    seen = []
    model = nn.Sequential(nn.Linear(3, 2))
    layer = quantise(model, 8, rule=Keeping(), operands=OperandWidths(activations=8)).layers["0"]
    layer.on_gradient = lambda *_: None
    x = torch.tensor([[1.0, 2.0, 3.0], [0.0, 5.0, 0.1]])
    kept, output = kept_bytes(model, x)
    assert kept == 6 + 2 + 2 * 8
    output.sum().backward()
    read = quantise_activations(x, 8)[1]
    assert torch.equal(seen[0][0], read) and seen[0][2].tolist() == [2, 1]
    torch.testing.assert_close(seen[0][1], read.sum(1), rtol=0, atol=6 / 255)


@pytest.mark.parametrize("operands", [OperandWidths(8, 8), OperandWidths(12, 4)], ids=str)
def test_with_quantised_operands_there_is_still_only_one_copy(operands):
    # The least layer has more weights than any activation has numbers.
    def model():
        return nn.Sequential(nn.Flatten(), nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 31))

    known, least = tensors_now(), 1200
    with Storages(least) as storages:
        net = model()
        quantised = quantise(net, 4, operands=operands)
        assert storages.alive() == []
        storages.most_sizes = 0
        with SingleCopySGD(net, quantised, 0.1, "stochastic", torch.Generator()) as sgd:
            for _ in range(3):
                with sgd.step():
                    net(torch.randn(1, 30, generator=torch.Generator().manual_seed(1))).square().sum().backward()
                assert storages.alive() == [] == walk(least, known)
        assert storages.most_sizes == 1


def trained(operands, seed=0, epochs=12):
    """Train a small network on digits at 8 bits; return its accuracy on 400 others, and its codes."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels)
    held_out, rows = np.split(np.random.default_rng(0).permutation(len(y)), [400])
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 10))
    # Nobody lays new grids here, so there is room for all that the weights grow.
    quantised = quantise(model, 8, grid=GridOptions(headroom=6.0), operands=operands)
    order = np.random.default_rng(seed)
    with SingleCopySGD(model, quantised, 0.2, "stochastic", torch.Generator().manual_seed(seed)) as sgd:
        for _ in range(epochs):
            for batch in np.array_split(order.permutation(rows), len(rows) // 32):
                with sgd.step(observe=False):
                    F.cross_entropy(model(x[batch]), y[batch]).backward()
    with torch.no_grad():
        correct = (model(x[held_out]).argmax(1) == y[held_out]).double().mean()
    return float(correct), torch.cat([layer.weight.codes.flatten() for layer in quantised.layers.values()])


def test_at_8_bit_activations_and_errors_it_learns_as_in_float():
    in_float, _ = trained(OperandWidths())
    for operands in (OperandWidths(8, 8), OperandWidths(8, 32), OperandWidths(32, 8)):
        # 400 samples: two points are eight of them.
        assert trained(operands)[0] > in_float - 0.02 > 0.85


def test_the_same_draws_train_to_the_same_codes_and_others_do_not():
    one, same, other = (trained(OperandWidths(8, 8), seed, epochs=1)[1] for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
