"""Train on every sample."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from fedapt.clients.samples.filter import Filter


class All(Filter):
    """Choose the whole batch."""

    kind: Literal["all"] = "all"
    chooses: ClassVar[bool] = False

    def choose(self, losses: Tensor) -> Tensor | None:
        """Return None: all samples."""
        return None
