"""Clients with more samples more often.

Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, https://arxiv.org/abs/1812.06127, draw clients in
proportion to their samples and then average updates without weights; they draw with replacement.

Here nobody is drawn twice, and the strategy keeps its own weights: with FedAvg, which weighs by samples, large clients count
twice over. The option that undoes this is a strategy that weighs all updates alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from fedapt.selection.draw import weighted
from fedapt.selection.selection import Candidate, Selection


class DataSize(Selection):
    """Clients are drawn one after another, with probabilities in proportion to their training samples."""

    kind: Literal["data_size"] = "data_size"

    def pick(self, candidates: Sequence[Candidate], count: int, round: int, generator: np.random.Generator) -> list[Candidate]:
        """Return a random set, weighted by samples."""
        drawn = weighted(generator, [candidate.samples for candidate in candidates], count)
        return [candidates[index] for index in drawn]
