"""How long a bench will still take, from the pace of the cells that were played."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable


class Forecast:
    """Seconds a round, by arm; an arm that was not seen yet is taken to be as fast as the others."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._paces: defaultdict[str, list[float]] = defaultdict(list)

    def learn(self, arm: str, rounds: int, wall_s: float) -> None:
        """Take note of a cell that has played this many rounds in this time."""
        if rounds > 0:
            self._paces[arm].append(wall_s / rounds)

    @property
    def knows(self) -> bool:
        """Whether any pace is known."""
        return bool(self._paces)

    def left_s(self, rounds_left: Iterable[tuple[str, int]]) -> float | None:
        """Return how long these rounds will take, given by arm for each cell; None while nothing is known.

        Cells that remain are shared out among `at_once` processes, and the last one takes its own time.
        """
        left = [(arm, rounds) for arm, rounds in rounds_left if rounds > 0]
        if not left:
            return 0.0
        if not self._paces:
            return None
        means = {arm: statistics.fmean(paces) for arm, paces in self._paces.items()}
        usual = statistics.fmean(means.values())
        cells_s = [rounds * means.get(arm, usual) for arm, rounds in left]
        return max(sum(cells_s) / self._at_once, max(cells_s))
