"""Error-map pruning: the gradients are those of an error whose worst channels are zero, and nothing else is charged."""

import io

import pandas
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedapt.clients.backward.error_map_pruning import ErrorMapPruning, PrunedErrors
from fedapt.cost.shapes import layer_shapes
from fedapt.cost.trace import ops_of
from fedapt.errors import ScenarioError
from fedapt.quant import BackwardRule, FloatWeight, SingleCopySGD
from fedapt.quant.ops import ConvOp, LinearOp, op_of
from fedapt.quant.skeleton import Skeleton
from fedapt.quant.treatment import Module
from fedapt.report.terminal import Display
from fedapt.run import run
from fedapt.stopping import Stopper
from tests.clients.backward.living import living
from tests.grid.conftest import scenario


def network():
    """Stride 2, two groups, depthwise and dense, on odd sizes."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, groups=2), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 9, 10), nn.ReLU(), nn.Linear(10, 3)),
    )  # fmt: skip


LAYERS = ["0", "2", "4", "7", "9"]


def train(made, steps, samples=5, lr=0.05):
    """Train on one batch; return the losses and, by layer, the output channels that moved in the last step."""
    labels, losses = torch.arange(samples) % 3, []
    x = torch.randn(samples, 1, 9, 9, generator=torch.Generator().manual_seed(2)) / 2
    for place, label in enumerate(labels):
        x[place, :, 3 * label : 3 * label + 3] += 2
    layers = made.quantised.layers
    with SingleCopySGD(made.model, made.quantised, lr, "stochastic", torch.Generator().manual_seed(3)) as sgd:
        for _ in range(steps):
            before = {name: layers[name].weight.dequantise().clone() for name in LAYERS}
            with sgd.step():
                loss = F.cross_entropy(made.model(x), labels)
                loss.backward()
            losses.append(loss.item())
    moved = {name: (layers[name].weight.dequantise() != before[name]).flatten(1).any(1) for name in LAYERS}
    return losses, moved


def by_hand(rule, op, x, weight, error):
    """Return the kept channels, and both gradients by autograd, given an error whose other channels are zero."""
    places = error.movedim(1 if isinstance(op, ConvOp) else -1, 0).flatten(1)
    errors, kernels = places.abs().sum(1), weight.flatten(1).abs().sum(1)
    score = errors * kernels if rule.score == "product" else 2 * errors + kernels
    channels = len(score)
    groups = getattr(op, "groups", 1)
    sets = 1 if groups == channels else groups
    size = channels // sets
    count = -(-round(rule.keep * 100) * size // 100)
    kept = []
    for first in range(0, channels, size):
        order = sorted(range(first, first + size), key=lambda channel: (-score[channel].item(), channel))
        kept += order[:count]
    mask = torch.zeros(channels, dtype=error.dtype)
    mask[kept] = 1
    shape = (-1, *(1,) * (error.dim() - 2)) if isinstance(op, ConvOp) else (-1,)
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    op.forward(x, weight, None).backward(error * mask.view(shape))
    return sorted(kept), x.grad, weight.grad


@st.composite
def layers(draw):
    """A layer with its input: dense ones of several dimensions, convolutions of one and two, in groups."""
    torch.manual_seed(draw(st.integers(0, 10**6)))
    samples, small = draw(st.integers(1, 3)), st.integers(1, 4)
    if draw(st.booleans()):
        places = draw(st.sampled_from([(), (3,), (2, 3)]))
        layer = nn.Linear(draw(small), draw(st.integers(1, 9)), dtype=torch.float64)
        return op_of(layer), torch.randn(samples, *places, layer.in_features, dtype=torch.float64), layer.weight.detach()
    groups = draw(small)
    into, out = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 4))
    dims = draw(st.integers(1, 2))
    settings = {"stride": draw(st.integers(1, 2)), "padding": draw(st.integers(0, 2)), "dilation": draw(st.integers(1, 2))}
    made = (nn.Conv1d, nn.Conv2d)[dims - 1](into, out, draw(st.integers(1, 3)), groups=groups, dtype=torch.float64, **settings)
    sides = [draw(st.integers(5, 8)) for _ in range(dims)]
    return op_of(made), torch.randn(samples, into, *sides, dtype=torch.float64), made.weight.detach()


@settings(max_examples=150, deadline=None)
@given(layers(), st.sampled_from([0.01, 0.3, 0.5, 0.7, 0.99]), st.sampled_from(["product", "sum"]))
def test_both_gradients_are_autograds_of_the_error_without_its_other_channels(layer, keep, score):
    op, x, weight = layer
    treatment = ErrorMapPruning(keep=keep, score=score).treat([module(op, weight), module(LinearOp(), torch.ones(3, 3), "last")])
    rule = treatment["layer"].rule
    error = torch.randn_like(op.forward(x, weight, None))
    kept, of_x, of_weight = by_hand(rule, op, x, weight, error)
    before, gradient = rule.gradients(op, rule.save(op, x), x.shape, FloatWeight(weight), error, True)
    assert before.shape == x.shape and torch.allclose(before, of_x, rtol=0, atol=1e-12)
    assert torch.allclose(gradient, of_weight, rtol=0, atol=1e-12)
    assert rule.kept(weight.shape) == len(kept)
    assert rule.updated(weight.shape) == len(kept) * weight[0].numel()


def module(op, weight, name="layer"):
    return Module(name, op, tuple(weight.shape), True)


def test_the_selection_of_a_small_layer_by_hand():
    # Errors of the channels over both samples: 3, 4, 5, 1; kernels: 2, 1, 1, 9.
    error = torch.tensor([[1.0, -4.0, 2.0, 0.0], [-2.0, 0.0, -3.0, 1.0]])
    weight = torch.tensor([[1.0, -1.0], [0.5, 0.5], [-1.0, 0.0], [4.0, 5.0]])
    op = LinearOp()
    assert PrunedErrors(0.5).scores(op, weight, error).tolist() == [6, 4, 5, 9]
    assert PrunedErrors(0.5).chosen(op, weight, error).tolist() == [0, 3]
    assert PrunedErrors(0.5, "sum").scores(op, weight, error).tolist() == [8, 9, 11, 11]
    assert PrunedErrors(0.25, "sum").chosen(op, weight, error).tolist() == [2]


def test_of_channels_worth_the_same_the_first_are_kept():
    for keep, kept in ((0.2, [0]), (0.5, [0, 1, 2]), (0.6, [0, 1, 2])):
        assert PrunedErrors(keep).chosen(LinearOp(), torch.ones(5, 2), torch.ones(3, 5)).tolist() == kept


@pytest.mark.parametrize("bits", [32, 4])
def test_keeping_everything_is_backpropagation_to_the_last_bit(bits):
    exact, pruned = living(network, None, bits), living(network, ErrorMapPruning(keep=1.0), bits)
    assert train(exact, 5)[0] == train(pruned, 5)[0]
    one, other = exact.unload(), pruned.unload()
    assert all(torch.equal(one.weights[name].dequantise(), other.weights[name].dequantise()) for name in LAYERS)
    assert all(torch.equal(one.floats[name], other.floats[name]) for name in one.floats)


def test_a_share_that_keeps_every_channel_of_a_layer_is_backpropagation_of_that_layer():
    weight, x, error = torch.randn(2, 3), torch.randn(4, 3), torch.randn(4, 2)
    rules = [BackwardRule(), PrunedErrors(0.9)]
    exact, pruned = (rule.gradients(LinearOp(), (x,), x.shape, FloatWeight(weight), error, True) for rule in rules)
    assert all(torch.equal(one, other) for one, other in zip(exact, pruned, strict=True))
    assert PrunedErrors(0.9).step_macs((2, 3), of_input=True) == 0


# Kept of 6, 2 x 4, 8 depthwise, and 10 channels; all 3 of the last layer.
@pytest.mark.parametrize(("keep", "kept"), [(0.5, [3, 4, 4, 5, 3]), (0.3, [2, 4, 3, 3, 3])])
@pytest.mark.parametrize("bits", [32, 16, 4])
def test_no_other_kernel_moves_and_no_code_by_chance(keep, kept, bits):
    _, moved = train(living(network, ErrorMapPruning(keep=keep), bits), 1, lr=2.0)
    assert all(int(moved[name].sum()) <= count for name, count in zip(LAYERS, kept, strict=True))
    assert all(moved[name].any() for name in LAYERS)


def test_biases_keep_their_exact_gradient_of_the_error_that_reaches_them():
    exact, pruned = living(network, None), living(network, ErrorMapPruning(keep=0.2))
    for made in (exact, pruned):
        train(made, 1)
    # Between the last two layers nothing was pruned yet.
    one, other = exact.unload().floats, pruned.unload().floats
    assert torch.equal(one["7.bias"], other["7.bias"]) and torch.equal(one["9.bias"], other["9.bias"])


@pytest.mark.parametrize("samples", [1, 6])
@pytest.mark.parametrize(("bits", "activations"), [(32, 32), (4, 32), (8, 8), (4, 8)])
def test_a_pruned_model_learns_at_any_width_and_from_a_single_sample(bits, activations, samples):
    losses, _ = train(living(network, ErrorMapPruning(), bits, activations), 40, samples, lr=0.3)
    assert losses[-1] < 0.6 * losses[0]


def costs(backward):
    return {shape.name: shape for shape in layer_shapes(living(network, backward).model, (1, 9, 9))}


def test_costs_by_hand():
    """On 9x9 the convolutions have outputs of 6x5x5, 8x3x3 and 8x3x3, and 9, 27 and 9 MACs for each number."""
    shapes = costs(ErrorMapPruning(keep=0.5))
    # Kept channels at their MACs, and a MAC for each number of the error; once a step one for each weight, and the kept kernels.
    hand = {
        "0": (0, 3 * 25 * 9 + 6 * 25, 54, 27),
        "2": (4 * 9 * 27, 4 * 9 * 27 + 8 * 9, 216, 108),
        "4": (4 * 9 * 9, 4 * 9 * 9 + 8 * 9, 72, 36),
        "7": (5 * 72, 5 * 72 + 10, 720, 360),
        "9": (30, 30, 0, 30),
    }
    for name, shape in shapes.items():
        found = shape.backward
        assert (found.error_macs, found.weight_gradient_macs, found.step_macs, found.weights) == hand[name], name
    kinds = [(op.kind, op.macs) for op in ops_of(shapes["7"], 4)]
    expected = [("forward", 720), ("error", 360), ("weight_gradient", 370), ("score", 720), ("update", 360), ("update", 10)]
    assert kinds == expected


class Recurrent(nn.Module):
    """Runs the same dense layer three times."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.layer(self.layer(self.layer(x))))


def test_a_layer_that_is_used_several_times_chooses_and_pays_each_time_but_moves_no_more_than_all_of_it():
    found, _ = layer_shapes(Skeleton(Recurrent, ErrorMapPruning(keep=0.5)).model, (4,))
    # Each of the three scores 4 errors and 16 weights, and keeps 2 kernels of 4; the first has no error to pass on.
    assert (found.backward.error_macs, found.backward.weight_gradient_macs) == (2 * 8, 3 * (8 + 4))
    assert (found.backward.step_macs, found.backward.weights) == (3 * 16, 16)


def test_what_is_kept_from_the_forward_pass_and_sent_is_as_in_backpropagation():
    exact, pruned = costs(None), costs(ErrorMapPruning(keep=0.5))
    for name in LAYERS:
        one, other = exact[name].backward, pruned[name].backward
        assert one.saved_numbers == other.saved_numbers and one.sent_weights == other.sent_weights
    assert living(network, ErrorMapPruning(keep=0.5)).part is None


@pytest.mark.parametrize(
    ("modules", "why"),
    [
        ([module(LinearOp(), torch.ones(3, 3), "dense")], r"`dense` is the only convolution or dense layer"),
        ([Module("gru", None, (), False)], r"no convolution or dense layer"),
    ],
)
def test_a_model_without_a_layer_to_prune_is_refused(modules, why):
    with pytest.raises(ScenarioError, match=why):
        ErrorMapPruning().treat(modules)


@pytest.mark.parametrize(("bits", "precision"), [(32, "fp32"), (4, {"kind": "fixed", "bits": 4})])
def test_a_whole_run_learns_and_its_ledger_has_the_macs_of_a_hand_count(tmp_path, bits, precision):
    method = {"precision": precision, "backward": {"kind": "error_map_pruning", "keep": 0.3}}
    wanted = scenario(clients={"count": 6, "per_round": 3, "method": method})
    with Stopper() as stopper, Display(io.StringIO()) as display:
        path = run(wanted, tmp_path, display, stopper)
    ledger = pandas.read_parquet(path / "ledger.parquet")
    # The digits' cnn: 3x3 kernels with padding on 8x8 and 4x4, dense layers of 32 * 2 * 2 to 64 to 10.
    conv1, conv2, dense1, dense2 = 16 * 64 * 9, 32 * 16 * 144, 128 * 64, 64 * 10
    forward = conv1 + conv2 + dense1 + dense2
    # Kept are ceil(0.3 of 16, 32, 64) = 5, 10, 20; no error passes through the first layer.
    gradients = conv1 * 5 // 16 + 2 * conv2 * 10 // 32 + 2 * dense1 * 20 // 64 + 2 * dense2
    scores = 16 * 64 + 32 * 16 + 64
    a_step = 16 * 9 + 32 * 144 + 128 * 64 + 5 * 9 + 10 * 144 + 20 * 128 + 640 + (16 + 32 + 64 + 10)
    assert len(ledger) == 6 and (ledger["samples"] > 0).all()
    expected = ledger["samples"] * (forward + gradients + scores) + ledger["steps"] * a_step
    assert ledger["macs"].tolist() == expected.tolist()
