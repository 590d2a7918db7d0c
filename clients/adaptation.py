"""How bits follow a layer's ability to learn, Gavg: the rule of APT and RCT, decided at the server or on the device itself."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedapt.options import Options
from fedapt.quant import HIGHEST_BITS, LOWEST_BITS

Width = Annotated[int, Field(ge=LOWEST_BITS, le=HIGHEST_BITS)]


class Thresholds(Options):
    """Between which values of Gavg a layer keeps its bits."""

    t_min: float = Field(default=6.0, ge=0, allow_inf_nan=False, description="a layer whose Gavg is below gets one bit more")
    t_max: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="a layer whose Gavg is above gets one bit less; null: never"
    )
    measure: Literal["gradient", "step"] = Field(default="gradient", description="compare Gavg as published, or lr * Gavg")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.t_max is not None and self.t_max < self.t_min:
            raise ValueError(f"`t_max` {self.t_max:g} is below `t_min` {self.t_min:g}; raise it, or set it to null")
        return self

    def change(self, gavg: float, bits: int, lr: float) -> int:
        """Return by how many bits a layer of this Gavg, at its present bits, moves: one, none or minus one."""
        ability = lr * gavg if self.measure == "step" else gavg
        if ability < self.t_min:
            return int(bits < HIGHEST_BITS)
        if self.t_max is not None and ability > self.t_max:
            return -int(bits > LOWEST_BITS)
        return 0


class Adaptation(Thresholds):
    """What a client does by itself within a round.

    every: batches between two adaptations; highest: the widths that its budget allows, all together, by layer.
    """

    every: int = Field(ge=1)
    highest: dict[str, Width]

    def bits(self, layer: str, gavg: float, bits: int, lr: float) -> int:
        """Return the bits of a layer from now on."""
        return min(bits + self.change(gavg, bits, lr), self.highest.get(layer, bits))
