"""The one copy of a layer's weights: codes on a grid that are trained in place, or a float tensor behind the same interface.

`MasterWeight` has two copies: it is quantisation-aware training, what the single copy is compared with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fedapt.quant.blocks import blocks
from fedapt.quant.grid import FLOAT_BITS, Grid, GridOptions, fit, levels
from fedapt.quant.rounding import Rounding, round_step, round_to_whole

# Weights that are updated at a time: a quarter of a megabyte is enough for what that takes on the way.
UPDATED = 50_400


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
        """Move the codes by -round(lr * direction / scale), clipped to the grid; the direction is used up.

        Block by block: besides the direction it takes the same memory for a layer of any size.
        """
        highest = 2**self.bits - 1
        factor = self.grid.scale.reciprocal().mul_(-lr).view(-1, 1)
        codes = self.codes.view(factor.shape[0], -1)
        length, lost, clipped = 0.0, 0, 0
        for wanted, here, each in _pieces(direction.reshape(codes.shape), codes, factor):
            asked = _nonzero(wanted) if observe else 0
            wanted.mul_(each)
            if observe:
                length += wanted.abs().sum().item()
            step = round_step(wanted, rounding, generator)
            if observe:
                lost += asked - _nonzero(step)
            moved = step.add_(here.to(torch.float32))
            if observe:
                clipped += _outside(moved, highest)
            # By way of whole numbers, which torch casts to narrow ones faster than floats.
            here.copy_(moved.clamp_(0, highest).to(torch.int32))
        return UpdateStatistics(length / lr if lr else 0.0, lost, clipped) if observe else None

    def tensors(self) -> dict[str, Tensor]:
        """Return codes, scale and zero under the names that messages use."""
        return {"codes": self.codes, "scale": self.grid.scale, "zero": self.grid.zero}


def _pieces(direction: Tensor, codes: Tensor, factor: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Cut tensors of a layer into the blocks that are updated at a time; factor: (rows, 1) or (1, 1)."""
    if codes.numel() <= UPDATED:
        yield direction, codes, factor
        return
    rows, columns = codes.shape
    for block in blocks(rows, columns, UPDATED):
        yield direction[block], codes[block], factor[block[0]]


def _nonzero(values: Tensor) -> int:
    """Count what is not zero in a block; torch's own count takes many times as long where that is hard to foretell."""
    return int(values.sign().abs_().sum().item())


def _outside(places: Tensor, highest: int) -> int:
    """Return how many places lie outside of the grid: in most steps none, which their ends show in a fifth of the time."""
    low, high = places.aminmax()
    if low.item() >= 0 and high.item() <= highest:
        return 0
    return _nonzero(places.clamp(0, highest).sub_(places))


class MasterWeight:
    """A float32 master that takes the updates, and its nearest codes of `bits`, which forward and backward compute with.

    The grid is laid anew after each update, so nothing ever clips. values: the master, used as it is, not copied.
    """

    def __init__(self, values: Tensor, bits: int, options: GridOptions) -> None:
        self.values, self.options = values, options
        self.shape = values.shape
        self.copy = CodedWeight(torch.empty(values.shape, dtype=_container(bits)), fit(values, bits, options))
        self._requantise(torch.Generator())

    @property
    def bits(self) -> int:
        """Width of one code of the copy."""
        return self.copy.bits

    def dequantise(self) -> Tensor:
        """Return the copy as a new float32 tensor."""
        return self.copy.dequantise()

    def apply(self, direction: Tensor, lr: float, rounding: Rounding, generator: torch.Generator, observe: bool) -> None:
        """Take a plain step of the master, as if the rounding of the copy were not there, and requantise the copy."""
        self.values.add_(direction, alpha=-lr)
        self.follow(generator)

    def follow(self, generator: torch.Generator) -> None:
        """Requantise the copy where the master has moved."""
        self.copy.grid = fit(self.values, self.bits, self.options)
        self._requantise(generator)

    def master(self) -> FloatWeight:
        """Return the master alone: what crosses the network."""
        return FloatWeight(self.values)

    def _requantise(self, generator: torch.Generator) -> None:
        _write_codes(self.copy.codes, self.values, self.copy.grid, "nearest", generator)


# What crosses the network, and what may be trained on a device.
Weight = FloatWeight | CodedWeight
TrainedWeight = Weight | MasterWeight


def quantise_tensor(weight: Tensor, bits: int, options: GridOptions, rounding: Rounding, generator: torch.Generator) -> Weight:
    """Quantise a float32 weight of shape (channels, ...); 32 bits copies it.

    The grid covers every weight, so nothing clips here; the error is at most half a step when nearest, one step when stochastic.
    """
    if bits == FLOAT_BITS:
        return FloatWeight(weight.detach().to(torch.float32, copy=True).contiguous())
    grid = fit(weight.detach(), bits, options)
    codes = torch.empty(weight.shape, dtype=_container(bits))
    _write_codes(codes, weight.detach(), grid, rounding, generator)
    return CodedWeight(codes, grid)


def _container(bits: int) -> torch.dtype:
    return torch.uint8 if bits <= 8 else torch.uint16


def _write_codes(codes: Tensor, weight: Tensor, grid: Grid, rounding: Rounding, generator: torch.Generator) -> None:
    """Quantise a float32 weight into codes of its shape, block by block."""
    scale, zero = grid.scale.view(-1, 1), grid.zero.view(-1, 1)
    flat, values = codes.view(len(scale), -1), weight.reshape(len(scale), -1)
    for block in blocks(*flat.shape):
        places = round_to_whole(values[block] / scale[block[0]], rounding, generator).add_(zero[block[0]])
        flat[block] = places.clamp_(0, 2**grid.bits - 1)


def refit(weight: CodedWeight, options: GridOptions, generator: torch.Generator, bits: int | None = None) -> CodedWeight:
    """Lay a new grid, of other bits if given, over where the weights are now, and requantise them once, without bias.

    Grids are not nested: a weight also moves when its bits rise, by less than a new step. To nearest it would be half of one at
    most, but for all clients to the same side, and their mean would move with it; stochastically they cancel.
    """
    return quantise_tensor(weight.dequantise(), bits or weight.bits, options, "stochastic", generator)  # type: ignore[return-value]


def gavg_at(gavg: float, bits: int, other_bits: int, options: GridOptions) -> float:
    """Return what Gavg would be at another width: the step shrinks with the number of levels over the same range."""
    return gavg * levels(other_bits, options) / levels(bits, options)
