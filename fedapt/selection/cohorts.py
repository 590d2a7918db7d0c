"""The clients of each round: those that are there, chosen by the scenario's rule from what is known of them.

All of it follows from the seed, the simulated clock, the batteries and the committed ledger, so a resumed run asks the same
clients as one that was never interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from fedapt.cost.ledger import LedgerRow
from fedapt.enrolment import Enrolment
from fedapt.errors import RunFailed
from fedapt.grid.batteries import Batteries
from fedapt.scenario import Scenario
from fedapt.seeding import numpy_stream
from fedapt.selection.availability import next_available_s
from fedapt.selection.history import Histories
from fedapt.selection.selection import Candidate


class Cohorts:
    """Draws cohorts from the enrolled clients; `add` tells it what came of them.

    batteries: looked at, never changed; those of the enrolment unless others are given. Raises ScenarioError if the file of a
    trace cannot be used.
    """

    def __init__(self, scenario: Scenario, enrolment: Enrolment, batteries: Batteries | None = None) -> None:
        self._scenario = scenario
        self._select, self._availability = scenario.clients.select, scenario.clients.availability
        # Of thousands of clients few change from round to round: all is kept but what is in a battery.
        self._known = {
            client: Candidate(client, enrolment.participants[client].samples) for client in sorted(enrolment.participants)
        }
        self._batteries = enrolment.batteries if batteries is None else batteries
        names = [(group.name or group.profile, group.profile) for group in enrolment.groups]
        self._calendar = self._availability.calendar(scenario.seed, [names[number] for number in enrolment.group_of])
        self._histories = Histories()

    def add(self, rows: Sequence[LedgerRow]) -> None:
        """Take the committed ledger rows of one or more rounds, each row once."""
        self._histories.add(rows)
        for client in {row.client for row in rows} & self._known.keys():
            self._known[client] = Candidate(client, self._known[client].samples, None, self._histories[client])

    def draw(self, number: int, clock_s: float, size: int, busy: Collection[int] = (), turn: int = 0) -> tuple[list[int], float]:
        """Return the clients of round `number`, ascending, and for how long the server waits for them.

        clock_s: simulated time; size: as many if they are there, else all that are; busy: clients that cannot be asked now;
        turn: counts the draws of a round that asks its clients one after another.
        While it waits, batteries recharge: the caller passes that time on to them. Raises RunFailed if too few ever come.
        """
        waited_s = self.wait_s(clock_s, size, busy)
        if math.isinf(waited_s):
            raise RunFailed(self._lonely(number, size, busy))
        stream = numpy_stream(self._scenario.seed, "cohort", number, *([turn] if turn else []))
        return self._select.choose(self._there(clock_s, waited_s, busy), size, number, stream), waited_s

    def wait_s(self, clock_s: float, size: int, busy: Collection[int] = ()) -> float:
        """Return how long it takes from `clock_s` on until enough clients for a round are there; inf if they never are."""
        idle = self._idle(busy)
        moment_s = next_available_s(self._calendar, idle, clock_s, self._enough(size, len(idle)))
        # The difference may be rounded down, and a hair earlier nobody is there yet.
        return moment_s - clock_s if clock_s + (moment_s - clock_s) >= moment_s else math.nextafter(moment_s - clock_s, math.inf)

    def _there(self, clock_s: float, waited_s: float, busy: Collection[int]) -> list[Candidate]:
        there = [self._known[client] for client in self._idle(busy) if self._calendar.available(client, clock_s + waited_s)]
        if not self._batteries.of:
            return there
        charge = self._batteries.charge
        return [Candidate(one.client, one.samples, charge(one.client, waited_s), one.history) for one in there]

    def _idle(self, busy: Collection[int]) -> list[int]:
        away = set(busy)
        return [client for client in self._known if client not in away] if away else list(self._known)

    def _enough(self, size: int, idle: int) -> int:
        """Return for how many clients to wait: fewer than can be aggregated would make an empty round."""
        usable = max(self._scenario.failures.min_updates, self._scenario.strategy.least_updates)
        return min(max(self._availability.enough(size), usable), size, idle)

    def _lonely(self, number: int, size: int, busy: Collection[int]) -> str:
        idle = len(self._idle(busy))
        return (
            f"round {number} needs {self._enough(size, idle)} of {idle} clients at once, and by clients.availability"
            f" ({self._availability.kind}) so many are never there any more; let them be there for longer, or lower its wait_for,"
            " clients.per_round or failures.min_updates"
        )
