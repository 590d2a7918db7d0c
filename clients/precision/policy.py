"""The contract of a precision policy: how a client's weights are stored, and which bits each layer should have.

A policy is the `precision:` block of a scenario; its fields are the options of the method. It states a *wish*, bits for each
layer. The Gateway keeps the wish (for the federation, or for each client) and projects it onto every client's own budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from fedapt.options import Kind
from fedapt.quant import GridOptions, Rounding

Scope = Literal["federation", "client"]


class Policy(Kind):
    """What all policies have; one file in `clients/precision` adds one."""

    rounding: Rounding = Field(default="stochastic", description="how an update of the codes is rounded")
    grid: GridOptions = Field(default_factory=GridOptions, description="how codes are laid over the weights")
    scope: Scope = Field(default="federation", description="whose statistics decide: those of all clients, or the client's own")

    def start(self, layers: Sequence[str]) -> dict[str, int]:
        """Return the wish before the first round, bits for each layer; 32 means float."""
        raise NotImplementedError

    def adapt(self, wish: Mapping[str, int], gavg: Mapping[str, float], lr: float) -> dict[str, int]:
        """Return the wish for the next round.

        gavg: for each layer the running mean of Gavg, at the width that the wish has now; layers not yet observed are absent.
        """
        return dict(wish)
