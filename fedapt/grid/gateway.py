"""The Gateway: the only door between a strategy and the clients.

To a strategy it is a Flower `Grid`: float models in, float models out. Inside, every client gets the model quantised to its own
bits, bytes are counted both ways, replies are admitted and dequantised, and each attempt is written into the ledger. Nothing of
that happens elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedapt.clients.instructions import EvaluateReport, TrainReport
from fedapt.clock.synchronous import NOT_NEEDED, NOT_ONE_STEP, Synchronous
from fedapt.cost.ledger import LedgerRow
from fedapt.cost.planner import Refusal
from fedapt.grid.batteries import Batteries
from fedapt.grid.exact_sum import ExactSum
from fedapt.grid.flower import EVALUATE, TRAIN, identify_process, instruction
from fedapt.grid.participant import Participant
from fedapt.grid.post import Order, all_corrected, broadcasts, mean_reply, reply_of, update_replies
from fedapt.grid.visit import Arrays, Outcome, Task, add_up
from fedapt.grid.wishes import Observation, Wishes


class Transport(Protocol):
    """How tasks reach clients; `inline`, `ray` and `superlink` are three of it."""

    def exchange(self, arrays: Arrays, tasks: Sequence[Task], total: ExactSum | None) -> Iterator[Outcome]:
        """Yield at least one outcome for each task, in any order; with `total`, add updates to it instead of returning them."""

    def close(self) -> None:
        """Stop what the transport started."""


class Gateway(Grid):
    """linear: the strategy only averages, and is handed one reply, the exact weighted mean.

    corrects: the strategy corrects gradients: a client for which it has no correction yet gets one of zeros, so that what a round
    costs a client is known before its first.
    clock: for whom the server waits, in the devices' time; per_round: how many updates it wants.
    """

    def __init__(
        self,
        transport: Transport,
        participants: Mapping[int, Participant],
        wishes: Wishes,
        seed: int,
        *,
        linear: bool,
        corrects: bool = False,
        clock: Synchronous | None = None,
        per_round: int = 1,
        batteries: Batteries | None = None,
        on_outcome: Callable[[Outcome], None] = lambda outcome: None,
    ) -> None:
        identify_process()
        self.participants, self.wishes, self.batteries = participants, wishes, batteries or Batteries()
        self._transport, self._seed, self._linear, self._on_outcome = transport, seed, linear, on_outcome
        self._corrects = corrects
        self._clock, self._per_round = clock or Synchronous(), per_round
        self._round, self._nodes, self._now_s = 0, list(participants), 0.0
        self._pushed: dict[str, Message] = {}
        self.evaluated: dict[int, EvaluateReport] = {}
        self.rows: list[LedgerRow] = []
        self.client_states: dict[int, dict[str, np.ndarray]] = {}

    def open_round(self, round: int, nodes: Sequence[int], now_s: float = 0.0) -> None:
        """Show these clients, and no others, to the strategy; forget what the last round left in `evaluated` and `rows`.

        now_s: simulated time at which the round begins.
        """
        self._round, self._nodes, self._now_s = round, sorted(nodes), now_s
        self.evaluated, self.rows = {}, []

    def get_node_ids(self) -> list[int]:
        """Return the clients of this round in order."""
        return self._nodes

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Carry a strategy's messages to their clients and return what it may aggregate, in client order.

        Clients that failed, or whose reply was not admitted, are missing from the replies and are in `rows` with the reason.
        """
        replies: list[Message] = []
        for arrays, kind, orders in broadcasts(messages):
            if kind == EVALUATE:
                replies += self._evaluate(arrays, orders)
            else:
                replies += self._train(arrays, all_corrected(arrays, orders) if self._corrects else orders)
        return replies

    def _train(self, arrays: Arrays, orders: Sequence[Order]) -> list[Message]:
        tasks = self._tasks(orders, TRAIN)
        total = ExactSum() if self._linear else None
        outcomes = self._play(self._outcomes(arrays, tasks, total))
        given = {task.client: task for task in tasks}
        for outcome in outcomes:
            self.rows.append(self._row(given[outcome.client], outcome))
            if outcome.kept:
                self.client_states[outcome.client] = outcome.kept
        trained = [outcome for outcome in outcomes if outcome.status == "ok" and isinstance(outcome.report, TrainReport)]
        for outcome in trained:
            self.wishes.observe(self._observation(given[outcome.client], outcome))
        metrics = [self.participants[outcome.client].metrics(outcome, given[outcome.client]) for outcome in trained]
        return mean_reply(arrays, trained, metrics, total) if total is not None else update_replies(arrays, trained, metrics)

    def _evaluate(self, arrays: Arrays, orders: Sequence[Order]) -> list[Message]:
        outcomes = self._play(self._transport.exchange(arrays, self._tasks(orders, EVALUATE), None))
        self.evaluated = {one.client: one.report for one in outcomes if isinstance(one.report, EvaluateReport)}
        return [_evaluation(client, report) for client, report in self.evaluated.items()]

    def _play(self, going: Iterable[Outcome]) -> list[Outcome]:
        """Return what comes of clients' work, in the order of clients and attempts, as soon as all of it is there."""
        outcomes = []
        for outcome in going:
            outcomes.append(outcome)
            self._on_outcome(outcome)
        return sorted(outcomes, key=lambda outcome: (outcome.client, outcome.attempt))

    def _tasks(self, orders: Sequence[Order], kind: str) -> list[Task]:
        """Plan each client's work; one that cannot afford a round of training sits it out, and the ledger says so."""
        tasks = []
        for order in orders:
            task = self._task(order, kind)
            if isinstance(task, LedgerRow):
                self.rows.append(task)
            else:
                tasks.append(task)
        return tasks

    def _task(self, order: Order, kind: str) -> Task | LedgerRow:
        """Return a client's work, or the ledger row of one that sits it out."""
        client, participant = order.client, self.participants[order.client]
        battery_j = self.batteries.usable_j(client) if kind == TRAIN else None
        corrected = order.correction is not None
        plan = participant.plan(self.wishes.of(participant.policy, client), order.proximal_mu, battery_j, corrected=corrected)
        most_steps, within_s = None, self._clock.partial_within_s
        if not isinstance(plan, Refusal) and kind == TRAIN and within_s is not None and participant.epochs:
            most_steps = participant.steps_within(plan, within_s, corrected=corrected)
            plan = plan if most_steps else Refusal(NOT_ONE_STEP, 0, participant.memory_budget_bytes, None, None)
        if isinstance(plan, Refusal):
            return participant.refused(self._round, plan, self.batteries.level_j.get(client))
        return participant.task(
            "train" if kind == TRAIN else "evaluate",
            plan,
            self._seed,
            self._round,
            order.proximal_mu,
            correction=order.correction,
            most_steps=most_steps,
            kept=self.client_states.get(client) if kind == TRAIN else None,
        )

    def _outcomes(self, arrays: Arrays, tasks: Sequence[Task], total: ExactSum | None) -> Iterator[Outcome]:
        """Yield what the transport does; where updates may come too late they are summed here and not there."""
        if not self._clock.waits_less_than_for_all:
            yield from self._transport.exchange(arrays, tasks, total)
            return
        given = {task.client: task for task in tasks}
        in_time: dict[int, Outcome] = {}
        times_s: dict[int, float] = {}
        for outcome in self._transport.exchange(arrays, tasks, None):
            if not isinstance(outcome.report, TrainReport):
                yield outcome
                continue
            time_s = self._row(given[outcome.client], outcome).time_s
            if reason := self._clock.too_late(time_s):
                yield _late(outcome, reason)
            elif self._clock.over_select:
                in_time[outcome.client], times_s[outcome.client] = outcome, time_s
            else:
                yield outcome if total is None else add_up(outcome, total)
        for client in self._clock.too_many(times_s, self._per_round):
            yield _late(in_time.pop(client), NOT_NEEDED)
        for outcome in in_time.values():
            yield outcome if total is None else add_up(outcome, total)

    def _row(self, task: Task, outcome: Outcome) -> LedgerRow:
        participant = self.participants[outcome.client]
        wish = self.wishes.of(participant.policy, outcome.client)
        return participant.row(self._round, outcome, task, wish, self.batteries.level_j.get(outcome.client))

    def _observation(self, task: Task, outcome: Outcome) -> Observation:
        """Return what an admitted update says to the wishes."""
        assert isinstance(outcome.report, TrainReport)
        participant, start = self.participants[outcome.client], task.plan.bits
        moves = {layer: abs(bits - start[layer]) for layer, bits in outcome.bits.items()}
        return Observation(outcome.client, participant.policy, participant.lr, start | outcome.bits, outcome.report, moves)

    @property
    def lasted_s(self) -> float:
        """How long the round's training took, in the devices' time."""
        return self._clock.lasts_s(self.rows, self._per_round)

    def give_up(self) -> list[LedgerRow]:
        """Return the rows of clients that are still at work when the run ends."""
        return []

    def state(self) -> dict[str, Any]:
        """Return what outlives a round, as plain data."""
        return {"clients": dict(self.client_states)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take what `state` returned; raises ValueError, TypeError or KeyError for anything else."""
        self.client_states = dict(state["clients"])

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Carry messages at once and keep the replies for `pull_messages`."""
        replies = self.send_and_receive(messages)
        names = [f"{self._round}:{len(self._pushed) + number}" for number in range(len(replies))]
        self._pushed |= dict(zip(names, replies, strict=True))
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return replies that `push_messages` kept."""
        return [self._pushed.pop(name) for name in message_ids if name in self._pushed]

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a message to a client."""
        return instruction(content, message_type, dst_node_id)

    def set_run(self, run: object) -> None:
        """Ignore Flower's run: fedapt has its own."""

    @property
    def run(self) -> None:  # type: ignore[override]
        """Flower's run, of which there is none."""
        return None

    def close(self) -> None:
        """Stop the transport."""
        self._transport.close()


def _late(outcome: Outcome, reason: str) -> Outcome:
    return replace(outcome, status="late", reason=reason, update=None)


def _evaluation(client: int, report: EvaluateReport) -> Message:
    metrics = {"num-examples": report.samples, "accuracy": report.correct / max(report.samples, 1), "loss": report.loss}
    return reply_of(client, EVALUATE, {}, metrics)
