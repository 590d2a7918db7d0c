"""Draws without replacement, with probabilities in proportion to weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def weighted(generator: np.random.Generator, weights: Sequence[float], count: int) -> list[int]:
    """Return `count` indices, one drawn after another from those left, each with a probability in proportion to its weight.

    weights: (n,), at least `count` of them, finite and not negative; indices of weight 0 come last, at random.

    Efraimidis and Spirakis, "Weighted random sampling with a reservoir", Information Processing Letters 97(5), 2006: the order
    of independent exponential variables with the weights as rates has exactly these probabilities.
    """
    scale = max(weights, default=0.0) or 1.0
    rates = np.asarray(weights, np.float64) / scale
    waits = generator.exponential(size=len(rates))
    with np.errstate(divide="ignore", over="ignore"):
        arrivals = np.where(rates > 0, waits / rates, np.inf)
    return [int(index) for index in np.lexsort((waits, arrivals))[:count]]
