"""Means over seeds, and paired differences between arms that were played with the same seeds.

Student's paired t-test; Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 1979.
One seed gives no spread and no test: what cannot be said is None.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.95


@dataclass(frozen=True)
class Sample:
    """Figures of one arm over its seeds; sd: standard deviation with n - 1, None for less than two."""

    n: int
    mean: float | None
    sd: float | None


@dataclass(frozen=True)
class Paired:
    """An arm beside its baseline, seed by seed, as arm minus baseline.

    n: seeds that both have. low, high: 95 % interval of the mean difference. p: two-sided; all three are None for one seed,
    and p is None where the differences do not vary, which is no sample of anything.
    """

    n: int
    difference: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None


def sample(values: Sequence[float]) -> Sample:
    """Return number, mean and spread of some values."""
    if not values:
        return Sample(0, None, None)
    return Sample(len(values), statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def paired(arm: Mapping[int, float], baseline: Mapping[int, float]) -> Paired:
    """Compare two arms over the seeds that both have; the figures are given by seed."""
    seeds = sorted(arm.keys() & baseline.keys())
    differences = [arm[seed] - baseline[seed] for seed in seeds]
    if len(seeds) < 2:
        return Paired(len(seeds), differences[0] if differences else None)
    mean, error = statistics.fmean(differences), statistics.stdev(differences) / math.sqrt(len(seeds))
    # Differences that are equal but for the rounding of their subtraction have no spread to test against.
    if error <= 1e-12 * max(abs(arm[seed]) + abs(baseline[seed]) for seed in seeds):
        return Paired(len(seeds), mean, mean, mean)
    from scipy import stats

    reach = float(stats.t.ppf(0.5 + LEVEL / 2, len(seeds) - 1)) * error
    p = float(stats.ttest_rel([arm[seed] for seed in seeds], [baseline[seed] for seed in seeds]).pvalue)
    return Paired(len(seeds), mean, mean - reach, mean + reach, p)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return the p-values corrected for how many there are; those that are None are no tests and stay None."""
    tested = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(tested):
        highest = max(highest, min((len(tested) - rank) * p, 1.0))
        corrected[index] = highest
    return corrected
