"""Sums that do not depend on order: weighted updates are added as whole multiples of 2**-30, in 64-bit integers.

Whole numbers add the same in any order and any grouping, so partial sums of any workers give the same bits. The price is a
resolution of 2**-30 in weight * update, far below float32 once divided by the number of samples, and a bound on how large one
update may be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedapt.errors import DamagedData

RESOLUTION = 2.0**-30
LARGEST_COHORT = 2**14
LARGEST_TERM = 2.0**62 / LARGEST_COHORT * RESOLUTION
# Numbers whose intermediate forms fit into a core's cache: five times as fast as whole arrays of a million.
BLOCK = 2**15
# So many terms, each of them a whole number below 2**48, have a sum that float64 holds exactly.
EXACT_IN_FLOATS = 32


@dataclass
class ExactSum:
    """The sum of weight * update over clients, and of the weights."""

    weight: int = 0
    terms: int = 0
    totals: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, update: Mapping[str, np.ndarray], weight: int) -> None:
        """Add one client's update (float32 arrays by name); raises DamagedData if it is too large to be added exactly."""
        largest = {name: max(values.max(), -values.min()) if values.size else 0.0 for name, values in update.items()}
        for name, value in largest.items():
            if not value * np.float64(weight) < LARGEST_TERM:
                raise DamagedData(
                    f"{name}: an update of {value:g} is beyond {LARGEST_TERM / weight:.3g}; training diverged: lower lr"
                )
        self._count(weight, 1)
        for name, values in update.items():
            if name not in self.totals:
                self.totals[name] = np.zeros(values.shape, np.int64)
            # The update of a layer that is frozen, or whose codes have not moved, is all zeros.
            if largest[name]:
                _add_scaled(self.totals[name].reshape(-1), values.reshape(-1), weight / RESOLUTION)

    @staticmethod
    def too_large(updates: Mapping[str, np.ndarray], weights: Sequence[int]) -> np.ndarray:
        """Return which of some clients' updates, (clients, *shape) by name, cannot be added exactly: (clients,) bool."""
        wrong = np.zeros(len(weights), bool)
        for values in updates.values():
            flat = values.reshape(len(weights), -1)
            if flat.size:
                largest = np.maximum(flat.max(1), -flat.min(1)).astype(np.float64)
                wrong |= ~(largest * np.asarray(weights, np.float64) < LARGEST_TERM)
        return wrong

    def add_stacked(self, updates: Mapping[str, np.ndarray], weights: Sequence[int]) -> None:
        """Add the updates of some clients at once, (clients, *shape) by name, of which none is too large; weights: above 0."""
        self._count(sum(weights), len(weights))
        factors = np.array(weights, np.float64)[:, None] / RESOLUTION
        for name, values in updates.items():
            if name not in self.totals:
                self.totals[name] = np.zeros(values.shape[1:], np.int64)
            flat = values.reshape(len(weights), -1)
            for first in range(0, len(weights), EXACT_IN_FLOATS):
                some = slice(first, first + EXACT_IN_FLOATS)
                _add_stacked(self.totals[name].reshape(-1), flat[some], factors[some])

    def merge(self, other: ExactSum) -> None:
        """Add another partial sum."""
        self._count(other.weight, other.terms)
        for name, values in other.totals.items():
            if name in self.totals:
                self.totals[name] += values
            else:
                self.totals[name] = values.copy()

    def _count(self, weight: int, terms: int) -> None:
        if self.terms + terms > LARGEST_COHORT:
            raise DamagedData(f"one round cannot sum more than {LARGEST_COHORT} updates exactly; lower clients.per_round")
        self.weight += weight
        self.terms += terms

    def mean(self) -> dict[str, np.ndarray]:
        """Return the weighted mean as float64 arrays; zero updates give exact zeros."""
        return {name: values * (RESOLUTION / self.weight) for name, values in self.totals.items()}


def _add_scaled(total: np.ndarray, values: np.ndarray, factor: float) -> None:
    """Add the whole numbers nearest to `factor * values` to int64 numbers, in place."""
    scaled, whole = np.empty(min(BLOCK, len(values))), np.empty(min(BLOCK, len(values)), np.int64)
    for first in range(0, len(values), BLOCK):
        here = slice(first, first + BLOCK)
        size = len(values[here])
        np.multiply(values[here], factor, out=scaled[:size], dtype=np.float64)
        np.rint(scaled[:size], out=scaled[:size])
        np.copyto(whole[:size], scaled[:size], casting="unsafe")
        np.add(total[here], whole[:size], out=total[here])


def _add_stacked(total: np.ndarray, values: np.ndarray, factors: np.ndarray) -> None:
    """Add the whole numbers nearest to `factors * values`, (clients, numbers), to int64 numbers, in place."""
    width = max(BLOCK // len(values), 1)
    scaled = np.empty((len(values), min(width, len(total))))
    for first in range(0, len(total), width):
        here = slice(first, first + width)
        part = scaled[:, : len(total[here])]
        np.multiply(values[:, here], factors, out=part, dtype=np.float64)
        np.rint(part, out=part)
        total[here] += part.sum(0).astype(np.int64)
