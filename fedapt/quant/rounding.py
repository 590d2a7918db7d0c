"""The three roundings. Which one is used decides whether low bits learn at all.

`truncate` (toward zero) loses every update smaller than one code, `nearest` those below half a code; `stochastic` rounds up
with a probability equal to the fraction and loses nothing on average.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Rounding = Literal["truncate", "nearest", "stochastic"]

# How many numbers share their last bits.
SHARING = 32


def uniform(count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` float32 numbers, each uniform over the multiples of 2**-24 in [0, 1): all that float32 can compare with.

    Their first 8 bits are their own, as drawing is a third of the time of an update; the other 16 are shared by 32 numbers that
    lie far apart. So each alone is uniform, and no update is too small to be kept on average; of the sum of many updates below a
    256th of a code the variance is an eighth larger at most.
    """
    columns = max(-(-count // SHARING), 1)
    own = columns * SHARING // 8
    words = torch.empty(own + columns // 4 + 1, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    shared = words[own:].view(torch.int16)[:columns].to(torch.float32).add_(2.0**15).mul_(2.0**-24)
    numbers = words[:own].view(torch.uint8)[:count].to(torch.float32).mul_(2.0**-8)
    whole = count - count % columns
    numbers[:whole].view(-1, columns).add_(shared)
    numbers[whole:].add_(shared[: count - whole])
    return numbers


def round_to_whole(values: Tensor, rounding: Rounding, generator: torch.Generator) -> Tensor:
    """Return `values` (any shape, float32) rounded to whole numbers; only `stochastic` draws from the generator.

    The stochastic fraction is compared with the noise, not added to it: a large whole number plus 0.99999 would round up in
    float32. Comparing by the sign of the difference, which is exact, stays in float32, where torch is fast.
    """
    if rounding == "truncate":
        return values.trunc()
    if rounding == "nearest":
        return values.round()
    whole = values.floor()
    noise = uniform(values.numel(), generator).view(values.shape)
    return whole.add_(torch.sub(values, whole).sub_(noise).ceil_())


def round_step(step: Tensor, rounding: Rounding, generator: torch.Generator) -> Tensor:
    """Round in place what a weight moves by, and return it: as `round_to_whole`, but in half of the time.

    The noise is added, so a whole number other than zero may move, as often as float32 has moved it already: by 2**-24 of itself
    on average. Zero stays zero.
    """
    if rounding == "truncate":
        return step.trunc_()
    if rounding == "nearest":
        return step.round_()
    return step.add_(uniform(step.numel(), generator).view(step.shape)).floor_()
