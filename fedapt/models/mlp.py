"""A multilayer perceptron."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from fedapt.data import DataShape
from fedapt.models.model import MOST_UNITS, ModelOptions, named


class Mlp(ModelOptions):
    """Dense layers with ReLU between them: 50,890 parameters on 28x28 grey images and ten classes."""

    kind: Literal["mlp"] = "mlp"
    hidden: list[Annotated[int, Field(ge=1, le=MOST_UNITS)]] = Field(
        default=[64], description="units of each hidden layer, first to last"
    )

    def build(self, data: DataShape) -> nn.Module:
        """Take numbers of any shape."""
        self.need_numbers(data)
        layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}
        for number, (before, after) in enumerate(pairwise([prod(data.shape), *self.hidden]), 1):
            layers |= {f"dense{number}": nn.Linear(before, after), f"relu{number}": nn.ReLU()}
        last = self.hidden[-1] if self.hidden else prod(data.shape)
        return named(**layers, **{f"dense{len(self.hidden) + 1}": nn.Linear(last, data.classes)})
