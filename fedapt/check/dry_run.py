"""The first round of a run with every client in it, through the run's own Gateway, and nobody at its other end.

So plans, lengths of messages and ledger rows are those of the run itself, for honest clients that keep the bits they are sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord

from fedapt.clients.instructions import TrainReport
from fedapt.cost.ledger import LedgerRow
from fedapt.enrolment import Enrolment
from fedapt.errors import RunFailed
from fedapt.grid.exact_sum import ExactSum
from fedapt.grid.gateway import Gateway
from fedapt.grid.participant import Participant
from fedapt.grid.visit import Arrays, Outcome, Task
from fedapt.scenario import Scenario


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
            told, messages = task.instructions, self.participants[task.client].messages
            down, up = messages.lengths(task.bits, told.grid, told.most_segments(task.samples))
            report = TrainReport(samples=task.samples, batches=task.planned, train_loss=None, layers={})
            yield Outcome(task.client, "ok", report=report, downlink_bytes=down, uplink_bytes=up)

    def close(self) -> None:
        """There is nothing to stop."""


def first_round(scenario: Scenario, enrolment: Enrolment, arrays: dict[str, np.ndarray]) -> FirstRound:
    """Plan and charge round 0 for all that are enrolled; the wishes and batteries are left as they are.

    Raises RunFailed if the strategy fails, as it would in the run.
    """
    nobody = Nobody(enrolment.participants)
    gateway = Gateway(
        nobody,
        enrolment.participants,
        enrolment.wishes,
        scenario.seed,
        linear=False,  # the mean of no updates is not wanted
        deadline_s=scenario.failures.deadline_s,
        batteries=enrolment.batteries,
    )
    gateway.open_round(0, list(enrolment.participants))
    record = ArrayRecord({name: Array(values) for name, values in arrays.items()})
    try:
        messages = list(scenario.strategy.build().configure_train(1, record, ConfigRecord(), gateway))
    except Exception as error:
        kind = scenario.strategy.kind
        raise RunFailed(f"round 0: the strategy {kind} failed: {type(error).__name__}: {error}") from error
    gateway.send_and_receive(messages)
    enrolment.wishes.discard()
    rows = {row.client: row for row in (*enrolment.refused, *gateway.rows)}
    return FirstRound(dict(sorted(rows.items())), nobody.tasks)
