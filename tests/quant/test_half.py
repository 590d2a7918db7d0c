import pytest
import torch
from torch import nn

from fedapt.clients.backward.error_map_pruning import ErrorMapPruning
from fedapt.clients.backward.gradient_filter import GradientFilter
from fedapt.clients.backward.sparse_update import SparseUpdate
from fedapt.quant import CodedWeight, GridOptions, OperandWidths, SingleCopySGD, quantise
from fedapt.quant.half import codes_in_half, pays
from fedapt.quant.ops import ConvOp, EmbeddingOp, LinearOp, op_of
from fedapt.quant.skeleton import Skeleton
from fedapt.quant.weight import quantise_tensor
from fedapt.quant.wire import QuantisedModel

CONV = ConvOp((1, 1), (0, 0), (1, 1), 1)
LAYERS = {
    "dense": (lambda: nn.Linear(256, 256), (4, 256)),
    "dense over places": (lambda: nn.Linear(256, 256), (2, 3, 256)),
    "1-D": (lambda: nn.Conv1d(32, 32, 5, stride=2, padding=2), (2, 32, 11)),
    "2-D": (lambda: nn.Conv2d(16, 24, 3, padding=1), (2, 16, 6, 5)),
    "in groups": (lambda: nn.Conv2d(32, 32, 5, groups=2), (2, 32, 7, 7)),
}


def step(make, shape, compute, bits=8, grid=None, operands=None, values=(-1.0, 0.0, 1.0)):
    """Return the output and all gradients of one layer in the middle of a model, and what its forward pass kept of the input."""
    torch.manual_seed(1)
    model = nn.Sequential(make())
    quantised = quantise(model, bits, grid=grid, compute=compute, operands=operands)
    layer, kept, gradients = quantised.layers["0"], [], []
    layer.on_gradient, layer.generator = lambda _, gradient: gradients.append(gradient), torch.Generator()
    choices = torch.tensor(values)
    x = choices[torch.randint(len(values), shape)].requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one.dtype) or one, lambda one: one):
        y = model(x)
    y.backward(choices[torch.randint(len(values), y.shape)])
    return [y.detach(), x.grad, gradients[0], layer.bias.grad], kept


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("grid", [None, GridOptions(granularity="tensor", range="min_max")])
def test_results_are_those_of_float32_but_for_the_rounding_to_bf16(layer, grid):
    (plain, _), (half, kept) = (step(*LAYERS[layer], compute, grid=grid) for compute in ("float32", "bfloat16"))
    # Inputs and errors of -1, 0, 1 are exact: an output is rounded once, an error before (scale) and after its sum.
    for ours, exact in zip(half, plain, strict=True):
        assert ours.dtype is torch.float32
        assert (ours - exact).abs().max() <= 2**-7 * exact.abs().max()
    assert kept == [torch.bfloat16]
    assert not torch.equal(half[0], plain[0]) and torch.equal(half[3], plain[3])


@pytest.mark.parametrize("layer", ["dense", "2-D"])
def test_codes_are_exact(layer):
    make, shape = LAYERS[layer]

    def forward(compute):
        torch.manual_seed(1)
        model = nn.Sequential(make())
        quantise(model, 8, compute=compute)
        one = torch.zeros(shape)
        # A single input: each output is one weight, with nothing to add up, and rounded nowhere.
        one.view(shape[0], -1)[:, 7] = 4.0
        return model(one).detach()

    assert torch.allclose(forward("bfloat16"), forward("float32"), rtol=1e-6, atol=1e-7)
    assert forward("bfloat16").unique().numel() > 20


def test_gradients_of_small_whole_numbers_are_exact():
    (plain, _), (half, _) = (step(lambda: nn.Linear(256, 256), (100, 256), compute) for compute in ("float32", "bfloat16"))
    # A sum of a hundred products of -1, 0 and 1 is a whole number below 256, which bf16 holds.
    assert torch.equal(half[2], plain[2]) and plain[2].abs().max() > 10


def test_bf16_is_for_codes_of_at_most_8_bits_and_for_layers_where_it_pays():
    large, generator = torch.randn(256, 256), torch.Generator()
    coded = {bits: quantise_tensor(large, bits, GridOptions(), "nearest", generator) for bits in (2, 8, 9, 32)}
    assert [codes_in_half(LinearOp(), weight) is not None for weight in coded.values()] == [True, True, False, False]
    assert codes_in_half(EmbeddingOp(), coded[8]) is None
    assert pays(LinearOp(), (256, 256)) and not pays(LinearOp(), (255, 256)) and not pays(LinearOp(), (64, 3136))
    assert pays(CONV, (32, 16, 5, 5)) and not pays(CONV, (16, 1, 5, 5)) and not pays(CONV, (64, 1, 3, 3))


@pytest.mark.parametrize(("bits", "make"), [(9, LAYERS["dense"][0]), (32, LAYERS["dense"][0]), (8, lambda: nn.Linear(256, 10))])
def test_what_is_not_computed_in_bf16_stays_the_same_to_the_last_bit(bits, make):
    (plain, _), (half, kept) = (step(make, (4, 256), compute, bits, values=(0.3, 0.7)) for compute in ("float32", "bfloat16"))
    assert all(map(torch.equal, plain, half)) and kept == [torch.float32]


def test_quantised_inputs_are_kept_as_codes_all_the_same():
    operands = OperandWidths(activations=8, errors=8)
    (plain, _), (half, kept) = (step(*LAYERS["2-D"], compute, operands=operands) for compute in ("float32", "bfloat16"))
    assert kept == [torch.uint8]
    assert all((a - b).abs().max() <= 2**-6 * b.abs().max() for a, b in zip(half, plain, strict=True))


def network():
    torch.manual_seed(0)
    convs = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*convs, nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3))


def losses(backward, compute):
    """Return the losses of some steps on three patterns."""
    skeleton, model = Skeleton(network, backward, compute=compute), network()
    weights = {name: module.weight for name, module in model.named_modules() if op_of(module)}
    generator = torch.Generator().manual_seed(1)
    coded = {name: quantise_tensor(weight, 8, GridOptions(), "stochastic", generator) for name, weight in weights.items()}
    floats = {name: value.detach() for name, value in model.named_parameters() if name.endswith("bias")}
    skeleton.load(QuantisedModel(coded, floats))
    labels = torch.arange(12) % 3
    x = torch.randn(3, 1, 8, 8, generator=generator)[labels] + 0.3 * torch.randn(12, 1, 8, 8, generator=generator)
    sgd = SingleCopySGD(skeleton.model, skeleton.quantised, 0.1, "stochastic", generator)
    found = []
    for _ in range(30):
        with sgd.step():
            loss = nn.functional.cross_entropy(skeleton.model(x), labels)
            loss.backward()
        found.append(float(loss.detach()))
    assert all(isinstance(layer.weight, CodedWeight) for layer in skeleton.quantised.layers.values())
    return found


@pytest.mark.parametrize(
    "backward",
    [None, GradientFilter(layers=2, patch=2), ErrorMapPruning(keep=0.5), SparseUpdate(biases=3, weights={"2": 0.5, "5": 1.0})],
    ids=["exact", "gradient_filter", "error_map_pruning", "sparse_update"],
)
def test_a_model_learns_in_bf16_as_it_does_in_float32_by_every_method(backward):
    plain, half = losses(backward, "float32"), losses(backward, "bfloat16")
    assert half != plain and half[0] == pytest.approx(plain[0], rel=0.01)
    assert half[-1] < 0.7 * half[0]
    assert half[-1] == pytest.approx(plain[-1], abs=0.1)
