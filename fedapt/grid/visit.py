"""One visit to one client: quantise down, let the client work, admit and dequantise what comes back.

The two halves of the Gateway, `down` and `receive`, are pure functions of (model, task, reply), so a simulating transport runs
them beside the worker: the float model then crosses once a round, not once a client.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np
import torch
from flwr.app import Context, Message

from fedapt.admission import Admission, admit_model, admit_report, admit_update, one_line, open_reply
from fedapt.clients.app import keep, kept_in, payload, record
from fedapt.clients.faulty import Dropped
from fedapt.clients.instructions import EvaluateReport, Instructions, Segment, TrainReport
from fedapt.clients.rooms import instructions_room
from fedapt.clients.samples.all import All
from fedapt.clients.samples.filter import Filter, Filtered
from fedapt.cost.ledger import Status
from fedapt.cost.planner import Plan
from fedapt.errors import DamagedData
from fedapt.grid.exact_sum import ExactSum
from fedapt.grid.flower import context_of, instruction, why_failed
from fedapt.grid.noise import update_noise
from fedapt.grid.reasons import reason_of
from fedapt.quant import FLOAT_BITS, CodedWeight
from fedapt.quant.parts import Part
from fedapt.quant.wire import QuantisedModel, quantise_arrays, to_bytes
from fedapt.seeding import torch_stream

ALL = All()
App = Callable[[Message, Context], Message]
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Task:
    """What one client is asked to do.

    samples, held_out: how many the client is registered with; attempt: from 1, it changes no bit of the result.
    correction: what the client adds to its gradients, float32 by parameter name, shaped like the model.
    kept: what a simulated client has kept from its rounds before; a board has that itself.
    part: what of the model it trains and sends back, None for all of it.
    filter: which samples its method takes.
    """

    kind: Literal["train", "evaluate"]
    plan: Plan
    instructions: Instructions
    samples: int
    held_out: int
    admission: Admission
    attempt: int = 1
    correction: Arrays | None = None
    kept: Arrays = field(default_factory=dict)
    part: Part | None = None
    filter: Filter = ALL

    @property
    def client(self) -> int:
        """The client's number."""
        return self.instructions.client

    @property
    def bits(self) -> Mapping[str, int]:
        """Widths in which the model crosses the network: a client that keeps a float master is sent floats."""
        return dict.fromkeys(self.plan.bits, FLOAT_BITS) if self.instructions.copies else self.plan.bits

    @property
    def asked(self) -> dict[int, int]:
        """The batches that it is asked to train on, by size and how many of them."""
        return self.instructions.batches(self.samples) if self.kind == "train" else {}

    @property
    def planned(self) -> dict[int, int]:
        """The batches that go forward at most, by size and how many of them."""
        return self.asked if self.filter.takes_all else self.filter.planned(self.asked)[0]


@dataclass(frozen=True)
class Outcome:
    """What came of a task.

    reason: why there is no report; with a report, what is remarkable about its update. report: only what was admitted.
    spent: of an attempt without a report, the batches that are charged, by size and how many of them.
    update: float32 arrays by parameter name, absent where a transport has already summed it; part: what of the model it is of,
    None for all.
    bits, segments: of a client that adapted its bits, those at the end by layer, and what it trained at which.
    filtered: of a client with a sample filter that reported, what became of its batches.
    update_variance, relative_error: of an update, as `update_noise` has it.
    kept: what a simulated client keeps until it trains again, whether its reply was admitted or not; None if it did not train.
    batched_clients: how many were trained as one batch of tensors, this one among them; 0 if it was alone.
    """

    client: int
    status: Status
    reason: str = ""
    log: str = ""
    attempt: int = 1
    report: TrainReport | EvaluateReport | None = None
    downlink_bytes: int = 0
    uplink_bytes: int = 0
    zero_update: bool = False
    update: dict[str, np.ndarray] | None = None
    part: Part | None = None
    spent: Mapping[int, int] = field(default_factory=dict)
    bits: dict[str, int] = field(default_factory=dict)
    segments: Sequence[Segment] = ()
    filtered: Filtered | None = None
    update_variance: float = 0.0
    relative_error: float = 0.0
    kept: dict[str, np.ndarray] | None = None
    batched_clients: int = 0


def quantised(arrays: Arrays, task: Task) -> QuantisedModel:
    """Return the global model as one client gets it; deterministic in (seed, round, client, kind, bits)."""
    told = task.instructions
    generator = torch_stream(told.seed, f"down:{task.kind}", told.round, told.client)
    start = quantise_arrays(arrays, task.bits, told.grid, told.link.down, generator)
    correction = {name: torch.from_numpy(np.array(values)) for name, values in (task.correction or {}).items()}
    return replace(start, correction=correction)


def down(arrays: Arrays, task: Task) -> tuple[QuantisedModel, bytes]:
    """Return the model that one client gets, and the message that brings it."""
    told, start = task.instructions, quantised(arrays, task)
    adapted = task.bits if told.adaptation else ()
    room = instructions_room({name.rpartition(".")[0] for name in arrays}, adapted, told.backward)
    return start, to_bytes(start, {"instructions": told.model_dump()}, room)


class Player(Protocol):
    """Plays clients in this process."""

    def visit(self, arrays: Arrays, task: Task, total: ExactSum | None) -> Outcome:
        """Give a task to its client. With `total`, the update is added to it and not returned.

        Whatever the client's code raises becomes a failed outcome with one sentence and the traceback: it is deterministic, so
        it is not retried.
        """

    def visit_together(self, arrays: Arrays, tasks: Sequence[Task], total: ExactSum | None) -> Iterator[Outcome]:
        """Give the tasks of a group, of several clients, to them; yield their outcomes in order."""
        for task in tasks:
            yield self.visit(arrays, task, total)


@dataclass(frozen=True)
class ByMessage(Player):
    """Plays clients as a server and its boards do, by messages to a Flower app."""

    app: App

    def visit(self, arrays: Arrays, task: Task, total: ExactSum | None) -> Outcome:
        """As in `Player`."""
        return visit(arrays, task, self.app, total)


def visit(arrays: Arrays, task: Task, app: App, total: ExactSum | None) -> Outcome:
    """Send a task to a client in this process, as a message, and receive its reply."""
    start, message = down(arrays, task)
    sent = instruction(record(message), task.kind, task.client)
    context = context_of(task.client, task.attempt)
    keep(context, task.kept)
    try:
        answer = app(sent, context)
    except Dropped as dropped:
        return Outcome(task.client, "dropped", str(dropped), downlink_bytes=len(message))
    except (Exception, SystemExit) as error:  # a client's code may raise anything, and the run goes on without it
        return failed(task, error, len(message))
    outcome = receive_answer(arrays, start, task, message, answer, total)
    return replace(outcome, kept=kept_in(context)) if task.kind == "train" else outcome


def failed(task: Task, error: BaseException, downlink_bytes: int) -> Outcome:
    """Return the outcome of a client whose code has just raised this."""
    reason, log = one_line(reason_of(error)), traceback.format_exc()
    return Outcome(task.client, "failed", reason, log, downlink_bytes=downlink_bytes)


def receive_answer(
    arrays: Arrays, start: QuantisedModel, task: Task, message: bytes, answer: Message, total: ExactSum | None
) -> Outcome:
    """Turn a node's answer into an outcome, `failed` if it is an error; any other is received as a reply."""
    if answer.has_error():
        return Outcome(task.client, "failed", one_line(why_failed(answer)), downlink_bytes=len(message))
    try:
        reply = payload(answer)
    except DamagedData as error:
        return Outcome(task.client, "rejected", one_line(str(error)), downlink_bytes=len(message), spent=task.planned)
    return receive(arrays, start, task, message, reply, total)


def receive(arrays: Arrays, start: QuantisedModel, task: Task, message: bytes, reply: bytes, total: ExactSum | None) -> Outcome:
    """Turn a client's reply into an outcome, `rejected` if it is not admitted."""
    outcome, spent = Outcome(task.client, "ok", downlink_bytes=len(message), uplink_bytes=len(reply)), task.planned
    try:
        end, data = open_reply(task, start, message, reply)
        report = admit_report(task, data)
        if isinstance(report, EvaluateReport):
            return replace(outcome, report=report)
        spent, outcome = report.batches, replace(outcome, segments=report.segments, filtered=report.filtered)
        arrays, start = trained_part(arrays, start, task)
        admit_model(task, start, end)
        return settle(outcome, arrays, start.coded, task, end, report, total)
    except DamagedData as error:
        return rejected(outcome, error, spent)


def rejected(outcome: Outcome, error: DamagedData, spent: Mapping[int, int]) -> Outcome:
    """Return the outcome of a reply that is not admitted; spent: the batches that are charged."""
    return replace(outcome, status="rejected", reason=one_line(str(error)), spent=spent)


def trained_part(arrays: Arrays, start: QuantisedModel, task: Task) -> tuple[Arrays, QuantisedModel]:
    """Return, of the global model and of what the client was sent, what is expected back."""
    return (task.part.of_arrays(arrays), task.part.of(start)) if task.part else (arrays, start)


def settle(
    outcome: Outcome,
    arrays: Arrays,
    start: Mapping[str, CodedWeight],
    task: Task,
    end: QuantisedModel,
    report: TrainReport,
    total: ExactSum | None,
) -> Outcome:
    """Return the outcome with its report and update; raises DamagedData for an update that is not admitted.

    arrays, start: of the global model, and of the layers that the client was sent as codes, what trains; end: what it sent back.
    """
    update, remark = admit_update(task, arrays, start, end)
    variance, lost = update_noise(task, arrays, start, end, report, update)
    admitted = replace(
        outcome,
        reason=remark,
        report=report,
        zero_update=not any(values.any() for values in update.values()),
        update=update,
        part=task.part,
        bits=end.bits if task.instructions.adaptation else {},
        update_variance=variance,
        relative_error=lost,
    )
    return admitted if total is None else add_up(admitted, total)


def add_up(outcome: Outcome, total: ExactSum) -> Outcome:
    """Move a trained outcome's update into the sum, by its samples; `rejected` if it is too large to be added exactly."""
    assert isinstance(outcome.report, TrainReport) and outcome.update is not None
    try:
        if outcome.report.samples:
            total.add(outcome.update, outcome.report.samples, outcome.part)
    except DamagedData as error:
        spent = outcome.report.batches
        return replace(
            outcome, status="rejected", reason=one_line(str(error)), report=None, spent=spent, update=None, zero_update=False
        )
    return replace(outcome, update=None, part=None)
