"""All rounds of a run, as they would go if every client went on to do what it does in the first one.

Who is chosen is known in advance; how bits adapt is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedapt.cost.ledger import LedgerRow, RoundRecord
from fedapt.cost.planner import Refusal
from fedapt.enrolment import Enrolment, cohort
from fedapt.errors import RunFailed
from fedapt.grid.batteries import Batteries
from fedapt.quorum import Quorum
from fedapt.record.totals import round_record
from fedapt.scenario import Scenario

FLAT = Refusal("its battery is empty", 0, 0, None, None)


@dataclass
class Course:
    """The rounds up to the last one, or to the one that would end the run.

    visits: by client, in how many rounds it trains; flat: by client, the first round that its battery cannot pay for; empty:
    rounds with too few updates; failure: why the last of these ends the run, "" if none does.
    """

    records: list[RoundRecord] = field(default_factory=list)
    visits: dict[int, int] = field(default_factory=dict)
    flat: dict[int, int] = field(default_factory=dict)
    empty: list[int] = field(default_factory=list)
    failure: str = ""


def course(scenario: Scenario, enrolment: Enrolment, rows: Mapping[int, LedgerRow]) -> Course:
    """Play all rounds; rows: what each client would cost in any of them."""
    going = Course()
    batteries = Batteries(enrolment.batteries.of, dict(enrolment.batteries.level_j))
    quorum = Quorum(scenario.failures, scenario.strategy)
    deadline_s = scenario.failures.deadline_s
    for number in range(scenario.rounds):
        chosen = cohort(scenario, enrolment.participants, number)
        played = [_played(enrolment, batteries, rows[client], number) for client in chosen]
        for row in played:
            if row.status != "refused":
                going.visits[row.client] = going.visits.get(row.client, 0) + 1
            elif row.client in batteries.of:
                going.flat.setdefault(row.client, number)
        record = round_record(number, played, None, None, {}, len(chosen), 0.0, deadline_s)
        batteries.pass_round(played, record.time_s + scenario.clients.batteries.between_rounds_s)
        going.records.append(record)
        if quorum.shortage(played):
            going.empty.append(number)
        quorum.count(played)
        try:
            quorum.check(number, played)
        except RunFailed as error:
            going.failure = str(error)
            break
    return going


def _played(enrolment: Enrolment, batteries: Batteries, row: LedgerRow, number: int) -> LedgerRow:
    usable_j = batteries.usable_j(row.client)
    if row.status == "refused" or usable_j is None or row.energy_j <= usable_j:
        return row
    return enrolment.participants[row.client].refused(number, FLAT)
