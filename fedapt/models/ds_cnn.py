"""DS-CNN: depthwise separable convolutions, the smallest in memory and work of the models for images.

Zhang et al., "Hello Edge: Keyword Spotting on Microcontrollers", https://arxiv.org/abs/1711.07128, section 4.6, the small one of
table 6, which is the keyword spotter of MLPerf Tiny (Banbury et al., https://arxiv.org/abs/2106.07597). For images the first
kernel is 3x3, not the 10x4 of spectrograms; group norm is in place of batch norm.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from fedapt.data import DataShape
from fedapt.models.model import MOST_UNITS, ModelOptions, he, named, norm

BLOCKS = 4


class DsCnn(ModelOptions):
    """A convolution, four depthwise separable blocks, and a dense layer: 22,218 parameters on CIFAR-10."""

    kind: Literal["ds-cnn"] = "ds-cnn"
    width: int = Field(default=64, ge=1, le=MOST_UNITS, description="channels of all layers")

    def build(self, data: DataShape) -> nn.Module:
        """Take images of at least 4x4 pixels."""
        self.need_images(data, 4)
        first = nn.Conv2d(data.shape[0], self.width, 3, stride=2, padding=1, bias=False)
        blocks: dict[str, nn.Module] = {f"block{number + 1}": _separable(self.width) for number in range(BLOCKS)}
        end = {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "dense": nn.Linear(self.width, data.classes)}
        return he(named(conv1=first, norm1=norm(self.width), relu1=nn.ReLU(), **blocks, **end))


def _separable(width: int) -> nn.Module:
    """Return a convolution within each channel, and one across the channels of each pixel."""
    return named(
        depthwise=nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False), norm1=norm(width), relu1=nn.ReLU(),
        pointwise=nn.Conv2d(width, width, 1, bias=False), norm2=norm(width), relu2=nn.ReLU(),
    )  # fmt: skip
