"""The models that edge papers use. A new one is one function here (or in a file of its own) and one line in the table."""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Callable
from math import prod

import torch
from torch import nn

from fedapt.errors import ScenarioError
from fedapt.seeding import stream_key


def mlp(shape: tuple[int, ...], classes: int) -> nn.Module:
    """One hidden layer of 64 units."""
    return _named(flatten=nn.Flatten(), dense1=nn.Linear(prod(shape), 64), relu1=nn.ReLU(), dense2=nn.Linear(64, classes))


def cnn(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Two convolutions and two dense layers; 46 thousand weights on 28x28 grey images.

    5x5 kernels without padding on images of at least 16 pixels, 3x3 with padding on smaller ones.
    """
    if len(shape) != 3 or min(shape[1:]) < 4:
        raise ScenarioError(f"model: `cnn` needs images of at least 4x4 pixels, the data have shape {shape}; choose `mlp`")
    channels, height, width = shape
    kernel, padding = (5, 0) if min(height, width) >= 16 else (3, 1)
    lost = kernel - 1 - 2 * padding
    sides = [((side - lost) // 2 - lost) // 2 for side in (height, width)]
    return _named(
        conv1=nn.Conv2d(channels, 16, kernel, padding=padding), relu1=nn.ReLU(), pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(16, 32, kernel, padding=padding), relu2=nn.ReLU(), pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(), dense1=nn.Linear(32 * prod(sides), 64), relu3=nn.ReLU(), dense2=nn.Linear(64, classes),
    )  # fmt: skip


def _named(**layers: nn.Module) -> nn.Module:
    return nn.Sequential(OrderedDict(layers))


MODELS: dict[str, Callable[[tuple[int, ...], int], nn.Module]] = {
    "mlp": mlp,
    "cnn": cnn,
}


def build(name: str, shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    """Return a freshly initialised model; the weights depend on the seed alone, not on torch's global state."""
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, 1)
        raise ScenarioError(
            f"model: no model `{name}`" + (f"; did you mean `{near[0]}`?" if near else f"; there are {', '.join(MODELS)}")
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_key(seed, "model") & (2**63 - 1))
        return MODELS[name](shape, classes)
