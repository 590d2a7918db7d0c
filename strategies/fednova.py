"""FedNova: updates count by the length of the way they stand for, so that clients with more steps do not win.

Wang et al., "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization", NeurIPS 2020,
https://arxiv.org/abs/2007.07481, equation 8: `step = tau_eff sum_i p_i D_i / |a_i|`, with p_i by samples, tau_eff = sum_i p_i
|a_i| and |a_i| the sum of the weights that client i's update gives to its gradients: its number of steps for plain SGD, and (1
- (1 - lr mu)^steps) / (lr mu) with a proximal term.

Clients need not have the same learning rate: |a_i| is multiplied by it where replies state `lr`, which with equal ones changes
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from flwr.serverapp.strategy import Strategy
from pydantic import Field

from fedapt.errors import RunFailed
from fedapt.strategies.aggregation import Aggregation
from fedapt.strategies.strategy import WHOLE_COHORT, StrategyOptions
from fedapt.strategies.updates import Arrays, Update, weighted_sum


class FedNova(Aggregation):
    """No memory."""

    options: FedNovaOptions

    def combine(self, updates: Sequence[Update]) -> Arrays:
        """Return the normalised mean."""
        mu = self.options.proximal_mu
        with_lr = mu > 0 or all("lr" in update.metrics for update in updates)
        lengths = [way(update, mu, with_lr) for update in updates]
        total = sum(update.samples for update in updates)
        shares = [update.samples / total for update in updates]
        effective = sum(share * length for share, length in zip(shares, lengths, strict=True))
        # A client without a step has no update to normalise.
        weights = [effective * share / length if length else 0.0 for share, length in zip(shares, lengths, strict=True)]
        return weighted_sum(updates, weights)

    def told(self) -> Mapping[str, float]:
        """Return mu, if there is one."""
        return {"proximal-mu": self.options.proximal_mu} if self.options.proximal_mu else {}


class FedNovaOptions(StrategyOptions):
    """FedAvg for clients that take unequal numbers of steps."""

    kind: Literal["fednova"] = "fednova"
    proximal_mu: float = Field(default=0.0, ge=0, description="mu of FedProx's term on the clients, of which a_i takes account")

    def build(self, **flower: Any) -> Strategy:
        """Return a new strategy."""
        return FedNova(self, **WHOLE_COHORT | flower)


def way(update: Update, mu: float, with_lr: bool) -> float:
    """Return |a_i|, times the learning rate if that counts."""
    steps = update.metric("steps", "fednova")
    if steps < 0:
        raise RunFailed(f"client {update.client} says that it took {steps} steps; expected a number of 0 or more.")
    if not with_lr:
        return steps
    lr = update.metric("lr", "fednova with proximal_mu")
    return (1 - (1 - lr * mu) ** steps) / mu if mu else lr * steps
