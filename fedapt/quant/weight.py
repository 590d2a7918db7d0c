"""The one copy of a layer's weights: codes on a grid that are trained in place, or a float tensor behind the same interface."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedapt.quant.grid import FLOAT_BITS, Grid, GridOptions, fit, levels
from fedapt.quant.rounding import Rounding, round_to_whole


@dataclass(frozen=True)
class UpdateStatistics:
    """What one update did: sums over the layer's weights.

    step_sum:  sum of |direction| / scale, N_l times the Gavg of APT.
    underflow: weights with a nonzero direction whose code did not change.
    clipped:   weights whose new code fell outside the grid.
    """

    step_sum: float
    underflow: int
    clipped: int


class FloatWeight:
    """A float32 weight: the reference that codes are compared with."""

    bits = FLOAT_BITS

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.shape = values.shape

    def dequantise(self) -> Tensor:
        """Return the float32 weight itself: there is nothing to dequantise."""
        return self.values

    def apply(self, direction: Tensor, lr: float, rounding: Rounding, generator: torch.Generator, observe: bool) -> None:
        """Take a plain step of gradient descent; a float has no code that could underflow."""
        self.values.add_(direction, alpha=-lr)

    def tensors(self) -> dict[str, Tensor]:
        """Return the weight under the name that messages use."""
        return {"weight": self.values}


class CodedWeight:
    """Codes and their grid. codes: the weight's shape, uint8 up to 8 bits and uint16 above."""

    def __init__(self, codes: Tensor, grid: Grid) -> None:
        self.codes = codes
        self.grid = grid
        self.shape = codes.shape

    @property
    def bits(self) -> int:
        """Width of one code."""
        return self.grid.bits

    def dequantise(self) -> Tensor:
        """Return scale * (code - zero) as a new float32 tensor."""
        scale, zero = self.grid.like(self.codes)
        return self.codes.to(torch.float32).sub_(zero).mul_(scale)

    def apply(
        self, direction: Tensor, lr: float, rounding: Rounding, generator: torch.Generator, observe: bool
    ) -> UpdateStatistics | None:
        """Move the codes by -round(lr * direction / scale), clipped to the grid."""
        scale, _ = self.grid.like(self.codes)
        wanted = direction * (lr / scale)
        step = round_to_whole(wanted, rounding, generator)
        moved = self.codes.to(torch.float32).sub_(step)
        highest = 2**self.bits - 1
        statistics = None
        if observe:
            inside = int(((moved >= 0) & (moved <= highest)).count_nonzero())
            statistics = UpdateStatistics(
                step_sum=float(torch.linalg.vector_norm(wanted, 1)) / lr if lr else 0.0,
                underflow=int(direction.count_nonzero()) - int((step * direction).count_nonzero()),
                clipped=moved.numel() - inside,
            )
        self.codes.copy_(moved.clamp_(0, highest))
        return statistics

    def tensors(self) -> dict[str, Tensor]:
        """Return codes, scale and zero under the names that messages use."""
        return {"codes": self.codes, "scale": self.grid.scale, "zero": self.grid.zero}


Weight = FloatWeight | CodedWeight


def quantise_tensor(weight: Tensor, bits: int, options: GridOptions, rounding: Rounding, generator: torch.Generator) -> Weight:
    """Quantise a float32 weight of shape (channels, ...); 32 bits copies it.

    The grid covers every weight, so nothing clips here; the error is at most half a step when nearest, one step when stochastic.
    """
    if bits == FLOAT_BITS:
        return FloatWeight(weight.detach().to(torch.float32, copy=True).contiguous())
    grid = fit(weight.detach(), bits, options)
    return CodedWeight(_codes(weight.detach(), grid, rounding, generator), grid)


def _codes(weight: Tensor, grid: Grid, rounding: Rounding, generator: torch.Generator) -> Tensor:
    shape = (-1,) + (1,) * (weight.dim() - 1)
    places = round_to_whole(weight / grid.scale.view(shape), rounding, generator).add_(grid.zero.view(shape))
    return places.clamp_(0, 2**grid.bits - 1).to(torch.uint8 if grid.bits <= 8 else torch.uint16)


def refit(weight: CodedWeight, options: GridOptions, generator: torch.Generator) -> CodedWeight:
    """Lay a new grid of the same bits over where the weights are now, and requantise them once, without bias."""
    return quantise_tensor(weight.dequantise(), weight.bits, options, "stochastic", generator)  # type: ignore[return-value]


def gavg_at(gavg: float, bits: int, other_bits: int, options: GridOptions) -> float:
    """Return what Gavg would be at another width: the step shrinks with the number of levels over the same range."""
    return gavg * levels(other_bits, options) / levels(bits, options)
