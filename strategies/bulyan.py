"""Bulyan: Krum chooses the updates, and of each weight the values nearest to their median are averaged.

El Mhamdi et al., "The Hidden Vulnerability of Distributed Learning in Byzantium", ICML 2018, https://arxiv.org/abs/1802.07927,
section 4: theta = n - 2 f updates are chosen by Krum, one after the other and each among those that are left, then beta = theta
- 2 f values are averaged.

Tolerates f arbitrary updates of n >= 4 f + 3, with kappa = 9 (n - f) of `robustness`, which is loose: fewer than half of the
chosen are liars, so that median and averaged values lie within three times the farthest honest update's distance from the mean.
What it adds to Krum is that no single weight can be far off. Left open: when fewer than f + 3 updates are left to choose among,
one neighbour counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from flwr.serverapp.strategy import Strategy
from pydantic import Field

from fedapt.strategies.aggregation import Aggregation
from fedapt.strategies.krum import krum_scores, squared_distances
from fedapt.strategies.robustness import ALL_ATTACKS, deviation
from fedapt.strategies.strategy import WHOLE_COHORT, StrategyOptions
from fedapt.strategies.updates import Arrays, Update, by_coordinate


class Bulyan(Aggregation):
    """No memory."""

    options: BulyanOptions

    def combine(self, updates: Sequence[Update]) -> Arrays:
        """Return the mean of the values nearest to the median of the chosen updates."""
        f = self.options.num_malicious_nodes
        theta = len(updates) - 2 * f
        chosen = _choose(squared_distances(updates), f, theta)
        return by_coordinate([updates[place] for place in chosen], lambda stacked: mean_near_median(stacked, theta - 2 * f))


class BulyanOptions(StrategyOptions):
    """Krum, then a mean around the median: what a few clients can do to any single weight is small."""

    by_coordinate: ClassVar[bool] = True
    withstands: ClassVar[frozenset[str]] = ALL_ATTACKS

    kind: Literal["bulyan"] = "bulyan"
    num_malicious_nodes: int = Field(default=1, ge=0, description="f, how many updates of a round may be anything")

    @property
    def least_updates(self) -> int:
        """4 f + 3."""
        return 4 * self.num_malicious_nodes + 3

    def tolerates(self, updates: int) -> int:
        """Return f, if there are enough updates."""
        return self.num_malicious_nodes if updates >= self.least_updates else 0

    def deviation(self, honest: np.ndarray, byzantine: int) -> float:
        """Return what kappa allows."""
        return deviation(9 * (len(honest) + byzantine - self.num_malicious_nodes), honest)

    def build(self, **flower: Any) -> Strategy:
        """Return a new strategy."""
        return Bulyan(self, **WHOLE_COHORT | flower)


def _choose(distances: np.ndarray, byzantine: int, count: int) -> list[int]:
    """Return the places of the updates that Krum chooses one after the other, in order."""
    left = list(range(len(distances)))
    while len(left) > len(distances) - count:
        scores = krum_scores(distances[np.ix_(left, left)], byzantine)
        left.pop(int(np.argmin(scores)))
    return sorted(set(range(len(distances))) - set(left))


def mean_near_median(stacked: np.ndarray, count: int) -> np.ndarray:
    """Return the mean of the `count` values nearest to the median, of each weight; stacked: (updates, ...)."""
    order = np.argsort(np.abs(stacked - np.median(stacked, axis=0)), axis=0, kind="stable")[:count]
    return np.asarray(np.take_along_axis(stacked, order, axis=0).mean(axis=0))
