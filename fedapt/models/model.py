"""What the options of every model have in common, and the pieces that several models are made of."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import OrderedDict

from torch import nn

from fedapt.data import DataShape
from fedapt.errors import ScenarioError
from fedapt.options import Kind

MOST_GROUPS = 8
MOST_UNITS = 10**6


class ModelOptions(Kind):
    """The options of one model."""

    @abstractmethod
    def build(self, data: DataShape) -> nn.Module:
        """Return the model for data of this shape, its weights drawn from torch's global stream.

        Raises ScenarioError for data that it cannot take.
        """

    def need_images(self, data: DataShape, side: int) -> None:
        """Refuse all but images (channels, height, width) of at least `side` pixels each way."""
        if data.vocabulary or len(data.shape) != 3 or min(data.shape[1:]) < side:
            raise self._refusal(f"images of at least {side}x{side} pixels", data)

    def need_signals(self, data: DataShape, steps: int) -> None:
        """Refuse all but signals (channels, steps) of at least so many steps."""
        if data.vocabulary or len(data.shape) != 2 or data.shape[1] < steps:
            raise self._refusal(f"signals (channels, steps) of at least {steps} steps", data)

    def need_numbers(self, data: DataShape) -> None:
        """Refuse tokens, whose codes are no quantities."""
        if data.vocabulary:
            raise self._refusal("numbers", data)

    def need_tokens(self, data: DataShape) -> None:
        """Refuse all but tokens."""
        if not data.vocabulary:
            raise self._refusal("text", data)

    def _refusal(self, needed: str, data: DataShape) -> ScenarioError:
        found = f"are text of {data.shape[0]} tokens a sample" if data.vocabulary else f"have shape {data.shape}"
        return ScenarioError(f"model: `{self.kind}` needs {needed}, the data {found}; {_advice(data)}")


def _advice(data: DataShape) -> str:
    if data.vocabulary:
        return "choose `text` or `char-gru`"
    if len(data.shape) == 3 and min(data.shape[1:]) >= 4:
        return "choose `cnn`"
    if len(data.shape) == 2 and data.shape[1] >= 4:
        return "choose `har-cnn` or `mlp`"
    return "choose `mlp`, or cut flat lists with data.shape" if len(data.shape) == 1 else "choose `mlp`"


def named(**layers: nn.Module) -> nn.Sequential:
    """Return the layers in a row, by name."""
    return nn.Sequential(OrderedDict(layers))


def norm(channels: int) -> nn.GroupNorm:
    """Return a group norm: it needs no statistics of the data, which batch norm would carry from client to client."""
    return nn.GroupNorm(math.gcd(MOST_GROUPS, channels), channels)


def he(model: nn.Module) -> nn.Module:
    """Draw the weights of all layers before a ReLU by He et al., arXiv:1502.01852, Eq. 10, set their biases to zero; return it.

    The last Linear, which no ReLU follows, keeps torch's initialisation.
    """
    layers = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d))]
    for layer in layers[:-1]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return model
