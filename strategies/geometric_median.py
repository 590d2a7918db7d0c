"""Geometric median: the point whose distances to the updates add up to the least.

Pillutla et al., "Robust Aggregation for Federated Learning", IEEE TSP 2022, https://arxiv.org/abs/1912.13445 (RFA), Algorithm
2, the smoothed Weiszfeld iteration `z = sum(w x) / sum(w)` with `w = a / max(nu, |z - x|)`.

Tolerates f < n / 2 arbitrary updates of n, with kappa = 4 (1 + f / (n - 2 f))^2 of `robustness` for updates that count alike;
with `weighted`, those of less than half of all samples. Left open: nu is a share of the median distance from the start, so that
the rule scales; it starts at the coordinate-wise median, which no minority can move far; it stops when a step lowers the sum by
less than `tolerance` of it, and says so if it does not within `max_iterations`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from flwr.serverapp.strategy import Strategy
from pydantic import Field

from fedapt.strategies.aggregation import Aggregation
from fedapt.strategies.robustness import ALL_ATTACKS, deviation, minority
from fedapt.strategies.strategy import WHOLE_COHORT, StrategyOptions
from fedapt.strategies.updates import Arrays, Update, as_arrays, as_rows

log = logging.getLogger(__name__)


class GeometricMedian(Aggregation):
    """No memory."""

    options: GeometricMedianOptions

    def combine(self, updates: Sequence[Update]) -> Arrays:
        """Return the geometric median of the updates."""
        told = self.options
        weights = np.array([update.samples if told.weighted else 1.0 for update in updates])
        point, fall = weiszfeld(as_rows(updates), weights / weights.sum(), told.smoothing, told.tolerance, told.max_iterations)
        if fall > told.tolerance:
            log.warning(f"geometric_median stops after {told.max_iterations} iterations, still falling by {fall:.2g} in one")
        return as_arrays(point, updates[0].delta)


class GeometricMedianOptions(StrategyOptions):
    """The point nearest to all updates: robust like a median, but to directions and not to single weights."""

    withstands: ClassVar[frozenset[str]] = ALL_ATTACKS

    kind: Literal["geometric_median"] = "geometric_median"
    weighted: bool = Field(default=False, description="count updates by their samples, which a liar can make up")
    smoothing: float = Field(default=1e-6, gt=0, le=1, description="nu, as a share of the median distance from the start")
    tolerance: float = Field(default=1e-12, gt=0, lt=1, description="relative fall of the sum of distances that ends it")
    max_iterations: int = Field(default=200, ge=1, description="the most iterations; the paper is content with 3")

    def tolerates(self, updates: int) -> int:
        """Return the most that are fewer than half, if all count alike."""
        return 0 if self.weighted else minority(updates)

    def deviation(self, honest: np.ndarray, byzantine: int) -> float:
        """Return what kappa allows."""
        count = len(honest) + byzantine
        return deviation(4 * (1 + byzantine / (count - 2 * byzantine)) ** 2, honest)

    def build(self, **flower: Any) -> Strategy:
        """Return a new strategy."""
        return GeometricMedian(self, **WHOLE_COHORT | flower)


def weiszfeld(rows: np.ndarray, shares: np.ndarray, smoothing: float, tolerance: float, most: int) -> tuple[np.ndarray, float]:
    """Return the geometric median of rows, (weights,), and by what share of it the last step lowered the sum of distances."""
    point = np.median(rows, axis=0)
    distances = np.linalg.norm(rows - point, axis=1)
    if not distances.any():
        return point, 0.0
    nu = smoothing * float(np.median(distances[distances > 0]))
    total, fall = float(shares @ distances), 0.0
    for _ in range(most):
        pulls = shares / np.maximum(distances, nu)
        point = (pulls[:, None] * rows).sum(axis=0) / pulls.sum()
        distances = np.linalg.norm(rows - point, axis=1)
        before, total = total, float(shares @ distances)
        fall = (before - total) / before
        if fall <= tolerance:
            break
    return point, fall
