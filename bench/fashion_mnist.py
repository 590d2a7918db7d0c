"""How low can the bits go? Accuracy of precision policies on Fashion-MNIST, 100 clients, Dirichlet 0.3, ten a round.

    python -m bench.fashion_mnist            six policies, three seeds, about fifteen minutes on two cores
    python -m bench.fashion_mnist --seeds 1

Needs `fashion_mnist_train.parquet` (and `_test`) in ../shared/data, or in the folder that FEDAPT_SHARED_DATA names.
"""

from __future__ import annotations

import argparse
import io
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pandas

from fedapt.report.terminal import Display
from fedapt.results import read_run
from fedapt.run import run
from fedapt.scenario import Scenario
from fedapt.stopping import Stopper

DATA = Path(os.environ.get("FEDAPT_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data")) / "fashion_mnist_train.parquet"
TENSOR = {"granularity": "tensor", "range": "min_max", "headroom": 1.0}


class Arm(NamedTuple):
    """One policy with its learning rate and number of rounds."""

    precision: dict[str, Any]
    lr: float
    rounds: int


ARMS = {
    "fp32, lr 0.1": Arm({"kind": "fp32"}, 0.1, 30),
    "apt, T_min 6": Arm({"kind": "apt"}, 0.1, 30),
    "fp32, lr 0.05": Arm({"kind": "fp32"}, 0.05, 40),
    "fixed 4": Arm({"kind": "fixed", "bits": 4}, 0.05, 40),
    "fixed 4, per tensor": Arm({"kind": "fixed", "bits": 4, "grid": TENSOR}, 0.05, 40),
    "fixed 4, truncating": Arm({"kind": "fixed", "bits": 4, "rounding": "truncate"}, 0.05, 40),
}


def scenario(arm: Arm, seed: int, **engine: Any) -> Scenario:
    """Return the scenario of an arm."""
    return Scenario.model_validate(
        {
            "version": 1,
            "name": "fashion-mnist",
            "seed": seed,
            "rounds": arm.rounds,
            "data": {"source": str(DATA), "partition": {"kind": "dirichlet", "alpha": 0.3}},
            "model": "cnn",
            "clients": {
                "count": 100,
                "per_round": 10,
                "local": {"epochs": 1, "batch": 32, "lr": arm.lr},
                "method": {"precision": arm.precision},
            },
            "evaluate": {"every": 10},
            "engine": {"kind": "ray", **engine},
        }
    )


def measure(name: str, seed: int) -> dict[str, Any]:
    """Run an arm and return what a table needs: final accuracy, mean bits, and energy and bytes of the whole run."""
    with TemporaryDirectory() as folder, Stopper() as stopper:
        finished = read_run(run(scenario(ARMS[name], seed), Path(folder), Display(io.StringIO()), stopper))
        bits = finished.rounds["mean_bits"]
        total = finished.summary["total"]
        return {
            "policy": name,
            "seed": seed,
            "rounds": ARMS[name].rounds,
            "accuracy": finished.summary["accuracy"],
            "first_bits": bits.iloc[0],
            "last_bits": bits.iloc[-1],
            "energy_j": total["energy_j"],
            "megabytes": (total["downlink_bytes"] + total["uplink_bytes"]) / 1e6,
        }


def main() -> None:
    """Measure every arm with every seed and print the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 0 (default 3)")
    parser.add_argument("--only", help="measure only the policies whose name contains this")
    options = parser.parse_args()
    rows = []
    for name in ARMS:
        for seed in range(options.seeds if not options.only or options.only in name else 0):
            rows.append(measure(name, seed))
            print(f"{name:20} seed {seed}: {100 * rows[-1]['accuracy']:.2f} %", flush=True)
    table = pandas.DataFrame(rows).groupby("policy", sort=False).mean().drop(columns="seed")
    table["accuracy"] = (100 * table["accuracy"]).round(2).astype(str) + " %"
    print(table.round(1).to_string())


if __name__ == "__main__":
    main()
