"""Arms beside each other: the runs of an arm differ in their seed alone, and every arm is compared with its baseline.

An arm's baseline has the same settings except on the axes that the baseline fixes: with strategies and methods as axes and
`{strategy: fedavg}` as baseline, every method is compared with FedAvg under that same method.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedapt.benchmark.measures import MEASURES, TO_TARGET, measured
from fedapt.benchmark.statistics import Paired, holm, paired, sample
from fedapt.reading.yaml_source import read_text
from fedapt.results import Run

if TYPE_CHECKING:
    import pandas

DEFAULT_SHARE = 0.95
FIGURES = ("", "_sd", "_n", "_diff", "_low", "_high", "_p", "_p_holm")


@dataclass(frozen=True)
class Arm:
    """Runs that differ in the seed alone. settings: a label for each axis; missing: seeds that have no complete run, and why."""

    name: str
    settings: dict[str, str]
    runs: tuple[Run, ...]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """The arms, and one row of `table` for each of them.

    baseline: the first arm that others are compared with. target_accuracy: None if there is none, target_rule: where it is from.
    notes: what makes the arms less than comparable.
    table: `arm`, a column for each axis, `against` (the arm's baseline; a baseline's is itself, empty if there is none), `runs`,
    `unfinished`, `missing`, `reached` (runs that reached the target), and for each measure of MEASURES its mean under the
    measure's name, then with the suffixes _sd, _n, and of the paired differences to the baseline _diff, _low, _high (95 %), _p
    and _p_holm (corrected over the arms). What is not known is NaN.
    """

    name: str
    arms: tuple[Arm, ...]
    baseline: str
    target_accuracy: float | None
    table: pandas.DataFrame
    target_rule: str = ""
    notes: tuple[str, ...] = ()


def compare(
    name: str,
    arms: Sequence[Arm],
    baseline: Mapping[str, str],
    target: float | None = None,
    notes: Sequence[str] = (),
) -> Comparison:
    """Compare arms. baseline: a label for each axis that the baseline fixes; none means the first arm, for all.

    target: an accuracy from 0 to 1; None is 95 % of what the baselines reach on average, of the lowest of them.
    """
    fixed = dict(baseline) or dict(arms[0].settings)
    against = {arm.name: _baseline_of(arm, arms, fixed) for arm in arms}
    bases = list(dict.fromkeys(base for base in against.values() if base))
    rule = "given"
    if target is None:
        target, rule = _default_target([arm for arm in arms if arm.name in bases])
    figures = {arm.name: {seed_of(run): measured(run, target) for run in arm.runs} for arm in arms}
    import pandas

    rows = [_row(arm, against[arm.name], figures, target) for arm in arms]
    table = pandas.DataFrame(rows)
    for measure in MEASURES:
        values = [None if pandas.isna(p) else float(p) for p in table[f"{measure}_p"]]
        table[f"{measure}_p_holm"] = pandas.Series(holm(values), dtype=float)
    first = bases[0] if bases else arms[0].name
    return Comparison(name, tuple(arms), first, target, table, rule, (*notes, *_unfinished(arms)))


def seed_of(run: Run) -> int:
    """Return the seed of a run."""
    data = read_text(run.scenario, "scenario.yaml").data
    return int(data.get("seed", 0))


def planned_rounds(run: Run) -> int:
    """Return how many rounds the scenario of a run asks for."""
    return int(read_text(run.scenario, "scenario.yaml").data["rounds"])


def is_whole(run: Run) -> bool:
    """Return whether a run has played all its rounds."""
    return bool(run.finished and run.summary["rounds"] == planned_rounds(run))


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as plain data, nested: each arm has its settings and, by measure, what the table says of it."""
    arms = []
    for row in json.loads(comparison.table.to_json(orient="records", double_precision=15)):
        found = {measure: {key: row[f"{measure}{suffix}"] for key, suffix in _keys()} for measure in MEASURES}
        about = {key: row[key] for key in ("arm", "against", "runs", "unfinished", "missing", "reached")}
        settings = next(arm.settings for arm in comparison.arms if arm.name == row["arm"])
        arms.append({**about, "settings": settings, "measures": found})
    return {
        "name": comparison.name,
        "baseline": comparison.baseline,
        "target_accuracy": comparison.target_accuracy,
        "target_rule": comparison.target_rule,
        "notes": list(comparison.notes),
        "arms": arms,
    }


def _keys() -> Iterator[tuple[str, str]]:
    for suffix in FIGURES:
        yield suffix.lstrip("_") or "mean", suffix


def _baseline_of(arm: Arm, arms: Sequence[Arm], fixed: Mapping[str, str]) -> str:
    """Return the name of the arm that this one is compared with; itself for a baseline, "" if there is none."""
    wanted = {**arm.settings, **fixed}
    return next((other.name for other in arms if other.settings == wanted), "")


def _default_target(baselines: Sequence[Arm]) -> tuple[float | None, str]:
    reached = {}
    for arm in baselines:
        scores = [run.summary["accuracy"] for run in arm.runs if is_whole(run) and run.summary["accuracy"] is not None]
        if scores:
            reached[arm.name] = statistics.fmean(scores)
    if not reached:
        return None, "none: no baseline has a complete run"
    lowest = min(reached, key=lambda name: reached[name])
    of = f"the lowest of {len(reached)} baselines, {lowest}" if len(reached) > 1 else lowest
    return DEFAULT_SHARE * reached[lowest], f"{100 * DEFAULT_SHARE:g} % of the mean accuracy of {of}"


def _row(
    arm: Arm, against: str, figures: Mapping[str, Mapping[int, Mapping[str, float]]], target: float | None
) -> dict[str, Any]:
    own, base = figures[arm.name], figures.get(against, {})
    row: dict[str, Any] = {
        "arm": arm.name,
        **{axis: label for axis, label in arm.settings.items() if axis not in ("arm", "against")},
        "against": against,
        "runs": len(arm.runs),
        "unfinished": sum(not is_whole(run) for run in arm.runs),
        "missing": len(arm.missing),
        "reached": sum(TO_TARGET[0] in found for found in own.values()) if target is not None else None,
    }
    for measure in MEASURES:
        values = {seed: found[measure] for seed, found in own.items() if measure in found}
        others = {seed: found[measure] for seed, found in base.items() if measure in found}
        about = sample(list(values.values()))
        beside = paired(values, others) if against not in ("", arm.name) else Paired(0, None)
        cells = (about.mean, about.sd, about.n, beside.difference, beside.low, beside.high, beside.p)
        row |= {f"{measure}{suffix}": value for suffix, value in zip(FIGURES, cells, strict=False)}
        row |= {f"{measure}{suffix}": float("nan") for suffix in FIGURES if row.get(f"{measure}{suffix}") is None}
    return row


def _unfinished(arms: Sequence[Arm]) -> Iterator[str]:
    for arm in arms:
        for run in arm.runs:
            if not is_whole(run):
                played = run.summary["rounds"]
                figures = "its figures are of those" if played else "it has no figures yet"
                yield f"{run.path} has played {played} of {planned_rounds(run)} rounds; {figures}"
