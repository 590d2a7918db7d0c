"""Sums that do not depend on order: weighted updates are added as whole multiples of 2**-30, in 64-bit integers.

Whole numbers add the same in any order and any grouping, so partial sums of any workers give the same bits. The price is a
resolution of 2**-30 in weight * update, far below float32 once divided by the number of samples, and a bound on how large one
update may be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fedapt.errors import DamagedData

RESOLUTION = 2.0**-30
LARGEST_COHORT = 2**14
LARGEST_TERM = 2.0**62 / LARGEST_COHORT * RESOLUTION


@dataclass
class ExactSum:
    """The sum of weight * update over clients, and of the weights."""

    weight: int = 0
    terms: int = 0
    totals: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, update: Mapping[str, np.ndarray], weight: int) -> None:
        """Add one client's update (float32 arrays by name); raises DamagedData if it is too large to be added exactly."""
        scaled = {name: np.multiply(values, weight / RESOLUTION, dtype=np.float64) for name, values in update.items()}
        for name, values in scaled.items():
            if values.size and not np.abs(values).max() * RESOLUTION < LARGEST_TERM:
                largest = LARGEST_TERM / weight
                raise DamagedData(
                    f"{name}: an update of {np.abs(update[name]).max():g} is beyond {largest:.3g}; training diverged: lower lr"
                )
        self.merge(ExactSum(weight, 1, {name: np.rint(values).astype(np.int64) for name, values in scaled.items()}))

    def merge(self, other: ExactSum) -> None:
        """Add another partial sum."""
        if self.terms + other.terms > LARGEST_COHORT:
            raise DamagedData(f"one round cannot sum more than {LARGEST_COHORT} updates exactly; lower clients.per_round")
        self.weight += other.weight
        self.terms += other.terms
        for name, values in other.totals.items():
            if name in self.totals:
                self.totals[name] += values
            else:
                self.totals[name] = values.copy()

    def mean(self) -> dict[str, np.ndarray]:
        """Return the weighted mean as float64 arrays; zero updates give exact zeros."""
        return {name: values * (RESOLUTION / self.weight) for name, values in self.totals.items()}
