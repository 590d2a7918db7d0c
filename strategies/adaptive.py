"""FedAdagrad, FedAdam and FedYogi: the mean update as a gradient for an adaptive optimiser on the server.

Reddi et al., "Adaptive Federated Optimization", ICLR 2021, https://arxiv.org/abs/2003.00295, Algorithm 2: `m = beta_1 m + (1 -
beta_1) D; v = one of three; x = x + eta m / (sqrt(v) + tau)`, with D the mean update and v starting at tau^2.

Not Flower's: its v starts at zero, and its FedAdam multiplies by a correction of the bias that the algorithm does not have,
with an exponent one too high, taken from the number of the round instead of the number of steps. Left open: the mean is
weighted by samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from flwr.serverapp.strategy import Strategy
from pydantic import Field

from fedapt.strategies.aggregation import Aggregation
from fedapt.strategies.strategy import WHOLE_COHORT, StrategyOptions
from fedapt.strategies.updates import Arrays, Update, weighted_mean


class Adaptive(Aggregation):
    """Memory: m and v of Algorithm 2, float64 by name."""

    options: AdaptiveOptions

    def combine(self, updates: Sequence[Update]) -> Arrays:
        """Return eta m / (sqrt(v) + tau)."""
        told = self.options
        mean = weighted_mean(updates, (update.samples for update in updates))
        m = self.memory.get("m") or {name: np.zeros_like(values) for name, values in mean.items()}
        v = self.memory.get("v") or {name: np.full_like(values, told.tau**2) for name, values in mean.items()}
        m = {name: told.beta_1 * m[name] + (1 - told.beta_1) * values for name, values in mean.items()}
        v = {name: told.second_moment(v[name], np.square(values)) for name, values in mean.items()}
        self.memory = {"m": m, "v": v}
        return {name: told.eta * m[name] / (np.sqrt(v[name]) + told.tau) for name in mean}


class AdaptiveOptions(StrategyOptions):
    """What the three have in common; `eta` is about how far a weight moves in a round."""

    linear: ClassVar[bool] = True
    faithful: ClassVar[bool] = False
    scales: ClassVar[bool] = False

    eta: float = Field(default=0.01, gt=0, description="learning rate of the server")
    beta_1: float = Field(default=0.9, ge=0, lt=1, description="memory of the mean update")
    tau: float = Field(default=1e-3, gt=0, description="degree of adaptivity: updates much smaller than this are not blown up")

    def second_moment(self, v: np.ndarray, square: np.ndarray) -> np.ndarray:
        """Return the next v."""
        raise NotImplementedError

    def build(self, **flower: Any) -> Strategy:
        """Return a new strategy."""
        return Adaptive(self, **WHOLE_COHORT | flower)


class FedAdagradOptions(AdaptiveOptions):
    """FedAdagrad: squares of all updates are added up."""

    kind: Literal["fedadagrad"] = "fedadagrad"
    eta: float = Field(default=0.1, gt=0, description="learning rate of the server")
    beta_1: float = Field(default=0.0, ge=0, lt=1, description="memory of the mean update")

    def second_moment(self, v: np.ndarray, square: np.ndarray) -> np.ndarray:
        """Return v + D^2."""
        return np.asarray(v + square)


class FedAdamOptions(AdaptiveOptions):
    """FedAdam: squares of updates are forgotten at the rate of beta_2."""

    kind: Literal["fedadam"] = "fedadam"
    beta_2: float = Field(default=0.99, ge=0, lt=1, description="memory of the squares")

    def second_moment(self, v: np.ndarray, square: np.ndarray) -> np.ndarray:
        """Return beta_2 v + (1 - beta_2) D^2."""
        return self.beta_2 * v + (1 - self.beta_2) * square


class FedYogiOptions(AdaptiveOptions):
    """FedYogi: squares move v by their own size, however large v is."""

    kind: Literal["fedyogi"] = "fedyogi"
    beta_2: float = Field(default=0.99, ge=0, lt=1, description="memory of the squares")

    def second_moment(self, v: np.ndarray, square: np.ndarray) -> np.ndarray:
        """Return v - (1 - beta_2) D^2 sign(v - D^2)."""
        return np.asarray(v - (1 - self.beta_2) * square * np.sign(v - square))
