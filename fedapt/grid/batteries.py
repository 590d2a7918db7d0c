"""Batteries: drained by what the clients spend, recharged by their profiles while simulated time passes.

A client takes part only with what its battery holds above the reserve; an attempt that costs more all the same, because it was
tried twice, ends with an empty battery.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedapt.cost.ledger import LedgerRow


@dataclass(frozen=True)
class Battery:
    """capacity_j: when full; reserve_j: what training leaves in it; recharge_w: mean power while time passes."""

    capacity_j: float
    reserve_j: float = 0.0
    recharge_w: float = 0.0


@dataclass
class Batteries:
    """level_j: by client, what is left; clients on the mains are in neither mapping."""

    of: Mapping[int, Battery] = field(default_factory=dict)
    level_j: dict[int, float] = field(default_factory=dict)

    def usable_j(self, client: int) -> float | None:
        """Return what a client may spend on a round; None without a battery."""
        return max(self.level_j[client] - self.of[client].reserve_j, 0.0) if client in self.of else None

    def charge(self, client: int, later_s: float = 0.0) -> float | None:
        """Return the share of what is usable that is left once it has recharged for `later_s`; None without a battery."""
        if client not in self.of:
            return None
        battery = self.of[client]
        usable_j = battery.capacity_j - battery.reserve_j
        level_j = min(self.level_j[client] + battery.recharge_w * later_s, battery.capacity_j)
        return max(level_j - battery.reserve_j, 0.0) / usable_j if usable_j > 0 else 0.0

    def pass_round(self, rows: Sequence[LedgerRow], seconds: float) -> None:
        """Drain what each client spent in a round, then recharge all of them for as long as it took."""
        for row in rows:
            if row.client in self.of:
                self.level_j[row.client] = max(self.level_j[row.client] - row.energy_j, 0.0)
        for client, battery in self.of.items():
            self.level_j[client] = min(self.level_j[client] + battery.recharge_w * seconds, battery.capacity_j)
