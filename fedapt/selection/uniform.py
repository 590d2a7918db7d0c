"""All clients alike.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017,
https://arxiv.org/abs/1602.05629: FedAvg's own choice. With weights by samples, the expected model is that of all clients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from fedapt.selection.selection import Candidate, Selection


class Uniform(Selection):
    """Every set of clients is as likely as any other."""

    kind: Literal["uniform"] = "uniform"

    def pick(self, candidates: Sequence[Candidate], count: int, round: int, generator: np.random.Generator) -> list[Candidate]:
        """Return a random set."""
        return [candidates[index] for index in generator.choice(len(candidates), count, replace=False)]
