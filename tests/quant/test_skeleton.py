"""fedapt.quant.skeleton: models move in and out of one architecture, and leave nothing behind."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from fedapt.errors import DamagedData
from fedapt.quant import FloatWeight, GridOptions, MasterWeight, OperandWidths, SingleCopySGD, quantisable
from fedapt.quant.skeleton import Skeleton, float_arrays
from fedapt.quant.treatment import WHOLE, Scheme
from fedapt.quant.wire import from_bytes, quantise_arrays, to_bytes
from tests.quant.live import Storages
from tests.quant.nets import Odd, cnn, mlp

ROOT = Path(__file__).parents[2]


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


@pytest.mark.parametrize("make", [Odd, cnn, mlp])
def test_any_model_crosses_the_network_and_comes_back_the_same(make):
    start = coded(make())
    skeleton = Skeleton(make)
    skeleton.load(from_bytes(to_bytes(start, {}))[0])
    assert to_bytes(skeleton.unload(), {}) == to_bytes(start, {})


def test_a_model_that_moved_in_computes_as_the_float_model_with_its_weights():
    model = Odd().eval()
    reference, start = copy.deepcopy(model), coded(model, bits=3)
    reference.load_state_dict({name: torch.from_numpy(array) for name, array in start.dequantised().items()}, strict=False)
    skeleton = Skeleton(Odd)
    skeleton.load(start)
    tokens = torch.tensor([0, 3, 4, 4])
    with torch.no_grad():
        assert torch.equal(skeleton.model.eval()(tokens), reference(tokens))


def test_codes_move_in_without_a_copy_and_floats_do_not_change_what_was_sent():
    start = coded(mlp())
    skeleton = Skeleton(mlp)
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
    skeleton = Skeleton(Odd)
    # A norm without momentum weighs its running mean by the count of batches that it has seen, which is no float.
    alone = visit(skeleton, one, torch.tensor([0, 1, 2]))
    visit(skeleton, other, torch.tensor([4, 4, 1, 3]))
    assert visit(skeleton, one, torch.tensor([0, 1, 2])) == alone


def test_the_bits_are_those_of_the_model_that_moved_in():
    skeleton = Skeleton(mlp)
    for bits in (2, 16, 32):
        skeleton.load(coded(mlp(), bits))
        assert skeleton.unload().bits == {"dense1": bits, "dense2": bits}


@pytest.mark.parametrize("other", [(8, 64, 3), (9, 64, 4), (9, 63, 3)])
def test_a_model_of_other_shapes_is_refused_with_both(other):
    with pytest.raises(DamagedData, match=r"layer dense\d: expected shape \(.*\), got \(.*\)"):
        Skeleton(mlp).load(coded(mlp(*other)))


def test_another_architecture_is_refused_with_what_differs():
    with pytest.raises(DamagedData, match=r"the message is for another model: conv1, conv1\.bias, conv2, conv2\.bias differ"):
        Skeleton(mlp).load(coded(cnn()))


@pytest.mark.parametrize(("name", "shape"), [("dense1.bias", (1,)), ("dense1.bias", (64, 1)), ("dense2.bias", ())])
def test_a_float_of_a_shape_that_would_broadcast_is_refused(name, shape):
    start = coded(mlp())
    start.floats[name] = torch.zeros(shape)
    with pytest.raises(DamagedData, match=f"{name}: expected shape .*, got "):
        Skeleton(mlp).load(start)


@pytest.mark.parametrize("name", ["dense1.bias", "extra"])
def test_a_missing_and_an_extra_float_are_refused_by_name(name):
    start = coded(mlp())
    if start.floats.pop(name, None) is None:
        start.floats[name] = torch.zeros(1)
    with pytest.raises(DamagedData, match=f"the message is for another model: {name} differ"):
        Skeleton(mlp).load(start)


def test_every_layer_of_a_skeleton_has_the_widths_it_was_given():
    operands = OperandWidths(8, 6)
    layers = Skeleton(mlp, operands=operands).quantised.layers.values()
    assert all(layer.operands is operands for layer in layers)
    assert all(layer.operands == OperandWidths(32, 32) for layer in Skeleton(mlp).quantised.layers.values())


def large():
    return nn.Sequential(nn.Linear(4000, 4000), nn.ReLU(), nn.Linear(4000, 1000), nn.BatchNorm1d(1000))


def test_a_skeleton_of_20_million_weights_takes_less_than_2_mb():
    script = """
import resource, torch
from tests.quant.test_skeleton import Skeleton, large, mlp
Skeleton(mlp)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
skeleton = Skeleton(large)
print(sum(layer.weight.shape.numel() for layer in skeleton.quantised.layers.values()))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, cwd=ROOT, check=True, text=True)
    weights, grown_kb = map(int, done.stdout.split())
    assert weights == 20_000_000 and grown_kb < 2_000


def test_between_building_and_loading_no_weight_of_a_skeleton_is_alive():
    with Storages(least=5_000) as storages:
        Skeleton(large)
        assert storages.alive() == []


def test_building_a_skeleton_keeps_what_is_computed_and_draws_nothing():
    before = torch.random.get_rng_state()
    model = Skeleton(Odd).model
    assert torch.equal(before, torch.random.get_rng_state())
    assert model.table.tolist() == [0, 1, 2, 3] and model.mask.tolist() == [True, False]
    assert int(model.norm.num_batches_tracked) == 0
    assert model.head.weight is model.embedding.weight and not model.head.weight.is_meta
    # The hook that drops weights is gone: what is built elsewhere has its own.
    assert not nn.Linear(2, 2).weight.is_meta


def test_a_factory_that_fails_leaves_no_hook_behind():
    with pytest.raises(ZeroDivisionError):
        Skeleton(lambda: nn.Linear(1 // 0, 2))
    assert not nn.Linear(2, 2).weight.is_meta


def step(skeleton, x, lr=0.5):
    with SingleCopySGD(skeleton.model, skeleton.quantised, lr, "stochastic", torch.Generator().manual_seed(1)) as sgd, sgd.step():
        skeleton.model(x).square().sum().backward()


def chain():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)
    )


def kept_bytes(skeleton, x):
    sizes = {}

    def note(tensor):
        sizes[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = skeleton.model(x)
    return sum(sizes.values()), output


@pytest.mark.parametrize("operands", [OperandWidths(), OperandWidths(8, 8)], ids=["float", "8 bits"])
def test_a_frozen_prefix_keeps_nothing_and_stays_as_it_was(operands, generator):
    skeleton = Skeleton(chain, operands=operands)
    skeleton.load(coded(chain(), 8))
    x = torch.randn(3, 1, 8, 8, generator=generator)
    everything, _ = kept_bytes(skeleton, x)
    skeleton.treat(Scheme(("0", "1", "3")))
    before = to_bytes(skeleton.unload(), {})
    kept, output = kept_bytes(skeleton, x)
    # The input of the dense layer, 64 numbers a sample, is all that its gradient needs.
    assert kept == 3 * 64 * (4 if operands.activations == 32 else 1) and everything > 5 * kept
    assert output.grad_fn is not None
    step(skeleton, x)
    now = skeleton.unload()
    was, _ = from_bytes(before)
    moved = {name for name, w in now.weights.items() if not torch.equal(w.codes, was.weights[name].codes)}
    assert moved == {"6"} and {n for n, v in now.floats.items() if not torch.equal(v, was.floats[n])} == {"6.bias"}


def test_a_model_that_is_frozen_whole_needs_no_gradient_at_all():
    skeleton = Skeleton(mlp)
    skeleton.load(coded(mlp()))
    skeleton.treat(Scheme(("dense1", "dense2")))
    assert not skeleton.model(torch.ones(1, 9)).requires_grad


def test_a_layer_frozen_in_the_middle_keeps_nothing_and_passes_the_error_on(generator):
    free, frozen = (Skeleton(chain, operands=OperandWidths(activations=8)) for _ in range(2))
    start, x = coded(chain(), 32), torch.randn(3, 1, 8, 8, generator=generator)
    for skeleton in (free, frozen):
        skeleton.load(copy.deepcopy(start))
    frozen.treat(Scheme(("3",)))
    assert kept_bytes(free, x)[0] - kept_bytes(frozen, x)[0] == 3 * 4 * 6 * 6
    for skeleton in (free, frozen):
        step(skeleton, x, lr=1e-3)
    ours, theirs = frozen.unload(), free.unload()
    assert torch.equal(ours.weights["0"].values, theirs.weights["0"].values)
    still = {name for name in start.weights if torch.equal(ours.weights[name].values, start.weights[name].values)}
    assert still == {"3"}


def test_a_scheme_holds_until_the_next_one_whatever_model_moves_in():
    def half():
        model = chain()
        model[3].requires_grad_(False)
        return model

    skeleton, layers = Skeleton(half), {}
    layers = skeleton.quantised.layers

    def trained():
        return {n for n, layer in layers.items() if layer.trainable} | {
            n for n, p in skeleton.model.named_parameters() if p.requires_grad
        }

    everything = {"0", "0.bias", "1.weight", "1.bias", "6", "6.bias"}
    assert trained() == everything
    skeleton.treat(Scheme(("1", "0")))
    assert trained() == {"6", "6.bias"}
    skeleton.treat(Scheme(("6",)))
    assert trained() == everything - {"6", "6.bias"}
    skeleton.load(coded(half()))
    assert trained() == everything - {"6", "6.bias"}
    skeleton.treat(WHOLE)
    assert trained() == everything


def test_freezing_what_is_not_there_is_refused_by_name():
    with pytest.raises(DamagedData, match=r"the model has no modules dense3 that could be trained otherwise"):
        Skeleton(mlp).treat(Scheme(("dense3", "dense1")))


def test_a_master_trains_through_its_copy_and_crosses_alone(generator):
    skeleton, start = Skeleton(mlp), coded(mlp(), 32)
    before = start.weights["dense1"].values.clone()
    skeleton.load(start, copies={"dense1": 4}, grid=GridOptions(granularity="tensor"))
    layer = skeleton.quantised.layers["dense1"]
    assert isinstance(layer.weight, MasterWeight) and layer.weight.bits == 4 and layer.weight.copy.grid.scale.shape == (1,)
    assert isinstance(skeleton.quantised.layers["dense2"].weight, FloatWeight)
    step(skeleton, torch.randn(4, 9, generator=generator), lr=1e-3)
    end = skeleton.unload()
    assert end.bits == {"dense1": 32, "dense2": 32} and not torch.equal(end.weights["dense1"].values, before)
    assert end.weights["dense1"].values is start.weights["dense1"].values
    assert from_bytes(to_bytes(end, {}))[0].bits == end.bits


def test_a_copy_of_codes_or_of_no_layer_is_refused():
    with pytest.raises(DamagedData, match="layer dense1: a copy of 4 bits needs a float weight as its master, got 6 bits"):
        Skeleton(mlp).load(coded(mlp(), 6), copies={"dense1": 4})
    with pytest.raises(DamagedData, match="copies are wanted of layers that the model does not have: dense9"):
        Skeleton(mlp).load(coded(mlp(), 32), copies={"dense9": 4})
