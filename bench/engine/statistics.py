"""Medians, spreads, ratios of the same repeat, parity and the goals: all arithmetic of the bench."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

from bench.engine.contestants import FLOOR
from bench.engine.workloads import WORKLOADS

Row = Mapping[str, Any]


class Spread(NamedTuple):
    """The median of several values, the lowest and the highest, and how many there were."""

    median: float
    low: float
    high: float
    repeats: int

    @property
    def text(self) -> str:
        """Three figures, and the range behind them where there is one."""
        return figures(self.median) + (f" ({figures(self.low)} to {figures(self.high)})" if self.repeats > 1 else "")


def figures(value: float) -> str:
    """Return a number with three figures, and without an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def spread(values: Sequence[float]) -> Spread | None:
    """Return the median with its range; None of nothing."""
    return Spread(median(values), min(values), max(values), len(values)) if values else None


def steady_s(ends_s: Sequence[float]) -> float:
    """Return the median time of a round, from when each ended: of the second half, without the last, which also ends the run.

    In the first half workers may still be arriving, while others play what they will play.
    """
    if len(ends_s) < 3:
        raise ValueError(f"a steady state needs three rounds, there were {len(ends_s)}")
    lasted = [after - before for before, after in pairwise(ends_s[:-1])]
    return median(lasted[len(lasted) // 2 :])


def of(rows: Sequence[Row], workload: str, contestant: str, what: str, *, watched: bool = False) -> dict[int, float]:
    """Return a figure by repeat, of the rows that did not fail and were watched or not."""
    return {
        row["repeat"]: row[what]
        for row in rows
        if (row["workload"], row["contestant"], row["watched"]) == (workload, contestant, watched) and what in row
    }


def ratio(above: Mapping[int, float], below: Mapping[int, float]) -> Spread | None:
    """Return the ratio, repeat by repeat; None where no repeat has both."""
    return spread([above[repeat] / below[repeat] for repeat in sorted(above.keys() & below.keys())])


def off(row: Row) -> str:
    """Return in what a row's accuracy differs from the floor's by more than its workload allows, or nothing."""
    if "reference_accuracy" not in row:
        return ""
    points = 100 * (row["accuracy"] - row["reference_accuracy"])
    return f"{points:+.1f} points beside the floor" if abs(points) > WORKLOADS[row["workload"]].lost else ""


@dataclass(frozen=True)
class Goal:
    """A ratio that is to be reached. least: it is a lower bound; else an upper one."""

    text: str
    bound: float
    least: bool
    found: Callable[[Sequence[Row]], Spread | None]

    def verdict(self, rows: Sequence[Row]) -> tuple[str, str]:
        """Return what was measured, and whether that reaches the goal."""
        found = self.found(rows)
        if found is None:
            return "", "not measured"
        reached = found.median >= self.bound if self.least else found.median <= self.bound
        return f"{found.text} x", "reached" if reached else "**not reached**"


def _beside(workload: str, above: str, below: str, what: str = "client_ms") -> Callable[[Sequence[Row]], Spread | None]:
    return lambda rows: ratio(of(rows, workload, above, what), of(rows, workload, below, what))


def _grown(above: str, below: str, what: str) -> Callable[[Sequence[Row]], Spread | None]:
    """Return the ratio of a figure of fedapt between two workloads."""
    return lambda rows: ratio(of(rows, above, "fedapt-ray", what), of(rows, below, "fedapt-ray", what))


def _goals() -> list[Goal]:
    goals = [
        Goal(f"fedapt, all cores, to the floor, {name}", bound, False, _beside(name, "fedapt-ray", FLOOR))
        for name, bound in (("W2", 1.0), ("W3", 1.05), ("W4", 1.05))
    ]
    goals += [
        Goal(f"the same, fast, {name}", bound, False, _beside(name, "fedapt-fast", FLOOR))
        for name, bound in (("W2", 1.0), ("W3", 1.05), ("W4", 1.05))
    ]
    goals += [
        Goal(f"flwr to fedapt, {name}", bound, True, _beside(name, "flwr", "fedapt-ray"))
        for name, bound in (("W1", 12.0), ("W2", 12.0), ("W3", 2.0), ("W5", 10.0))
    ]
    goals += [
        Goal(f"pfl with one process a core to fedapt, {name}", 1.5, True, _beside(name, "pfl-all", "fedapt-ray"))
        for name in ("W1", "W2", "W3", "W4")
    ]
    goals += [
        Goal(f"the same, fast, {name}", 1.5, True, _beside(name, "pfl-all", "fedapt-fast")) for name in ("W1", "W2", "W3", "W4")
    ]
    goals += [
        Goal(f"first round, cold, flwr to fedapt, {name}", 5.0, True, _beside(name, "flwr", "fedapt-ray", "first_s"))
        for name in ("W2", "W3")
    ]
    goals += [
        Goal(f"8 bits, stochastic, to fp32, {name}", bound, False, _beside(name, "fedapt-inline-8", "fedapt-inline"))
        for name, bound in (("W3", 1.1), ("W2", 1.5))
    ]
    return [
        *goals,
        Goal("driver's peak memory, cohort 1,000 to 10", 1.1, False, _grown("S1000", "S10", "driver_peak_mib")),
        Goal("time for each client, 1,000 of 10,000 to 100 of 100", 1.1, False, _grown("S1000", "S100", "client_ms")),
    ]


GOALS = _goals()
