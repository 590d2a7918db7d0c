"""Nothing: plain training on whatever comes, the baseline that forgets."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from fedapt.clients.continual.memory import Continual


class Forget(Continual):
    """Train on the new samples alone."""

    kind: Literal["none"] = "none"

    def extend(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the batch as it came."""
        return inputs, labels
