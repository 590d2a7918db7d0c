"""Flower's own strategies where they do what their papers say: FedAvg, FedAvgM, FedProx.

McMahan et al., AISTATS 2017, https://arxiv.org/abs/1602.05629; Hsu et al., 2019, https://arxiv.org/abs/1909.06335, section 4.2,
with a server learning rate beside it; Li et al., MLSys 2020, https://arxiv.org/abs/1812.06127, with clients weighted by their
samples instead of drawn by them.

Sampling is not theirs here: the Gateway shows them only the cohort of the round, and they take all of it. It also hands them
one reply, the exact mean. In an app of their own they add float32 models in the order of arrival, which decides the last bits,
and one NaN spoils the model.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import flwr.serverapp.strategy as flower
from pydantic import Field

from fedapt.strategies.strategy import WHOLE_COHORT, StrategyOptions


class FedAvgOptions(StrategyOptions):
    """The mean of the updates, weighted by samples: Flower's FedAvg. It withstands nothing: one client can make it anything."""

    linear: ClassVar[bool] = True

    kind: Literal["fedavg"] = "fedavg"

    def build(self, **sampling: Any) -> flower.Strategy:
        """Return Flower's strategy."""
        return flower.FedAvg(**WHOLE_COHORT | sampling)


class FedAvgMOptions(StrategyOptions):
    """FedAvg with momentum on the server: Flower's FedAvgM."""

    linear: ClassVar[bool] = True

    kind: Literal["fedavgm"] = "fedavgm"
    server_learning_rate: float = Field(default=1.0, gt=0, description="by what the step is multiplied")
    server_momentum: float = Field(default=0.9, ge=0, lt=1, description="share of the last step that is taken again")

    def build(self, **sampling: Any) -> flower.Strategy:
        """Return Flower's strategy."""
        rates = {"server_learning_rate": self.server_learning_rate, "server_momentum": self.server_momentum}
        return flower.FedAvgM(**WHOLE_COHORT | sampling | rates)


class FedProxOptions(StrategyOptions):
    """FedAvg whose clients are pulled towards the global model: Flower's FedProx."""

    linear: ClassVar[bool] = True

    kind: Literal["fedprox"] = "fedprox"
    proximal_mu: float = Field(default=0.01, ge=0, description="mu, how hard clients are pulled; the paper tries 0.001 to 1")

    def build(self, **sampling: Any) -> flower.Strategy:
        """Return Flower's strategy."""
        return flower.FedProx(**WHOLE_COHORT | sampling | {"proximal_mu": self.proximal_mu})
