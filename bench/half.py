"""What `engine.compute: bfloat16` gains and costs on this machine: `python -m bench.half`, a few minutes on one core.

Layers: forward and backward of a layer of 8-bit codes in the middle of a model. Models: a step of one, with its update.
Both are the median processor time on one thread of steps that take turns. Runs: a small unequal federation, inline, with each
width and compute; the accuracy after the last round, and the processor time of the whole run, data and evaluation included.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from torch import nn

from fedapt.data import DataShape
from fedapt.environment import environment
from fedapt.models import MODELS, build
from fedapt.quant import SingleCopySGD, quantise
from fedapt.quant.half import Compute, codes_in_half
from fedapt.report.terminal import Display
from fedapt.results import read_run
from fedapt.run import run
from fedapt.scenario import Scenario
from fedapt.stopping import Stopper

COMPUTES: tuple[Compute, Compute] = ("float32", "bfloat16")
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dense 256-256": (lambda: nn.Linear(256, 256), (256,)),
    "dense 1024-1024": (lambda: nn.Linear(1024, 1024), (1024,)),
    "conv 16-16, 3x3, 32x32": (lambda: nn.Conv2d(16, 16, 3, padding=1), (16, 32, 32)),
    "conv 16-32, 5x5, 12x12": (lambda: nn.Conv2d(16, 32, 5), (16, 12, 12)),
    "conv 256-256, 3x3, 14x14": (lambda: nn.Conv2d(256, 256, 3, padding=1), (256, 14, 14)),
}
NETS = {"mlp": (1, 28, 28), "cnn": (1, 28, 28), "resnet20": (3, 32, 32), "vgg-small": (3, 32, 32)}


def layer_line(name: str, batch: int, seconds: float) -> str:
    """Return one line of the table of layers."""
    make, shape = LAYERS[name]
    ours = [_layer_step(make, (batch, *shape), compute) for compute in COMPUTES]
    plain, half = _times(ours, seconds)
    return f"| {name} | {batch} | {1e3 * plain:.2f} | {1e3 * half:.2f} | {half / plain:.2f} |"


def _layer_step(make: Callable[[], nn.Module], shape: tuple[int, ...], compute: Compute) -> Callable[[], None]:
    model = nn.Sequential(make())
    layer = quantise(model, 8, compute=compute).layers["0"]
    layer.on_gradient = lambda _, gradient: None
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
    error = torch.randn_like(model(x)).detach()

    def step() -> None:
        layer.begin_step()
        model(x).backward(error)

    return step


def net_line(name: str, batch: int, seconds: float) -> str:
    """Return one line of the table of models."""
    made = [_net_step(name, batch, compute) for compute in COMPUTES]
    plain, half = _times([step for step, _ in made], seconds)
    return f"| {name} | {made[0][1]} | {batch} | {1e3 * plain:.2f} | {1e3 * half:.2f} | {half / plain:.2f} |"


def _net_step(name: str, batch: int, compute: Compute) -> tuple[Callable[[], None], str]:
    shape = NETS[name]
    model = build(MODELS[name](), DataShape(shape, 10), 0)
    quantised = quantise(model, 8, compute=compute)
    layers = quantised.layers.values()
    narrow = sum(codes_in_half(layer.op, layer.weight) is not None for layer in layers)
    generator = torch.Generator().manual_seed(1)
    sgd = SingleCopySGD(model, quantised, 1e-4, "stochastic", generator)
    x, labels = torch.randn(batch, *shape, generator=generator), torch.arange(batch) % 10

    def step() -> None:
        with sgd.step(observe=False):
            F.cross_entropy(model(x), labels).backward()

    return step, f"{narrow} of {len(layers)}"


def _times(steps: Sequence[Callable[[], None]], seconds: float) -> list[float]:
    """Return the median processor time of each step."""
    taken: list[list[float]] = [[] for _ in steps]
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(taken[0]) < 5:
        for step, times in zip(steps, taken, strict=True):
            began = time.process_time()
            step()
            times.append(time.process_time() - began)
    return [statistics.median(times[1:]) for times in taken]


def run_line(model: str, bits: int, seeds: int, rounds: int) -> str:
    """Return one line of the table of runs."""
    accuracies, times = zip(*(_runs(model, bits, seed, rounds) for seed in range(seeds)), strict=True)
    plain, half = (statistics.fmean(100 * pair[number] for pair in accuracies) for number in (0, 1))
    apart = ", ".join(f"{100 * (one - other):+.2f}" for other, one in accuracies)
    ratio = statistics.median(half_s / plain_s for plain_s, half_s in times)
    return f"| {model} | {bits} | {plain:.2f} % | {half:.2f} % | {half - plain:+.2f} ({apart}) | {ratio:.2f} |"


def _runs(model: str, bits: int, seed: int, rounds: int) -> tuple[Sequence[float], Sequence[float]]:
    """Return accuracies and processor times of one seed, by compute."""
    found = []
    for compute in COMPUTES:
        began = time.process_time()
        with TemporaryDirectory() as folder, Stopper() as stopper:
            path = run(_scenario(model, bits, seed, rounds, compute), Path(folder), Display(io.StringIO()), stopper)
            taken_s = time.process_time() - began
            found.append((float(read_run(path).summary["accuracy"]), taken_s))
    accuracies, times = zip(*found, strict=True)
    return accuracies, times


def _scenario(model: str, bits: int, seed: int, rounds: int, compute: Compute) -> Scenario:
    return Scenario.model_validate(
        {
            "version": 1,
            "name": "half",
            "seed": seed,
            "rounds": rounds,
            "data": {
                "source": "strokes",
                "samples": 8000,
                "test_samples": 2000,
                "partition": {"kind": "dirichlet", "alpha": 0.3},
            },
            "model": model,
            "clients": {
                "count": 40,
                "per_round": 10,
                "local": {"epochs": 1, "batch": 32, "lr": 0.05},
                "method": {"precision": {"kind": "fixed", "bits": bits}},
            },
            "evaluate": {"every": rounds},
            "engine": {"kind": "inline", "compute": compute},
        }
    )


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each line of layers and models (default 5)")
    parser.add_argument("--batch", type=int, default=32, help="samples in a step (default 32)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind (default 3)")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of a run (default 20)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    machine = environment(half=True)
    print(f"{machine['cpu']}, bf16: {machine['bf16'] or 'not in hardware'}, torch {machine['torch']}\n")
    print("| layer | batch | float32 ms | bf16 ms | ratio |\n|---|---|---|---|---|")
    for name in LAYERS:
        print(layer_line(name, options.batch, options.seconds), flush=True)
    print("\n| model | layers in bf16 | batch | float32 ms | bf16 ms | ratio |\n|---|---|---|---|---|---|")
    for name in NETS:
        print(net_line(name, options.batch, options.seconds), flush=True)
    print("\n| run | bits | accuracy, float32 | bf16 | points apart (by seed) | time |\n|---|---|---|---|---|---|")
    for bits in (8, 4):
        print(run_line("cnn", bits, options.seeds, options.rounds), flush=True)


if __name__ == "__main__":
    main()
