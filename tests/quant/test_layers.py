"""fedapt.quant.layers: layers on codes compute what autograd computes, and `quantise` finds them in any model."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from fedapt.quant import BackwardRule, OperandWidths, QuantisedLayer, quantisable, quantise

LAYERS = {
    "dense": (lambda: nn.Linear(6, 5), (4, 6)),
    "dense, no bias": (lambda: nn.Linear(6, 5, bias=False), (4, 6)),
    "dense, three dimensions": (lambda: nn.Linear(6, 5), (4, 3, 6)),
    "convolution": (lambda: nn.Conv2d(4, 6, 3), (2, 4, 7, 8)),
    "convolution, no bias": (lambda: nn.Conv2d(4, 6, 3, bias=False), (2, 4, 7, 8)),
    "stride and padding": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 7, 8)),
    "same": (lambda: nn.Conv2d(4, 6, (3, 5), padding="same"), (2, 4, 7, 8)),
    "valid": (lambda: nn.Conv2d(4, 6, 3, padding="valid"), (2, 4, 7, 8)),
    "dilation": (lambda: nn.Conv2d(4, 6, 3, dilation=2), (2, 4, 7, 8)),
    "groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 7, 8)),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4, stride=(1, 2)), (2, 4, 7, 8)),
    "line": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 9)),
    "line, depthwise": (lambda: nn.Conv1d(4, 8, 3, groups=4, bias=False), (2, 4, 9)),
}


def twin(model, bits, **options):
    """Quantise a model; return a float one with the same weights, and the gradients that reach the quantised layers."""
    reference = copy.deepcopy(model)
    quantised = quantise(model, bits, **options)
    gradients = {name: [] for name in quantised.layers}
    for name, layer in quantised.layers.items():
        with torch.no_grad():
            reference.get_submodule(name).weight.copy_(layer.weight.dequantise())
        layer.on_gradient = lambda layer, gradient: gradients[layer.name].append(gradient)
    return reference, quantised, gradients


def small():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 4, 8, 13, 32])
@pytest.mark.parametrize(("build", "shape"), LAYERS.values(), ids=LAYERS.keys())
def test_outputs_and_gradients_are_those_of_autograd(build, shape, bits, generator):
    model = nn.Sequential(build())
    reference, _, gradients = twin(model, bits)
    theirs, ours = (torch.randn(shape, generator=generator.manual_seed(1)).requires_grad_() for _ in range(2))
    expected, output = reference(theirs), model(ours)
    assert torch.equal(output, expected)
    error = torch.randn(output.shape, generator=generator)
    expected.backward(error)
    output.backward(error)
    close(ours.grad, theirs.grad)
    close(gradients["0"], [reference[0].weight.grad])
    if reference[0].bias is not None:
        close(model[0].bias.grad, reference[0].bias.grad)


@pytest.mark.parametrize("operands", [OperandWidths(), OperandWidths(8, 8)], ids=["float", "8 bits"])
@pytest.mark.parametrize("bits", [5, 32])
def test_an_embedding_trains_on_its_rows_and_its_indices_are_never_quantised(bits, operands, generator):
    model = nn.Sequential(nn.Embedding(300, 4), nn.Flatten(), nn.Linear(12, 2))
    reference, quantised, gradients = twin(model, bits, operands=operands)
    for layer in quantised.layers.values():
        layer.generator = generator
    tokens = torch.tensor([[0, 299, 299], [7, 0, 1]])
    reference(tokens).sum().backward()
    model(tokens).sum().backward()
    assert list(quantised.layers) == ["0", "2"]
    # The error is all ones, which its grid has; what the dense layer reads is within half a step of 255.
    expected = reference[0].weight.grad
    torch.testing.assert_close(
        gradients["0"][0], expected, rtol=0, atol=float(expected.abs().max()) / 50 if operands.errors < 32 else 1e-6
    )
    assert gradients["0"][0].abs().sum(1).nonzero().flatten().tolist() == [0, 1, 7, 299]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bits", [5, 32])
def test_the_first_layer_gets_a_gradient_though_its_input_needs_none(bits, bias, generator):
    model = nn.Sequential(nn.Linear(3, 4, bias), nn.ReLU(), nn.Linear(4, 2, bias))
    reference, _, gradients = twin(model, bits)
    x = torch.randn(4, 3, generator=generator)
    (reference(x) ** 2).sum().backward()
    (model(x) ** 2).sum().backward()
    close(gradients["0"], [reference[0].weight.grad])
    close(gradients["2"], [reference[2].weight.grad])


def test_a_layer_used_twice_gets_one_gradient_the_sum(generator):
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    reference, quantised, gradients = twin(model, 8)
    x = torch.randn(4, 3, generator=generator)
    reference(x).sum().backward()
    model(x).sum().backward()
    assert list(quantised.layers) == ["0"] and model[0] is model[2]
    close(gradients["0"], [reference[0].weight.grad])


def test_an_abandoned_forward_pass_does_not_poison_the_next_step(generator):
    model = small()
    reference, quantised, gradients = twin(model, 8)
    x = torch.randn(4, 3, generator=generator)
    model(x)
    for layer in quantised.layers.values():
        layer.begin_step()
    reference(x).sum().backward()
    model(x).sum().backward()
    close(gradients["0"], [reference[0].weight.grad])


@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputing_activations_in_the_backward_pass_gives_the_same_gradients(reentrant, generator):
    model = small()
    reference, quantised, gradients = twin(model, 8)
    x = torch.randn(4, 3, generator=generator).requires_grad_()
    reference(x).sum().backward()
    checkpoint(model, x, use_reentrant=reentrant).sum().backward()
    for layer in quantised.layers.values():
        layer.end_step()
    close(gradients["0"], [reference[0].weight.grad])
    close(gradients["2"], [reference[2].weight.grad])


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_evaluation_computes_the_same_and_expects_no_backward_pass(off, generator):
    model = small()
    reference, quantised, _ = twin(model, 4)
    x = torch.randn(4, 3, generator=generator)
    with off():
        assert torch.equal(model.eval()(x), reference(x)) and not model(x).requires_grad
    assert [layer.pending for layer in quantised.layers.values()] == [0, 0]


def test_backward_without_an_optimiser_is_refused_in_a_sentence():
    model = small()
    quantise(model, 4)
    with pytest.raises(RuntimeError, match=r"2: a quantised layer keeps no gradient; create a SingleCopySGD before"):
        model(torch.ones(1, 3)).sum().backward()


def test_a_quantised_layer_owns_no_float_weight():
    model = small()
    quantised = quantise(model, 4)
    assert sorted(model.state_dict()) == ["0.bias", "2.bias"] == sorted(name for name, _ in model.named_parameters())
    assert all(
        isinstance(layer, QuantisedLayer) and layer.weight.codes.dtype == torch.uint8 for layer in quantised.layers.values()
    )


def test_each_layer_has_the_bits_that_it_was_given():
    model = small()
    quantised = quantise(model, {"0": 3, "2": 12})
    assert [layer.weight.bits for layer in quantised.layers.values()] == [3, 12]
    assert "(0): QuantisedLayer(linear, (4, 3), bits=3)" in repr(model)


@pytest.mark.parametrize("names", [["0"], ["0", "1", "2"], ["0", "fc"], []])
def test_bits_for_other_layers_than_the_model_has_are_refused_by_name(names):
    odd = ", ".join(sorted({"0", "2"} ^ set(names)))
    with pytest.raises(ValueError, match=f"bits are given for other layers than the model has: {odd}$"):
        quantise(small(), dict.fromkeys(names, 4))


@pytest.mark.parametrize("bits", [0, 1, 17, 31, 33])
def test_impossible_bits_are_refused_and_the_model_stays_as_it_was(bits):
    model = small()
    with pytest.raises(ValueError, match=f"codes have 2 to 16 bits, got {bits}; 32 means float"):
        quantise(model, {"0": 4, "2": bits})
    assert [type(module) for module in model] == [nn.Linear, nn.ReLU, nn.Linear]


def test_a_model_that_is_a_single_layer_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match=r"the model is itself a single layer; wrap it in torch\.nn\.Sequential"):
        quantise(nn.Linear(3, 2), 4)


def test_the_weights_of_the_model_are_not_changed_by_quantising_a_copy():
    model = small()
    before = [values.clone() for values in model.parameters()]
    quantised = quantise(copy.deepcopy(model), 32)
    for layer in quantised.layers.values():
        layer.weight.values.zero_()
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


class Many(nn.Module):
    """One of each: two layers that can be quantised, and all kinds that cannot."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.tied = nn.Linear(4, 5, bias=False)
        self.tied.weight = self.embedding.weight
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.up = nn.ConvTranspose2d(1, 2, 2)
        self.norm = nn.BatchNorm2d(2)
        self.ring = nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(20, 20))
        self.group = nn.GroupNorm(1, 2)
        self.conv = nn.Conv2d(2, 3, 2)
        self.head = nn.Linear(3 * 12, 2)
        self.gain = nn.Parameter(torch.tensor(2.0))

    def forward(self, tokens):
        x, _ = self.lstm(self.embedding(tokens))
        x = self.norm(self.up(self.tied(x)[:, None, :, :3]))
        x = self.group(self.ring(x))
        x = self.conv(self.normed(x.flatten(2).flatten(1).view(-1, 2, 20)).view(-1, 2, 5, 4))
        return self.gain * self.head(x.flatten(1))


def test_layers_that_cannot_be_quantised_stay_float_and_are_named_with_their_class():
    model = Many()
    assert quantisable(model) == ["conv", "head"]
    quantised = quantise(model, 4)
    assert list(quantised.layers) == ["conv", "head"]
    kinds = {name: kind for name, kind in quantised.kept_float.items() if not name.startswith("normed")}
    assert kinds == {
        "": "Many", "embedding": "Embedding", "tied": "Linear", "lstm": "LSTM", "up": "ConvTranspose2d",
        "norm": "BatchNorm2d", "ring": "Conv2d", "group": "GroupNorm",
    }  # fmt: skip
    assert any(name.startswith("normed") for name in quantised.kept_float)
    assert model.tied.weight is model.embedding.weight


def test_a_model_of_all_kinds_has_the_gradients_of_autograd():
    model = Many()
    reference, _, gradients = twin(model, 6)
    tokens = torch.tensor([[0, 1, 2, 3], [4, 4, 1, 0]])
    output, expected = model(tokens), reference(tokens)
    close(output, expected)
    output.square().sum().backward()
    expected.square().sum().backward()
    close(gradients["conv"], [reference.conv.weight.grad])
    close(gradients["head"], [reference.head.weight.grad])
    theirs = dict(reference.named_parameters())
    for name, values in model.named_parameters():
        close(values.grad, theirs[name].grad)


def test_the_running_means_of_a_norm_are_those_of_the_float_model(generator):
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU())
    reference, _, _ = twin(model, 4)
    for _ in range(3):
        x = torch.randn(4, 2, 5, 5, generator=generator)
        assert torch.equal(model(x), reference(x))
    assert torch.equal(model[1].running_mean, reference[1].running_mean)
    assert torch.equal(model[1].running_var, reference[1].running_var)


def test_a_transformer_layer_evaluates_though_its_fused_path_would_read_the_weights(generator):
    model = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), 2, enable_nested_tensor=False
    )
    reference, quantised, _ = twin(model, 8)
    x = torch.randn(2, 3, 8, generator=generator)
    with torch.no_grad():
        close(model.eval()(x), reference.train()(x))
    assert list(quantised.layers) == ["layers.0.linear1", "layers.0.linear2", "layers.1.linear1", "layers.1.linear2"]


def test_every_layer_computes_its_gradients_by_the_rule_given():
    class Doubled(BackwardRule):
        def input_gradient(self, *args):
            return 2 * super().input_gradient(*args)

        def weight_gradient(self, *args):
            return 3 * super().weight_gradient(*args)

    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    reference, _, gradients = twin(model, 32, rule=Doubled())
    x = torch.ones(1, 3)
    reference(x).sum().backward()
    model(x).sum().backward()
    close(gradients["1"], [3 * reference[1].weight.grad])
    close(gradients["0"], [6 * reference[0].weight.grad])
