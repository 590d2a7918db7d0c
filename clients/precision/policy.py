"""The contract of a precision policy: how a client's weights are stored, and which bits each layer should have.

A policy is the `precision:` block of a scenario; its fields are the options of the method. It states a *wish*, bits for each
layer. The Gateway keeps the wish (for the federation, or for each client) and plans every client's round from it, within that
client's own budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import Field

from fedapt.clients.adaptation import Adaptation
from fedapt.clients.precision.evidence import Evidence
from fedapt.options import Kind
from fedapt.quant import LOWEST_BITS, GridOptions, Rounding

Scope = Literal["federation", "client"]


@dataclass(frozen=True)
class Wish:
    """What a policy asks for, before any client's budget is looked at.

    bits:        by layer; 32 means float.
    why:         in a person's words, what made it change; empty if nothing did.
    sensitivity: by layer, how much the loss minds noise in all its weights, relative to the other layers; empty if unknown.
    memory:      what the policy remembers: numbers, strings and arrays in lists and mappings.
    """

    bits: dict[str, int]
    why: str = ""
    sensitivity: dict[str, float] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)


class Policy(Kind):
    """What all policies have; one file in `clients/precision` adds one.

    master: training keeps a float master of the weights and computes with a copy of `bits`.
    ladder: what may be done, in this order, when a device cannot afford the wish; names of `fedapt.cost.ladder.LADDER`.
    """

    master: ClassVar[bool] = False
    ladder: ClassVar[tuple[str, ...]] = ("bits",)

    rounding: Rounding = Field(default="stochastic", description="how an update of the codes is rounded")
    grid: GridOptions = Field(default_factory=GridOptions, description="how codes are laid over the weights")
    scope: Scope = Field(default="federation", description="whose statistics decide: those of all clients, or the client's own")

    @property
    def lowest(self) -> int:
        """The width below which no budget pushes a layer."""
        return LOWEST_BITS

    def start(self, layers: Sequence[str]) -> dict[str, int]:
        """Return the wished bits before the first round; 32 means float."""
        raise NotImplementedError

    def adapt(self, wish: Wish, evidence: Evidence) -> Wish:
        """Return the wish for the next round."""
        return wish

    def adaptation(self, epoch: int, highest: Mapping[str, int]) -> Adaptation | None:
        """Return how a client moves its own bits within a round, None if it does not.

        epoch: its batches; highest: the widths by layer that its budget allows, all together.
        """
        return None


def moved(wish: Wish, bits: Mapping[str, int]) -> Wish:
    """Return a wish for other bits that says which layers moved."""
    changes = [f"{name} {wish.bits[name]} to {width}" for name, width in bits.items() if width != wish.bits[name]]
    return Wish(dict(bits), ", ".join(changes), wish.sensitivity, wish.memory)
