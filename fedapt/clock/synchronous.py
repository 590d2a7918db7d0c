"""Rounds: the server asks a cohort and waits for it, at most until a deadline, or only for the first that come.

Over-selection is that of Bonawitz et al., "Towards Federated Learning at Scale", MLSys 2019, https://arxiv.org/abs/1902.01046.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field, model_validator

from fedapt.clock.clock import Clock
from fedapt.cost.ledger import LedgerRow

NOT_NEEDED = "not needed: the round had its updates"
NOT_ONE_STEP = "not one step, with its messages, fits the deadline"


class Synchronous(Clock):
    """The server waits for its cohort."""

    kind: Literal["synchronous"] = "synchronous"
    deadline_s: float | None = Field(
        default=None, gt=0, description="device time after which an update comes too late; null: the server waits for all"
    )
    over_select: float = Field(
        default=0.0, ge=0, le=10, description="share of clients asked beyond per_round; the first per_round updates count"
    )
    stragglers: Literal["drop", "partial"] = Field(
        default="drop",
        description="clients that would miss the deadline: drop their updates, or tell them to do only the steps that fit",
    )

    @model_validator(mode="after")
    def _has_a_deadline(self) -> Synchronous:
        if self.stragglers == "partial" and self.deadline_s is None:
            raise ValueError("`stragglers: partial` is for those that miss a deadline, and there is none; give deadline_s")
        return self

    def asked(self, per_round: int) -> int:
        """Return the size of a cohort from which `per_round` updates are wanted."""
        return math.ceil(round(per_round * (1 + self.over_select), 9))

    @property
    def waits_less_than_for_all(self) -> bool:
        """Whether an update may come too late to count."""
        return self.deadline_s is not None or self.over_select > 0

    @property
    def partial_within_s(self) -> float | None:
        """Return the time that clients are given less work to keep to; None if they do all of it, whatever the deadline."""
        return self.deadline_s if self.stragglers == "partial" else None

    def too_late(self, time_s: float) -> str:
        """Return why an update that took so long does not count; "" if it was in time."""
        if self.deadline_s is None or time_s <= self.deadline_s:
            return ""
        return f"later than the deadline of {self.deadline_s:g} s of device time"

    def too_many(self, times_s: Mapping[int, float], per_round: int) -> list[int]:
        """Return the clients whose updates came when the round had all that it wanted; the later ones, by time and number."""
        by_arrival = sorted(times_s, key=lambda client: (times_s[client], client))
        return by_arrival[per_round:] if self.over_select else []

    def lasts_s(self, rows: Sequence[LedgerRow], per_round: int) -> float:
        """Return how long a round of these attempts takes: what the server waits for decides, not what the devices work.

        With a client that never answers it waits until the deadline; without a deadline, such a client is known to be gone.
        """
        worked_s: defaultdict[int, float] = defaultdict(float)
        for row in rows:
            worked_s[row.client] += row.time_s
        counted = [row.client for row in rows if row.status == "ok"]
        if self.over_select and len(counted) >= per_round:
            return max(worked_s[client] for client in counted)
        slowest_s = max(worked_s.values(), default=0.0)
        if self.deadline_s is None:
            return slowest_s
        missing = any(row.status in ("late", "dropped") for row in rows)
        return self.deadline_s if missing else min(slowest_s, self.deadline_s)
