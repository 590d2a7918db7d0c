"""Coordinate-wise median.

Yin et al., "Byzantine-Robust Distributed Learning", ICML 2018, https://arxiv.org/abs/1803.01498, Definition 1.

Tolerates f < n / 2 arbitrary updates of n, with kappa = 4 (1 + f / (n - 2 f))^2 of `robustness`. Every update counts alike, for a
number of samples is as easily made up as an update. Of an even number it is the mean of the two in the middle, as numpy has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from flwr.serverapp.strategy import Strategy

from fedapt.strategies.aggregation import Aggregation
from fedapt.strategies.robustness import ALL_ATTACKS, deviation, minority
from fedapt.strategies.strategy import WHOLE_COHORT, StrategyOptions
from fedapt.strategies.updates import Arrays, Update, by_coordinate


class Median(Aggregation):
    """No memory."""

    def combine(self, updates: Sequence[Update]) -> Arrays:
        """Return the median of each weight."""
        return by_coordinate(updates, lambda stacked: np.median(stacked, axis=0))


class MedianOptions(StrategyOptions):
    """The median of each weight's updates: as good as any when fewer than half of the clients lie, slow on unequal data."""

    by_coordinate: ClassVar[bool] = True
    withstands: ClassVar[frozenset[str]] = ALL_ATTACKS

    kind: Literal["median"] = "median"

    def tolerates(self, updates: int) -> int:
        """Return the most that are fewer than half."""
        return minority(updates)

    def deviation(self, honest: np.ndarray, byzantine: int) -> float:
        """Return what kappa allows."""
        count = len(honest) + byzantine
        return deviation(4 * (1 + byzantine / (count - 2 * byzantine)) ** 2, honest)

    def build(self, **flower: Any) -> Strategy:
        """Return a new strategy."""
        return Median(self, **WHOLE_COHORT | flower)
