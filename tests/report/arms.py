"""A comparison made of one example run, with accuracies, costs and seeds of its own for each arm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fedapt.benchmark.comparison import Arm, Comparison, compare
from fedapt.results import Run, read_run
from tests.report.example import Example


def varied(run: Run, seed: int, better: float, cheaper: float) -> Run:
    """Return the run with another seed, an accuracy that is `better` by that much, and costs divided by `cheaper`."""
    rounds, summary = run.rounds.copy(), run.summary
    rounds["accuracy"] += better
    rounds["energy_j"] /= cheaper
    total = {name: value / cheaper if name.startswith("energy_") else value for name, value in summary["total"].items()}
    total["memory_bytes"] = int(total["memory_bytes"] / cheaper)
    spread = {name: value + better if name != "clients" else value for name, value in summary["client_accuracy"].items()}
    changed = {**summary, "accuracy": summary["accuracy"] + better, "total": total, "client_accuracy": spread}
    return replace(run, rounds=rounds, summary=changed, scenario=run.scenario.replace("seed: 0", f"seed: {seed}"))


def example(
    folder: Path, arms: Mapping[str, tuple[float, float]], seeds: int = 3, missing: Mapping[str, tuple[str, ...]] | None = None
) -> Comparison:
    """Return a comparison of arms, each named and with how much better and cheaper it is than the first, the baseline."""
    run = read_run(Example(rounds=6, count=40, cohort=8).write(folder))
    made = [
        Arm(
            name,
            {"strategy": name},
            tuple(varied(run, seed, better + 0.004 * ((seed * 7 + number) % 5), cheaper) for seed in range(seeds)),
            (missing or {}).get(name, ()),
        )
        for number, (name, (better, cheaper)) in enumerate(arms.items())
    ]
    return compare("six strategies", made, {"strategy": next(iter(arms))})
