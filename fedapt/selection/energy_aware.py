"""Full batteries more often than empty ones.

A rule of fedapt's own, so simple that its effect can be foreseen: clients are drawn one after another, without replacement, with
probabilities in proportion to `charge ** power`. charge is the share of a battery's usable capacity (above the reserve) that is
left; clients on the mains count as full. A client with nothing usable, or no more than `spare` of it, is asked only where there
are too few others.

It evens out the charge of clients that cost alike. It does not know what a round will cost a client: that is refused by its
battery, or made to fit, when the round is planned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fedapt.selection.draw import weighted
from fedapt.selection.selection import Candidate, Selection


class EnergyAware(Selection):
    """Clients are drawn with probabilities by the charge of their batteries."""

    kind: Literal["energy_aware"] = "energy_aware"
    power: Annotated[float, Field(ge=0, le=100)] = Field(
        default=2.0,
        description="how much charge counts: 2 asks a half-full client a quarter as often as a full one; 0: not at all",
    )
    spare: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="share of the usable charge at or below which a client is asked only where there is no other"
    )

    def pick(self, candidates: Sequence[Candidate], count: int, round: int, generator: np.random.Generator) -> list[Candidate]:
        """Return a random set, weighted by charge."""
        drawn = weighted(generator, [self.weight(candidate) for candidate in candidates], count)
        return [candidates[index] for index in drawn]

    def weight(self, candidate: Candidate) -> float:
        """Return how likely a client is, against a full one."""
        charge = 1.0 if candidate.charge is None else candidate.charge
        return charge**self.power if charge > self.spare else 0.0
