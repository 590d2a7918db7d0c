"""The contract of a clock: how many clients are asked, and for whom the server waits."""

from __future__ import annotations

from fedapt.options import Kind


class Clock(Kind):
    """The `clock:` block of a scenario; all of its times are the devices', as the cost model has them."""

    def asked(self, per_round: int) -> int:
        """Return how many clients may be at work at once, for rounds of so many updates."""
        raise NotImplementedError
