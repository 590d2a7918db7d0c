"""The same bits from the first round to the last, for all layers or layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from fedapt.clients.precision.policy import Policy
from fedapt.errors import ScenarioError
from fedapt.quant import HIGHEST_BITS, LOWEST_BITS

Bits = Annotated[int, Field(ge=LOWEST_BITS, le=HIGHEST_BITS)]


class Fixed(Policy):
    """Keep `bits`, unless the client's budget allows less."""

    kind: Literal["fixed"] = "fixed"
    bits: Bits = Field(default=4, description="width of every layer's codes")
    layers: dict[str, Bits] = Field(default_factory=dict, description="other widths for the layers named here")

    def start(self, layers: Sequence[str]) -> dict[str, int]:
        """Return the widths as they stand in the scenario; raises ScenarioError for a layer that the model does not have."""
        if unknown := set(self.layers) - set(layers):
            names = ", ".join(sorted(unknown))
            raise ScenarioError(f"clients.method.precision.layers: the model has no layer {names}; it has {', '.join(layers)}")
        return {name: self.layers.get(name, self.bits) for name in layers}
