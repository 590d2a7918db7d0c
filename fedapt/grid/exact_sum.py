"""Sums that do not depend on order: weighted updates are added as whole multiples of 2**-30, in 64-bit integers.

Whole numbers add the same in any order and any grouping, so partial sums of any workers give the same bits. The price is a
resolution of 2**-30 in weight * update, far below float32 once divided by the number of samples, and a bound on how large one
update may be. Each element has the weight of those that trained it: slices of an array are summed apart, one sum for each kind of
slice, of which clients of one method have one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedapt.errors import DamagedData
from fedapt.quant.parts import Part, Slice

RESOLUTION = 2.0**-30
LARGEST_COHORT = 2**14
LARGEST_TERM = 2.0**62 / LARGEST_COHORT * RESOLUTION
# Numbers whose intermediate forms fit into a core's cache: five times as fast as whole arrays of a million.
BLOCK = 2**15
# So many terms, each of them a whole number below 2**48, have a sum that float64 holds exactly.
EXACT_IN_FLOATS = 32

# An array by its name, or a slice of it.
Key = tuple[str, Slice | None]


@dataclass
class ExactSum:
    """The sum of weight * update over clients, and of the weights: of all clients, and of those that trained an array."""

    weight: int = 0
    terms: int = 0
    totals: dict[Key, np.ndarray] = field(default_factory=dict)
    weights: dict[Key, int] = field(default_factory=dict)

    def add(self, update: Mapping[str, np.ndarray], weight: int, part: Part | None = None) -> None:
        """Add one client's update, float32 arrays by name; part: what of the model it is of, None for all.

        Raises DamagedData if it is too large to be added exactly.
        """
        largest = {name: max(values.max(), -values.min()) if values.size else 0.0 for name, values in update.items()}
        for name, value in largest.items():
            if not value * np.float64(weight) < LARGEST_TERM:
                raise DamagedData(
                    f"{name}: an update of {value:g} is beyond {LARGEST_TERM / weight:.3g}; training diverged: lower lr"
                )
        self._count(weight, 1)
        slices = part.slices(update) if part else {}
        for name, values in update.items():
            total = self._total((name, slices.get(name)), values.shape, weight)
            # The update of a layer whose codes have not moved is all zeros.
            if largest[name]:
                _add_scaled(total.reshape(-1), values.reshape(-1), weight / RESOLUTION)

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
        """Add the whole updates of some clients at once, (clients, *shape) by name, none of it too large; weights: above 0."""
        self._count(sum(weights), len(weights))
        factors = np.array(weights, np.float64)[:, None] / RESOLUTION
        for name, values in updates.items():
            total = self._total((name, None), values.shape[1:], sum(weights)).reshape(-1)
            flat = values.reshape(len(weights), -1)
            for first in range(0, len(weights), EXACT_IN_FLOATS):
                some = slice(first, first + EXACT_IN_FLOATS)
                _add_stacked(total, flat[some], factors[some])

    def merge(self, other: ExactSum) -> None:
        """Add another partial sum."""
        self._count(other.weight, other.terms)
        for key, values in other.totals.items():
            total = self._total(key, values.shape, other.weights[key])
            total += values

    def _count(self, weight: int, terms: int) -> None:
        if self.terms + terms > LARGEST_COHORT:
            raise DamagedData(f"one round cannot sum more than {LARGEST_COHORT} updates exactly; lower clients.per_round")
        self.weight += weight
        self.terms += terms

    def _total(self, key: Key, shape: tuple[int, ...], weight: int) -> np.ndarray:
        """Return the sum that updates of this weight are about to be added to."""
        if key not in self.totals:
            self.totals[key], self.weights[key] = np.zeros(shape, np.int64), 0
        self.weights[key] += weight
        return self.totals[key]

    def mean(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the mean of each element over those that trained it, float64 arrays of the shapes of these; 0 if nobody did.

        Zero updates give exact zeros.
        """
        sums: dict[str, dict[Slice | None, tuple[np.ndarray, int]]] = {name: {} for name in arrays}
        for (name, some), values in self.totals.items():
            sums[name][some] = values, self.weights[name, some]
        return {name: _mean(some, arrays[name].shape) for name, some in sums.items()}


def _mean(sums: Mapping[Slice | None, tuple[np.ndarray, int]], shape: tuple[int, ...]) -> np.ndarray:
    """Return the mean of an array whose slices were summed apart."""
    if sums.keys() == {None}:
        values, weight = sums[None]
        return values * (RESOLUTION / weight)
    total, weights = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for some, (values, weight) in sums.items():
        place = some.index() if some else ...
        total[place] += values
        weights[place] += weight
    return total * (RESOLUTION / np.maximum(weights, 1))


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
