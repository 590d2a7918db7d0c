"""Which arm to pick: at each cost the arms that no other beats, the Pareto front, and the best of those within a budget."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fedapt.benchmark.comparison import Arm, Comparison
from fedapt.benchmark.measures import MEASURES
from fedapt.reading.yaml_source import read_text

# What a device pays.
COSTS = {"memory_bytes": "memory", "update_energy_j": "energy", "update_macs": "MACs", "update_bytes": "bytes"}
# The last score alone may be chance.
SCORE = "accuracy_late"
ENERGY = "update_energy_j"
OPERANDS = "operands"
STEPS = (1, 2, 5, 10)
# Costs that differ by less are the same for every arm, so there is nothing to choose.
LEAST_RATIO = 1.05

# Mean cost and mean score by arm.
Known = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Choice:
    """The best arm within each budget of one cost.

    picks: pairs of a round budget and an arm, the smallest budget first; every budget between takes the arm before.
    table: of energy, how it is priced where that is not as the scenario says: an energy table, or `OPERANDS`.
    """

    cost: str
    picks: tuple[tuple[float, str], ...]
    table: str = ""

    @property
    def arms(self) -> list[str]:
        """The arms that are picked."""
        return [arm for _, arm in self.picks]

    @property
    def name(self) -> str:
        """What people call the cost."""
        return self.table or COSTS[self.cost]


def unbeaten(costs: Sequence[float], scores: Sequence[float]) -> list[int]:
    """Return the places of those that none beats, the cheapest first: of equal ones the first."""
    best, found = -math.inf, []
    for place in sorted(range(len(costs)), key=lambda place: (costs[place], -scores[place])):
        if scores[place] > best:
            best = scores[place]
            found.append(place)
    return found


def front(comparison: Comparison, cost: str) -> list[str]:
    """Return the names of the arms that none beats at a measure's mean, the cheapest first."""
    return _names(_known(comparison, cost))


def choices(comparison: Comparison) -> Iterator[Choice]:
    """Yield the best arms by each cost that tells the arms apart, and by energy priced otherwise where that picks others."""
    for cost in COSTS:
        known = _known(comparison, cost)
        spent = [of for of, _ in known.values()]
        if not spent or max(spent) < LEAST_RATIO * min(spent):
            continue
        picks = _picks(known, binary=cost == "memory_bytes")
        yield Choice(cost, picks)
        for table, other in _priced_otherwise(comparison).items() if cost == ENERGY else ():
            if (elsewhere := _picks(other, binary=False)) != picks:
                yield Choice(cost, elsewhere, table)


def round_budget(cost: float, *, binary: bool) -> float:
    """Return the smallest round number that is no less: a power of two, or 1, 2 or 5 times a power of ten."""
    if cost <= 0:
        return 0.0
    if binary:
        return 2.0 ** math.ceil(math.log2(cost))
    decade = math.floor(math.log10(cost))
    return next(budget for step in STEPS if (budget := float(f"{step}e{decade}")) >= cost)


def written_budget(cost: str, budget: float) -> str:
    """Write a round budget, such as `256 KiB`."""
    number, _, unit = MEASURES[cost].write(budget).partition(" ")
    return f"{float(number):g} {unit}".rstrip()


def _picks(known: Known, *, binary: bool) -> tuple[tuple[float, str], ...]:
    # Of those of the front that fit the same round budget the last is the best.
    return tuple({round_budget(known[name][0], binary=binary): name for name in _names(known)}.items())


def _names(known: Known) -> list[str]:
    names = list(known)
    return [names[place] for place in unbeaten([known[name][0] for name in names], [known[name][1] for name in names])]


def _known(comparison: Comparison, cost: str) -> Known:
    rows = comparison.table[comparison.table[cost].notna() & comparison.table[SCORE].notna()]
    return {str(row["arm"]): (float(row[cost]), float(row[SCORE])) for row in rows.to_dict("records")}


def _priced_otherwise(comparison: Comparison) -> dict[str, Known]:
    """Return for each energy table that no scenario has, and by both operands, the joules of a client in a round."""
    known = _known(comparison, ENERGY)
    arms = [arm for arm in comparison.arms if arm.name in known]
    own = {read_text(run.scenario, "scenario.yaml").data.get("energy_table") for arm in arms for run in arm.runs}
    joules = {arm.name: _tables_j(arm) for arm in arms}
    tables = dict.fromkeys(table for of in joules.values() for table in of if table not in own)
    return {table: {name: (of[table], known[name][1]) for name, of in joules.items()} for table in tables}


def _tables_j(arm: Arm) -> dict[str, float]:
    """Return an arm's mean joules of a client in a round under each table, and under its own by both operands."""
    summaries = [run.summary for run in arm.runs if run.summary["total"]["updates"]]
    each = [one["energy_tables_j"] | {OPERANDS: one["total"]["energy_operands_j"]} for one in summaries]
    updates = [one["total"]["updates"] for one in summaries]
    return {name: statistics.fmean(of[name] / count for of, count in zip(each, updates, strict=True)) for name in each[0]}
