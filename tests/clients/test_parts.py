"""The exam of every backward method, sample filter and continual method: a new line in a table is examined by itself."""

import io
import re

import numpy as np
import pandas
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedapt.clients.backward import RULES
from fedapt.clients.continual import METHODS
from fedapt.clients.instructions import Instructions
from fedapt.clients.samples import FILTERS
from fedapt.cost.shapes import layer_shapes
from fedapt.data import DataShape
from fedapt.errors import ScenarioError
from fedapt.models import MODELS, build
from fedapt.models.model import he
from fedapt.quant import GridOptions, MasterWeight, SingleCopySGD, quantise_tensor
from fedapt.quant.skeleton import Skeleton, float_arrays
from fedapt.quant.wire import QuantisedModel
from fedapt.report.terminal import Display
from fedapt.run import run
from fedapt.stopping import Stopper
from tests.grid.conftest import scenario

# Of any model one of these is taken: images of odd sides, signals, features, tokens.
DATA = [DataShape((2, 9, 11), 3), DataShape((3, 19), 3), DataShape((7,), 3), DataShape((7,), 3, 20)]
PRECISIONS = {"fp32": "fp32", "fixed 4": {"kind": "fixed", "bits": 4}, "qat": "qat", "apt": "apt", "budget": "budget"}
BACKWARD = pytest.mark.parametrize("kind", RULES)


def network():
    torch.manual_seed(0)
    return he(
        nn.Sequential(
            *(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(6 * 9, 32), nn.ReLU(), nn.Linear(32, 3)),
        )
    )


def batch():
    generator = torch.Generator().manual_seed(1)
    inputs, labels = torch.randn(8, 1, 6, 6, generator=generator), torch.arange(8) % 3
    for sample, label in zip(inputs, labels.tolist(), strict=True):
        sample[:, 2 * label : 2 * label + 2] += 2
    return inputs, labels


def inhabited(factory, method, bits=32, master=False):
    """Return a skeleton under a method in which the factory's model lives."""
    skeleton = Skeleton(factory, method)
    arrays = {name: values.clone() for name, values in float_arrays(factory()).items()}
    floats = {name: arrays.pop(f"{name}.weight") for name in skeleton.quantised.layers}
    generator = torch.Generator().manual_seed(0)
    weights = {name: quantise_tensor(values, bits, GridOptions(), "nearest", generator) for name, values in floats.items()}
    skeleton.load(QuantisedModel(weights, arrays))
    if master:
        for name, layer in skeleton.quantised.layers.items():
            layer.weight = MasterWeight(floats[name], 4, GridOptions())
    return skeleton


def losses_of(skeleton, inputs, labels, steps=1, lr=0.1):
    """Train on one batch and return the losses."""
    losses, generator = [], torch.Generator().manual_seed(2)
    model, layers = skeleton.model, skeleton.quantised
    with SingleCopySGD(model, layers, lr, "stochastic", generator, at_once=skeleton.at_once) as sgd:
        for _ in range(steps):
            with sgd.step():
                loss = F.cross_entropy(model(inputs), labels)
                loss.backward()
            losses.append(loss.item())
    return losses


def of_the_zoo(name):
    """Return a function that builds a model of the zoo, and the first data that it takes."""
    taken = [data for data in DATA if takes(name, data)]
    assert taken, f"{name} takes none of {DATA}"
    return lambda: build(MODELS[name](), taken[0], 0), taken[0]


def takes(name, data):
    try:
        build(MODELS[name](), data, 0)
    except ScenarioError:
        return False
    return True


def some_of(data, samples=3):
    generator, shape = torch.Generator().manual_seed(3), (samples, *data.shape)
    tokens = torch.randint(1, data.vocabulary or 2, shape, generator=generator)
    return tokens if data.vocabulary else torch.randn(shape, generator=generator)


@pytest.mark.parametrize("name", MODELS)
@BACKWARD
def test_every_backward_method_trains_a_model_of_the_zoo_or_names_the_layer_that_it_cannot_serve(kind, name):
    factory, data = of_the_zoo(name)
    names = {module.name for module in Skeleton(factory).modules}
    try:
        skeleton = inhabited(factory, RULES[kind](), 4)
    except ScenarioError as refusal:
        assert str(refusal).startswith(f"{kind}: ") and set(re.findall(r"`([^`]+)`", str(refusal))) & names
        return
    treated = RULES[kind]().treat(skeleton.modules)
    assert set(treated) <= names and treated == RULES[kind]().treat(list(skeleton.modules))
    inputs = some_of(data)
    labels = torch.zeros((3, *skeleton.model(inputs).shape[2:]), dtype=torch.int64)
    assert all(np.isfinite(loss) for loss in losses_of(skeleton, inputs, labels, lr=1e-3))


@pytest.mark.parametrize(("bits", "master"), [(32, False), (8, False), (4, False), (32, True)])
@BACKWARD
def test_every_backward_method_learns_a_batch_at_every_width_and_through_a_copy(kind, bits, master):
    losses = losses_of(inhabited(network, RULES[kind](), bits, master), *batch(), steps=40, lr=0.05)
    assert losses[-1] < 0.7 * losses[0]


@BACKWARD
def test_every_backward_method_gives_the_same_bits_again(kind):
    ends = []
    for _ in range(2):
        skeleton = inhabited(network, RULES[kind](), 4)
        losses_of(skeleton, *batch(), steps=3)
        ends.append([weight.codes for weight in skeleton.unload().weights.values()])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


@pytest.mark.parametrize("name", MODELS)
@BACKWARD
def test_every_backward_method_is_charged_for_the_forward_pass_and_little_more_than_exact_gradients(kind, name):
    """Little: it may look at each number of the layer's input and error besides, and once a step at its weights for each use."""
    factory, data = of_the_zoo(name)
    dtype = torch.int64 if data.vocabulary else torch.float32
    exact = layer_shapes(inhabited(factory, None).model, data.shape, dtype)
    try:
        treated = layer_shapes(inhabited(factory, RULES[kind]()).model, data.shape, dtype)
    except ScenarioError:
        return
    for one, other in zip(exact, treated, strict=True):
        whole, found, looked = one.backward, other.backward, one.input_elements + one.output_elements
        assert other.macs == one.macs and found.saved_numbers <= whole.saved_numbers
        assert 0 <= found.error_macs <= whole.error_macs + looked
        assert 0 <= found.weight_gradient_macs <= whole.weight_gradient_macs + looked
        assert 0 <= found.step_macs <= one.macs
        assert found.weights <= whole.weights and found.floats <= whole.floats and found.sent_weights <= whole.sent_weights


@BACKWARD
def test_every_backward_method_crosses_the_network_and_equal_blocks_are_equal(kind):
    block = RULES[kind]()
    told = Instructions(
        seed=0, round=0, client=0, epochs=1, batch=1, lr=0.1, rounding="nearest", grid=GridOptions(), backward=block
    )
    read = Instructions.model_validate_json(told.model_dump_json()).backward
    assert type(read) is RULES[kind] and read == block and hash(read) == hash(block) and read is not block
    assert RULES[kind].model_validate(block.model_dump()) == block and block.words and RULES[kind].__doc__


@pytest.mark.parametrize("precision", PRECISIONS)
@BACKWARD
def test_every_backward_method_runs_with_every_kind_of_precision(kind, precision, tmp_path):
    method = {"precision": PRECISIONS[precision], "backward": kind}
    data = {"source": "digits", "samples": 120, "test_samples": 50}
    clients = {"count": 2, "per_round": 2, "local": {"lr": 0.05, "batch": 16}, "method": method}
    with Stopper() as stopper, Display(io.StringIO()) as display:
        path = run(scenario(rounds=1, data=data, clients=clients), tmp_path, display, stopper)
    ledger = pandas.read_parquet(path / "ledger.parquet")
    assert (ledger["status"] == "ok").all() and (ledger["macs"] > 0).all()


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize("count", [1, 7, 10])
def test_every_filter_takes_samples_of_the_batch_each_at_most_once_and_no_more_than_it_says(kind, count):
    one, keeps = FILTERS[kind](), {}
    if one.takes_all:
        return
    session = one.open(keeps, np.random.default_rng(0))
    for step in range(3):
        taken = session.screen(torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(step)))
        forward = list(range(count)) if taken is None else taken.tolist()
        assert len(forward) <= one.forwarded(count) and set(forward) <= set(range(count)) and forward == sorted(set(forward))
        assert not one.exact or len(forward) == one.forwarded(count)
        if forward:
            taken = session.choose(torch.rand(len(forward), generator=torch.Generator().manual_seed(step)))
            back = list(range(len(forward))) if taken is None else taken.tolist()
            assert len(back) <= one.trained(len(forward)) and set(back) <= set(range(len(forward))) and back == sorted(set(back))
            assert not one.exact or len(back) == one.trained(len(forward)) > 0
    assert sum(values.numel() for values in keeps.values()) == one.kept_floats((1, 6, 6))


@pytest.mark.parametrize("kind", METHODS)
def test_every_continual_method_keeps_the_new_samples_and_a_label_for_each(kind):
    inputs, labels = batch()
    extended, with_labels = METHODS[kind]().extend(inputs, labels)
    assert len(extended) == len(with_labels) and extended.shape[1:] == inputs.shape[1:]
    assert all((extended == sample).flatten(1).all(1).any() for sample in inputs)
