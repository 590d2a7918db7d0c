"""The exam of every model: it fits the data that models are for, its weights follow from the seed, and it quantises."""

import pytest
import torch

from fedapt.errors import ScenarioError
from fedapt.models import MODELS, build
from fedapt.quant import quantisable, quantise


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
@pytest.mark.parametrize("name", MODELS)
def test_every_model_takes_images_of_usual_sizes_and_quantises(name, shape):
    model = build(name, shape, 7, seed=0)
    assert quantisable(model)
    quantise(model, 4)
    assert model(torch.zeros(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize("name", MODELS)
def test_the_weights_follow_from_the_seed_and_leave_the_global_stream_alone(name):
    before = torch.random.get_rng_state()
    one, same, other = (torch.nn.utils.parameters_to_vector(build(name, (1, 28, 28), 10, s).parameters()) for s in (3, 3, 4))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_cnn_has_the_layers_of_the_pilots():
    weights = {name: p.numel() for name, p in build("cnn", (1, 28, 28), 10, 0).named_parameters() if name.endswith("weight")}
    assert list(weights.values()) == [400, 12_800, 32_768, 640]


def test_a_model_that_does_not_fit_or_exist_is_one_sentence():
    with pytest.raises(ScenarioError, match=r"model: `cnn` needs images .* choose `mlp`"):
        build("cnn", (300,), 5, 0)
    with pytest.raises(ScenarioError, match="did you mean `cnn`"):
        build("cnnn", (1, 28, 28), 10, 0)
