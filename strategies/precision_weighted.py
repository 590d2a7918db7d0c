"""Weights by how precisely clients compute: hypotheses to be tried against weights by samples.

With v the variance of an update's rounding noise and q = |Q(D) - D|^2 / |D|^2, client k counts as n_k times

- `samples`:    1. Unbiased, the default.
- `fedhq`:      1 / (1 + q_k), after Chen et al., "Heterogeneous quantization in federated learning", IEEE TWC 2021 (their weights
                minimise a bound on convergence; this minimises sum p_k^2 (1 + q_k), and may differ).
- `shrunk_var`: 1 / (v_k + tau^2), tau^2 being the mean squared distance of the updates from their mean, noise included. It
                goes to `samples` where clients differ by more than by noise.
- `bits`:       mean_bits.
- `inv_var`:    1 / v_k. Clients without noise, if there are any, leave nothing to the others.

Whatever leaves `samples` leans towards the data of precise devices, and loses where those differ: `bits` and `inv_var` are
there to show how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from flwr.serverapp.strategy import Strategy
from pydantic import Field

from fedapt.errors import RunFailed
from fedapt.strategies.aggregation import Aggregation
from fedapt.strategies.strategy import WHOLE_COHORT, StrategyOptions
from fedapt.strategies.updates import Arrays, Update, weighted_mean

Weights = Literal["samples", "fedhq", "shrunk_var", "bits", "inv_var"]
METRICS = {"fedhq": "relative_error", "shrunk_var": "update_variance", "bits": "mean_bits", "inv_var": "update_variance"}


class PrecisionWeighted(Aggregation):
    """No memory."""

    options: PrecisionWeightedOptions

    def combine(self, updates: Sequence[Update]) -> Arrays:
        """Return the weighted mean."""
        samples = np.array([update.samples for update in updates])
        return weighted_mean(updates, (samples * self._factors(updates)).tolist())

    def _factors(self, updates: Sequence[Update]) -> np.ndarray:
        kind = self.options.weights
        if kind == "samples":
            return np.ones(len(updates))
        told = np.array([_positive(update, METRICS[kind], kind) for update in updates])
        if kind == "bits":
            return told if told.any() else np.ones(len(updates))
        if kind == "fedhq":
            return 1 / (1 + told)
        return inverse(told + (_dispersion(updates) if kind == "shrunk_var" else 0.0))


class PrecisionWeightedOptions(StrategyOptions):
    """FedAvg whose clients count by their precision too."""

    kind: Literal["precision_weighted"] = "precision_weighted"
    weights: Weights = Field(default="samples", description="by what clients count, besides their samples")

    def build(self, **flower: Any) -> Strategy:
        """Return a new strategy."""
        return PrecisionWeighted(self, **WHOLE_COHORT | flower)


def inverse(variances: np.ndarray) -> np.ndarray:
    """Return weights by inverse variance; those without any, if there are, have all the weight."""
    exact = variances == 0
    # The smallest counts as 1: the inverse of a tiny one would be infinite.
    return exact.astype(float) if exact.any() else np.asarray(variances.min() / variances)


def _dispersion(updates: Sequence[Update]) -> float:
    mean = weighted_mean(updates, (update.samples for update in updates))
    squares = [sum(float(np.square(update.delta[name] - mean[name]).sum()) for name in mean) for update in updates]
    return float(np.average(squares, weights=[update.samples for update in updates]))


def _positive(update: Update, name: str, kind: str) -> float:
    value = update.metric(name, f"precision_weighted with weights: {kind}")
    if value < 0:
        raise RunFailed(f"client {update.client} states {value} as `{name}`; expected a number of 0 or more.")
    return value
