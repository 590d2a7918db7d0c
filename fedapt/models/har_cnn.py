"""Convolutions over time, for activity recognition from motion sensors.

After Ignatov, "Real-time human activity recognition from accelerometer data using convolutional neural networks", Applied Soft
Computing 62 (2018), which has one convolution, a max pool and two dense layers; ours has two convolutions.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from fedapt.data import DataShape
from fedapt.models.model import MOST_UNITS, ModelOptions, he, named


class HarCnn(ModelOptions):
    """Two 1-D convolutions and two dense layers: 60,837 parameters on six axes, 50 steps and five classes."""

    kind: Literal["har-cnn"] = "har-cnn"
    width: int = Field(
        default=32, ge=1, le=MOST_UNITS, description="channels of the first convolution; the second has twice as many"
    )

    def build(self, data: DataShape) -> nn.Module:
        """Take signals (channels, steps) of at least four steps."""
        self.need_signals(data, 4)
        channels, steps = data.shape
        wide = 2 * self.width
        return he(named(
            conv1=nn.Conv1d(channels, self.width, 5, padding=2), relu1=nn.ReLU(), pool1=nn.MaxPool1d(2),
            conv2=nn.Conv1d(self.width, wide, 5, padding=2), relu2=nn.ReLU(), pool2=nn.MaxPool1d(2),
            flatten=nn.Flatten(), dense1=nn.Linear(wide * (steps // 4), wide), relu3=nn.ReLU(),
            dense2=nn.Linear(wide, data.classes),
        ))  # fmt: skip
