"""Does plain SGD on integers need quantisation-aware scaling? Fashion-MNIST from scratch, `cnn`, 8-bit codes, one client.

    python -m bench.qas                  with and without, several learning rates, three seeds

All layers train, by `sparse_update` with every weight whole. Without scaling a code moves by lr times its own gradient, which is
the scale times that of the weight, so that in real units the step shrinks by the square of the scale; biases are
floats and move by lr times their gradient. A run that diverges counts as chance, 10 %.

Needs `fashion_mnist_train.parquet` (and `_test`) in ../shared/data, or in the folder that FEDAPT_SHARED_DATA names.
"""

from __future__ import annotations

import argparse
import statistics

import torch

from bench.fashion_mnist import DATA
from bench.sparse_schemes import measure
from fedapt.errors import RunFailed
from fedapt.scenario import Scenario

RATES = {True: (0.03, 0.1), False: (0.1, 1.0, 10.0, 100.0, 1000.0)}
CHANCE = 10.0
EPOCHS = 3


def scenario(qas: bool, seed: int, lr: float, bits: int) -> Scenario:
    """Return the scenario of a run."""
    backward = {"kind": "sparse_update", "weights": {"conv1": 1.0, "conv2": 1.0, "dense1": 1.0}, "qas": qas}
    return Scenario.model_validate(
        {
            "version": 1,
            "name": "qas",
            "seed": seed,
            "rounds": EPOCHS,
            "data": {"source": str(DATA), "samples": 4000, "test_samples": 2000, "held_out": 0.0},
            "model": "cnn",
            "clients": {
                "count": 1,
                "per_round": 1,
                "local": {"epochs": 1, "batch": 16, "lr": lr},
                "method": {"precision": {"kind": "fixed", "bits": bits}, "backward": backward},
            },
            "evaluate": {"every": EPOCHS},
            "engine": {"kind": "inline", "threads": 1},
        }
    )


def accuracy(wanted: Scenario) -> float:
    """Return the final accuracy of a run in percent, chance if it diverges."""
    try:
        found, _ = measure(wanted)
    except RunFailed:
        return CHANCE
    return found


def main() -> None:
    """Measure both with every learning rate and every seed, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 0 (default 3)")
    parser.add_argument("--bits", type=int, default=8, help="of the weights (default 8)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| scaled | lr | accuracy (each seed) |\n|---|---|---|")
    for qas, rates in RATES.items():
        for lr in rates:
            found = [accuracy(scenario(qas, seed, lr, options.bits)) for seed in range(options.seeds)]
            each = ", ".join(f"{one:.1f}" for one in found)
            print(f"| {'yes' if qas else 'no'} | {lr:g} | {statistics.fmean(found):.1f} ({each}) |", flush=True)


if __name__ == "__main__":
    main()
