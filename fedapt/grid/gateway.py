"""The Gateway: the only door between a strategy and the clients.

To a strategy it is a Flower `Grid`: float models in, float models out. Inside, every client gets the model quantised to its own
bits, bytes are counted both ways, replies are admitted and dequantised, and each attempt is written into the ledger. Nothing of
that happens elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedapt.clients.instructions import EvaluateReport, TrainReport
from fedapt.cost.ledger import LedgerRow
from fedapt.cost.planner import Refusal
from fedapt.grid.batteries import Batteries
from fedapt.grid.exact_sum import ExactSum
from fedapt.grid.flower import EVALUATE, TRAIN, identify_process, instruction
from fedapt.grid.participant import Participant
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

    deadline_s: device time, as the cost model has it, after which a trained update comes too late.
    """

    def __init__(
        self,
        transport: Transport,
        participants: Mapping[int, Participant],
        wishes: Wishes,
        seed: int,
        *,
        linear: bool,
        deadline_s: float | None = None,
        batteries: Batteries | None = None,
        on_outcome: Callable[[Outcome], None] = lambda outcome: None,
    ) -> None:
        identify_process()
        self.participants, self.wishes, self.batteries = participants, wishes, batteries or Batteries()
        self._transport, self._seed, self._linear, self._on_outcome = transport, seed, linear, on_outcome
        self._deadline_s = deadline_s
        self._round, self._nodes = 0, list(participants)
        self._pushed: dict[str, Message] = {}
        self.outcomes: list[Outcome] = []
        self.rows: list[LedgerRow] = []

    def open_round(self, round: int, nodes: Sequence[int]) -> None:
        """Show these clients, and no others, to the strategy; forget what the last round left in `outcomes` and `rows`."""
        self._round, self._nodes = round, sorted(nodes)
        self.outcomes, self.rows = [], []

    def get_node_ids(self) -> list[int]:
        """Return the clients of this round in order."""
        return self._nodes

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Carry a strategy's messages to their clients and return what it may aggregate, in client order.

        Clients that failed, or whose reply was not admitted, are missing from the replies and are in `rows` with the reason.
        """
        replies: list[Message] = []
        for content, kind, clients in _broadcasts(messages):
            arrays = {name: np.asarray(array.numpy()) for name, array in next(iter(content.array_records.values())).items()}
            config = next(iter(content.config_records.values()), ConfigRecord())
            tasks = self._tasks(clients, kind, config)
            total = ExactSum() if self._linear and kind == TRAIN else None
            outcomes = []
            for outcome in self._outcomes(arrays, tasks, total):
                outcomes.append(outcome)
                self._on_outcome(outcome)
            outcomes.sort(key=lambda outcome: (outcome.client, outcome.attempt))
            self.outcomes += outcomes
            if kind == EVALUATE:
                replies += [_evaluation(outcome) for outcome in outcomes if isinstance(outcome.report, EvaluateReport)]
                continue
            self._record(tasks, outcomes)
            trained = [outcome for outcome in outcomes if outcome.status == "ok" and isinstance(outcome.report, TrainReport)]
            replies += _mean_reply(arrays, trained, total) if total is not None else _replies(arrays, trained)
        return replies

    def _tasks(self, clients: Sequence[int], kind: str, config: ConfigRecord) -> list[Task]:
        """Plan each client's work; one that cannot afford a round of training sits it out, and the ledger says so."""
        proximal_mu = float(config.get("proximal-mu", 0.0))  # type: ignore[arg-type]
        tasks = []
        for client in clients:
            participant = self.participants[client]
            battery_j = self.batteries.usable_j(client) if kind == TRAIN else None
            plan = participant.plan(self.wishes.of(participant.policy, client), proximal_mu, battery_j)
            if isinstance(plan, Refusal):
                self.rows.append(participant.refused(self._round, plan, self.batteries.level_j.get(client)))
            else:
                tasks.append(
                    participant.task("train" if kind == TRAIN else "evaluate", plan, self._seed, self._round, proximal_mu)
                )
        return tasks

    def _outcomes(self, arrays: Arrays, tasks: Sequence[Task], total: ExactSum | None) -> Iterator[Outcome]:
        """Yield what the transport does; with a deadline, updates are summed here and not there, for late ones do not count."""
        if self._deadline_s is None:
            yield from self._transport.exchange(arrays, tasks, total)
            return
        given = {task.client: task for task in tasks}
        for outcome in self._transport.exchange(arrays, tasks, None):
            if not isinstance(outcome.report, TrainReport):
                yield outcome
            elif self._row(given[outcome.client], outcome).time_s > self._deadline_s:
                reason = f"later than the deadline of {self._deadline_s:g} s of device time"
                yield replace(outcome, status="late", reason=reason, update=None)
            else:
                yield outcome if total is None else add_up(outcome, total)

    def _row(self, task: Task, outcome: Outcome) -> LedgerRow:
        participant = self.participants[outcome.client]
        wish = self.wishes.of(participant.policy, outcome.client)
        return participant.row(self._round, outcome, task, wish, self.batteries.level_j.get(outcome.client))

    def _record(self, tasks: Sequence[Task], outcomes: Sequence[Outcome]) -> None:
        """Write the ledger rows, and keep for the wishes what admitted updates say."""
        given = {task.client: task for task in tasks}
        for outcome in outcomes:
            task = given[outcome.client]
            self.rows.append(self._row(task, outcome))
            if outcome.status == "ok" and isinstance(outcome.report, TrainReport):
                participant = self.participants[outcome.client]
                start = task.plan.bits
                moves = {layer: abs(bits - start[layer]) for layer, bits in outcome.bits.items()}
                told = Observation(
                    outcome.client, participant.policy, participant.lr, start | outcome.bits, outcome.report, moves
                )
                self.wishes.observe(told)

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


def _broadcasts(messages: Iterable[Message]) -> Iterator[tuple[RecordDict, str, list[int]]]:
    """Group messages that carry the same content object: a strategy sends one model to many clients."""
    groups: dict[tuple[int, str], tuple[RecordDict, list[int]]] = {}
    for message in messages:
        key = (id(message.content), message.metadata.message_type)
        groups.setdefault(key, (message.content, []))[1].append(message.metadata.dst_node_id)
    for (_, kind), (content, clients) in groups.items():
        yield content, kind, sorted(clients)


def _mean_reply(arrays: Arrays, trained: Sequence[Outcome], total: ExactSum) -> list[Message]:
    """Return one reply that stands for all: model plus exact mean update, with the summed weight."""
    if not total.weight:
        return []
    mean = total.mean()
    model = {name: (values + mean[name]).astype(np.float32) for name, values in arrays.items()}
    weighed = [
        (outcome.report.samples, outcome.report.train_loss or 0.0)
        for outcome in trained
        if isinstance(outcome.report, TrainReport)
    ]
    loss = math.fsum(samples * loss for samples, loss in weighed) / total.weight
    return [_reply(trained[0].client, TRAIN, model, {"num-examples": total.weight, "train_loss": loss})]


def _replies(arrays: Arrays, trained: Sequence[Outcome]) -> list[Message]:
    """Return one reply for each client that trained, each with arrays of its own: some strategies take them apart."""
    replies = []
    for outcome in trained:
        if isinstance(outcome.report, TrainReport) and outcome.update is not None and outcome.report.samples:
            model = {name: values + outcome.update[name] for name, values in arrays.items()}
            metrics = {"num-examples": outcome.report.samples, "train_loss": outcome.report.train_loss or 0.0}
            replies.append(_reply(outcome.client, TRAIN, model, metrics))
    return replies


def _evaluation(outcome: Outcome) -> Message:
    report = outcome.report
    assert isinstance(report, EvaluateReport)
    metrics = {"num-examples": report.samples, "accuracy": report.correct / max(report.samples, 1), "loss": report.loss}
    return _reply(outcome.client, EVALUATE, {}, metrics)


def _reply(client: int, kind: str, model: Mapping[str, np.ndarray], metrics: Mapping[str, float]) -> Message:
    """Return a Flower reply as if it came from the client."""
    content = RecordDict({"metrics": MetricRecord(dict(metrics))})
    if model:
        content["arrays"] = ArrayRecord({name: Array(values) for name, values in model.items()})
    return Message(content=content, reply_to=instruction(RecordDict(), kind, client))
