"""One process, one client after the other: the reference that every other transport must equal bit by bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from fedapt.clients.faulty import Accident
from fedapt.grid.exact_sum import ExactSum
from fedapt.grid.visit import Arrays, Outcome, Player, Task


class Inline:
    """Run clients in this process; an accident that would take a worker process with it is a failed attempt here."""

    def __init__(self, player: Player, *, max_attempts: int = 3) -> None:
        self._player, self._max_attempts = player, max_attempts

    def exchange(self, arrays: Arrays, tasks: Sequence[Task], total: ExactSum | None) -> Iterator[Outcome]:
        """Yield at least one outcome for each task, in order; with `total`, updates are added to it and not returned."""
        for task in tasks:
            for attempt in range(1, self._max_attempts + 1):
                try:
                    outcome = self._player.visit(arrays, replace(task, attempt=attempt), total)
                except Accident as accident:
                    yield Outcome(task.client, "failed", str(accident), attempt=attempt)
                else:
                    yield replace(outcome, attempt=attempt)
                    break

    def close(self) -> None:
        """There is nothing to stop."""
