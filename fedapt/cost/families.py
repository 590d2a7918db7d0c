"""Small networks of four families, any width and depth, and the training step that a client would take on them.

They are what a machine is calibrated with: unlike enough that what one family shows about a convolution or a matrix product
can be held against another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from fedapt.cost.saved import saved_bytes
from fedapt.cost.shapes import layer_shapes
from fedapt.cost.trace import Trace, trace_step
from fedapt.quant import SingleCopySGD, quantise
from fedapt.seeding import stream_key, torch_stream

CLASSES = 10
GROUPS = 4


@dataclass(frozen=True)
class Family:
    """build: a network from its width (a multiple of 4) and its depth; shape: of one input."""

    build: Callable[[int, int], nn.Sequential]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Setting:
    """One network at one batch size."""

    family: str
    width: int
    depth: int
    batch: int


def dense(width: int, depth: int) -> nn.Sequential:
    """Return `depth` dense layers of `8 * width` units, and the output."""
    units = 8 * width
    sizes = [784, *[units] * depth]
    hidden = [layer for here, there in pairwise(sizes) for layer in (nn.Linear(here, there), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(units, CLASSES))


def pooled(width: int, depth: int) -> nn.Sequential:
    """Return `depth` convolutions that are pooled, and one dense layer or, from depth 2, two, on 24x24 colour images."""
    channels = [3, *(width * min(2**block, 2) for block in range(depth))]
    blocks = [
        layer
        for here, there in pairwise(channels)
        for layer in (nn.Conv2d(here, there, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    ]
    features = channels[-1] * (24 // 2**depth) ** 2
    hidden = (nn.Linear(features, 2 * width), nn.ReLU()) if depth > 1 else ()
    return nn.Sequential(*blocks, nn.Flatten(), *hidden, nn.Linear(2 * width if hidden else features, CLASSES))


def strided(width: int, depth: int) -> nn.Sequential:
    """Return `depth + 1` convolutions that halve the image themselves, with group norms, on 32x32 colour images."""
    channels = [3, width, *[2 * width] * depth]
    blocks = [
        layer
        for here, there in pairwise(channels)
        for layer in (nn.Conv2d(here, there, 3, stride=2, padding=1), nn.GroupNorm(GROUPS, there), nn.ReLU())
    ]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], CLASSES))


def separable(width: int, depth: int) -> nn.Sequential:
    """Return a convolution and `depth` depthwise separable blocks with group norms, on 32x32 colour images.

    The depthwise kernels are 3x3 and 5x5 by turns, so that their MACs are not proportional to their activations.
    """
    channels = [width, *[2 * width] * depth]
    blocks = [
        layer
        for block, (here, there) in enumerate(pairwise(channels))
        for layer in (
            *(
                nn.Conv2d(here, here, 3 + block % 2 * 2, padding=1 + block % 2, groups=here),
                nn.GroupNorm(GROUPS, here),
                nn.ReLU(),
            ),
            *(nn.Conv2d(here, there, 1), nn.GroupNorm(GROUPS, there), nn.ReLU()),
        )
    ]
    stem = nn.Conv2d(3, width, 3, stride=2, padding=1), nn.ReLU()
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], CLASSES))


def reference_cnn() -> nn.Sequential:
    """Return fedapt's default CNN for 28x28 grey images, in whose training steps `Profile.fp32_macs_per_s` is defined."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, CLASSES)),
    )


FAMILIES = {
    "dense": Family(dense, (1, 28, 28)),
    "pooled": Family(pooled, (3, 24, 24)),
    "strided": Family(strided, (3, 32, 32)),
    "separable": Family(separable, (3, 32, 32)),
}
REFERENCE_SHAPE = (1, 28, 28)


def step_of(build: Callable[[], nn.Module], shape: tuple[int, ...], batch: int, bits: int) -> tuple[Trace, Callable[[], float]]:
    """Return what a training step on one copy of a network's weights does, and the step itself, on random samples."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_key(0, "families") & (2**63 - 1))
        model = build()
    generator = torch_stream(0, "families", 1)
    quantised = quantise(model, bits, generator=generator)
    shapes = layer_shapes(model, shape)
    trace = trace_step(shapes, {one.name: bits for one in shapes if one.kind != "float"}, saved_bytes(model, shape))
    # A rate at which training changes nothing keeps the numbers ordinary for as long as the clock runs.
    sgd = SingleCopySGD(model, quantised, 1e-6, "stochastic", generator)
    inputs = torch.randn((batch, *shape), generator=generator)
    labels = torch.randint(0, CLASSES, (batch,), generator=generator)

    def step() -> float:
        with sgd.step(observe=False):
            loss = F.cross_entropy(model(inputs), labels)
            loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    return trace, step
