"""The contract of a selection: which of the clients that are there take part in a round.

A selection is the `clients.select:` block of a scenario; its fields are the options of the rule. It is a pure function: it keeps
nothing from round to round, and all that it knows of the past is in the candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedapt.options import Kind
from fedapt.selection.history import UNKNOWN, History


@dataclass(frozen=True)
class Candidate:
    """A client that could take part.

    samples: what it trains on; charge: share of the usable capacity that is in its battery, 0 to 1, None on the mains.
    """

    client: int
    samples: int
    charge: float | None = None
    history: History = UNKNOWN


class Selection(Kind):
    """What all selections have; one file in `fedapt/selection` adds one."""

    def choose(self, candidates: Sequence[Candidate], count: int, round: int, generator: np.random.Generator) -> list[int]:
        """Return `count` of the candidates' clients, ascending, or all of them where there are no more.

        round: counted from 0; generator: at the start of the round's stream. The order of the candidates does not matter.
        """
        ordered = sorted(candidates, key=lambda candidate: candidate.client)
        if count < len(ordered):
            ordered = self.pick(ordered, count, round, generator)
        return sorted(candidate.client for candidate in ordered)

    def pick(self, candidates: Sequence[Candidate], count: int, round: int, generator: np.random.Generator) -> list[Candidate]:
        """Return `count` different ones of more candidates than that, which come in the order of their clients."""
        raise NotImplementedError
