"""q-FedAvg: clients with a higher loss count more.

Li et al., "Fair Resource Allocation in Federated Learning", ICLR 2020, https://arxiv.org/abs/1905.10497, Algorithm 2: with
L = 1 / lr and F the loss, `step = sum_k F_k^q L D_k / sum_k (q F_k^(q-1) |L D_k|^2 + L F_k^q)`.

Left open, as in Flower's: F is the loss over the round's training (`train_loss`), not that of the global model before it, which
no client computes; losses below 1e-10 count as that. Clients count alike, whatever their samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from flwr.serverapp.strategy import Strategy
from pydantic import Field

from fedapt.strategies.aggregation import Aggregation
from fedapt.strategies.strategy import WHOLE_COHORT, StrategyOptions
from fedapt.strategies.updates import Arrays, Update, weighted_sum

LEAST_LOSS = 1e-10


class QFedAvg(Aggregation):
    """No memory."""

    options: QFedAvgOptions

    def combine(self, updates: Sequence[Update]) -> Arrays:
        """Return the step of Algorithm 2."""
        q = self.options.q
        losses = [max(update.metric("train_loss", "q_fedavg"), LEAST_LOSS) for update in updates]
        rates = [self.options.client_learning_rate or update.metric("lr", "q_fedavg") for update in updates]
        gradients = [update.norm / lr for update, lr in zip(updates, rates, strict=True)]
        # Above and below the fraction by F^q of the highest loss: a power of the loss itself may be no number, or zero for all.
        highest = max(losses)
        powers = [(loss / highest) ** q for loss in losses]
        h = [
            power * (q * norm**2 / loss + 1 / lr) for power, loss, norm, lr in zip(powers, losses, gradients, rates, strict=True)
        ]
        return weighted_sum(updates, [power / lr / sum(h) for power, lr in zip(powers, rates, strict=True)])


class QFedAvgOptions(StrategyOptions):
    """Fair FedAvg: the larger q, the more even the losses of clients, and the smaller the steps."""

    faithful: ClassVar[bool] = False
    scales: ClassVar[bool] = False

    kind: Literal["q_fedavg"] = "q_fedavg"
    q: float = Field(default=0.1, ge=0, description="0 counts clients alike; the paper tries 0.001 to 15")
    client_learning_rate: float | None = Field(
        default=None, gt=0, description="lr, of which 1 / L is taken; null: what each reply states as `lr`"
    )

    def build(self, **flower: Any) -> Strategy:
        """Return a new strategy."""
        return QFedAvg(self, **WHOLE_COHORT | flower)
