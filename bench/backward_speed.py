"""How much faster a step of one layer is with filtered gradients: `python -m bench.backward_speed`.

A step is forward, both gradients and the update of a layer of float32 weights whose input has an error too, as in the middle of a
model. It is compared with the fastest of torch's own layer and `torch.optim.SGD`, in both layouts, and fedapt's exact one; the
column `fedapt exact` compares that one with torch. The steps take turns: the median of processor time on one thread, the shortest
wall time on more, where whatever else runs would make one thread wait for the other.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedapt.clients.backward.gradient_filter import FilteredConv
from fedapt.quant import BackwardRule, SingleCopySGD, quantise
from fedapt.quant.ops import op_of


class Case(NamedTuple):
    """A convolution of `channels` to as many, and the side of its square inputs."""

    channels: int
    side: int
    kernel: int = 3
    stride: int = 1
    depthwise: bool = False

    def layer(self) -> nn.Conv2d:
        """Return the layer."""
        groups = self.channels if self.depthwise else 1
        return nn.Conv2d(self.channels, self.channels, self.kernel, self.stride, self.kernel // 2, groups=groups)

    def __str__(self) -> str:
        """Name the layer."""
        kind = "depthwise " if self.depthwise else ""
        return f"{kind}{self.kernel}x{self.kernel}/{self.stride}, {self.channels} channels, {self.side}x{self.side}"


CASES = (
    *(Case(channels, 14) for channels in (16, 32, 64, 128, 256, 512)),
    *(Case(64, 28), Case(512, 7), Case(256, 14, stride=2)),
    *(Case(64, 14, kernel=1), Case(256, 14, kernel=1), Case(512, 14, kernel=1)),
    *(Case(64, 14, depthwise=True), Case(256, 14, depthwise=True)),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line for each layer, batch and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--patch", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--seconds", type=float, default=1.5, help="time for each line")
    options = parser.parse_args(arguments)
    print("| layer | batch | threads | torch ms | fedapt exact |", *(f"patch {patch} | pays |" for patch in options.patch))
    print("|---|---|---|---|---|" + "---|---|" * len(options.patch))
    for threads in options.threads:
        torch.set_num_threads(threads)
        for batch in options.batch:
            for case in CASES:
                _line(case, batch, threads, options.patch, options.seconds)


def _line(case: Case, batch: int, threads: int, patches: Sequence[int], seconds: float) -> None:
    conv = case.layer()
    kernel = tuple(conv.kernel_size)
    x = torch.randn(batch, case.channels, case.side, case.side, generator=torch.Generator().manual_seed(1))
    steps = [_stock(case, x), _stock(case, x.to(memory_format=torch.channels_last))]
    rules = [BackwardRule(), *(FilteredConv(patch, kernel) for patch in patches)]
    times = _times([*steps, *(_ours(case, x, rule) for rule in rules)], threads, seconds)
    stock, exact, filtered = min(times[:2]), times[2], times[3:]
    op, shapes = op_of(conv), (tuple(conv.weight.shape), tuple(x.shape), tuple(conv(x).shape))
    assert op is not None
    gains = [
        f" {min(stock, exact) / one:.2f} | {'yes' if rule.pays(op, *shapes) else 'no'} |"
        for one, rule in zip(filtered, rules[1:], strict=True)
        if isinstance(rule, FilteredConv)
    ]
    print(f"| {case} | {batch} | {threads} | {1e3 * stock:.2f} | {stock / exact:.2f} |" + "".join(gains), flush=True)


def _stock(case: Case, x: Tensor) -> Callable[[], None]:
    layer = case.layer()
    if not x.is_contiguous():
        layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    sgd = torch.optim.SGD(layer.parameters(), 1e-4)
    x, error = x.clone().requires_grad_(), torch.randn_like(layer(x))

    def step() -> None:
        x.grad = None
        sgd.zero_grad()
        layer(x).backward(error)
        sgd.step()

    return step


def _ours(case: Case, x: Tensor, rule: BackwardRule) -> Callable[[], None]:
    model = nn.Sequential(case.layer())
    quantised = quantise(model, 32, rule=rule)
    sgd = SingleCopySGD(model, quantised, 1e-4, "stochastic", torch.Generator().manual_seed(1))
    x, error = x.clone().requires_grad_(), torch.randn_like(model(x))

    def step() -> None:
        x.grad = None
        with sgd.step(observe=False):
            model(x).backward(error)

    return step


def _times(steps: Sequence[Callable[[], None]], threads: int, seconds: float) -> list[float]:
    """Return the seconds of each step, which take turns for so long, and five times at least."""
    clock, typical = (time.process_time, statistics.median) if threads == 1 else (time.perf_counter, min)
    for step in steps:
        step()
    times: list[list[float]] = [[] for _ in steps]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 5:
        for step, taken in zip(steps, times, strict=True):
            start = clock()
            step()
            taken.append(clock() - start)
    return [typical(taken) for taken in times]


if __name__ == "__main__":
    main()
