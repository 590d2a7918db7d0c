"""The contract of an availability: when, in simulated time, which client can be chosen.

An availability is the `clients.availability:` block of a scenario. At the start of a run it makes a calendar, which is asked
with a client and the simulated clock; it is a pure function of both.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Sequence

from pydantic import Field

from fedapt.options import Kind


class Calendar:
    """When each client is there. Nobody comes or goes within a whole second."""

    def available(self, client: int, clock_s: float) -> bool:
        """Return whether a client can be chosen at this time."""
        raise NotImplementedError

    def next_change_s(self, client: int, clock_s: float) -> float:
        """Return the first time after `clock_s` at which this client may come or go, inf if it does neither again."""
        raise NotImplementedError

    def horizon_s(self, clock_s: float) -> float:
        """Return up to when to wait for somebody: what has not come by then is taken never to come."""
        raise NotImplementedError


class Availability(Kind):
    """What all availabilities have; one file in `fedapt/selection` adds one."""

    def calendar(self, seed: int, groups: Sequence[tuple[str, str]]) -> Calendar:
        """Return when the clients are there; groups: for each client the names of its group and of its group's profile.

        Raises ScenarioError if a file that it names cannot be used.
        """
        raise NotImplementedError

    def enough(self, size: int) -> int:
        """Return how many clients must be there for a round of `size` to begin."""
        return 1


class Changing(Availability):
    """Clients come and go, so a round may have to wait."""

    wait_for: float = Field(
        default=0.5, ge=0, le=1, description="share of a round's clients for which it waits; it takes those that then are there"
    )

    def enough(self, size: int) -> int:
        """Return the share of the round, rounded up, and one at least."""
        return max(math.ceil(self.wait_for * size), 1)


def next_available_s(calendar: Calendar, clients: Collection[int], clock_s: float, count: int) -> float:
    """Return the first time from `clock_s` on at which `count` of the clients are there at once; inf if it never comes."""
    there = {client for client in clients if calendar.available(client, clock_s)}
    if len(there) >= count:
        return clock_s
    changes = [(calendar.next_change_s(client, clock_s), client) for client in clients]
    heapq.heapify(changes)
    horizon_s = calendar.horizon_s(clock_s)
    while changes and (moment_s := changes[0][0]) <= horizon_s and moment_s < math.inf:
        while changes[0][0] == moment_s:
            client = changes[0][1]
            (there.add if calendar.available(client, moment_s) else there.discard)(client)
            heapq.heapreplace(changes, (calendar.next_change_s(client, moment_s), client))
        if len(there) >= count:
            return moment_s
    return math.inf
