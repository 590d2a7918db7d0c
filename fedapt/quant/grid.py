"""Grids: which real numbers the codes of a tensor stand for, `w = scale * (code - zero)`, codes in `0 .. 2**bits - 1`.

The default is one scale for each output channel, symmetric around the middle code, with headroom over the largest weight so that
weights can move during training. Per tensor and min/max are what APT (arXiv 2012.12775) and RCT (arXiv 2103.14493) describe.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from fedapt.options import Options

FLOAT_BITS = 32
LOWEST_BITS = 2
HIGHEST_BITS = 16
SMALLEST_RANGE = 1e-6


class GridOptions(Options):
    """How a grid is laid over a weight tensor."""

    granularity: Literal["channel", "tensor"] = Field(
        default="channel", description="one scale for each output channel, or one for the tensor"
    )
    range: Literal["symmetric", "min_max"] = Field(
        default="symmetric", description="codes around the middle, or from the least to the largest weight"
    )
    headroom: float = Field(default=1.5, ge=1.0, le=16.0, description="the grid reaches this many times the largest weight")


class Grid(NamedTuple):
    """scale, zero: (channels,) or (1,) float32, zero a whole number; bits: 2..16."""

    scale: Tensor
    zero: Tensor
    bits: int

    def like(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return scale and zero shaped to broadcast over codes of shape (channels, ...)."""
        shape = (-1,) + (1,) * (codes.dim() - 1)
        return self.scale.view(shape), self.zero.view(shape)


def levels(bits: int, options: GridOptions) -> int:
    """Return how many steps of a grid span its range: what a range is divided by to give the scale."""
    return (1 << bits - 1) - 1 if options.range == "symmetric" else (1 << bits) - 1


def check_bits(bits: int) -> None:
    """Raise ValueError unless bits is a width that codes can have."""
    if not LOWEST_BITS <= bits <= HIGHEST_BITS:
        raise ValueError(f"codes have {LOWEST_BITS} to {HIGHEST_BITS} bits, got {bits}; {FLOAT_BITS} means float and has no grid")


def fit(weight: Tensor, bits: int, options: GridOptions) -> Grid:
    """Lay a grid of `bits` over a weight of shape (channels, ...).

    A channel of zeros takes the range of the whole tensor, so that it can still learn.
    """
    check_bits(bits)
    rows = weight.reshape(weight.shape[0], -1) if options.granularity == "channel" else weight.reshape(1, -1)
    low = rows.amin(dim=1).clamp(max=0.0) * options.headroom
    high = rows.amax(dim=1).clamp(min=0.0) * options.headroom
    reach = torch.maximum(high, -low)
    flat = reach <= SMALLEST_RANGE
    reach = torch.where(flat, reach.amax().clamp(min=SMALLEST_RANGE), reach)
    steps = levels(bits, options)
    if options.range == "symmetric":
        return Grid(reach / steps, torch.full_like(reach, 2 ** (bits - 1)), bits)
    low, high = torch.where(flat, -reach, low), torch.where(flat, reach, high)
    zero = (low.abs() * steps / (high - low)).round()
    # A zero rounded to a whole code shifts the grid by up to half a step: it is widened until both ends are on it again.
    zero = torch.where(low < 0, zero.clamp(min=1), zero)
    zero = torch.where(high > 0, zero.clamp(max=steps - 1), zero)
    scale = torch.maximum(low.abs() / zero.clamp(min=1), high / (steps - zero).clamp(min=1))
    return Grid(scale, zero, bits)
