"""The contract of a continual method: what keeps old tasks alive while a client learns new ones."""

from __future__ import annotations

from torch import Tensor

from fedapt.options import Kind


class Continual(Kind):
    """The `continual:` block of a scenario; one file in `clients/continual` adds one."""

    def extend(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the batch to train on, given the batch of new samples: (n, *shape) float32 and (n,) int64."""
        raise NotImplementedError
