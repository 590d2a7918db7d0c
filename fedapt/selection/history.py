"""What the server knows of its clients from the rounds that are committed: nothing else, so a resumed run knows the same."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter

from fedapt.cost.ledger import LedgerRow


@dataclass(frozen=True)
class History:
    """One client.

    times: in how many rounds it was asked, whatever came of it; last_round: the newest of them, counted from 0.
    loss: mean training loss of its newest update that was admitted.
    time_s, energy_j: what its newest round cost in which it came to an end, in time or late, with all attempts.
    """

    times: int = 0
    last_round: int | None = None
    loss: float | None = None
    time_s: float | None = None
    energy_j: float | None = None


UNKNOWN = History()


@dataclass
class Histories:
    """One history for each client that was ever asked."""

    _of: dict[int, History] = field(default_factory=dict)

    def __getitem__(self, client: int) -> History:
        return self._of.get(client, UNKNOWN)

    def add(self, rows: Iterable[LedgerRow]) -> None:
        """Take the ledger rows of one or more rounds, in any order; rounds already taken are not given again."""
        ordered = sorted(rows, key=attrgetter("round", "client", "attempt"))
        for (_, client), attempts in groupby(ordered, key=attrgetter("round", "client")):
            self._of[client] = _after(self[client], list(attempts))


def _after(history: History, attempts: list[LedgerRow]) -> History:
    """Return the history after one more round of this client."""
    losses = [row.train_loss for row in attempts if row.status == "ok" and row.train_loss is not None]
    loss = losses[-1] if losses and math.isfinite(losses[-1]) else history.loss
    time_s, energy_j = history.time_s, history.energy_j
    if any(row.status in ("ok", "late") for row in attempts):
        time_s, energy_j = sum(row.time_s for row in attempts), sum(row.energy_j for row in attempts)
    return History(history.times + 1, attempts[-1].round, loss, time_s, energy_j)
