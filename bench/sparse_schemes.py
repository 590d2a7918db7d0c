"""Is a searched scheme worth more than the last layers, or the biases, at equal memory? Fashion-MNIST, one device.

    python -m bench.sparse_schemes                        two budgets, three seeds, fp32
    python -m bench.sparse_schemes --bits 4 --seeds 1

The server pretrains on classes 0-4, and one client with 1,500 samples adapts to classes 5-9; a round is one epoch. A budget lies
between what a step of the head alone needs and what one of the whole model needs, all predicted. `last layers` trains the weights
and biases of as many of the last layers as fit, `biases` the biases and norms of as many as fit, and the head. `head` and `whole`
are the two ends. Every arm has the best of several learning rates, by its mean over the seeds.

Needs `fashion_mnist_train.parquet` (and `_test`) in ../shared/data, or in the folder that FEDAPT_SHARED_DATA names.
"""

from __future__ import annotations

import argparse
import io
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from bench.fashion_mnist import DATA
from fedapt.report.plan import plans
from fedapt.report.terminal import Display
from fedapt.results import read_run
from fedapt.run import run
from fedapt.scenario import Scenario
from fedapt.stopping import Stopper

MODELS: dict[str, Any] = {"resnet20": {"kind": "resnet20", "width": 8}, "ds-cnn": "ds-cnn", "cnn": "cnn"}
BUDGETS = (0.1, 0.35)
RATES = (0.05, 0.2)
EPOCHS, BATCH, SAMPLES, TEST_SAMPLES = 3, 16, 1500, 2000
Block = Mapping[str, Any]
HEAD: Block = {"kind": "sparse_update", "biases": 0, "weights": {}}
WHOLE: Block = {"kind": "exact"}


def scenario(model: str, bits: int, backward: Block, memory: int | None = None, seed: int = 0, lr: float = 0.1) -> Scenario:
    """Return the scenario of an arm. memory: the device's, None for what there is."""
    precision = {"kind": "fp32"} if bits == 32 else {"kind": "fixed", "bits": bits}
    return Scenario.model_validate(
        {
            "version": 1,
            "name": "sparse",
            "seed": seed,
            "rounds": EPOCHS,
            "data": {
                "source": str(DATA),
                "classes": [5, 6, 7, 8, 9],
                "samples": SAMPLES,
                "test_samples": TEST_SAMPLES,
                "held_out": 0.0,
            },
            "pretrain": {"on": {"classes": [0, 1, 2, 3, 4], "samples": 6000}, "epochs": 3},
            "model": MODELS[model],
            "clients": {
                "count": 1,
                "per_round": 1,
                "local": {"epochs": 1, "batch": BATCH, "lr": lr},
                "method": {"precision": precision, "backward": backward},
                "groups": [{"profile": "raspberry-pi-4", "budget": {"memory": memory} if memory else {}}],
            },
            "evaluate": {"every": EPOCHS},
            "engine": {"kind": "inline", "threads": 1},
        }
    )


def last_layers(names: list[str], count: int) -> Block:
    """Return a block that trains the last so many layers before the head."""
    return {"kind": "sparse_update", "weights": dict.fromkeys(names[len(names) - 1 - count : -1], 1.0), "biases": count + 1}


def biases(names: list[str], count: int) -> Block:
    """Return a block that trains the biases and norms of the last so many layers before the head."""
    return {"kind": "sparse_update", "weights": {}, "biases": count + 1}


class Sizes:
    """What a model needs in memory with each block, as predicted."""

    def __init__(self, model: str, bits: int) -> None:
        self._model, self._bits = model, bits
        whole = plans(scenario(model, bits, WHOLE)).plans[0]
        self.names = [layer.name for layer in whole.layers if layer.weights]
        self.head, self.whole = self.of(HEAD), whole.memory_bytes

    def of(self, block: Block) -> int:
        """Return the predicted peak of a step in bytes."""
        return plans(scenario(self._model, self._bits, block)).plans[0].memory_bytes

    def budget(self, share: float) -> int:
        """Return a budget that lies so far between the head alone and the whole model."""
        return self.head + round(share * (self.whole - self.head))

    def most(self, block: Callable[[list[str], int], Block], memory: int) -> Block:
        """Return the block with the most layers that fits."""
        least, beyond = 0, len(self.names)
        while beyond - least > 1:
            middle = (least + beyond) // 2
            least, beyond = (middle, beyond) if self.of(block(self.names, middle)) <= memory else (least, middle)
        return block(self.names, least)


def measure(wanted: Scenario) -> tuple[float, int]:
    """Run a scenario; return the final accuracy in percent, and the predicted peak in bytes."""
    with TemporaryDirectory() as folder, Stopper() as stopper:
        finished = read_run(run(wanted, Path(folder), Display(io.StringIO()), stopper))
        return 100 * float(finished.summary["accuracy"]), int(finished.ledger["memory_bytes"].max())


def best(model: str, bits: int, block: Block, memory: int, seeds: int) -> tuple[list[float], float, int]:
    """Return an arm's accuracies with its best learning rate, that rate, and its peak."""
    found = []
    for lr in RATES:
        runs = [measure(scenario(model, bits, block, memory, seed, lr)) for seed in range(seeds)]
        found.append(([accuracy for accuracy, _ in runs], lr, max(peak for _, peak in runs)))
    return max(found, key=lambda one: statistics.fmean(one[0]))


def words(block: Block) -> str:
    """Return what a block trains, in short."""
    if block == {"kind": "sparse_update"} or block == WHOLE:
        return ""
    return f"{len(block['weights'])} weights, {block['biases']} biases"


def main() -> None:
    """Measure every arm at every budget and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 0 (default 3)")
    parser.add_argument("--model", choices=MODELS, default="resnet20")
    parser.add_argument("--bits", type=int, default=32, help="of the weights (default 32, fp32)")
    parser.add_argument(
        "--budgets", type=float, nargs="+", default=BUDGETS, help="between the head alone, 0, and the whole model, 1"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = Sizes(options.model, options.bits)
    print(f"{options.model}, {options.bits} bits: head {sizes.head} B, whole {sizes.whole} B", flush=True)
    print("| budget | arm | trains | peak | lr | accuracy (each seed) |\n|---|---|---|---|---|---|")
    arms: list[tuple[int, str, Block]] = [(sizes.head, "head", HEAD)]
    for memory in map(sizes.budget, options.budgets):
        arms.append((memory, "searched", {"kind": "sparse_update"}))
        arms += [(memory, "last layers", sizes.most(last_layers, memory)), (memory, "biases", sizes.most(biases, memory))]
    for memory, name, block in [*arms, (sizes.whole, "whole", WHOLE)]:
        accuracies, lr, peak = best(options.model, options.bits, block, memory, options.seeds)
        each = ", ".join(f"{one:.1f}" for one in accuracies)
        mean = f"{statistics.fmean(accuracies):.2f} ({each})"
        print(f"| {memory / 2**20:.2f} MiB | {name} | {words(block)} | {peak / 2**20:.2f} MiB | {lr:g} | {mean} |", flush=True)


if __name__ == "__main__":
    main()
