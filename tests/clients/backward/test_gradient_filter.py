"""Gradient filtering against a loop over patches, autograd where it is exact, the paper's tables, and on codes."""

import io
import itertools
import math

import pandas
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from fedapt.clients.backward.gradient_filter import FilteredConv, GradientFilter, published_flops
from fedapt.cost.shapes import layer_shapes
from fedapt.errors import ScenarioError
from fedapt.quant import FloatWeight, OperandWidths, SingleCopySGD, quantise
from fedapt.quant.ops import ConvOp, op_of
from fedapt.quant.skeleton import float_arrays
from fedapt.quant.treatment import FROZEN, WHOLE, Module
from fedapt.report.terminal import Display
from fedapt.run import run
from fedapt.stopping import Stopper
from tests.clients.backward.living import living
from tests.grid.conftest import scenario


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(7)


def filtered(layer, patch, x, error, parity=False):
    """Return what the rule keeps, and both gradients."""
    op, weight = op_of(layer), FloatWeight(layer.weight.detach())
    rule = FilteredConv(patch, tuple(layer.kernel_size), parity)
    saved = rule.save(op, x)
    return saved[0], *rule.gradients(op, saved, x.shape, weight, error, of_input=True)


def by_hand(layer, patch, x, error):
    """Return the same from the equations, in a loop over patches and the places of their outputs, and of the inputs of those."""
    weight, groups = layer.weight.detach(), layer.groups
    dimensions = len(layer.stride)
    strides = math.prod(layer.stride)
    sides = [range(-(-side // patch)) for side in error.shape[2:]]
    kept = x.new_zeros(*x.shape[:2], *map(len, sides))
    before, gradient = torch.zeros_like(x), torch.zeros_like(weight)
    each_in, each_out = weight.shape[1], weight.shape[0] // groups
    for corner in itertools.product(*sides):
        ranges = [range(c * patch, min((c + 1) * patch, side)) for c, side in zip(corner, error.shape[2:], strict=True)]
        outputs = list(itertools.product(*ranges))
        mean = sum(error[(slice(None), slice(None), *place)] for place in outputs) / len(outputs)
        inputs = set()
        for place in outputs:
            spans = []
            for j in range(dimensions):
                reach = layer.dilation[j] * (layer.kernel_size[j] - 1) + 1
                # As many places as the stride, in the middle of the reach; where that is between two, the later; never before it.
                first = place[j] * layer.stride[j] - layer.padding[j] + max(math.ceil((reach - layer.stride[j]) / 2), 0)
                spans.append([at for at in range(first, first + layer.stride[j]) if 0 <= at < x.shape[2 + j]])
            inputs |= set(itertools.product(*spans))
        total = sum((x[(slice(None), slice(None), *place)] for place in inputs), x.new_zeros(x.shape[:2]))
        kept[(slice(None), slice(None), *corner)] = total
        for group in range(groups):
            ins = slice(group * each_in, (group + 1) * each_in)
            outs = slice(group * each_out, (group + 1) * each_out)
            taps = weight[outs].flatten(2).sum(2)
            gradient[outs] += (mean[:, outs].t() @ total[:, ins] / strides).view(each_out, each_in, *(1,) * dimensions)
            for place in inputs:
                before[(slice(None), ins, *place)] = mean[:, outs] @ taps / strides
    return kept, before, gradient


@st.composite
def convolutions(draw):
    """A convolution in float64, a patch, and an input, of many shapes, also such as leave rests."""
    dimensions = draw(st.integers(1, 2))
    groups, each_in, each_out = draw(st.sampled_from([(1, 2, 3), (1, 3, 1), (3, 1, 1), (3, 1, 2), (2, 2, 3)]))
    per_dimension = lambda most, least=1: tuple(draw(st.integers(least, most)) for _ in range(dimensions))  # noqa: E731
    kernel, stride, dilation, padding = per_dimension(4), per_dimension(4), per_dimension(2), per_dimension(3, 0)
    sides = per_dimension(11)
    assume(all(x + 2 * p > d * (k - 1) for x, p, d, k in zip(sides, padding, dilation, kernel, strict=True)))
    torch.manual_seed(0)
    make = nn.Conv1d if dimensions == 1 else nn.Conv2d
    layer = make(groups * each_in, groups * each_out, kernel, stride, padding, dilation, groups, dtype=torch.float64)
    return layer, draw(st.integers(2, 6)), torch.randn(draw(st.integers(1, 2)), groups * each_in, *sides, dtype=torch.float64)


@given(convolutions())
@settings(max_examples=100, deadline=None)
def test_gradients_are_those_of_the_equations_in_a_loop(case):
    layer, patch, x = case
    error = torch.randn_like(layer(x))
    for mine, expected in zip(filtered(layer, patch, x, error), by_hand(layer, patch, x, error), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("patch", [2, 3, 4, 9])
@pytest.mark.parametrize("options", [{}, {"groups": 2}, {"padding": 2}])
@pytest.mark.parametrize("line", [False, True])
def test_a_pointwise_convolution_has_the_gradients_of_autograd_for_errors_averaged_over_patches(line, options, patch, generator):
    layer = (nn.Conv1d if line else nn.Conv2d)(4, 6, 1, dtype=torch.float64, **options)
    x = torch.randn(2, 4, *(9,) if line else (7, 10), dtype=torch.float64, generator=generator).requires_grad_()
    y = layer(x)
    error = torch.randn(y.shape, dtype=torch.float64, generator=generator)
    averaged = error.clone()
    for corner in itertools.product(*(range(0, side, patch) for side in y.shape[2:])):
        here = (..., *(slice(c, c + patch) for c in corner))
        averaged[here] = error[here].mean(tuple(range(2, y.dim())), keepdim=True)
    expected = torch.autograd.grad(y, [x, layer.weight], averaged)
    for mine, one in zip(filtered(layer, patch, x.detach(), error)[1:], expected, strict=True):
        torch.testing.assert_close(mine, one, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "options", [{}, {"dilation": 2}, {"groups": 2}, {"kernel_size": (3, 5)}, {"kernel_size": 2, "stride": 2}]
)
@pytest.mark.parametrize("patch", [2, 4])
def test_an_error_that_is_the_same_everywhere_goes_back_exactly_inside(options, patch, generator):
    layer = nn.Conv2d(4, 6, dtype=torch.float64, **{"kernel_size": 3, **options})
    x = torch.randn(2, 4, 20, 21, dtype=torch.float64, generator=generator).requires_grad_()
    y = layer(x)
    error = torch.randn(2, 6, 1, 1, dtype=torch.float64, generator=generator).expand(y.shape)
    (expected,) = torch.autograd.grad(y, x, error)
    got = filtered(layer, patch, x.detach(), error)[1]
    if layer.stride == (2, 2):
        # A kernel of four different taps: alike only in the mean of each block.
        got, expected = F.avg_pool2d(got, 2), F.avg_pool2d(expected, 2)
    torch.testing.assert_close(got[..., 4:-4, 4:-4], expected[..., 4:-4, 4:-4], rtol=1e-12, atol=1e-12)


def test_parity_is_too_large_by_the_product_of_the_strides(generator):
    layer = nn.Conv2d(2, 3, 3, stride=(2, 3), padding=1)
    x = torch.randn(2, 2, 9, 9, generator=generator)
    error = torch.randn(layer(x).shape, generator=generator)
    ours, theirs = (filtered(layer, 2, x, error, parity)[1:] for parity in (False, True))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(other, 6 * one)


def network():
    """Norms, stride 2, depthwise, pointwise and a head, on images of an odd size."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2), nn.BatchNorm2d(8)),
        *(nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(), nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 3)),
    )  # fmt: skip


LAYERS = ["0", "3", "6", "8", "13"]


def batch(samples=6):
    return torch.randn(samples, 1, 11, 11, generator=torch.Generator().manual_seed(2)), torch.arange(samples) % 3


def losses(made, steps, lr=0.1):
    """Train on one batch; return the loss before each step, and the last step's statistics by layer."""
    x, labels = batch()
    seen = []
    with SingleCopySGD(made.model, made.quantised, lr, "stochastic", torch.Generator().manual_seed(3)) as sgd:
        for _ in range(steps):
            with sgd.step():
                loss = F.cross_entropy(made.model(x), labels)
                loss.backward()
            seen.append(loss.item())
        return seen, sgd.take_statistics()


def test_the_output_and_what_follows_the_filtered_layers_are_exact():
    x, labels = batch()
    gradients, seen_by_head = [], []
    for backward in (None, GradientFilter(patch=2, layers=1)):
        made = living(network, backward)
        bias, head = made.quantised.layers["8"].bias, made.quantised.layers["13"]
        head.on_gradient = lambda layer, gradient: seen_by_head.append(gradient)
        for layer in made.quantised.layers.values():
            layer.on_gradient = layer.on_gradient or (lambda *_: None)
        y = made.model(x)
        F.cross_entropy(y, labels).backward()
        gradients += [y.detach(), bias.grad.clone(), head.bias.grad.clone(), made.model[9].weight.grad.clone()]
    for exact, other in zip(gradients[:4] + seen_by_head[:1], gradients[4:] + seen_by_head[1:], strict=True):
        assert torch.equal(exact, other)


def test_everything_before_the_first_filtered_layer_stays_as_it_was():
    made = living(network, GradientFilter(patch=2, layers=2))
    before = {name: values.clone() for name, values in float_arrays(network()).items()}
    losses(made, 3)
    after = made.unload()
    moved = {name for name in LAYERS if not torch.equal(after.weights[name].values, before[f"{name}.weight"])}
    moved |= {name for name, parameter in made.model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {"6", "8", "13", "6.bias", "8.bias", "9.weight", "9.bias", "13.bias"}
    assert set(made.part.weights) == {"6", "8", "13"}


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize(("bits", "activations"), [(32, 32), (4, 32), (32, 8), (4, 8)])
def test_a_filtered_model_learns_at_any_width(patch, bits, activations):
    made = living(network, GradientFilter(patch=patch, layers=3), bits, activations)
    seen, _ = losses(made, 40)
    assert seen[-1] < seen[0] - 0.15


def test_a_patch_of_one_is_backpropagation_of_the_last_layers_to_the_last_bit():
    exact = living(network, None)
    exact.treat(WHOLE)
    treated = GradientFilter(patch=1, layers=3).treat(exact.modules)
    assert set(treated) == {"0", "1"} and set(treated.values()) == {FROZEN}


def test_codes_move_by_the_filtered_gradient_and_gavg_is_of_it():
    made = living(network, GradientFilter(patch=2, layers=1), bits=4)
    layer = made.quantised.layers["8"]
    start, scale = layer.weight.codes.clone(), layer.weight.grid.scale.clone()
    applied = []
    gradients = layer.rule.gradients

    class Watched(FilteredConv):
        def gradients(self, *args):
            result = gradients(*args)
            applied.append(result[1].clone())
            return result

    layer.rule = Watched(layer.rule.patch, layer.rule.kernel)
    _, statistics = losses(made, 1, lr=2.0)
    assert not torch.equal(layer.weight.codes, start)
    expected = (applied[0].abs() / scale.view(-1, 1, 1, 1)).mean().item()
    assert statistics["8"].gavg == pytest.approx(expected, rel=1e-5)
    moved = (layer.weight.codes.to(torch.float32) - start).abs()
    wanted = (2.0 * applied[0] / scale.view(-1, 1, 1, 1)).abs()
    assert (moved <= wanted.ceil()).all()


@pytest.mark.parametrize(("activations", "each"), [(32, 4), (8, 1)])
def test_only_the_sums_over_patches_are_kept_from_the_forward_pass(activations, each):
    model = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1))
    quantise(model, 8, rule=FilteredConv(2, (3, 3)), operands=OperandWidths(activations=activations))
    kept = []

    def keep(tensor):
        kept.append(tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.randn(5, 8, 13, 13))
    # Seven outputs a side, so four patches.
    assert sum(kept) == 5 * 8 * 16 * each


def test_costs_by_hand():
    layer, rule = nn.Conv2d(4, 6, 3, stride=2, padding=1), FilteredConv(2, (3, 3))
    shapes = (6, 4, 3, 3), (1, 4, 13, 13), (1, 6, 7, 7)
    op = op_of(layer)
    # 16 patches of 4 * 6 products each; 49 errors in each of 6 channels and 169 inputs in each of 4 are summed.
    assert rule.error_macs(op, *shapes) == 16 * 24
    assert rule.weight_gradient_macs(op, *shapes) == 16 * 24 + 6 * 49 + 4 * 169
    assert rule.step_macs(shapes[0], of_input=True) == 24 * 9 and rule.step_macs(shapes[0], of_input=False) == 0
    assert rule.saved_numbers(op, *shapes[:2]) == 4 * 16
    depthwise = op_of(nn.Conv1d(4, 4, 3, groups=4))
    # 9 outputs, so 3 patches of one product for each channel.
    assert FilteredConv(4, (3,)).error_macs(depthwise, (4, 1, 3), (1, 4, 11), (1, 4, 9)) == 12


@pytest.mark.parametrize(
    ("layer", "side", "samples", "pays"),
    [
        (nn.Conv2d(256, 256, 3, padding=1), 14, 8, True),
        (nn.Conv2d(512, 512, 3, padding=1), 7, 32, True),
        (nn.Conv2d(512, 512, 3, padding=1), 2, 1, False),
        (nn.Conv2d(16, 16, 3, padding=1), 14, 8, False),
        (nn.Conv2d(64, 64, 1), 14, 32, False),
        (nn.Conv2d(256, 256, 3, padding=1, groups=256), 14, 32, False),
    ],
    ids=str,
)
def test_filtering_pays_in_wide_dense_layers_only(layer, side, samples, pays):
    x = torch.zeros(samples, layer.in_channels, side, side)
    shapes = tuple(layer.weight.shape), tuple(x.shape), (samples, layer.out_channels, side, side)
    assert FilteredConv(4, layer.kernel_size).pays(op_of(layer), *shapes) is pays


def test_the_costs_of_a_model_are_those_of_what_trains():
    made = living(network, GradientFilter(patch=2, layers=2))
    costs = {shape.name: shape.backward for shape in layer_shapes(made.model, (1, 11, 11))}
    assert [costs[name].weights for name in LAYERS] == [0, 0, 72, 96, 36]
    # Five places a side, so nine patches; nothing before the depthwise layer wants its error.
    assert [costs[name].error_macs for name in LAYERS] == [0, 0, 0, 9 * 96, 36]
    assert [costs[name].saved_numbers for name in LAYERS] == [0, 0, 72, 72, 12]


# The last convolutions of ResNet-18 on images of 224x224, the last first: (weight, output).
RESNET18 = [((512, 512, 3, 3), (1, 512, 7, 7))] * 3 + [((512, 256, 3, 3), (1, 512, 7, 7))]
# Two FLOPs for each MAC of both gradients of the ten classes' head, which the paper's totals have room for.
HEAD = 2 * 2 * 512 * 10


@pytest.mark.parametrize(
    ("patch", "published"),
    [
        (1, [128.25, 487.68, 847.15, 1140.0]),
        (2, [8.18, 26.80, 45.45, 60.01]),
        (4, [1.88, 7.93, 13.99, 19.12]),
    ],
)
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_the_published_flops_of_resnet18_come_out(layers, patch, published):
    flops = HEAD + sum(
        published_flops(weight, y, patch, of_input=place < layers - 1) for place, (weight, y) in enumerate(RESNET18[:layers])
    )
    wanted = published[layers - 1] * 1e6
    digit = 5e6 if wanted > 1e9 else 5e3
    assert abs(flops - wanted) <= max(1e-3 * wanted, digit)


def test_our_macs_are_half_the_published_flops_but_for_sums():
    (weight, y), rule = RESNET18[0], FilteredConv(2, (3, 3))
    op = ConvOp((1, 1), (1, 1), (1, 1), 1)
    ours = rule.error_macs(op, weight, y, y) + rule.weight_gradient_macs(op, weight, y, y)
    # Theirs counts a sum of n numbers as n - 1 FLOPs and leaves out the sums of the input.
    sums = 512 * 512 * 8 + 512 * 49
    theirs = published_flops(weight, y, 2, of_input=True) - sums
    assert 2 * (ours - 2 * 512 * 49) == theirs + 16 * 512 + 512 * 512


@pytest.mark.parametrize(
    ("maps", "ordinary", "small"),
    [
        ([(512, 7, 1)] * 2, 196, 64),
        ([(512, 7, 1)] * 3 + [(256, 14, 2)], 490, 112),
        # MobileNetV2's last two: the projection of the last block, and the pointwise layer before the head.
        ([(960, 7, 1), (320, 7, 1)], 245, 80),
    ],
)
def test_the_published_sizes_of_maps_come_out(maps, ordinary, small):
    """maps: channels, side and stride of what a layer reads."""
    rules = [
        (FilteredConv(2, (3, 3)), ConvOp((s, s), (1, 1), (1, 1), 1), (1, channels, side, side)) for channels, side, s in maps
    ]
    assert sum(4 * math.prod(shape) for *_, shape in rules) == ordinary * 1024
    assert sum(4 * rule.saved_numbers(op, (8, 8, 3, 3), shape) for rule, op, shape in rules) == small * 1024


def test_a_model_that_it_cannot_serve_is_refused_by_name():
    dense = Module("head", op_of(nn.Linear(4, 3)), (3, 4), True)
    conv = Module("body.conv", op_of(nn.Conv1d(4, 3, 3)), (3, 4, 3), True)
    with pytest.raises(ScenarioError, match=r"no convolution .*its last layer is `head`; use `exact`"):
        GradientFilter().treat([dense])
    with pytest.raises(ScenarioError, match=r"`layers` is 2, but the model's convolutions are only `body.conv`; lower `layers`"):
        GradientFilter(layers=2).treat([conv, dense])


@pytest.mark.parametrize("precision", ["fp32", {"kind": "fixed", "bits": 4}], ids=str)
def test_the_ledger_of_a_whole_run_has_the_macs_of_a_hand_count(tmp_path, precision):
    method = {"precision": precision, "backward": {"kind": "gradient_filter", "patch": 2, "layers": 1}}
    with Stopper() as stopper, Display(io.StringIO()) as display:
        path = run(scenario(clients={"count": 6, "per_round": 3, "method": method}), tmp_path, display, stopper)
    ledger = pandas.read_parquet(path / "ledger.parquet")
    # The digits' cnn: 3x3 kernels with padding on 8x8 and 4x4, dense layers of 32 * 2 * 2 to 64 to 10.
    conv1, conv2, dense1, dense2 = 16 * 64 * 9, 32 * 16 * 144, 128 * 64, 64 * 10
    # conv2 alone is filtered: four patches, the sums of 32 errors and 16 inputs at 16 places; no error passes through it.
    sample = conv1 + conv2 + 3 * (dense1 + dense2) + 4 * 32 * 16 + (32 + 16) * 16
    a_step = 32 * 144 + 128 * 64 + 640 + (32 + 64 + 10)
    assert len(ledger) == 6 and (ledger["samples"] > 0).all()
    assert ledger["macs"].tolist() == (ledger["samples"] * sample + ledger["steps"] * a_step).tolist()
