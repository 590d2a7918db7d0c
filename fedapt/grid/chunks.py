"""Which clients a worker is handed next: so many that handing them out costs little, so few that all workers end together.

Sizes follow what chunks before have cost. They decide when a client is played, and never what comes of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from fedapt.grid.visit import Task

FIRST_CHUNKS_A_WORKER = 4
LARGEST_FIRST = 16
LEAST_S, MOST_S = 0.01, 0.5
OVERHEADS_A_CHUNK = 8
# Of an even share of what remains: most of it at once, and the rest for whoever is first.
SHARE = 0.7


class Pace:
    """What work takes at the workers, learned as a run goes on. size: so many clients a chunk, None if it may vary."""

    def __init__(self, size: int | None) -> None:
        self._size = size
        self._overhead_s = 0.0
        self._unit_s: dict[str, float] = {}

    def learn(self, tasks: Sequence[Task], busy_s: float, lasted_s: float) -> None:
        """Take in that a chunk kept its worker busy for `busy_s`, and was back after `lasted_s`."""
        kind, unit_s = tasks[0].kind, busy_s / sum(map(work, tasks))
        self._unit_s[kind] = (self._unit_s.get(kind, unit_s) + unit_s) / 2
        self._overhead_s = (self._overhead_s + lasted_s - busy_s) / 2

    def left(self, chunk: Sequence[Task], since_s: float) -> float:
        """Return how much of a chunk that was handed out so long ago is still to be done, as far as one can tell."""
        unit_s = self._unit_s.get(chunk[0].kind)
        return max(work_of(chunk) - since_s / unit_s, 0.0) if unit_s else 0.0

    def limits(self, remaining: int, busy: float, workers: int, kind: str) -> tuple[float, int]:
        """Return how much work, of what remains, the next chunk should hold, and how many clients at most.

        busy: how much work the other workers still have.
        """
        if self._size is not None:
            return float(remaining), self._size
        unit_s = self._unit_s.get(kind)
        if unit_s is None:
            return remaining / (FIRST_CHUNKS_A_WORKER * workers), LARGEST_FIRST
        least = max(LEAST_S, OVERHEADS_A_CHUNK * self._overhead_s) / unit_s
        even = min((remaining + busy) / workers, remaining)
        wanted = min(max(SHARE * even, least), max(MOST_S / unit_s, least))
        # What would be left is not worth another chunk.
        return (even if even - wanted < least else wanted), remaining


class Chunks:
    """The tasks of a round that no worker has yet, in groups that stay together, those with the most work first."""

    def __init__(self, groups: Sequence[list[Task]], pace: Pace) -> None:
        self._pace = pace
        self._waiting = deque(sorted(groups, key=work_of, reverse=True))
        self._remaining = sum(map(work_of, groups))
        self._again: deque[list[list[Task]]] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting or self._again)

    def take(self, workers: int, busy: float = 0.0) -> list[list[Task]]:
        """Return the next chunk for one of so many workers, which is not empty: one that comes again if there is any.

        busy: how much work the other workers still have.
        """
        if self._again:
            return self._again.popleft()
        before = self._remaining
        share, most = self._pace.limits(before, busy, workers, self._waiting[0][0].kind)
        chunk = [self.take_one()]
        clients = len(chunk[0])
        while self._waiting and clients < most and before - self._remaining + work_of(self._waiting[0]) / 2 <= share:
            chunk.append(self.take_one())
            clients += len(chunk[-1])
        return chunk

    def take_one(self) -> list[Task]:
        """Return the next group alone."""
        if self._again:
            chunk = self._again.popleft()
            if chunk[1:]:
                self._again.appendleft(chunk[1:])
            return chunk[0]
        group = self._waiting.popleft()
        self._remaining -= work_of(group)
        return group

    def put_back(self, chunk: list[list[Task]]) -> None:
        """Hand these out again, before anything else."""
        if chunk:
            self._again.appendleft(chunk)


def work_of(group: Sequence[Task]) -> int:
    """Return how much there is to do for a group."""
    return sum(map(work, group))


def work(task: Task) -> int:
    """Return how much there is to do, in units that are alike for tasks of one kind: steps, or samples to evaluate."""
    return 1 + (sum(task.planned.values()) if task.kind == "train" else task.held_out)
