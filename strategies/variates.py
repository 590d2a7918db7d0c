"""What a strategy remembers of every client that has answered: one array for each array of the model, and the client's samples.

Clients keep nothing between rounds. This is 4 bytes a weight and client in the server's memory, and in the state that each
round leaves on the disk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from fedapt.strategies.aggregation import Aggregation
from fedapt.strategies.strategy import StrategyOptions
from fedapt.strategies.updates import Arrays, Update


class Variates(Aggregation):
    """Memory: `variates`, float32 arrays by client; `samples` by client; `mean`, float64, their mean by samples."""

    options: RememberingOptions

    @property
    def mean(self) -> Arrays | None:
        """The mean over all clients of the federation; None before anyone answered."""
        return self.memory.get("mean")

    def variate(self, client: int) -> Arrays | None:
        """Return what is remembered of a client, float32; None if it never answered."""
        found: Arrays | None = self.memory.get("variates", {}).get(client)
        return found

    def remember(self, updates: Sequence[Update], variates: Sequence[Arrays]) -> None:
        """Replace what is known of those who answered, and of nobody else."""
        known: dict[int, Arrays] = dict(self.memory.get("variates", {}))
        samples: dict[int, float] = dict(self.memory.get("samples", {}))
        for update, variate in zip(updates, variates, strict=True):
            known[update.client] = {name: np.asarray(values, np.float32) for name, values in variate.items()}
            samples[update.client] = update.samples
        # In the order of clients, so that the bits do not depend on who answered when.
        known = dict(sorted(known.items()))
        mean = _mean(known, samples, min(1.0, len(known) / (self.options.clients or len(known))))
        self.memory = {"variates": known, "samples": samples, "mean": mean}


class RememberingOptions(StrategyOptions):
    """What strategies with a memory of clients have in common."""

    clients: int | None = Field(
        default=None,
        ge=1,
        description="how many clients there are in all, answered or not; null: those that have answered so far",
    )


def _mean(variates: Mapping[int, Arrays], samples: Mapping[int, float], known: float) -> Arrays:
    """Return the mean weighted by samples; known: the share of clients that are, the others' variates are zero."""
    total = math.fsum(samples.values())
    first: Mapping[str, Any] = next(iter(variates.values()))
    mean = {name: np.zeros(values.shape) for name, values in first.items()}
    for client, variate in variates.items():
        for name, values in variate.items():
            mean[name] += known * samples[client] / total * values
    return mean
