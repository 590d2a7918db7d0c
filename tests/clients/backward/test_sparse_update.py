"""Sparse update: what trains is exact, what does not train stays, and what is kept is as little as its formula says."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from fedapt.clients.backward.sparse_update import SparseUpdate
from fedapt.cost.workload import Workloads
from fedapt.errors import ScenarioError
from fedapt.quant import FloatWeight, SingleCopySGD, quantise_tensor
from fedapt.quant.grid import GridOptions
from fedapt.quant.skeleton import Skeleton, float_arrays
from fedapt.quant.treatment import Scheme
from fedapt.quant.wire import QuantisedModel


def model() -> nn.Module:
    """Dense, stride 2, grouped, depthwise with two outputs a channel, 1x1 and linear layers on odd sizes."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2, groups=2), nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1, groups=8), nn.ReLU(), nn.Conv2d(16, 5, 1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 4),
    )  # fmt: skip


LAYERS = ["0", "2", "4", "6", "10", "12"]


def floats(source: nn.Module) -> QuantisedModel:
    arrays = float_arrays(source)
    weights = {name: FloatWeight(arrays.pop(f"{name}.weight").clone()) for name in LAYERS}
    return QuantisedModel(weights, {name: values.clone() for name, values in arrays.items()})


def one_step(scheme: SparseUpdate, source: nn.Module, x: torch.Tensor, labels: torch.Tensor, lr: float = 0.5) -> QuantisedModel:
    skeleton = Skeleton(model, scheme)
    skeleton.load(floats(source))
    generator = torch.Generator().manual_seed(0)
    with (
        SingleCopySGD(skeleton.model, skeleton.quantised, lr, "stochastic", generator, at_once=skeleton.at_once) as sgd,
        sgd.step(),
    ):
        F.cross_entropy(skeleton.model(x), labels).backward()
    return skeleton.unload()


@pytest.mark.parametrize("order", ["at_once", "after_backward"])
@pytest.mark.parametrize("samples", [1, 3])
def test_what_trains_moves_by_its_exact_gradient_and_nothing_else_moves(samples: int, order: str) -> None:
    torch.manual_seed(0)
    source, x, labels = model(), torch.randn(samples, 3, 9, 9), torch.randint(0, 4, (samples,))
    shares = {"0": 0.5, "2": 0.5, "4": 0.25, "6": 0.3, "10": 0.15}
    scheme = SparseUpdate(biases=4, weights=shares, order=order)
    end = one_step(scheme, source, x, labels)
    F.cross_entropy(source(x), labels).backward()
    # Counts are ceilings: 2 of 3, 2 of the 3 of each group, 2 of 8 depthwise (two outputs each), 5 of 16, 3 of 20.
    places = {"0": np.s_[:, :2], "2": np.s_[:, :2], "4": np.s_[:4], "6": np.s_[:, :5], "10": np.s_[:, :3], "12": np.s_[:]}
    for name in LAYERS:
        layer = source.get_submodule(name)
        expected = layer.weight.detach().clone()
        expected[places[name]] -= 0.5 * layer.weight.grad[places[name]]
        torch.testing.assert_close(end.weights[name].values, expected, rtol=1e-5, atol=1e-6)
        moved = layer.bias.detach() - 0.5 * layer.bias.grad * (name in LAYERS[2:])
        torch.testing.assert_close(end.floats[f"{name}.bias"], moved, rtol=1e-5, atol=1e-6)


def kept_bytes(scheme: SparseUpdate, samples: int) -> int:
    """Count what the live graph keeps, without parameters, the batch and its labels."""
    skeleton = Skeleton(model, scheme)
    skeleton.load(floats(model()))
    skeleton.model.train()
    x, labels = torch.randn(samples, 3, 9, 9), torch.zeros(samples, dtype=torch.int64)
    present = {t.untyped_storage().data_ptr() for t in (*skeleton.model.parameters(), x, labels)}
    kept: dict[int, torch.UntypedStorage] = {}
    with saved_tensors_hooks(lambda t: kept.setdefault(t.untyped_storage().data_ptr(), t.untyped_storage()) and t, lambda t: t):
        loss = F.cross_entropy(skeleton.model(x), labels)
    assert loss.requires_grad
    return sum(storage.nbytes() for address, storage in kept.items() if address not in present)


SCHEMES = (
    SparseUpdate(biases=0, weights={}),
    SparseUpdate(biases=6, weights={}),
    SparseUpdate(biases=3, weights={"4": 0.5, "10": 0.25}),
    SparseUpdate(biases=5, weights={"2": 0.34, "6": 0.125}),
    SparseUpdate(biases=2, weights={"6": 1.0, "10": 0.6}),
)


def by_hand(scheme: SparseUpdate, samples: int) -> int:
    """Kept inputs of the layers whose weights train, a bit for each ReLU output, a byte for each pooled one, and the loss."""
    channels = {"0": 3, "2": 3, "4": 8, "6": 16, "10": 20, "12": 12}
    places = {"0": 81, "2": 81, "4": 16, "6": 16, "10": 1, "12": 1}
    shares = {**(scheme.weights or {}), "12": 1.0}
    inputs = 0
    for name, share in shares.items():
        groups = 2 if name == "2" else 1
        # The raw batch is there anyway, but a choice of its channels is a copy.
        inputs += 4 * samples * groups * math.ceil(share * channels[name]) * places[name]
    outputs = {"0": 6 * 81, "2": 8 * 16, "4": 16 * 16, "6": 5 * 16, "10": 12}
    first = min([LAYERS.index(name) for name in shares] + [len(LAYERS) - (scheme.biases or 0)])
    masks = sum(samples * -(-outputs[name] // 8) for name in LAYERS[first:-1])
    pooled = samples * 5 * 4 if first <= 3 else 0
    # Of the loss: the log-probabilities, and one float, the weight of the mean.
    return inputs + masks + pooled + samples * 4 * 4 + 4


@pytest.mark.parametrize("scheme", SCHEMES, ids=range(len(SCHEMES)))
@pytest.mark.parametrize("samples", [1, 5, 12])
def test_kept_bytes_are_those_of_the_formula_and_those_predicted(scheme: SparseUpdate, samples: int) -> None:
    counted = kept_bytes(scheme, samples)
    assert counted == by_hand(scheme, samples)
    saved = Workloads(model, (3, 9, 9), backward=scheme).at().saved
    assert counted == samples * saved.per_sample + saved.fixed


def test_qas_is_the_step_in_real_units_and_without_it_codes_move_by_their_own_gradient() -> None:
    torch.manual_seed(1)
    source, x, labels = model(), torch.randn(4, 3, 9, 9), torch.randint(0, 4, (4,))
    wanted = {}
    for qas in (True, False):
        skeleton = Skeleton(model, SparseUpdate(biases=6, weights=dict.fromkeys(LAYERS[:-1], 1.0), qas=qas))
        start, generator = floats(source), torch.Generator().manual_seed(0)
        coded = {n: quantise_tensor(w.values, 8, GridOptions(), "nearest", generator) for n, w in start.weights.items()}
        skeleton.load(QuantisedModel(coded, start.floats))
        with SingleCopySGD(skeleton.model, skeleton.quantised, 1.0, "nearest", generator) as sgd:
            with sgd.step():
                F.cross_entropy(skeleton.model(x), labels).backward()
            wanted[qas] = sgd.take_statistics()["6"].gavg
        scale = coded["6"].grid.scale
    assert wanted[False] < wanted[True] * float(scale.square().max()) * 1.001
    assert wanted[False] > wanted[True] * float(scale.square().min()) * 0.999


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        (SparseUpdate(weights={"3": 0.5}), "no layer `3` before the head; the model has 0, 2, 4, 6, 10"),
        (SparseUpdate(weights={"12": 0.5}), "no layer `12` before the head"),
        (SparseUpdate(weights={"6": 0.5}, channels={"4": "f"}), "`channels` names `4`, which is not in `weights`"),
        (SparseUpdate(biases=7), "`biases` is 7, but the model has 6 layers"),
        (SparseUpdate(weights={"6": 0.5}, channels={"6": "ff1"}), "`channels` of `6` are not 8 of its 16"),
        (SparseUpdate(weights={"6": 0.5}, channels={"6": "spam"}), "expected a hexadecimal number"),
    ],
)
def test_a_scheme_that_the_model_cannot_serve_is_refused_by_name(scheme: SparseUpdate, message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        Skeleton(model, scheme)


def test_channels_are_those_of_the_largest_weights_and_equal_blocks_hash_alike() -> None:
    skeleton = Skeleton(model)
    weights = {f"{name}.weight": np.ones(layer.weight.shape, np.float32) for name, layer in skeleton.quantised.layers.items()}
    weights["6.weight"][:, [3, 9]] = 2
    weights["4.weight"][[6, 7]] = 2
    scheme = SparseUpdate(weights={"6": 0.125, "4": 0.125}).resolved(skeleton.modules, weights, seed=0)
    assert scheme.channels == {"6": f"{2**3 + 2**9:x}", "4": f"{2**3:x}"}
    treated = scheme.treat(skeleton.modules)
    assert treated["6"].rule.part.places == (3, 9) and treated["4"].rule.part.places == (6, 7)
    assert hash(Scheme(backward=scheme)) == hash(Scheme(backward=scheme.model_copy()))
