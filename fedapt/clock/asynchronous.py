"""No rounds: as soon as a client is done another one is asked, and every so many updates the server takes a step.

Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", AISTATS 2022, https://arxiv.org/abs/2106.06639.

A round of the ledger is a step of the server, and the paper's buffer size K is `clients.per_round`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedapt.clock.clock import Clock


class Asynchronous(Clock):
    """The server waits for nobody in particular."""

    kind: Literal["asynchronous"] = "asynchronous"
    concurrency: int = Field(ge=1, description="how many clients are at work at any time; at least clients.per_round")
    max_staleness: int | None = Field(
        default=None, ge=0, description="server steps after which an update is too old to count; null: never"
    )

    def asked(self, per_round: int) -> int:
        """Return how many clients are at work at once."""
        return self.concurrency
