"""FedBuff: a buffer of updates, of which some are stale, makes one step.

Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", AISTATS 2022, https://arxiv.org/abs/2106.06639,
Algorithm 1: `step = lr / K sum_k s(t_k) D_k` over the K updates of the buffer, with s(t) = 1 / sqrt(1 + t) and t the server's
steps since the client got its model (`staleness` of its reply; 0 where it states none). The weights are not made to add up to
one: a stale buffer moves the model less. Clients count alike, whatever their samples.

When the buffer is full is decided by `clock: {kind: asynchronous}`; with synchronous rounds nothing is stale, and this is a
plain mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from flwr.serverapp.strategy import Strategy
from pydantic import Field

from fedapt.errors import RunFailed
from fedapt.strategies.aggregation import Aggregation
from fedapt.strategies.strategy import WHOLE_COHORT, StrategyOptions
from fedapt.strategies.updates import Arrays, Update, weighted_sum


class FedBuff(Aggregation):
    """No memory: the buffer is the Gateway's."""

    options: FedBuffOptions

    def combine(self, updates: Sequence[Update]) -> Arrays:
        """Return the step of a buffer."""
        told = self.options
        counts = [(1 + _staleness(update)) ** -told.staleness_exponent for update in updates]
        return weighted_sum(updates, [told.server_learning_rate * count / len(updates) for count in counts])


class FedBuffOptions(StrategyOptions):
    """The mean of a buffer, in which stale updates count less."""

    asynchronous: ClassVar[bool] = True

    kind: Literal["fedbuff"] = "fedbuff"
    server_learning_rate: float = Field(default=1.0, gt=0, description="by what the mean is multiplied")
    staleness_exponent: float = Field(default=0.5, ge=0, description="a of s(t) = (1 + t)^-a; 0: stale updates count in full")

    def build(self, **flower: Any) -> Strategy:
        """Return a new strategy."""
        return FedBuff(self, **WHOLE_COHORT | flower)


def _staleness(update: Update) -> float:
    staleness = update.metrics.get("staleness", 0.0)
    if staleness < 0:
        raise RunFailed(f"client {update.client} states a staleness of {staleness}; expected a number of 0 or more.")
    return staleness
