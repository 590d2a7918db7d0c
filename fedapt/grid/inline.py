"""One process, one client after the other: the reference that every other transport must equal bit by bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from fedapt.clients.faulty import Accident
from fedapt.grid.exact_sum import ExactSum
from fedapt.grid.groups import Grouping, alone
from fedapt.grid.visit import Arrays, Outcome, Player, Task


class Inline:
    """Run clients in this process; an accident that would take a worker process with it is a failed attempt here."""

    def __init__(self, player: Player, *, max_attempts: int = 3, grouping: Grouping = alone) -> None:
        self._player, self._max_attempts, self._grouping = player, max_attempts, grouping

    def exchange(self, arrays: Arrays, tasks: Sequence[Task], total: ExactSum | None) -> Iterator[Outcome]:
        """Yield at least one outcome for each task; with `total`, updates are added to it and not returned."""
        for group in self._grouping(tasks):
            if len(group) > 1:
                yield from self._player.visit_together(arrays, group, total)
            else:
                yield from self._visit(arrays, group[0], total)

    def _visit(self, arrays: Arrays, task: Task, total: ExactSum | None) -> Iterator[Outcome]:
        """Yield an outcome for each attempt."""
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
