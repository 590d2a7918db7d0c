"""fedapt.quant.sgd: training on one copy. That there is only one is proved by looking at every tensor that is alive."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedapt.quant import BackwardRule, CodedWeight, Grid, SingleCopySGD, quantise
from tests.quant.live import Storages, tensors_now, walk
from tests.quant.nets import cnn

# The weights of `unique()` by layer; no activation for one image of 3x5x5 has as many numbers as the least of them.
SIZES = {"conv1": 189, "conv2": 693, "dense1": 2277, "dense2": 230}


def unique():
    torch.manual_seed(0)
    model = nn.Sequential()
    for name, layer in {
        "conv1": nn.Conv2d(3, 7, 3, padding=1),
        "norm": nn.BatchNorm2d(7),
        "relu1": nn.ReLU(),
        "conv2": nn.Conv2d(7, 11, 3),
        "flatten": nn.Flatten(),
        "dense1": nn.Linear(99, 23),
        "relu2": nn.ReLU(),
        "dense2": nn.Linear(23, 10),
    }.items():
        model.add_module(name, layer)
    return model


def sgd_of(model, quantised, lr=0.1, rounding="stochastic", **options):
    return SingleCopySGD(model, quantised, lr, rounding, torch.Generator().manual_seed(1), **options)


def step(model, sgd, x, labels, observe=True):
    with sgd.step(observe):
        F.cross_entropy(model(x), labels).backward()


def train_unique(model, sgd, steps=3):
    generator = torch.Generator().manual_seed(2)
    for number in range(steps):
        step(model, sgd, torch.randn(1, 3, 5, 5, generator=generator), torch.tensor([number]))


def one_weight(weights, codes=None, lr=1.0, rounding="nearest", **options):
    """Return a dense layer of one row without bias, its gradient for the input x is x, and its optimiser."""
    model = nn.Sequential(nn.Linear(len(weights), 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([weights]))
    quantised = quantise(model, 32 if codes is None else 4)
    if codes is not None:
        grid = Grid(torch.tensor([0.5]), torch.tensor([8.0]), 4)
        model[0].weight = CodedWeight(torch.tensor([codes], dtype=torch.uint8), grid)
    return model, sgd_of(model, quantised, lr, rounding, **options)


def normed():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2), nn.GroupNorm(2, 8), nn.ReLU(),
        nn.Flatten(), nn.LazyLinear(10),
    )  # fmt: skip


@pytest.mark.parametrize("make", [cnn, normed], ids=["cnn", "norms"])
def test_in_float_it_is_torch_sgd(make, generator):
    torch.manual_seed(0)
    model = make()
    images, labels = torch.randn(5, 8, 1, 28, 28, generator=generator), torch.arange(40).view(5, 8) % 10
    model.eval()(images[0])
    model.train()
    reference = copy.deepcopy(model)
    torch_sgd = torch.optim.SGD(reference.parameters(), lr=0.05)
    quantised = quantise(model, 32)
    with sgd_of(model, quantised, lr=0.05) as sgd:
        for x, y in zip(images, labels, strict=True):
            step(model, sgd, x, y)
            torch_sgd.zero_grad()
            F.cross_entropy(reference(x), y).backward()
            torch_sgd.step()
    ours = dict(model.state_dict()) | {f"{name}.weight": layer.weight.dequantise() for name, layer in quantised.layers.items()}
    assert ours.keys() == reference.state_dict().keys() and sgd.steps == 5
    for name, expected in reference.state_dict().items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", [4, 11])
def test_between_steps_no_float_tensor_of_a_layers_size_is_alive(bits):
    known, least = tensors_now(), min(SIZES.values())
    with Storages(least) as storages:
        model = unique()
        assert storages.alive() == sorted(SIZES.values())
        quantised = quantise(model, bits)
        assert storages.alive() == []
        with sgd_of(model, quantised) as sgd:
            for _ in range(2):
                train_unique(model, sgd)
                assert storages.alive() == [] == walk(least, known)
    assert {name: layer.weight.codes.numel() for name, layer in quantised.layers.items()} == SIZES


@pytest.mark.parametrize("bits", [4, 11])
def test_within_a_step_only_one_layer_has_float_tensors_of_its_size(bits):
    model = unique()
    quantised = quantise(model, bits)
    with sgd_of(model, quantised) as sgd, Storages(min(SIZES.values())) as storages:
        seen = {}
        for layer in quantised.layers.values():
            layer.on_gradient = spying(layer.on_gradient, storages, seen)
        train_unique(model, sgd)
    assert seen == {name: [size] for name, size in SIZES.items()}
    assert storages.most_sizes == 1
    # The gradient, and while it is applied the step, its rounding, the noise and the new codes.
    assert storages.most_bytes <= 5 * 4 * max(SIZES.values())


def spying(on_gradient, storages, seen):
    def spy(layer, gradient):
        seen[layer.name] = storages.alive()
        on_gradient(layer, gradient)

    return spy


def test_the_walk_finds_a_momentum_buffer():
    known, least, momentum = tensors_now(), min(SIZES.values()), {}
    with Storages(least) as storages:
        model = unique()
        quantised = quantise(model, 4)
        with sgd_of(model, quantised) as sgd:
            move = quantised.layers["conv2"].on_gradient

            def with_momentum(layer, gradient):
                momentum[layer.name] = gradient.clone()
                move(layer, gradient)

            quantised.layers["conv2"].on_gradient = with_momentum
            train_unique(model, sgd)
            assert storages.alive() == [SIZES["conv2"]] == [tensor.numel() for tensor in walk(least, known)]


def test_the_walk_finds_the_start_that_fedprox_keeps_and_none_without_it():
    model = unique()
    quantised = quantise(model, 4)
    known, least = tensors_now(), min(SIZES.values())
    with sgd_of(model, quantised):
        assert walk(least, known) == []
    with sgd_of(model, quantised, proximal=0.1):
        assert sorted(tensor.numel() for tensor in walk(least, known)) == sorted(SIZES.values())


def test_the_storages_show_what_only_autograd_keeps():
    class Hoarding(BackwardRule):
        def save(self, op, x):
            return x, x.new_zeros(2277)

    with Storages(least=2277) as storages:
        model = unique()
        quantise(model, 4, rule=Hoarding())
        loss = model(torch.ones(1, 3, 5, 5)).sum()
        assert storages.alive() == [2277] * 4
        del loss
        assert storages.alive() == []


@pytest.mark.parametrize("bits", [2, 4, 8, 12, 16])
@pytest.mark.parametrize("rounding", ["truncate", "stochastic"])
def test_every_weight_lies_on_its_grid_after_training(bits, rounding):
    model = unique()
    quantised = quantise(model, bits)
    before = {name: layer.weight.codes.clone() for name, layer in quantised.layers.items()}
    with sgd_of(model, quantised, lr=0.5, rounding=rounding) as sgd:
        train_unique(model, sgd, steps=4)
    moved = 0
    for name, layer in quantised.layers.items():
        scale, zero = (values.double() for values in layer.weight.grid.like(layer.weight.codes))
        places = layer.weight.dequantise().double() / scale + zero
        assert (places - places.round()).abs().max() < 1e-2
        assert places.min() > -1e-2 and places.max() < 2**bits - 1 + 1e-2
        moved += int((layer.weight.codes.int() != before[name].int()).sum())
    assert moved > 0 or (bits, rounding) == (2, "truncate")


def test_each_gradient_is_gone_after_the_step():
    model = unique()
    with sgd_of(model, quantise(model, 4)) as sgd:
        train_unique(model, sgd)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_at_four_bits_truncating_stands_still_where_stochastic_rounding_learns_on_average():
    for rounding, expected in (("truncate", 8.0), ("stochastic", 8 - 10 * 0.4)):
        model, sgd = one_weight([0.0] * 4000, codes=[8] * 4000, lr=1.0, rounding=rounding)
        for _ in range(10):
            with sgd.step():
                model(torch.full((1, 4000), 0.2)).sum().backward()
        # Ten throws of 0.2 / 0.5 codes have the variance 10 * 0.4 * 0.6; five sigmas of the mean of 4000, and what clips at 0.
        assert float(model[0].weight.codes.double().mean()) == pytest.approx(expected, abs=5 * (2.4 / 4000) ** 0.5 + 0.005)
        assert rounding == "stochastic" or bool((model[0].weight.codes == 8).all())


def test_statistics_are_means_over_the_observed_steps():
    # Scale 0.5, lr 1. Directions (0.5, 0.1), then (4, 0): |d| / scale has the means 0.6 and 4; 0.1 underflows, 8 codes down clip.
    model, sgd = one_weight([0.0, 0.0], codes=[8, 8], lr=1.0)
    for x, observe in (([0.5, 0.1], True), ([9.0, 9.0], False), ([4.0, 0.0], True)):
        with sgd.step(observe):
            model(torch.tensor([x])).sum().backward()
    statistics = sgd.take_statistics()["0"]
    assert statistics.gavg == pytest.approx((0.6 + 4) / 2)
    assert statistics.underflow_share == pytest.approx(1 / 4) and statistics.clip_share == pytest.approx(1 / 4)
    assert sgd.take_statistics() == {}


def test_gavg_does_not_depend_on_the_learning_rate():
    for lr in (1.0, 1e-3):
        model, sgd = one_weight([0.0, 0.0], codes=[8, 8], lr=lr)
        with sgd.step():
            model(torch.tensor([[0.5, 0.25]])).sum().backward()
        assert sgd.take_statistics()["0"].gavg == pytest.approx(0.75)


def test_float_layers_have_no_statistics():
    model, sgd = one_weight([1.0, 2.0])
    with sgd.step():
        model(torch.ones(1, 2)).sum().backward()
    assert sgd.take_statistics() == {}


@pytest.mark.parametrize("bits", [4, 32])
def test_frozen_layers_and_biases_do_not_move_and_pass_the_error_on(bits, generator):
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    model[2].requires_grad_(False)
    model[3].requires_grad_(False)
    model[4].bias.requires_grad_(False)
    quantised = quantise(model, bits)
    weights = {name: layer.weight.dequantise().clone() for name, layer in quantised.layers.items()}
    floats = {name: values.detach().clone() for name, values in model.named_parameters()}
    with sgd_of(model, quantised, lr=1.0) as sgd:
        step(model, sgd, torch.randn(8, 4, generator=generator), torch.arange(8) % 3)
        assert "2" not in sgd.take_statistics()
    still = {name for name, layer in quantised.layers.items() if torch.equal(layer.weight.dequantise(), weights[name])}
    assert still == {"2"}
    unmoved = {name for name, values in model.named_parameters() if torch.equal(values, floats[name])}
    assert unmoved == {"2.bias", "3.weight", "3.bias", "4.bias"}


def test_a_layer_used_twice_moves_once_by_the_sum():
    model, sgd = one_weight([0.0, 0.0], codes=[8, 8], lr=1.0)
    with sgd.step():
        # 0.2 is less than half a code, 0.2 + 0.2 is more: moved use by use, nothing would happen.
        (model(torch.tensor([[0.2, 0.0]])) + model(torch.tensor([[0.2, 0.0]]))).sum().backward()
    assert model[0].weight.codes.tolist() == [[7, 8]]
    assert sgd.take_statistics()["0"].gavg == pytest.approx(0.4)


def test_a_layer_moves_also_when_one_of_its_uses_gets_no_error():
    model, sgd = one_weight([0.0, 0.0], codes=[8, 8], lr=1.0)
    for _ in range(2):
        with sgd.step():
            (model(torch.tensor([[0.5, 1.0]])) * model(torch.ones(1, 2)).detach().exp().clamp(1, 1)).sum().backward()
    assert model[0].weight.codes.tolist() == [[6, 4]]


def test_a_step_that_fails_does_not_poison_the_next():
    model, sgd = one_weight([0.0, 0.0], codes=[8, 8], lr=1.0)
    with pytest.raises(ZeroDivisionError), sgd.step():
        model(torch.ones(1, 2))
        raise ZeroDivisionError
    with sgd.step():
        model(torch.tensor([[0.5, 1.0]])).sum().backward()
        # It moves with its gradient, not at the end of the step: nothing waits for the use that failed.
        assert model[0].weight.codes.tolist() == [[7, 6]]
    assert model[0].weight.codes.tolist() == [[7, 6]] and sgd.steps == 1


def test_when_it_is_closed_another_optimiser_can_take_the_model():
    model = nn.Sequential(nn.Linear(2, 1))
    quantised = quantise(model, 32)
    with sgd_of(model, quantised):
        pass
    with pytest.raises(RuntimeError, match="create a SingleCopySGD"):
        model(torch.ones(1, 2)).sum().backward()
    before = model[0].bias.item()
    with sgd_of(model, quantised, lr=0.25) as sgd, sgd.step():
        model(torch.ones(1, 2)).sum().backward()
    assert model[0].bias.item() == pytest.approx(before - 0.25)


def test_fedprox_pulls_every_weight_to_its_start():
    """w, b = w0, b0; repeat: w -= lr * (x + mu * (w - w0)); b -= lr * (1 + mu * (b - b0))"""
    model = nn.Sequential(nn.Linear(3, 1))
    w0, b0 = model[0].weight.detach().numpy()[0].copy(), float(model[0].bias.detach())
    quantised = quantise(model, 32)
    x = np.array([0.5, -1.0, 2.0])
    w, b = w0.astype(np.float64), b0
    with sgd_of(model, quantised, lr=0.1, proximal=0.7) as sgd:
        for _ in range(5):
            w, b = w - 0.1 * (x + 0.7 * (w - w0)), b - 0.1 * (1 + 0.7 * (b - b0))
            with sgd.step():
                model(torch.tensor(x[None], dtype=torch.float32)).sum().backward()
    assert model[0].weight.dequantise().numpy()[0] == pytest.approx(w, rel=1e-5, abs=1e-6)
    assert model[0].bias.item() == pytest.approx(b, rel=1e-5)


def test_fedprox_pulls_codes_too():
    # Scale 0.5, lr 1, mu 0.5, x 2: the first step is 2 / 0.5 codes down to -2, the second (2 - 0.5 * 2) / 0.5 = 2 codes.
    model, sgd = one_weight([0.0], codes=[8], lr=1.0, proximal=0.5)
    for expected in (4, 2):
        with sgd.step():
            model(torch.tensor([[2.0]])).sum().backward()
        assert model[0].weight.codes.tolist() == [[expected]]


def test_the_same_stream_trains_to_the_same_codes_and_another_does_not():
    def codes(seed):
        model = unique()
        quantised = quantise(model, 4)
        with SingleCopySGD(model, quantised, 0.1, "stochastic", torch.Generator().manual_seed(seed)) as sgd:
            train_unique(model, sgd)
        return torch.cat([layer.weight.codes.flatten() for layer in quantised.layers.values()])

    assert torch.equal(codes(1), codes(1)) and not torch.equal(codes(1), codes(2))


@pytest.mark.parametrize(
    ("codes", "expected"), [(None, [1.0 - 0.5 * (2.0 + 4.0), -1.0 - 0.5 * (3.0 - 1.0)]), ([10, 6], [-2.0, -2.0])]
)
def test_a_correction_is_added_to_the_gradient(codes, expected):
    """w - lr (x + c), with x = (2, 3) and c = (4, -1); codes of half a unit around 8 hold the same weights 1 and -1."""
    model, sgd = one_weight([1.0, -1.0], codes, lr=0.5, correction={"0.weight": torch.tensor([[4.0, -1.0]])})
    with sgd, sgd.step():
        model(torch.tensor([[2.0, 3.0]])).sum().backward()
    np.testing.assert_allclose(model[0].weight.dequantise().detach().numpy()[0], expected)


def test_a_correction_is_added_again_in_every_step_and_beside_the_pull_to_the_start():
    """Two steps of lr 1 along x = 1 and c = 2, and after the first a pull of a half back over the 3 that it took."""
    model, sgd = one_weight([0.0], proximal=0.5, correction={"0.weight": torch.tensor([[2.0]])})
    with sgd:
        for _ in range(2):
            with sgd.step():
                model(torch.tensor([[1.0]])).sum().backward()
    assert model[0].weight.dequantise().item() == -3.0 - (3.0 - 1.5)


def test_float_parameters_are_corrected_by_their_name():
    model = nn.Sequential(nn.Linear(1, 1))
    quantised = quantise(model, 32)
    bias = float(model[0].bias.detach())
    correction = {"0.weight": torch.zeros(1, 1), "0.bias": torch.tensor([0.25])}
    with sgd_of(model, quantised, lr=1.0, correction=correction) as sgd, sgd.step():
        (0.0 * model(torch.ones(1, 1))).sum().backward()
    assert float(model[0].bias.detach()) == pytest.approx(bias - 0.25)
