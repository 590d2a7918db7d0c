"""The ResNet-20 of CIFAR-10.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, https://arxiv.org/abs/1512.03385, section 4.2, with its
parameter-free shortcuts (option A), and with group norm in place of batch norm: the statistics of a batch norm differ from
client to client (Hsieh et al., ICML 2020, https://arxiv.org/abs/1910.00189), and those of group norm are of one sample.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fedapt.data import DataShape
from fedapt.models.model import MOST_UNITS, ModelOptions, he, named, norm

BLOCKS = 3  # in each of three stages: 6 n + 2 = 20 layers


class ResNet20(ModelOptions):
    """Nineteen 3x3 convolutions in nine residual blocks, and a dense layer: 269,722 parameters on CIFAR-10."""

    kind: Literal["resnet20"] = "resnet20"
    width: int = Field(
        default=16, ge=1, le=MOST_UNITS, description="channels of the first stage; the second and third have two and four times"
    )

    def build(self, data: DataShape) -> nn.Module:
        """Take images of at least 4x4 pixels."""
        self.need_images(data, 4)
        layers: dict[str, nn.Module] = {"conv1": _conv(data.shape[0], self.width), "norm1": norm(self.width), "relu1": nn.ReLU()}
        channels = self.width
        for number in range(3 * BLOCKS):
            wider = self.width * 2 ** (number // BLOCKS)
            layers[f"block{number + 1}"] = Block(channels, wider, stride=1 if channels == wider else 2)
            channels = wider
        pool, dense = nn.AdaptiveAvgPool2d(1), nn.Linear(channels, data.classes)
        return he(named(**layers, pool=pool, flatten=nn.Flatten(), dense=dense))


class Block(nn.Module):
    """Two convolutions around which the input goes; with a stride of 2 the shortcut drops pixels and adds empty channels."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1, self.relu1 = _conv(before, after, stride), norm(after), nn.ReLU()
        self.conv2, self.norm2, self.relu2 = _conv(after, after), norm(after), nn.ReLU()
        self.stride, self.added = stride, after - before

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, before, height, width) to (n, after, ceil(height / stride), ceil(width / stride))."""
        shortcut = x
        if self.stride > 1:
            shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))
        inner = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        result: Tensor = self.relu2(inner + shortcut)
        return result


def _conv(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
