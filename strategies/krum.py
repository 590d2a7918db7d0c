"""Krum and Multi-Krum: the update, or the updates, whose nearest neighbours are nearest.

Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", NeurIPS 2017,
https://arxiv.org/abs/1703.02757, section 4.

Tolerates f arbitrary updates of n >= 2 f + 3, with kappa = 6 (n - f) / (n - 2 f - 1) of `robustness`: the m smallest scores are
on average no larger than those of the honest updates, at most 2 (n - f) times their variance, and at least n - 2 f - 1 of the
neighbours of each are honest. It holds for any m <= n - f. Distances are those of updates, in float64, differences before
squares: of float32 models, from norms and products, they may come out negative. Selected updates count alike; of equal scores
the first client's wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from flwr.serverapp.strategy import Strategy
from pydantic import Field

from fedapt.strategies.aggregation import Aggregation
from fedapt.strategies.robustness import ALL_ATTACKS, deviation
from fedapt.strategies.strategy import WHOLE_COHORT, StrategyOptions
from fedapt.strategies.updates import Arrays, Update, weighted_mean


class Krum(Aggregation):
    """No memory."""

    options: SelectingOptions

    def combine(self, updates: Sequence[Update]) -> Arrays:
        """Return the mean of the selected updates."""
        scores = krum_scores(squared_distances(updates), self.options.num_malicious_nodes)
        chosen = np.argsort(scores, kind="stable")[: self.options.selected(len(updates))]
        return weighted_mean([updates[place] for place in sorted(chosen)], [1.0] * len(chosen))


class SelectingOptions(StrategyOptions):
    """What Krum and Multi-Krum have in common."""

    withstands: ClassVar[frozenset[str]] = ALL_ATTACKS

    num_malicious_nodes: int = Field(default=1, ge=0, description="f, how many updates of a round may be anything")

    @property
    def least_updates(self) -> int:
        """2 f + 3."""
        return 2 * self.num_malicious_nodes + 3

    def selected(self, updates: int) -> int:
        """Return how many updates are averaged."""
        raise NotImplementedError

    def tolerates(self, updates: int) -> int:
        """Return f, if there are enough updates."""
        return self.num_malicious_nodes if updates >= self.least_updates else 0

    def deviation(self, honest: np.ndarray, byzantine: int) -> float:
        """Return what kappa allows."""
        f = self.num_malicious_nodes
        count = len(honest) + byzantine
        return deviation(6 * (count - f) / (count - 2 * f - 1), honest)

    def build(self, **flower: Any) -> Strategy:
        """Return a new strategy."""
        return Krum(self, **WHOLE_COHORT | flower)


class KrumOptions(SelectingOptions):
    """One client's update, the one nearest to its neighbours; all others' work of the round is lost."""

    kind: Literal["krum"] = "krum"

    def selected(self, updates: int) -> int:
        """Return 1."""
        return 1


class MultiKrumOptions(SelectingOptions):
    """The mean of the updates with the best scores of Krum."""

    kind: Literal["multi_krum"] = "multi_krum"
    num_nodes_to_select: int | None = Field(
        default=None, ge=1, description="m, how many updates are averaged; null: all but f, the most that f liars allow"
    )

    @property
    def least_updates(self) -> int:
        """2 f + 3, and f more than are selected."""
        return max(super().least_updates, (self.num_nodes_to_select or 0) + self.num_malicious_nodes)

    def selected(self, updates: int) -> int:
        """Return m."""
        return self.num_nodes_to_select or updates - self.num_malicious_nodes


def squared_distances(updates: Sequence[Update]) -> np.ndarray:
    """Return the squared distance of every two updates, (updates, updates) float64."""
    distances = np.zeros((len(updates), len(updates)))
    for name in updates[0].delta:
        rows = np.stack([update.delta[name].ravel() for update in updates])
        for place, row in enumerate(rows):
            distances[place, place + 1 :] += np.square(rows[place + 1 :] - row).sum(axis=1)
    return distances + distances.T


def krum_scores(distances: np.ndarray, byzantine: int) -> np.ndarray:
    """Return each update's sum of squared distances to its n - f - 2 nearest others, (updates,)."""
    others = distances + np.diag(np.full(len(distances), np.inf))
    nearest = np.sort(others, axis=1)[:, : max(len(distances) - byzantine - 2, 1)]
    return np.asarray(nearest.sum(axis=1))
