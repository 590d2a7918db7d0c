"""Float weights: the reference that every other policy is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from fedapt.clients.precision.policy import Policy
from fedapt.quant import FLOAT_BITS


class Fp32(Policy):
    """Train and exchange the weights in float32; a device that cannot afford that cannot take part."""

    ladder: ClassVar[tuple[str, ...]] = ()

    kind: Literal["fp32"] = "fp32"

    def start(self, layers: Sequence[str]) -> dict[str, int]:
        """Ask for 32 bits everywhere."""
        return dict.fromkeys(layers, FLOAT_BITS)
