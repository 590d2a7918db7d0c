"""SCAFFOLD: clients subtract their own drift from their gradients.

Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", ICML 2020,
https://arxiv.org/abs/1910.06378, Algorithm 1 with option II: a client's steps follow `g - c_i + c`, then `c_i = c_i - c + (x -
y_i) / (K lr)`, and the server takes `x = x + lr_g mean(y_i - x)` and `c = mean c_i`.

The server keeps the c_i and sends c - c_i, since clients keep nothing between rounds: 4 bytes a weight more down, and in the
client's memory. The paper's mean counts clients alike; here they count by samples in both means, as in FedAvg, whose objective
it then shares.

Clients that never answered have c_i = 0. The corrections of all clients should add up to zero, or they bias the model: with
`clients` known, c is the mean over all of them as in the paper; without, it is the mean over those that have answered, and only
they are corrected.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from flwr.serverapp.strategy import Strategy
from pydantic import Field

from fedapt.strategies.strategy import WHOLE_COHORT
from fedapt.strategies.updates import Arrays, Update, weighted_mean
from fedapt.strategies.variates import RememberingOptions, Variates


class Scaffold(Variates):
    """Memory: c_i of every client that answered, and c."""

    options: ScaffoldOptions

    def correction(self, client: int) -> Arrays | None:
        """Return c - c_i, float32 as it is sent."""
        own, mean = self.variate(client), self.mean
        if mean is None or (own is None and self.options.clients is None):
            return None
        return {name: np.asarray(values - (own[name] if own else 0.0), np.float32) for name, values in mean.items()}

    def combine(self, updates: Sequence[Update]) -> Arrays:
        """Return lr_g times the mean update, and keep the c_i of those who answered."""
        self.remember(updates, [self._variate(update) for update in updates])
        mean = weighted_mean(updates, (update.samples for update in updates))
        return {name: self.options.server_learning_rate * values for name, values in mean.items()}

    def _variate(self, update: Update) -> Arrays:
        """Return the client's mean gradient, without the correction that it was sent."""
        steps, lr = update.metric("steps", "scaffold"), update.metric("lr", "scaffold")
        if not (steps > 0 and lr > 0):
            return self.variate(update.client) or {name: np.zeros_like(values) for name, values in update.delta.items()}
        sent = self.correction(update.client)
        return {name: -values / (steps * lr) - (sent[name] if sent else 0.0) for name, values in update.delta.items()}


class ScaffoldOptions(RememberingOptions):
    """FedAvg with gradients corrected for what makes a client's data special."""

    corrects: ClassVar[bool] = True
    keeps_clients: ClassVar[bool] = True

    kind: Literal["scaffold"] = "scaffold"
    server_learning_rate: float = Field(default=1.0, gt=0, description="lr_g, by what the mean update is multiplied")

    def build(self, **flower: Any) -> Strategy:
        """Return a new strategy."""
        return Scaffold(self, **WHOLE_COHORT | flower)
