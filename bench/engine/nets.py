"""The models of the workloads in plain torch, for contestants that know nothing of fedapt.

Layers have the names, and so state_dict has the order, that fedapt's own models give them.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from math import prod

from torch import nn


def mlp(shape: tuple[int, ...], hidden: tuple[int, ...], classes: int = 10) -> nn.Module:
    """Return dense layers with ReLU between them; without hidden ones, logistic regression."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number, (before, after) in enumerate(pairwise([prod(shape), *hidden]), 1):
        layers[f"dense{number}"], layers[f"relu{number}"] = nn.Linear(before, after), nn.ReLU()
    layers[f"dense{len(hidden) + 1}"] = nn.Linear(hidden[-1] if hidden else prod(shape), classes)
    return nn.Sequential(layers)


def cnn(shape: tuple[int, ...], classes: int = 10) -> nn.Module:
    """Return two 5x5 convolutions and two dense layers."""
    channels, height, width = shape
    sides = [((side - 4) // 2 - 4) // 2 for side in (height, width)]
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 16, 5), relu1=nn.ReLU(), pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(16, 32, 5), relu2=nn.ReLU(), pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(), dense1=nn.Linear(32 * prod(sides), 64), relu3=nn.ReLU(), dense2=nn.Linear(64, classes),
        )
    )  # fmt: skip


def pfl_cnn(shape: tuple[int, ...], classes: int = 10) -> nn.Module:
    """Return the network of pfl-research's CIFAR-10 benchmark: 3x3 convolutions of 32 and 64 channels and 128 units.

    Without its dropout, whose random numbers would keep contestants from being compared weight by weight.
    """
    channels, height, width = shape
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 32, 3), relu1=nn.ReLU(), conv2=nn.Conv2d(32, 64, 3), relu2=nn.ReLU(),
            pool=nn.MaxPool2d(2), flatten=nn.Flatten(),
            dense1=nn.Linear(64 * ((height - 4) // 2) * ((width - 4) // 2), 128), relu3=nn.ReLU(),
            dense2=nn.Linear(128, classes),
        )
    )  # fmt: skip


def net(model: str, hidden: tuple[int, ...], shape: tuple[int, ...]) -> nn.Module:
    """Return the model of a workload for inputs of this shape."""
    return mlp(shape, hidden) if model == "mlp" else {"cnn": cnn, "pfl-cnn": pfl_cnn}[model](shape)
