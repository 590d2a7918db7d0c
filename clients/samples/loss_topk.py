"""The samples of each batch with the largest losses: all go forward, and only those go backward.

Jiang et al., "Accelerating Deep Learning by Focusing on the Biggest Losers" (arXiv 1910.00762) choose by the rank of the loss at
random; the plain top share of a batch is Kawaguchi and Lu, "Ordered SGD", AISTATS 2020, arXiv 1907.04371, Algorithm 1. The step
is the mean over the chosen samples, as there. Chosen here: the share is rounded up, and of equal losses the first ones are taken.

A step spares the backward pass of the others in every layer, as their error is zero: forward of all, backward of some. Batch
norm in training spreads each error over its batch; with one, nothing is spared, and nothing is charged as if it were.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from fedapt.clients.samples.filter import Filter, Session, share_of


class LossTopK(Filter):
    """Learn from the share of each batch with the largest losses."""

    kind: Literal["loss_topk"] = "loss_topk"
    narrows: ClassVar[bool] = True
    keep: float = Field(default=0.5, gt=0, le=1, description="share of each batch that goes backward, rounded up")

    def trained(self, forwarded: int) -> int:
        """As in `Filter`."""
        return share_of(self.keep, forwarded)

    def open(self, keeps: dict[str, Tensor], generator: np.random.Generator) -> Session:
        """As in `Filter`."""
        return _Largest(self.keep)


@dataclass(frozen=True)
class _Largest(Session):
    keep: float

    def choose(self, losses: Tensor) -> Tensor:
        """Take the largest."""
        order = losses.argsort(descending=True, stable=True)
        return order[: share_of(self.keep, len(losses))].sort().values
