"""Norm clipping: no update is longer than a bound.

Sun et al., "Can You Really Backdoor Federated Learning?", 2019, https://arxiv.org/abs/1911.07963, section 4, without its noise:
`step = sum_k p_k D_k min(1, M / |D_k|)`, with p_k by samples.

One client moves the model by p_k M at most, whatever it sends. That withstands huge updates and nothing else: a sign flipper of
an ordinary length is averaged in. Left open: without a bound, M is the median length of the round's updates, which fewer than
half of the clients cannot raise beyond the longest honest one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from flwr.serverapp.strategy import Strategy
from pydantic import Field

from fedapt.strategies.aggregation import Aggregation
from fedapt.strategies.robustness import minority
from fedapt.strategies.strategy import WHOLE_COHORT, StrategyOptions
from fedapt.strategies.updates import Arrays, Update, weighted_mean


class NormClipping(Aggregation):
    """No memory."""

    options: NormClippingOptions

    def combine(self, updates: Sequence[Update]) -> Arrays:
        """Return the mean of the clipped updates."""
        norms = [update.norm for update in updates]
        bound = self.options.norm_bound or float(np.median(norms))
        factors = [bound / norm if norm > bound else 1.0 for norm in norms]
        clipped = [
            Update(update.client, {name: factor * values for name, values in update.delta.items()}, update.samples, {})
            for update, factor in zip(updates, factors, strict=True)
        ]
        return weighted_mean(clipped, (update.samples for update in clipped))


class NormClippingOptions(StrategyOptions):
    """FedAvg of updates that are cut to a length."""

    scales: ClassVar[bool] = False
    withstands: ClassVar[frozenset[str]] = frozenset({"huge_norm"})

    kind: Literal["norm_clipping"] = "norm_clipping"
    norm_bound: float | None = Field(
        default=None, gt=0, description="M, the Euclidean length an update may have; null: the median length in the round"
    )

    def tolerates(self, updates: int) -> int:
        """Return the most that are fewer than half; with a fixed bound all may lie, each for its share."""
        return minority(updates)

    def deviation(self, honest: np.ndarray, byzantine: int) -> float:
        """Return what liars of M and the cutting of honest updates allow, where all have the same number of samples."""
        norms = np.linalg.norm(honest, axis=1)
        # The least and the most that a minority can make of the median.
        low, high = (self.norm_bound or float(norms.min())), (self.norm_bound or float(norms.max()))
        mean = float(np.linalg.norm(honest.mean(axis=0)))
        return float(byzantine * (high + mean) + np.maximum(norms - low, 0).sum()) / (len(honest) + byzantine)

    def build(self, **flower: Any) -> Strategy:
        """Return a new strategy."""
        return NormClipping(self, **WHOLE_COHORT | flower)
