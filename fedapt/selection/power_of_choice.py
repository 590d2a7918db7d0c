"""Of several clients drawn by their data, those that the model serves worst.

Cho, Wang, Joshi, "Client Selection in Federated Learning: Convergence Analysis and Power-of-Choice Selection Strategies", 2020,
https://arxiv.org/abs/2010.01243. Each round draws d candidates without replacement, with probabilities by their samples, and
trains the m with the highest local loss. d = m is `data_size`; a larger d favours high losses more, and is further from an
unbiased average.

This is their variant rpow-d: the loss of a client is the training loss that came with its newest update. pow-d and cpow-d ask
the d candidates for the loss of the present model, which costs a download and a forward pass for each; rpow-d costs nothing,
and its losses are as old as the updates. As in the paper, a client that was never asked has an infinite loss.

Left open: equal losses, here in the order of the draw; clients that were asked and never answered, here at the median of the
losses known, so that neither are they lost after one accident nor do dead ones fill every round.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from fedapt.selection.draw import weighted
from fedapt.selection.selection import Candidate, Selection


class PowerOfChoice(Selection):
    """Draw candidates by their samples, and take those with the highest loss last heard of."""

    kind: Literal["power_of_choice"] = "power_of_choice"
    candidates: int | None = Field(
        default=None, ge=1, description="d, how many are drawn before the losses decide; null: twice what a round needs"
    )

    def pick(self, candidates: Sequence[Candidate], count: int, round: int, generator: np.random.Generator) -> list[Candidate]:
        """Return those of the drawn ones that have the highest losses."""
        drawn = weighted(generator, [candidate.samples for candidate in candidates], max(self.candidates or 2 * count, count))
        losses = [candidate.history.loss for candidate in candidates if candidate.history.loss is not None]
        silent = statistics.median(losses) if losses else 0.0

        def loss(candidate: Candidate) -> float:
            if not candidate.history.times:
                return math.inf
            return silent if candidate.history.loss is None else candidate.history.loss

        # A stable sort: those of equal loss stay in the order of the draw.
        return sorted((candidates[index] for index in drawn), key=loss, reverse=True)[:count]
