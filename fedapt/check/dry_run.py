"""The first round of a run with every client in it, through the run's own Gateway, and nobody at its other end.

So plans, lengths of messages and ledger rows are those of the run itself, for honest clients that keep the bits they are sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedapt.clients.instructions import TrainReport
from fedapt.clock.synchronous import Synchronous
from fedapt.cost.ledger import LedgerRow
from fedapt.enrolment import Enrolment
from fedapt.grid.exact_sum import ExactSum
from fedapt.grid.gateway import Gateway
from fedapt.grid.participant import Participant
from fedapt.grid.visit import Arrays, Outcome, Task
from fedapt.scenario import Scenario
from fedapt.seat import Seat


@dataclass(frozen=True)
class FirstRound:
    """By client: the ledger row of round 0, if the client were in it, and the task of those that would be given one."""

    rows: dict[int, LedgerRow]
    tasks: dict[int, Task]


@dataclass
class Nobody:
    """A transport that answers for every client as an honest one would that has trained on all of its samples."""

    participants: Mapping[int, Participant]
    tasks: dict[int, Task] = field(default_factory=dict)

    def exchange(self, arrays: Arrays, tasks: Sequence[Task], total: ExactSum | None) -> Iterator[Outcome]:
        """Yield one outcome for each task, without an update."""
        for task in tasks:
            self.tasks[task.client] = task
            participant, seen = self.participants[task.client], task.instructions.seen(task.samples)
            down, up = participant.message_lengths(task, corrected=task.correction is not None)
            forward, filtered = task.filter.planned(task.asked)
            report = TrainReport(samples=seen, batches=forward, train_loss=None, layers={}, filtered=filtered)
            yield Outcome(task.client, "ok", report=report, filtered=filtered, downlink_bytes=down, uplink_bytes=up)

    def close(self) -> None:
        """There is nothing to stop."""


def first_round(scenario: Scenario, enrolment: Enrolment, arrays: dict[str, np.ndarray]) -> FirstRound:
    """Plan and charge round 0 for all that are enrolled; the wishes and batteries are left as they are.

    Raises RunFailed if the strategy fails, as it would in the run.
    """
    nobody, clock = Nobody(enrolment.participants), Synchronous()
    if isinstance(scenario.clock, Synchronous):
        clock = scenario.clock.model_copy(update={"over_select": 0.0})  # nobody is one too many
    gateway = Gateway(
        nobody,
        enrolment.participants,
        enrolment.wishes,
        scenario.seed,
        linear=False,  # the mean of no updates is not wanted
        corrects=scenario.strategy.corrects,
        clock=clock,
        batteries=enrolment.batteries,
    )
    gateway.open_round(0, list(enrolment.participants))
    gateway.send_and_receive(Seat(scenario.strategy).train_messages(0, arrays, gateway))
    enrolment.wishes.discard()
    rows = {row.client: row for row in (*enrolment.refused, *gateway.rows)}
    return FirstRound(dict(sorted(rows.items())), nobody.tasks)
