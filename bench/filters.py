"""Do sample filters beat a random subset at equal MACs? One device, fp32, Fashion-MNIST, from scratch.

    python -m bench.filters                     nine filters and `all`, three seeds, about ten minutes on one core
    python -m bench.filters --seeds 1 --epochs 2

One client has all samples, and a round is one epoch: ordinary training, with the costs of the ledger. A filter passes if it is at
least a point above a random subset, whose accuracy is interpolated between its shares at the filter's MACs.

Needs `fashion_mnist_train.parquet` (and `_test`) in ../shared/data, or in the folder that FEDAPT_SHARED_DATA names.
"""

from __future__ import annotations

import argparse
import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench.fashion_mnist import DATA
from fedapt.report.terminal import Display
from fedapt.results import read_run
from fedapt.run import run
from fedapt.scenario import Scenario
from fedapt.stopping import Stopper

POINTS_ABOVE = 1.0
ARMS: dict[str, dict[str, Any]] = {
    "all": {"kind": "all"},
    "random .65": {"kind": "random", "keep": 0.65},
    "random .5": {"kind": "random", "keep": 0.5},
    "random .3": {"kind": "random", "keep": 0.3},
    "random .15": {"kind": "random", "keep": 0.15},
    "loss_topk .5": {"kind": "loss_topk", "keep": 0.5},
    "loss_topk .3": {"kind": "loss_topk", "keep": 0.3},
    "EIF .3": {"kind": "instance_filter", "keep": 0.3},
    "EIF .15": {"kind": "instance_filter", "keep": 0.15},
}
BASELINE = ("random .15", "random .3", "random .5", "random .65", "all")

# MACs and the accuracy in percent, one for each seed.
Measured = Mapping[str, Sequence[tuple[float, float]]]


def scenario(arm: str, seed: int, epochs: int, samples: int, lr: float) -> Scenario:
    """Return the scenario of an arm."""
    return Scenario.model_validate(
        {
            "version": 1,
            "name": "filters",
            "seed": seed,
            "rounds": epochs,
            "data": {"source": str(DATA), "samples": samples, "partition": {"kind": "iid"}, "held_out": 0.0},
            "model": "cnn",
            "clients": {
                "count": 1,
                "per_round": 1,
                "local": {"epochs": 1, "batch": 32, "lr": lr},
                "method": {"precision": "fp32", "samples": ARMS[arm]},
            },
            "evaluate": {"every": epochs},
            "engine": {"kind": "inline"},
        }
    )


def measure(wanted: Scenario) -> tuple[float, float]:
    """Run a scenario; return its MACs and the final accuracy in percent."""
    with TemporaryDirectory() as folder, Stopper() as stopper:
        summary = read_run(run(wanted, Path(folder), Display(io.StringIO()), stopper)).summary
    return float(summary["total"]["macs"]), 100 * float(summary["accuracy"])


def interpolated(measured: Measured, seed: int, macs: float) -> float:
    """Return the accuracy of a random subset at these MACs, in one seed."""
    points = sorted(measured[arm][seed] for arm in BASELINE)
    return float(np.interp(macs, *zip(*points, strict=True)))


def table(measured: Measured) -> list[str]:
    """Return the lines of the results."""
    lines = ["| filter | accuracy | MACs | above random at equal MACs, by seed | at least a point |", "|---|---|---|---|---|"]
    for arm, runs in measured.items():
        shares = [macs / whole for (macs, _), (whole, _) in zip(runs, measured["all"], strict=True)]
        above = [accuracy - interpolated(measured, seed, macs) for seed, (macs, accuracy) in enumerate(runs)]
        judged = arm not in BASELINE
        words = f"{statistics.fmean(above):+.2f} ({', '.join(f'{one:+.2f}' for one in above)})" if judged else ""
        verdict = ("yes" if statistics.fmean(above) >= POINTS_ABOVE else "no") if judged else ""
        accuracy = statistics.fmean(accuracy for _, accuracy in runs)
        lines.append(f"| {arm} | {accuracy:.2f} % | {statistics.fmean(shares):.0%} | {words} | {verdict} |")
    return lines


def main() -> None:
    """Measure every arm with every seed and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 0 (default 3)")
    parser.add_argument("--epochs", type=int, default=5, help="passes over the samples (default 5)")
    parser.add_argument("--samples", type=int, default=12000, help="samples to train on (default 12000)")
    parser.add_argument("--lr", type=float, default=0.05, help="learning rate of every arm (default 0.05)")
    options = parser.parse_args()
    measured: dict[str, list[tuple[float, float]]] = {arm: [] for arm in ARMS}
    for seed in range(options.seeds):
        for arm, runs in measured.items():
            runs.append(measure(scenario(arm, seed, options.epochs, options.samples, options.lr)))
            print(f"seed {seed} {arm:14} {runs[-1][1]:.2f} %  {runs[-1][0]:.3e} MACs", flush=True)
    print("\n".join(table(measured)))


if __name__ == "__main__":
    main()
