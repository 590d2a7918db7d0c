"""fedapt.quant.skeleton: models move in and out of one architecture, and leave nothing behind."""

import copy

import pytest
import torch
from torch import nn

from fedapt.errors import DamagedData
from fedapt.models import build
from fedapt.quant import BackwardRule, CodedWeight, GridOptions, SingleCopySGD, quantisable
from fedapt.quant.skeleton import Skeleton, float_arrays
from fedapt.quant.wire import from_bytes, quantise_arrays, to_bytes


class Odd(nn.Module):
    """What makes names hard: tied weights, a layer in two places, a scalar, buffers of all kinds."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.square = nn.Linear(4, 4)
        self.again = self.square
        self.norm = nn.BatchNorm1d(4, momentum=None)
        self.head = nn.Linear(4, 5)
        self.head.weight = self.embedding.weight
        self.last = nn.Linear(5, 3)
        self.gain = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("table", torch.arange(4.0), persistent=False)
        self.register_buffer("mask", torch.tensor([True, False]))

    def forward(self, tokens):
        x = self.norm(self.again(self.square(self.embedding(tokens)) + self.table))
        return self.gain * self.last(self.head(x))


def arrays_of(model):
    return {name: values.numpy() for name, values in float_arrays(model).items()}


def coded(model, bits=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return quantise_arrays(arrays_of(model), dict.fromkeys(quantisable(model), bits), GridOptions(), "stochastic", generator)


def test_the_server_keeps_each_float_once_under_its_first_name():
    model = Odd()
    arrays = float_arrays(model)
    names = ["gain", "embedding.weight", "square.weight", "square.bias", "norm.weight", "norm.bias"]
    names += ["norm.running_mean", "norm.running_var", "head.bias", "last.weight", "last.bias"]
    assert list(arrays) == names
    assert all(values.dtype == torch.float32 and not values.requires_grad for values in arrays.values())
    assert arrays["gain"].shape == ()


@pytest.mark.parametrize("make", [Odd, lambda: build("cnn", (1, 28, 28), 10, 0), lambda: build("mlp", (9,), 3, 0)])
def test_any_model_crosses_the_network_and_comes_back_the_same(make):
    model = make()
    start = coded(model)
    skeleton = Skeleton(model)
    skeleton.load(from_bytes(to_bytes(start, {}))[0])
    assert to_bytes(skeleton.unload(), {}) == to_bytes(start, {})


def test_a_model_that_moved_in_computes_as_the_float_model_with_its_weights():
    model = Odd().eval()
    reference, start = copy.deepcopy(model), coded(model, bits=3)
    reference.load_state_dict({name: torch.from_numpy(array) for name, array in start.dequantised().items()}, strict=False)
    skeleton = Skeleton(Odd())
    skeleton.load(start)
    tokens = torch.tensor([0, 3, 4, 4])
    with torch.no_grad():
        assert torch.equal(skeleton.model.eval()(tokens), reference(tokens))


def test_codes_move_in_without_a_copy_and_floats_do_not_change_what_was_sent():
    model = build("mlp", (9,), 3, 0)
    start = coded(model)
    skeleton = Skeleton(model)
    skeleton.load(start)
    assert skeleton.unload().weights["dense1"].codes is start.weights["dense1"].codes
    bias = start.floats["dense1.bias"].clone()
    skeleton.unload().floats["dense1.bias"].add_(1.0)
    assert torch.equal(start.floats["dense1.bias"], bias)


def test_one_client_leaves_nothing_to_the_next():
    def visit(skeleton, start, tokens):
        skeleton.load(copy.deepcopy(start))
        skeleton.model.train()
        with SingleCopySGD(skeleton.model, skeleton.quantised, 0.5, "nearest", torch.Generator()) as sgd, sgd.step():
            skeleton.model(tokens).square().sum().backward()
        return to_bytes(skeleton.unload(), {})

    model = Odd()
    one, other = coded(model, bits=4, seed=1), coded(model, bits=9, seed=2)
    skeleton = Skeleton(model)
    # A norm without momentum weighs its running mean by the count of batches that it has seen, which is no float.
    alone = visit(skeleton, one, torch.tensor([0, 1, 2]))
    visit(skeleton, other, torch.tensor([4, 4, 1, 3]))
    assert visit(skeleton, one, torch.tensor([0, 1, 2])) == alone


def test_the_bits_are_those_of_the_model_that_moved_in():
    skeleton = Skeleton(build("mlp", (9,), 3, 0))
    for bits in (2, 16, 32):
        skeleton.load(coded(build("mlp", (9,), 3, 0), bits))
        assert skeleton.unload().bits == {"dense1": bits, "dense2": bits}


@pytest.mark.parametrize("other", [("mlp", (8,), 3), ("mlp", (9,), 4), ("mlp", (3, 3, 2), 3)])
def test_a_model_of_other_shapes_is_refused_with_both(other):
    with pytest.raises(DamagedData, match=r"layer dense\d: expected shape \(.*\), got \(.*\)"):
        Skeleton(build("mlp", (9,), 3, 0)).load(coded(build(*other, 0)))


def test_another_architecture_is_refused_with_what_differs():
    with pytest.raises(DamagedData, match=r"the message is for another model: conv1, conv1\.bias, conv2, conv2\.bias differ"):
        Skeleton(build("mlp", (1, 8, 8), 3, 0)).load(coded(build("cnn", (1, 8, 8), 3, 0)))


@pytest.mark.parametrize(("name", "shape"), [("dense1.bias", (1,)), ("dense1.bias", (64, 1)), ("dense2.bias", ())])
def test_a_float_of_a_shape_that_would_broadcast_is_refused(name, shape):
    start = coded(build("mlp", (9,), 3, 0))
    start.floats[name] = torch.zeros(shape)
    with pytest.raises(DamagedData, match=f"{name}: expected shape .*, got "):
        Skeleton(build("mlp", (9,), 3, 0)).load(start)


@pytest.mark.parametrize("name", ["dense1.bias", "extra"])
def test_a_missing_and_an_extra_float_are_refused_by_name(name):
    start = coded(build("mlp", (9,), 3, 0))
    if start.floats.pop(name, None) is None:
        start.floats[name] = torch.zeros(1)
    with pytest.raises(DamagedData, match=f"the message is for another model: {name} differ"):
        Skeleton(build("mlp", (9,), 3, 0)).load(start)


def test_a_skeleton_has_codes_and_the_rule_it_was_given():
    rule = BackwardRule()
    layers = Skeleton(build("mlp", (9,), 3, 0), rule).quantised.layers.values()
    assert all(isinstance(layer.weight, CodedWeight) and layer.rule is rule for layer in layers)
