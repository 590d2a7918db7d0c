"""The arithmetic of layers that hold codes of at most 8 bits, with operands in bf16, which some processors multiply in hardware.

`code - zero` is a whole number of at most 8 bits, which bf16 holds exactly; the scale is applied outside, in float32, to the
output, or to the error before it goes back. Inputs and errors are rounded to bf16, and so is what torch returns of a product,
whose sums it accumulates in float32. The update stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fedapt.quant.ops import BackwardRule, ConvOp, EmbeddingOp, LinearOp, Op
from fedapt.quant.weight import CodedWeight, MasterWeight, TrainedWeight

Compute = Literal["float32", "bfloat16"]
# An input and an error are cast once, and multiplied by so many weights: with fewer the casts cost more than they save.
SHARED = 72
# Dense layers with fewer weights are done before the casts have paid. See docs/engine.md for the layers that were measured.
SMALLEST_DENSE = 2**16


def codes_in_half(op: Op, weight: TrainedWeight) -> CodedWeight | None:
    """Return the codes that a layer computes with in bf16, or None if it stays in float32.

    Those are float weights, codes of more than 8 bits, and layers in which bf16 does not pay.
    """
    codes = weight.copy if isinstance(weight, MasterWeight) else weight
    return codes if isinstance(codes, CodedWeight) and codes.bits <= 8 and pays(op, codes.shape) else None


def pays(op: Op, shape: Sequence[int]) -> bool:
    """Return whether a layer with a weight of this shape is faster in bf16; an embedding, which multiplies nothing, is not."""
    count = math.prod(shape)
    if isinstance(op, EmbeddingOp) or count < max(shape[:2]) * SHARED:
        return False
    return isinstance(op, ConvOp) or count >= SMALLEST_DENSE


def follows(rule: BackwardRule) -> bool:
    """Return whether a rule's gradients are products that can be taken in bf16: not of one that computes them in its own way."""
    kind = type(rule)
    return kind.gradients is BackwardRule.gradients and kind.input_gradient is BackwardRule.input_gradient


def forward(op: Op, x: Tensor, codes: CodedWeight, bias: Tensor | None) -> Tensor:
    """Compute a layer's float32 output; x: float, of any width."""
    y = op.forward(x.to(torch.bfloat16), _whole(codes), None).to(torch.float32).mul_(_by_channel(op, codes.grid.scale, codes))
    return y if bias is None else y.add_(_by_channel(op, bias, codes))


def gradients(
    rule: BackwardRule,
    op: Op,
    saved: tuple[Tensor, ...],
    x_shape: torch.Size,
    codes: CodedWeight,
    error: Tensor,
    of_input: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Return in float32 what `BackwardRule.gradients` does, of a rule that `follows`."""
    before = None
    if of_input:
        scaled = (error * _by_channel(op, codes.grid.scale, codes)).to(torch.bfloat16)
        before = op.input_gradient(x_shape, _whole(codes), scaled).to(torch.float32)
    if not saved:
        return before, None
    halves = tuple(one.to(torch.bfloat16) if one.is_floating_point() else one for one in saved)
    return before, rule.weight_gradient(op, halves, codes.shape, error.to(torch.bfloat16)).to(torch.float32)


def _whole(codes: CodedWeight) -> Tensor:
    """Return code - zero as a new bf16 tensor; by way of float32, in which torch subtracts faster than in bf16."""
    _, zero = codes.grid.like(codes.codes)
    return codes.codes.to(torch.float32).sub_(zero).to(torch.bfloat16)


def _by_channel(op: Op, values: Tensor, codes: CodedWeight) -> Tensor:
    """Return one number for each output channel, or one for all, shaped to broadcast over an output."""
    return values if isinstance(op, LinearOp) else values.view(-1, *(1,) * (len(codes.shape) - 2))
