"""Each claim, and what was measured of it.

Savings that depend on an energy table are given under all three, and the verdict says under which of them a claim is reached.
Accuracy is the difference to fp32 on the same data, setting and seed, in points, as mean and standard error over the seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas

from bench.claims.arms import MEAN_BITS, T_MINS
from fedapt.cost.energy import TABLES

QAT_PARAMETER_BITS = 40
FLOAT_PARAMETER_BITS = 32
REFERENCE = "fp32"

Table = pandas.DataFrame
Saving = Callable[[Table], dict[str, float]]


class Measured(NamedTuple):
    """One claim on one task in one setting. accuracy, error: in points beside fp32, mean and its standard error."""

    claim: str
    source: str
    task: str
    setting: str
    goal: str
    saved: str
    accuracy: float
    error: float
    verdict: str


@dataclass(frozen=True)
class Claim:
    """A saving that an arm is claimed to reach. saving: by energy table, or one value for all under ""; points: it may lose."""

    text: str
    source: str
    arm: str
    least: float
    points: float
    saving: Saving


def _parameters_beside(bits: int) -> Saving:
    return lambda rows: {"": 1 - rows["parameter_bits"].mean() / bits}


def _gemm(account: str) -> Saving:
    return lambda rows: {name: 1 - float(np.mean([row[name] for row in rows[f"gemm_by_{account}"]])) for name in TABLES}


def _moved(rows: Table) -> dict[str, float]:
    return {"": 1 - rows["moved_to_qat"].mean()}


BESIDE_QAT, BESIDE_FLOAT = _parameters_beside(QAT_PARAMETER_BITS), _parameters_beside(FLOAT_PARAMETER_BITS)
BY_WEIGHTS, BY_OPERANDS = _gemm("weights"), _gemm("operands")

CLAIMS = [
    Claim("parameter memory beside 8-bit QAT (40 bits a weight)", "APT: 60 to 72.5 %", "apt 6", 0.60, 1.0, BESIDE_QAT),
    Claim("the same, adapting within rounds", "APT: 60 to 72.5 %", "apt 6, every 3 batches", 0.60, 1.0, BESIDE_QAT),
    Claim("the same, beyond", "fedapt: 90 %, 4 bits", "budget 4", 0.895, 0.5, BESIDE_QAT),
    Claim("the same, further", "fedapt: 92.5 %, 3 bits", "budget 3", 0.92, 1.0, BESIDE_QAT),
    Claim("parameter memory beside fp32", "RCT: 46 %", "rct", 0.46, 1.0, BESIDE_FLOAT),
    Claim("the same, beyond", "fedapt: 87 %", "budget 4", 0.87, 1.0, BESIDE_FLOAT),
    Claim("GEMM energy beside fp32, by the weights' bits", "RCT: 86 %", "rct", 0.86, 1.0, BY_WEIGHTS),
    Claim("the same, beyond", "fedapt: 95 %", "budget 4", 0.95, 1.0, BY_WEIGHTS),
    Claim("the same, both operands charged", "fedapt: 95 %", "budget 4, 6-bit operands", 0.95, 1.0, BY_OPERANDS),
    Claim("energy of moving parameters beside 8-bit QAT", "RCT: half", "rct", 0.50, 1.0, _moved),
    Claim("the same, beyond", "fedapt: a fifth", "budget 4", 0.80, 1.0, _moved),
]


def verdicts(results: Table) -> list[Measured]:
    """Return every claim on every task and setting that has its arm and fp32."""
    found = []
    for (task, setting), rows in results.groupby(["task", "setting"], sort=False):
        for claim in CLAIMS:
            own = rows[rows["arm"] == claim.arm]
            if own.empty or rows[rows["arm"] == REFERENCE].empty:
                continue
            savings, (accuracy, error) = claim.saving(own), beside_float(rows, claim.arm)
            saved = {name: value >= claim.least for name, value in savings.items()}
            within = accuracy >= -claim.points
            goal = f"{100 * claim.least:.3g} %, {claim.points:g} point{'s' * (claim.points != 1)}"
            text = ", ".join(f"{name} {100 * value:.1f} %".strip() for name, value in savings.items())
            found.append(
                Measured(claim.text, claim.source, str(task), str(setting), goal, text, accuracy, error, _verdict(saved, within))
            )
    return found


def _verdict(saved: dict[str, bool], within: bool) -> str:
    tables = "" if all(saved.values()) else f" under {' and '.join(name for name, reached in saved.items() if reached)} only"
    if not any(saved.values()):
        return "saves less" if within else "saves less, loses more"
    return f"reached{tables}" if within else f"loses more; saves as much{tables}"


def beside_float(rows: Table, arm: str) -> tuple[float, float]:
    """Return the accuracy of an arm beside fp32 in points, seed by seed: mean and standard error."""
    accuracy = rows.pivot(index="seed", columns="arm", values="accuracy")
    points = 100 * (accuracy[arm] - accuracy[REFERENCE]).dropna()
    return float(points.mean()), float(points.std(ddof=1) / np.sqrt(len(points))) if len(points) > 1 else float("nan")


def curves(results: Table) -> Table:
    """Return both trade-offs, APT over T_min and budget over its bits, with accuracy, energy and memory beside fp32."""
    lines = []
    for (task, setting), rows in results.groupby(["task", "setting"], sort=False):
        reference = rows[rows["arm"] == REFERENCE]
        for arm in [*(f"apt {t_min}" for t_min in T_MINS), *(f"budget {bits}" for bits in MEAN_BITS)]:
            own = rows[rows["arm"] == arm]
            if own.empty or reference.empty:
                continue
            accuracy, error = beside_float(rows, arm)
            lines.append(
                {
                    "task": task,
                    "setting": setting,
                    "arm": arm,
                    "bits": own["bits"].mean(),
                    "points": accuracy,
                    "error": error,
                    "energy": own["energy_j"].mean() / reference["energy_j"].mean(),
                    "memory": own["memory_bytes"].mean() / reference["memory_bytes"].mean(),
                }
            )
    return pandas.DataFrame(lines)


def dominated(curve: Table) -> Sequence[str]:
    """Say for each task and setting at how many of APT's points some point of budget is as good in bits and in accuracy."""
    lines = []
    for (task, setting), rows in curve.groupby(["task", "setting"], sort=False):
        apt, budget = (rows[rows["arm"].str.startswith(kind)] for kind in ("apt", "budget"))
        beaten = [bool(((budget["bits"] <= point.bits) & (budget["points"] >= point.points)).any()) for point in apt.itertuples()]
        rising = "rises" if apt.sort_values("bits")["points"].is_monotonic_increasing else "does not always rise"
        lines.append(
            f"{task}, {setting}: budget dominates {sum(beaten)} of APT's {len(beaten)} points;"
            f" APT's accuracy {rising} with its bits"
        )
    return lines
