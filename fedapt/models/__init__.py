"""The models that edge papers use. A new one is one file here, its options and its layers, and one line in the table."""

from __future__ import annotations

import torch
from torch import nn

from fedapt.data import DataShape
from fedapt.models.char_gru import CharGru
from fedapt.models.cnn import Cnn
from fedapt.models.ds_cnn import DsCnn
from fedapt.models.har_cnn import HarCnn
from fedapt.models.mlp import Mlp
from fedapt.models.model import ModelOptions
from fedapt.models.resnet20 import ResNet20
from fedapt.models.text import Text
from fedapt.models.vgg_small import VggSmall
from fedapt.seeding import stream_key

MODELS: dict[str, type[ModelOptions]] = {
    "mlp": Mlp,
    "cnn": Cnn,
    "resnet20": ResNet20,
    "vgg-small": VggSmall,
    "ds-cnn": DsCnn,
    "har-cnn": HarCnn,
    "text": Text,
    "char-gru": CharGru,
}


def build(options: ModelOptions, data: DataShape, seed: int) -> nn.Module:
    """Return a freshly initialised model; the weights depend on the seed alone, not on torch's global state.

    On the `meta` device there are shapes only. Raises ScenarioError for data that the model cannot take.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_key(seed, "model") & (2**63 - 1))
        return options.build(data)
