"""What robust rules promise: a step near the honest updates' mean, in units of how much these differ among themselves.

Allouah et al., "Fixing by Mixing: A Recipe for Optimal Byzantine ML under Heterogeneity", AISTATS 2023,
https://arxiv.org/abs/2302.01772, Definition 2: a rule is (f, kappa)-robust if for any n updates and any n - f of them, `|step -
mean|^2 <= kappa * mean |update - mean|^2`, means over these n - f. It holds in every single round, for any attack. It is no
promise about a run: an attack that stays within it, as little-is-enough does, can still pull all rounds the same way, the more
the further the honest updates are apart.
"""

from __future__ import annotations

import math

import numpy as np

# As `faults:` of a scenario and tests/strategies/attacks.py call them.
ALL_ATTACKS = frozenset({"sign_flip", "huge_norm", "little_is_enough", "collusion"})


def deviation(kappa: float, honest: np.ndarray) -> float:
    """Return the largest distance from the mean that kappa allows; honest: (updates, weights)."""
    spread = np.square(honest - honest.mean(axis=0)).sum(axis=1).mean()
    return math.sqrt(kappa * float(spread))


def minority(updates: int) -> int:
    """Return the most that are fewer than half."""
    return max(updates - 1, 0) // 2
