"""Quantisation-aware training: the rival, which keeps a float master of every weight beside the copy that it computes with.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018, arXiv
1712.05877: forward and backward use the quantised copy, the gradient goes straight through the rounding into the master. It is
charged for both (32 + k bits a weight), and for the traffic of both (88 bits a weight and step at 8 bits, where one copy of k
bits moves 4k). The model crosses the network in float, as the master needs.

Choices that the paper leaves open: the copy is made anew, rounded to nearest on a range that follows the master, after each
update; activations are as wide as the method's `activations` say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from fedapt.clients.precision.policy import Policy
from fedapt.quant import HIGHEST_BITS, LOWEST_BITS


class Qat(Policy):
    """Train a float master through a copy of `bits`; a device that cannot hold both cannot take part."""

    master: ClassVar[bool] = True
    ladder: ClassVar[tuple[str, ...]] = ()

    kind: Literal["qat"] = "qat"
    bits: int = Field(default=8, ge=LOWEST_BITS, le=HIGHEST_BITS, description="width of the copy's codes")

    def start(self, layers: Sequence[str]) -> dict[str, int]:
        """Ask for `bits` everywhere."""
        return dict.fromkeys(layers, self.bits)
