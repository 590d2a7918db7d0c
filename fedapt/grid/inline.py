"""One process, one client after the other: the reference that every other transport must equal bit by bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedapt.grid.exact_sum import ExactSum
from fedapt.grid.visit import App, Arrays, Outcome, Task, visit


class Inline:
    """Run clients in this process."""

    def __init__(self, app: App) -> None:
        self._app = app

    def exchange(self, arrays: Arrays, tasks: Sequence[Task], total: ExactSum | None) -> Iterator[Outcome]:
        """Yield one outcome for each task, in order; with `total`, updates are added to it and not returned."""
        for task in tasks:
            yield visit(arrays, task, self._app, total)

    def close(self) -> None:
        """There is nothing to stop."""
