"""VGG-Small, on which work on low precision compares itself.

Cai et al., "Deep Learning with Low Precision by Half-wave Gaussian Quantization", CVPR 2017, https://arxiv.org/abs/1702.00953,
section 4: three pairs of 3x3 convolutions and one dense layer. Ours is four times narrower unless told otherwise, and has biases
in place of batch norm.
"""

from __future__ import annotations

from math import prod
from typing import Literal

from pydantic import Field
from torch import nn

from fedapt.data import DataShape
from fedapt.models.model import MOST_UNITS, ModelOptions, he, named

PAIRS = 3


class VggSmall(ModelOptions):
    """Six 3x3 convolutions with a max pool after each second one, and a dense layer: 307,498 parameters on CIFAR-10."""

    kind: Literal["vgg-small"] = "vgg-small"
    width: int = Field(
        default=32, ge=1, le=MOST_UNITS, description="channels of the first pair, doubled by each next one; 128 in the literature"
    )

    def build(self, data: DataShape) -> nn.Module:
        """Take images of at least 8x8 pixels."""
        self.need_images(data, 2**PAIRS)
        layers: dict[str, nn.Module] = {}
        before = data.shape[0]
        for pair in range(PAIRS):
            after = self.width * 2**pair
            for number in (2 * pair + 1, 2 * pair + 2):
                layers |= {f"conv{number}": nn.Conv2d(before, after, 3, padding=1), f"relu{number}": nn.ReLU()}
                before = after
            layers[f"pool{pair + 1}"] = nn.MaxPool2d(2)
        inputs = before * prod(side // 2**PAIRS for side in data.shape[1:])
        return he(named(**layers, flatten=nn.Flatten(), dense=nn.Linear(inputs, data.classes)))
