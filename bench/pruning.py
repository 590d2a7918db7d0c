"""Is pruning errors worth more than training on fewer samples? Accuracy at equal MACs, Fashion-MNIST, one client, fp32.

    python -m bench.pruning                 three seeds, about ten minutes on one core
    python -m bench.pruning --lr 0.05 --methods "pruning 0.3"

12,000 samples, a network of three convolutions, five epochs. Each share of channels kept is compared with exact backpropagation
on as many random samples, drawn anew in each epoch, as take the same MACs by the cost model, updates and scoring included.
Needs `fashion_mnist_train.parquet` (and `_test`) in ../shared/data, or in the folder that FEDAPT_SHARED_DATA names.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.fashion_mnist import DATA
from fedapt.clients.backward import RULES
from fedapt.clients.backward.rule import Backward
from fedapt.cost.workload import Workloads
from fedapt.data import DataSpec, load
from fedapt.quant import FloatWeight, SingleCopySGD
from fedapt.quant.skeleton import Skeleton, float_arrays
from fedapt.quant.wire import QuantisedModel
from fedapt.seeding import numpy_stream, torch_stream

SAMPLES, EPOCHS, BATCH = 12_000, 5, 20
METHODS: dict[str, dict[str, Any]] = {
    "exact": {"kind": "exact"},
    "pruning 0.5": {"kind": "error_map_pruning", "keep": 0.5},
    "pruning 0.3": {"kind": "error_map_pruning", "keep": 0.3},
    "pruning 0.5, sum": {"kind": "error_map_pruning", "keep": 0.5, "score": "sum"},
}


def network() -> nn.Module:
    """Return three convolutions and a dense layer for 28x28 grey images."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * 9, 10)),
    )


def fashion() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return images and labels to train on and to test on."""
    spec = DataSpec.model_validate({"source": str(DATA), "samples": SAMPLES, "test_samples": 10_000, "partition": "iid"})
    federation = load(spec, 1, 0)
    train, test = federation.train, federation.test
    return *train.batch(np.arange(len(train.labels))), *test.batch(np.arange(len(test.labels)))


def method(name: str) -> Backward:
    """Return the backward method of a name in the table."""
    return RULES[METHODS[name]["kind"]].model_validate(METHODS[name])


def share_of_macs(name: str) -> float:
    """Return the MACs of an epoch with a method as a share of those with exact backpropagation."""
    macs = [
        Workloads(network, (1, 28, 28), backward=method(one)).at().trace({}).macs(SAMPLES, SAMPLES // BATCH)
        for one in (name, "exact")
    ]
    return macs[0] / macs[1]


def batches(seed: int, share: float) -> Iterator[np.ndarray]:
    """Yield the samples of each step; share: of the samples, drawn anew in each epoch."""
    for epoch in range(EPOCHS):
        order = numpy_stream(seed, "batches", epoch).permutation(SAMPLES)[: round(share * SAMPLES)]
        yield from (order[first : first + BATCH] for first in range(0, len(order), BATCH))


def accuracy(name: str, share: float, seed: int, lr: float, data: tuple[Tensor, Tensor, Tensor, Tensor]) -> float:
    """Train a fresh network and return its accuracy on the test images in per cent."""
    inputs, labels, test_inputs, test_labels = data
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        arrays = float_arrays(network())
    skeleton = Skeleton(network, method(name))
    weights = {layer: FloatWeight(arrays.pop(f"{layer}.weight")) for layer in skeleton.quantised.layers}
    skeleton.load(QuantisedModel(weights, arrays))  # type: ignore[arg-type]
    model = skeleton.model
    with SingleCopySGD(model, skeleton.quantised, lr, "stochastic", torch_stream(seed, "rounding")) as sgd:
        steps = list(batches(seed, share))
        for number, rows in enumerate(steps):
            # Of a constant rate the last steps' noise is larger than what is compared.
            sgd.lr = lr * (1 - number / len(steps))
            with sgd.step(observe=False):
                F.cross_entropy(model(inputs[rows]), labels[rows]).backward()  # type: ignore[no-untyped-call]
    parts = [slice(first, first + 500) for first in range(0, len(test_labels), 500)]
    with torch.no_grad():
        right = sum((model(test_inputs[part]).argmax(1) == test_labels[part]).sum().item() for part in parts)
    return float(100 * right / len(test_labels))


def main() -> None:
    """Train every method, and exact backpropagation on fewer samples at the same MACs, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lr", type=float, default=0.1, help="at the start; it falls to zero in a straight line")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = fashion()
    print(f"{'method':<18}{'MACs':>8}{'accuracy':>10}{'random':>9}{'gain':>7}   points of each seed")
    for name in arguments.methods:
        share = share_of_macs(name)
        seeds = range(arguments.seeds)
        here = [accuracy(name, 1.0, seed, arguments.lr, data) for seed in seeds]
        less = here if share == 1 else [accuracy("exact", share, seed, arguments.lr, data) for seed in seeds]
        gains = [one - other for one, other in zip(here, less, strict=True)]
        means = f"{statistics.mean(here):>10.2f}{statistics.mean(less):>9.2f}{statistics.mean(gains):>+7.2f}"
        print(f"{name:<18}{share:>8.1%}{means}   {', '.join(f'{gain:+.2f}' for gain in gains)}", flush=True)


if __name__ == "__main__":
    main()
