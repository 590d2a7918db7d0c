"""The exam of every model: it fits the data that it is for, its weights follow from the seed, it quantises and it is counted."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from fedapt.cost.shapes import layer_shapes
from fedapt.data import DataShape
from fedapt.data.tokens import CHARACTERS
from fedapt.errors import ScenarioError
from fedapt.models import MODELS, build
from fedapt.quant import SingleCopySGD, quantisable, quantise

GREY, COLOUR = DataShape((1, 28, 28), 10), DataShape((3, 32, 32), 10)
WORDS, LINES = DataShape((32,), 77, 4096), DataShape((80,), len(CHARACTERS), len(CHARACTERS) + 1)
SIGNALS, FEATURES = DataShape((6, 50), 5), DataShape((300,), 5)
PUBLISHED = {
    "mlp": GREY, "cnn": GREY, "resnet20": COLOUR, "vgg-small": COLOUR, "ds-cnn": COLOUR,
    "har-cnn": SIGNALS, "text": WORDS, "char-gru": LINES,
}  # fmt: skip
"""For each model the data that its docstring counts parameters on."""
ODD = {
    **{name: [DataShape((1, 9, 13), 3), DataShape((2, 8, 8), 2), DataShape((3, 19, 16), 7)] for name in MODELS},
    "har-cnn": [DataShape((1, 4), 2), DataShape((3, 51), 7)],
    "text": [DataShape((1,), 2, 2), DataShape((7,), 3, 100)],
    "char-gru": [DataShape((1,), 2, 2), DataShape((7,), 3, 100)],
}
HYPER = {"mlp": {"hidden": [5, 4]}, "cnn": {}, "char-gru": {"embedding": 3, "hidden": 5}, "text": {"width": 5}}


def batch_of(data, count):
    generator = torch.Generator().manual_seed(0)
    if data.vocabulary:
        return torch.randint(0, data.vocabulary, (count, *data.shape), generator=generator)
    return torch.randn(count, *data.shape, generator=generator)


def parameters(name, data=None, seed=0, **options):
    return nn.utils.parameters_to_vector(build(MODELS[name](**options), data or PUBLISHED[name], seed).parameters())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [0, 1, -1])
@pytest.mark.parametrize("count", [1, 3])
def test_every_model_takes_odd_sizes_and_single_samples(name, size, count):
    data = ODD[name][size]
    for options in ({}, HYPER.get(name, {"width": 5})):
        logits = build(MODELS[name](**options), data, seed=0)(batch_of(data, count))
        assert logits.shape == (count, data.classes) and logits.isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_all_weights_quantise_and_only_norms_and_biases_stay_float(name):
    model = build(MODELS[name](), PUBLISHED[name], seed=0)
    matrices = {key.removesuffix(".weight") for key, values in model.named_parameters() if values.dim() >= 2}
    assert matrices == set(quantisable(model))
    assert all(re.fullmatch(r"([a-z]+\d*\.)?[a-z]+\d*", layer) for layer in matrices)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("bits", [8, 4])
def test_a_step_on_codes_lowers_the_loss_on_its_batch(name, bits):
    data = PUBLISHED[name]
    model = build(MODELS[name](), data, seed=0)
    inputs, labels = batch_of(data, 8), torch.arange(8) % data.classes
    generator = torch.Generator().manual_seed(0)
    quantised = quantise(model, bits, generator=generator)
    losses = []
    with SingleCopySGD(model, quantised, 0.05, "stochastic", generator) as sgd:
        for _ in range(4):
            with sgd.step():
                loss = F.cross_entropy(model(inputs), labels)
                loss.backward()
            losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", MODELS)
def test_the_docstring_counts_the_parameters(name):
    found = re.search(r"([\d,]+) parameters", MODELS[name].__doc__)
    assert int(found[1].replace(",", "")) == len(parameters(name))


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_with_a_weight_is_counted_with_its_macs(name):
    data = PUBLISHED[name]
    model = build(MODELS[name](), data, seed=0)
    shapes = layer_shapes(model, data.shape, batch_of(data, 1).dtype)
    assert sum(shape.weights + shape.float_parameters for shape in shapes) == len(parameters(name))
    assert {shape.name for shape in shapes} >= set(quantisable(model))
    assert all(shape.macs > 0 for shape in shapes)


@pytest.mark.parametrize("name", MODELS)
def test_the_weights_follow_from_the_seed_and_leave_the_global_stream_alone(name):
    before = torch.random.get_rng_state()
    one, same, other = (parameters(name, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("name", MODELS)
def test_on_the_meta_device_there_are_the_same_names_and_shapes_without_memory(name):
    real = build(MODELS[name](), PUBLISHED[name], 0).state_dict()
    with torch.device("meta"):
        thought = build(MODELS[name](), PUBLISHED[name], 0).state_dict()
    assert {key: values.shape for key, values in thought.items()} == {key: values.shape for key, values in real.items()}
    assert all(values.is_meta for values in thought.values())


@pytest.mark.parametrize("name", MODELS)
def test_every_model_begins_near_a_guess_at_random(name):
    data = PUBLISHED[name]
    loss = F.cross_entropy(build(MODELS[name](), data, 1)(batch_of(data, 64)), torch.arange(64) % data.classes)
    assert float(loss.detach()) < math.log(data.classes) + 1


@pytest.mark.parametrize("name", MODELS)
def test_every_option_is_described_and_the_kind_is_the_name_in_the_table(name):
    fields = MODELS[name].model_fields
    assert MODELS[name]().kind == name and all(field.description for key, field in fields.items() if key != "kind")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("data", [GREY, WORDS, SIGNALS, FEATURES, DataShape((1, 3, 3), 2), DataShape((2, 3), 2)])
def test_data_that_do_not_fit_are_refused_in_a_sentence_that_names_what_would(name, data):
    try:
        build(MODELS[name](), data, 0)
    except ScenarioError as error:
        sentence = re.fullmatch(rf"model: `{name}` needs [^;]+, the data [^;]+; choose (.*)", str(error))
        for fitting in re.findall(r"`([a-z0-9-]+)`", sentence[1]):
            build(MODELS[fitting](), data, 0)
    else:
        assert name == "mlp" or PUBLISHED[name].vocabulary == data.vocabulary or len(PUBLISHED[name].shape) == len(data.shape)


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("cnn", FEATURES, "`cnn` needs images of at least 4x4 pixels, the data have shape (300,); choose `mlp`"),
        ("vgg-small", DataShape((1, 7, 9), 2), "`vgg-small` needs images of at least 8x8 pixels, the data have shape (1, 7, 9)"),
        ("text", GREY, "`text` needs text, the data have shape (1, 28, 28); choose `cnn`"),
        ("mlp", WORDS, "`mlp` needs numbers, the data are text of 32 tokens a sample; choose `text` or `char-gru`"),
        ("har-cnn", FEATURES, "`har-cnn` needs signals (channels, steps) of at least 4 steps, the data have shape (300,)"),
        ("har-cnn", FEATURES, "choose `mlp`, or cut flat lists with data.shape"),
    ],
)
def test_a_refusal_says_what_is_needed_and_what_is_there(name, data, sentence):
    with pytest.raises(ScenarioError) as error:
        build(MODELS[name](), data, 0)
    assert sentence in str(error.value)


def test_the_cnn_has_the_layers_of_the_pilots():
    model = build(MODELS["cnn"](), GREY, 0)
    weights = [p.numel() for name, p in model.named_parameters() if name.endswith("weight")]
    assert weights == [400, 12_800, 32_768, 640]


def test_hidden_layers_of_the_mlp_are_an_option_down_to_none():
    # 9 * 7 + 7, 7 * 6 + 6, 6 * 3 + 3; and 9 * 3 + 3 for a linear model.
    assert len(parameters("mlp", DataShape((9,), 3), hidden=[7, 6])) == 70 + 48 + 21
    assert len(parameters("mlp", DataShape((9,), 3), hidden=[])) == 30


def test_resnet20_does_the_work_of_the_paper():
    shapes = layer_shapes(build(MODELS["resnet20"](), COLOUR, 0), COLOUR.shape)
    # A 3x3 convolution from a to b channels on s * s pixels: 9 a b s^2. Stage by stage, then the dense layer.
    stages = 9 * (3 * 16 + 6 * 16 * 16) * 32**2 + 9 * (16 * 32 + 5 * 32 * 32) * 16**2 + 9 * (32 * 64 + 5 * 64 * 64) * 8**2
    assert sum(shape.macs for shape in shapes if shape.weights) == stages + 640 == 40_551_040


def test_the_shortcut_of_resnet20_drops_pixels_and_adds_empty_channels():
    block = build(MODELS["resnet20"](width=2), COLOUR, 0).get_submodule("block4")
    for parameter in block.norm2.parameters():
        nn.init.zeros_(parameter)
    x = torch.rand(1, 2, 5, 5)
    y = block(x)
    assert torch.equal(y[:, :2], x[:, :, ::2, ::2]) and not y[:, 2:].any() and y.shape == (1, 4, 3, 3)


def test_the_gru_is_the_one_of_torch():
    model = build(MODELS["char-gru"](embedding=4, hidden=6), DataShape((9,), 5, 11), 0)
    gru = nn.GRU(4, 6, batch_first=True)
    state = {"weight_ih_l0": model.input.weight, "bias_ih_l0": model.input.bias}
    gru.load_state_dict(state | {"weight_hh_l0": model.recurrent.weight, "bias_hh_l0": model.recurrent.bias})
    tokens = batch_of(DataShape((9,), 5, 11), 3)
    expected = model.dense(gru(model.embedding(tokens))[1][0])
    torch.testing.assert_close(model(tokens), expected)


def test_padding_does_not_change_what_the_text_model_says():
    model = build(MODELS["text"](), DataShape((3,), 4, 50), 0)
    torch.testing.assert_close(model(torch.tensor([[7, 9]])), model(torch.tensor([[7, 9, 0, 0, 0]])))
    assert model(torch.zeros(1, 3, dtype=torch.int64)).isfinite().all()


@pytest.mark.parametrize("name", [name for name in MODELS if name != "cnn"])
def test_no_layer_can_be_wider_than_torch_can_count_its_weights(name):
    for option, value in HYPER.get(name, {"width": 5}).items():
        too_wide = [10**6 + 1] if isinstance(value, list) else 10**6 + 1
        with pytest.raises(ValidationError):
            MODELS[name](**{option: too_wide})
    widest = {option: [10**6] if isinstance(value, list) else 10**6 for option, value in HYPER.get(name, {"width": 5}).items()}
    with torch.device("meta"):
        assert sum(values.numel() for values in build(MODELS[name](**widest), PUBLISHED[name], 0).parameters()) < 2**63
