"""Coordinate-wise trimmed mean.

Yin et al., "Byzantine-Robust Distributed Learning", ICML 2018, https://arxiv.org/abs/1803.01498, Definition 2.

Of n updates the k = floor(beta n) largest and the k smallest values of each weight are dropped. Tolerates k arbitrary updates,
with kappa = 6 k / (n - 2 k) (1 + k / (n - 2 k)) of `robustness`. Every update counts alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from flwr.serverapp.strategy import Strategy
from pydantic import Field

from fedapt.strategies.aggregation import Aggregation
from fedapt.strategies.robustness import ALL_ATTACKS, deviation, minority
from fedapt.strategies.strategy import WHOLE_COHORT, StrategyOptions
from fedapt.strategies.updates import Arrays, Update, by_coordinate


class TrimmedMean(Aggregation):
    """No memory."""

    options: TrimmedMeanOptions

    def combine(self, updates: Sequence[Update]) -> Arrays:
        """Return the trimmed mean of each weight."""
        ends = self.options.tolerates(len(updates))
        return by_coordinate(updates, lambda stacked: np.sort(stacked, axis=0)[ends : len(updates) - ends].mean(axis=0))


class TrimmedMeanOptions(StrategyOptions):
    """The mean of each weight's updates without its largest and smallest ones."""

    by_coordinate: ClassVar[bool] = True
    withstands: ClassVar[frozenset[str]] = ALL_ATTACKS

    kind: Literal["trimmed_mean"] = "trimmed_mean"
    beta: float = Field(default=0.2, ge=0, lt=0.5, description="share of the updates that is dropped at each end")

    @property
    def least_updates(self) -> int:
        """The fewest of which one is dropped at each end: of fewer it is a plain mean."""
        return max(math.ceil((1 - 1e-9) / self.beta), 3) if self.beta else 1

    def tolerates(self, updates: int) -> int:
        """Return how many are dropped at each end: 0.29 of 100 are 29, though not in floating point, and one at least is left."""
        return min(math.floor(self.beta * updates * (1 + 1e-9)), minority(updates))

    def deviation(self, honest: np.ndarray, byzantine: int) -> float:
        """Return what kappa allows."""
        count = len(honest) + byzantine
        ends = self.tolerates(count)
        rest = count - 2 * ends
        return deviation(6 * ends / rest * (1 + ends / rest), honest)

    def build(self, **flower: Any) -> Strategy:
        """Return a new strategy."""
        return TrimmedMean(self, **WHOLE_COHORT | flower)
