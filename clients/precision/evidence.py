"""What a round taught about the layers of the model: all that a policy decides from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fedapt.quant import GridOptions
from fedapt.quant.weight import gavg_at

UNIT_BITS = 8


@dataclass(frozen=True)
class Evidence:
    """One round, as the server saw it.

    lr:         the clients' learning rate.
    gavg:       by layer, the running mean of Gavg as it would be at 8 bits, so that it survives a change of bits; layers that
                were not observed are absent.
    step:       by layer, the mean step of its grid over the global weights at 8 bits.
    weights:    by layer, how many weights it has.
    moves:      by layer, by how many bits a client moved it within the round, the most of any client.
    update:     by layer, what the round added to the global weights, in their shape.
    updates:    how many were averaged.
    train_loss: mean over the samples that were trained on; None if there were none.
    """

    lr: float
    grid: GridOptions
    gavg: Mapping[str, float] = field(default_factory=dict)
    step: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, int] = field(default_factory=dict)
    moves: Mapping[str, int] = field(default_factory=dict)
    update: Mapping[str, np.ndarray] = field(default_factory=dict)
    updates: int = 1
    train_loss: float | None = None

    def gavg_at(self, layer: str, bits: int) -> float:
        """Return Gavg as it would be at a width: the mean absolute gradient in steps of the layer's grid."""
        return gavg_at(self.gavg[layer], UNIT_BITS, bits, self.grid)
