"""Teaches fedapt the one model of the workloads that it does not come with; loaded as `--plugin bench.engine.plugin`."""

from __future__ import annotations

from typing import Literal

from torch import nn

from bench.engine.nets import pfl_cnn
from fedapt.data import DataShape
from fedapt.models import MODELS
from fedapt.models.model import ModelOptions


class PflCnn(ModelOptions):
    """The network of pfl-research's CIFAR-10 benchmark, without dropout."""

    kind: Literal["pfl-cnn"] = "pfl-cnn"

    def build(self, data: DataShape) -> nn.Module:
        """Take images."""
        self.need_images(data, 8)
        return pfl_cnn(data.shape, data.classes)


MODELS["pfl-cnn"] = PflCnn
