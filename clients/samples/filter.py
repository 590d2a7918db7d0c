"""The contract of a sample filter: which samples of a batch are worth a backward pass."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fedapt.options import Kind


class Filter(Kind):
    """The `samples:` block of a scenario; one file in `clients/samples` adds one.

    chooses: whether it looks at losses at all; one that takes every sample spares the step their list.
    """

    chooses: ClassVar[bool] = True

    def choose(self, losses: Tensor) -> Tensor | None:
        """Return which samples to train on, (chosen,) int64, given the losses (batch,) of the forward pass; None means all."""
        raise NotImplementedError
