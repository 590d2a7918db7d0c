"""ReLU and max pooling that keep little for the backward pass: one bit, and one byte, instead of floats and 64-bit places.

They compute exactly what torch's modules compute. Beside layers that keep codes of their inputs, torch's own would keep the very
floats that the codes replaced.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Multiplied with eight bytes of 0 or 1, it gathers them in the highest byte, the first as its lowest bit.
GATHER = 0x0102040810204080
LARGEST_WINDOW = 256


def pack_mask(mask: Tensor) -> Tensor:
    """Pack a bool tensor (samples, ...), or of one sample, into (samples, bytes) uint8, the first of a sample as the lowest bit.

    Each sample has bytes of its own, so that what is kept is so many bytes a sample, whatever the batch.
    """
    flat = mask.flatten(1) if mask.dim() > 1 else mask.view(1, -1)
    padded = F.pad(flat, (0, -flat.shape[1] % 8))
    return (padded.view(torch.int64) * GATHER).bitwise_right_shift_(56).to(torch.uint8)


def unpack_mask(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the mask of `shape` that `pack_mask` packed: uint8, 0 where it was false. torch casts bool to float slowly."""
    powers = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)
    bits = packed.unsqueeze(-1).bitwise_and(powers).flatten(1)
    return bits[:, : math.prod(shape[1:] if len(shape) > 1 else shape)].reshape(tuple(shape))


class _ReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, inplace: bool) -> Tensor:
        result = x.relu_() if inplace else x.relu()
        if inplace:
            ctx.mark_dirty(x)
        # Not `result > 0`: like torch's own, it lets the error of a NaN pass.
        ctx.save_for_backward(pack_mask((result <= 0).logical_not_()))
        return result

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        (passing,) = ctx.saved_tensors
        mask = unpack_mask(passing, grad_output.shape).to(grad_output.dtype)
        return torch.ops.aten.threshold_backward(grad_output, mask, 0), None


class LeanReLU(nn.Module):
    """nn.ReLU that keeps one bit for each number, as long as it is `on`."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace, self.on = inplace, True

    def forward(self, x: Tensor) -> Tensor:
        """Return max(x, 0)."""
        if not (self.on and torch.is_grad_enabled() and x.requires_grad):
            return F.relu(x, self.inplace)
        result: Tensor = _ReLU.apply(x, self.inplace)  # type: ignore[no-untyped-call]
        return result


class _MaxPool(torch.autograd.Function):
    """Keeps for each output which place of its window the maximum had, row by row, in one byte."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pool: LeanMaxPool) -> Tensor:
        result, places = pool.pooled(x)
        ctx.pool, ctx.shape = pool, x.shape
        steps = pool.steps(x.shape[-1])
        number_of = torch.zeros(int(steps[-1]) + 1, dtype=torch.uint8)
        # Two numbers with the same step lead to the same place, so either will do.
        number_of[steps] = torch.arange(len(steps), dtype=torch.uint8)
        ctx.save_for_backward(number_of.take(places.sub_(pool.corners(places.shape, x.shape[-1]))))
        return result

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        (numbers,) = ctx.saved_tensors
        pool, shape = ctx.pool, ctx.shape
        places = pool.steps(shape[-1]).take(numbers.to(torch.int64)).add_(pool.corners(numbers.shape, shape[-1]))
        gradient = grad_output.new_zeros((*shape[:-2], shape[-2] * shape[-1]))
        return gradient.scatter_add_(-1, places.flatten(-2), grad_output.flatten(-2)).view(shape), None


class LeanMaxPool(nn.Module):
    """nn.MaxPool2d, or nn.MaxPool1d as one over images of one row, that keeps one byte for each output, as long as
    it is `on`.

    window, stride, padding, dilation: (rows, columns).
    """

    def __init__(self, pool: nn.MaxPool1d | nn.MaxPool2d) -> None:
        super().__init__()
        self.flat = isinstance(pool, nn.MaxPool1d)
        self.window = _sides(pool.kernel_size, self.flat, 1)
        self.stride = _sides(pool.stride, self.flat, 1)
        self.padding = _sides(pool.padding, self.flat, 0)
        self.dilation = _sides(pool.dilation, self.flat, 1)
        self.ceil_mode, self.on = pool.ceil_mode, True

    def forward(self, x: Tensor) -> Tensor:
        """Return the maximum of each window."""
        image = x.unsqueeze(-2) if self.flat else x
        if self.on and torch.is_grad_enabled() and x.requires_grad:
            result: Tensor = _MaxPool.apply(image, self)  # type: ignore[no-untyped-call]
        else:
            result = F.max_pool2d(image, self.window, self.stride, self.padding, self.dilation, self.ceil_mode)
        return result.squeeze(-2) if self.flat else result

    def pooled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the maxima and where they are in their image, `row * width + column`."""
        return F.max_pool2d_with_indices(x, self.window, self.stride, self.padding, self.dilation, self.ceil_mode)

    def steps(self, width: int) -> Tensor:
        """Return how far each place of a window lies behind its corner in an image of this width; the last is the furthest."""
        down, across = (torch.arange(side) * apart for side, apart in zip(self.window, self.dilation, strict=True))
        return (down.view(-1, 1) * width + across).flatten()

    def corners(self, shape: Sequence[int], width: int) -> Tensor:
        """Return where the windows of an output of `shape` begin, `row * width + column`, also outside of the image."""
        down, across = (
            torch.arange(side) * stride - padding
            for side, stride, padding in zip(shape[-2:], self.stride, self.padding, strict=True)
        )
        return down.view(-1, 1) * width + across


def lean(module: nn.Module) -> LeanReLU | LeanMaxPool | None:
    """Return the lean version of a module, or None where there is none."""
    if type(module) is nn.ReLU:
        return LeanReLU(module.inplace)
    if isinstance(module, nn.MaxPool1d | nn.MaxPool2d) and type(module) in {nn.MaxPool1d, nn.MaxPool2d}:
        pool = LeanMaxPool(module)
        return None if module.return_indices or math.prod(pool.window) > LARGEST_WINDOW else pool
    return None


def _sides(value: int | Sequence[int], flat: bool, row: int) -> tuple[int, int]:
    """Return a setting of a pool as (rows, columns); `row` is what a pool over one row has for its rows."""
    sides = (value,) * (1 if flat else 2) if isinstance(value, int) else tuple(value)
    first, second = (row, *sides) if flat else sides
    return int(first), int(second)
