"""Activations and errors at few bits: what a layer computes with besides its weight, quantised tensor by tensor as they come.

Activations take the nearest code of a grid from the least to the largest value of this batch, zero included, as in Jacob et al.
(arXiv 1712.05877, section 2.1); errors are symmetric and rounded stochastically, so that the gradients stay unbiased as in
Chen et al., "A Statistical Framework for Low-bitwidth Training" (arXiv 2010.14298, section 3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fedapt.quant.blocks import blocks
from fedapt.quant.grid import FLOAT_BITS, check_bits
from fedapt.quant.rounding import round_to_whole

SMALLEST_SCALE = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class OperandWidths:
    """Bits of the activations that a layer reads and of the errors that reach it: 2..16, or 32 for float."""

    activations: int = FLOAT_BITS
    errors: int = FLOAT_BITS

    def __post_init__(self) -> None:
        """Raise ValueError for a width that codes cannot have."""
        for bits in (self.activations, self.errors):
            if bits != FLOAT_BITS:
                check_bits(bits)


class CodedTensor(NamedTuple):
    """`scale * (code - zero)`; codes: uint8 up to 8 bits and uint16 above. Without a scale, the tensor itself."""

    codes: Tensor
    scale: float | None = None
    zero: int = 0

    def dequantise(self) -> Tensor:
        """Return the values as a new float32 tensor, or the tensor itself if it is no codes."""
        return self.codes if self.scale is None else self.codes.to(torch.float32).sub_(self.zero).mul_(self.scale)


def quantise_activations(x: Tensor, bits: int) -> tuple[CodedTensor, Tensor]:
    """Return the nearest codes of x (any shape) and the float32 values that they stand for; zero is exact.

    A number that is not finite makes all values NaN, so that it shows in the loss.
    """
    low, high = (float(end) for end in torch.aminmax(x)) if x.numel() else (0.0, 0.0)
    # The ends come first in both: Python's min and max then keep a NaN.
    low, high = min(low, 0.0), max(high, 0.0)
    steps = (1 << bits) - 1
    scale = (high - low) / steps
    if not math.isfinite(scale):
        scale = low = math.nan
    elif scale < SMALLEST_SCALE:
        scale = 1.0
    zero = 0 if math.isnan(scale) else round(-low / scale)
    places = x.to(torch.float32).div(scale).add_(zero).round_().clamp_(0, steps)
    codes = places.nan_to_num(0.0) if math.isnan(scale) else places
    coded = CodedTensor(codes.to(torch.uint8 if bits <= 8 else torch.uint16), scale, zero)
    return coded, places.sub_(zero).mul_(scale)


def quantise_errors(error: Tensor, bits: int, generator: torch.Generator) -> Tensor:
    """Return float32 values on a symmetric grid of `2**bits - 1` codes whose mean over the generator's draws is `error`.

    Errors that are not finite, or all too small for a scale, are returned as they are.
    """
    steps = (1 << bits - 1) - 1
    scale = float(torch.linalg.vector_norm(error, math.inf)) / steps if error.numel() else 0.0
    if not SMALLEST_SCALE <= scale < math.inf:
        return error
    flat = error.reshape(1, -1)
    # Where errors do not lie in order they had to be copied, and the copy takes the result.
    quantised = torch.empty_like(flat) if flat.data_ptr() == error.data_ptr() else flat
    for block in blocks(*flat.shape):
        # The largest error may come out a rounding above the last code. No name keeps a block while the next one is computed.
        quantised[block] = round_to_whole(flat[block] / scale, "stochastic", generator).clamp_(-steps, steps).mul_(scale)
    return quantised.view(error.shape)
