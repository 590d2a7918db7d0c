"""The three roundings. Which one is used decides whether low bits learn at all.

`truncate` (toward zero) loses every update smaller than one code, `nearest` those below half a code; `stochastic` rounds up
with a probability equal to the fraction and loses nothing on average.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Rounding = Literal["truncate", "nearest", "stochastic"]


def uniform(count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` float32 numbers, uniform over the multiples of 2**-24 in [0, 1): all that float32 can compare with.

    Two numbers from each 64-bit draw: that is faster than `torch.rand`.
    """
    words = torch.empty(-(-count // 2), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    return words.view(torch.int32)[:count].bitwise_and_(0xFFFFFF).to(torch.float32).mul_(2.0**-24)


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
