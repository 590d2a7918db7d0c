"""Every client is always there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from fedapt.selection.availability import Availability, Calendar


class Always(Availability):
    """Every client can be chosen at any time."""

    kind: Literal["always"] = "always"

    def calendar(self, seed: int, groups: Sequence[tuple[str, str]]) -> Calendar:
        """Return an empty calendar."""
        return _Always()


class _Always(Calendar):
    def available(self, client: int, clock_s: float) -> bool:
        return True

    def next_change_s(self, client: int, clock_s: float) -> float:
        return math.inf

    def horizon_s(self, clock_s: float) -> float:
        return clock_s
