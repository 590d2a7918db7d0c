"""A random subset of every batch: the baseline that any other filter must beat at equal compute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedapt.clients.samples.filter import Filter, Session, share_of


class Random(Filter):
    """Take a share of each batch, drawn before the forward pass."""

    kind: Literal["random"] = "random"
    keep: float = Field(default=0.5, gt=0, le=1, description="share of each batch that is trained on, rounded up")

    def forwarded(self, seen: int) -> int:
        """As in `Filter`."""
        return share_of(self.keep, seen)

    def open(self, keeps: dict[str, Tensor], generator: np.random.Generator) -> Session:
        """As in `Filter`."""
        return _Drawn(self.keep, generator)


@dataclass(frozen=True)
class _Drawn(Session):
    keep: float
    generator: np.random.Generator

    def screen(self, inputs: Tensor) -> Tensor:
        """Draw without replacement."""
        drawn = self.generator.permutation(len(inputs))[: share_of(self.keep, len(inputs))]
        return torch.from_numpy(np.sort(drawn))
