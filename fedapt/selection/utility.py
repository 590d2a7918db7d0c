"""Clients that teach much in little time, and now and then one that nobody knows yet.

Lai, Zhu, Madhyastha, Chowdhury, "Oort: Efficient Federated Learning via Guided Participant Selection", OSDI 2021,
https://www.usenix.org/conference/osdi21/presentation/lai, Algorithm 1. A known client has the utility

    (clip(|B| * loss) / c + sqrt(0.1 ln R / L)) * min(1, T / t) ** alpha

with its samples |B|, R the round and L the round it was last asked in, both counted from 1, t its last duration and T the
duration that the server would like. An exploring share of the round goes to clients that were never asked. The others are drawn
in proportion to utility from all above a share of the cut-off, the utility that the least of the best would have.

Where this differs from the paper, or the paper leaves it open:
- The statistical utility is |B| sqrt(mean of squared losses over samples); a client reports the mean loss alone, which by Jensen
  is a lower bound of that root, and equal to it where all samples are lost alike.
- The bonus for age needs a scale to be added on: here the highest utility after clipping, c, so all are between 0 and 1.
- No pacer: it moves T by sums of utility over windows of past rounds. T is fixed, or the median of the durations known, which
  follows the federation as it is discovered.
- Unknown clients are drawn uniformly: before the first answer the server knows nothing of their speed.
- No client is excluded for having taken part too often.
- A client that was asked and never answered has no statistical utility, only the bonus, and no penalty.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fedapt.selection.draw import weighted
from fedapt.selection.selection import Candidate, Selection

Share = Annotated[float, Field(ge=0, le=1)]


class Utility(Selection):
    """Statistical utility times system utility, with exploration; the defaults are those of the paper."""

    kind: Literal["utility"] = "utility"
    explore: Share = Field(default=0.9, description="share of the first round that goes to clients never asked before")
    explore_decay: Share = Field(default=0.98, description="that share is multiplied by this from round to round")
    explore_least: Share = Field(default=0.2, description="and does not fall below this while there are such clients")
    clip_quantile: Share = Field(default=0.95, description="no statistical utility counts for more than this quantile of them")
    cut_off: Share = Field(default=0.95, description="share of the cut-off utility above which a client may be drawn")
    slowness: float = Field(default=2.0, ge=0, description="alpha, how much slow clients lose; 0: speed does not matter")
    duration_s: float | None = Field(
        default=None, gt=0, description="T, the duration up to which nobody loses; null: the median of those known"
    )

    def pick(self, candidates: Sequence[Candidate], count: int, round: int, generator: np.random.Generator) -> list[Candidate]:
        """Return clients that are known to be useful, and some that are not known."""
        known = [candidate for candidate in candidates if candidate.history.times]
        unknown = [candidate for candidate in candidates if not candidate.history.times]
        # Rounded at random: half a client a round is one in every other round, also where clients are asked one by one.
        exploring = math.floor(self.exploring(round) * count + generator.random())
        exploring = max(min(exploring, len(unknown)), count - len(known))
        explored = generator.choice(len(unknown), exploring, replace=False) if exploring else ()
        return [unknown[index] for index in explored] + self._exploited(known, count - exploring, round, generator)

    def exploring(self, round: int) -> float:
        """Return the share of a round, counted from 0, that is meant for clients never asked."""
        return max(self.explore * self.explore_decay**round, min(self.explore_least, self.explore))

    def utilities(self, known: Sequence[Candidate], round: int) -> list[float]:
        """Return the utility of each client that was asked before `round`."""
        statistical = [candidate.samples * max(candidate.history.loss or 0.0, 0.0) for candidate in known]
        ceiling = float(np.quantile(statistical, self.clip_quantile)) or 1.0
        durations = [candidate.history.time_s for candidate in known if candidate.history.time_s]
        wanted_s = self.duration_s or (statistics.median(durations) if durations else math.inf)
        return [
            (min(useful, ceiling) / ceiling + _bonus(candidate, round)) * self._speed(candidate, wanted_s)
            for candidate, useful in zip(known, statistical, strict=True)
        ]

    def _exploited(self, known: Sequence[Candidate], count: int, round: int, generator: np.random.Generator) -> list[Candidate]:
        if not count:
            return []
        utilities = self.utilities(known, round)
        least = self.cut_off * sorted(utilities, reverse=True)[count - 1]
        admitted = [index for index, utility in enumerate(utilities) if utility >= least]
        drawn = weighted(generator, [utilities[index] for index in admitted], count)
        return [known[admitted[index]] for index in drawn]

    def _speed(self, candidate: Candidate, wanted_s: float) -> float:
        duration_s = candidate.history.time_s or 0.0
        return float((wanted_s / duration_s) ** self.slowness) if duration_s > wanted_s else 1.0


def _bonus(candidate: Candidate, round: int) -> float:
    """Return what a client gains because what is known of it is old: rounds counted from 1, as in the paper."""
    last = candidate.history.last_round
    return math.sqrt(0.1 * math.log(round + 1) / (last + 1)) if last is not None else 0.0
