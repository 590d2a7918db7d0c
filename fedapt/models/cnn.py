"""The small convolutional network of the pilots."""

from __future__ import annotations

from math import prod
from typing import Literal

from torch import nn

from fedapt.data import DataShape
from fedapt.models.model import ModelOptions, named


class Cnn(ModelOptions):
    """Two convolutions and two dense layers: 46,730 parameters on 28x28 grey images and ten classes.

    5x5 kernels without padding on images of at least 16 pixels, 3x3 with padding on smaller ones.
    """

    kind: Literal["cnn"] = "cnn"

    def build(self, data: DataShape) -> nn.Module:
        """Take images of at least 4x4 pixels."""
        self.need_images(data, 4)
        channels, height, width = data.shape
        kernel, padding = (5, 0) if min(height, width) >= 16 else (3, 1)
        lost = kernel - 1 - 2 * padding
        sides = [((side - lost) // 2 - lost) // 2 for side in (height, width)]
        return named(
            conv1=nn.Conv2d(channels, 16, kernel, padding=padding), relu1=nn.ReLU(), pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(16, 32, kernel, padding=padding), relu2=nn.ReLU(), pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(), dense1=nn.Linear(32 * prod(sides), 64), relu3=nn.ReLU(), dense2=nn.Linear(64, data.classes),
        )  # fmt: skip
