"""The exam of every backward method, sample filter and continual method: a new line in a table is examined by itself."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedapt.clients.backward import RULES
from fedapt.clients.continual import METHODS
from fedapt.clients.samples import FILTERS
from fedapt.cost.shapes import layer_shapes
from fedapt.quant import SingleCopySGD, quantise


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, 1, 6, 6, generator=generator), torch.arange(8) % 3


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("kind", RULES)
def test_every_backward_method_learns_a_batch(kind, bits):
    model, (inputs, labels) = network(), batch()
    quantised = quantise(model, bits, rule=RULES[kind]().rule())
    losses = []
    with SingleCopySGD(model, quantised, 0.05, "stochastic", torch.Generator().manual_seed(2)) as sgd:
        for _ in range(20):
            with sgd.step():
                loss = F.cross_entropy(model(inputs), labels)
                loss.backward()
            losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("kind", RULES)
def test_every_backward_method_is_charged_for_the_forward_pass_and_no_more_than_exact_gradients(kind):
    for shape in layer_shapes(network(), (1, 6, 6)):
        ops = RULES[kind]().ops(shape, 8)
        assert [op.macs for op in ops if op.kind == "forward"] == [shape.macs]
        assert all(0 <= op.macs <= max(shape.macs, shape.weights, shape.float_parameters) for op in ops)


@pytest.mark.parametrize("kind", FILTERS)
def test_every_filter_chooses_samples_of_the_batch_each_at_most_once(kind):
    chosen = FILTERS[kind]().choose(torch.rand(10, generator=torch.Generator().manual_seed(0)))
    numbers = list(range(10)) if chosen is None else chosen.tolist()
    assert numbers and len(set(numbers)) == len(numbers) and set(numbers) <= set(range(10))


@pytest.mark.parametrize("kind", METHODS)
def test_every_continual_method_keeps_the_new_samples_and_a_label_for_each(kind):
    inputs, labels = batch()
    extended, with_labels = METHODS[kind]().extend(inputs, labels)
    assert len(extended) == len(with_labels) and extended.shape[1:] == inputs.shape[1:]
    assert all((extended == sample).flatten(1).all(1).any() for sample in inputs)
