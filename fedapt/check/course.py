"""All rounds of a run, as they would go if every client went on to do what it does in the first one.

Who is chosen is known in advance as far as it does not depend on losses; how bits adapt is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fedapt.clock.asynchronous import Asynchronous
from fedapt.clock.synchronous import NOT_NEEDED, Synchronous
from fedapt.cost.ledger import LedgerRow, RoundRecord
from fedapt.cost.planner import Refusal
from fedapt.enrolment import Enrolment
from fedapt.errors import RunFailed
from fedapt.grid.batteries import Batteries
from fedapt.grid.flights import Brought, Flights
from fedapt.quorum import Quorum
from fedapt.record.totals import round_record
from fedapt.scenario import Scenario
from fedapt.selection.cohorts import Cohorts

FLAT = Refusal("its battery is empty", 0, 0, None, None)


@dataclass
class Course:
    """The rounds up to the last one, or to the one that would end the run.

    visits: by client, in how many rounds it trains; flat: by client, the first round that its battery cannot pay for; empty:
    rounds with too few updates; failure: why the last of these ends the run, "" if none does; lonely: it ends, because it would
    wait for clients that never come.
    """

    records: list[RoundRecord] = field(default_factory=list)
    visits: dict[int, int] = field(default_factory=dict)
    flat: dict[int, int] = field(default_factory=dict)
    empty: list[int] = field(default_factory=list)
    failure: str = ""
    lonely: bool = False


def course(scenario: Scenario, enrolment: Enrolment, rows: Mapping[int, LedgerRow]) -> Course:
    """Play all rounds; rows: what each client would cost in any of them."""
    going, players, quorum = Course(), _Players(scenario, enrolment, rows), Quorum(scenario.failures, scenario.strategy)
    for number in range(scenario.rounds):
        try:
            record, played = players.play(number)
            going.records.append(record)
            for row in played:
                if row.status != "refused":
                    going.visits[row.client] = going.visits.get(row.client, 0) + 1
                elif row.client in enrolment.batteries.of:
                    going.flat.setdefault(row.client, number)
            if quorum.shortage(played):
                going.empty.append(number)
            quorum.count(played)
            quorum.check(number, played)
        except RunFailed as error:
            going.failure, going.lonely = str(error), len(going.records) == number
            break
    return going


class _Players:
    """The clients as they go on from round to round, with batteries and a clock of their own."""

    def __init__(self, scenario: Scenario, enrolment: Enrolment, rows: Mapping[int, LedgerRow]) -> None:
        self._scenario, self._enrolment, self._rows = scenario, enrolment, rows
        self._batteries = Batteries(enrolment.batteries.of, dict(enrolment.batteries.level_j))
        self._cohorts, self._clock_s = Cohorts(scenario, enrolment, self._batteries), 0.0
        self._flights: Flights | None = None
        if isinstance(scenario.clock, Asynchronous):
            self._flights = Flights(scenario.clock, scenario.clients.per_round, self._cohorts)

    def play(self, number: int) -> tuple[RoundRecord, list[LedgerRow]]:
        """Return what a round achieves and its rows; raises RunFailed if it waits for clients that never come."""
        pause_s = self._scenario.clients.batteries.between_rounds_s
        began_s = self._clock_s + (pause_s if number else 0.0)
        played, ended_s, waited_s = self._step(number, began_s) if self._flights else self._round(number, began_s)
        time_s = ended_s - began_s - waited_s
        self._batteries.pass_round(played, time_s + pause_s)
        self._cohorts.add(played)
        self._clock_s = ended_s
        return round_record(number, played, None, None, {}, len(played), time_s=time_s, clock_s=ended_s, wall_s=0.0), played

    def _round(self, number: int, began_s: float) -> tuple[list[LedgerRow], float, float]:
        clock, per_round = self._scenario.clock, self._scenario.clients.per_round
        assert isinstance(clock, Synchronous)
        chosen, waited_s = self._cohorts.draw(number, began_s, clock.asked(per_round))
        self._batteries.pass_round((), waited_s)
        played = [self._row(client, number) for client in chosen]
        times_s = {row.client: row.time_s for row in played if row.status == "ok"}
        too_many = set(clock.too_many(times_s, per_round))
        played = [replace(row, status="late", reason=NOT_NEEDED) if row.client in too_many else row for row in played]
        return played, began_s + waited_s + clock.lasts_s(played, per_round), waited_s

    def _step(self, number: int, began_s: float) -> tuple[list[LedgerRow], float, float]:
        assert self._flights is not None
        refused: dict[int, LedgerRow] = {}

        def lasts_s(client: int) -> float | None:
            row = self._row(client, number)
            if row.status == "refused":
                refused[client] = row
                return None
            return row.time_s

        landed, ended_s = self._flights.step(
            number,
            began_s,
            lasts_s,
            lambda clients: {client: Brought((replace(self._rows[client], round=number),)) for client in clients},
        )
        at_work = self._flights.give_up(number) if number + 1 == self._scenario.rounds else []
        return [*(row for one in landed for row in one.brought.rows), *refused.values(), *at_work], ended_s, 0.0

    def _row(self, client: int, number: int) -> LedgerRow:
        row, usable_j = self._rows[client], self._batteries.usable_j(client)
        if row.status == "refused" or usable_j is None or row.energy_j <= usable_j:
            return replace(row, round=number)
        return self._enrolment.participants[client].refused(number, FLAT)
