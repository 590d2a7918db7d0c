"""One visit to one client: quantise down, let the client work, check and dequantise what comes back.

The two halves of the Gateway, `down` and `up`, are pure functions of (model, task), so a simulating transport runs them beside
the
worker: the float model then crosses once a round, not once a client.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from flwr.app import Context, Message
from pydantic import ValidationError

from fedapt.clients.app import payload, record
from fedapt.clients.instructions import EvaluateReport, Instructions, TrainReport
from fedapt.cost.ledger import Status
from fedapt.errors import DamagedData, FedaptError
from fedapt.grid.exact_sum import ExactSum
from fedapt.grid.flower import TRAIN, context_of, instruction
from fedapt.quant.wire import QuantisedModel, from_bytes, quantise_arrays, to_bytes
from fedapt.seeding import torch_stream

App = Callable[[Message, Context], Message]
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Task:
    """What one client is asked to do. bits: by layer, 32 for float."""

    kind: Literal["train", "evaluate"]
    bits: Mapping[str, int]
    instructions: Instructions

    @property
    def client(self) -> int:
        """The client's number."""
        return self.instructions.client


@dataclass(frozen=True)
class Outcome:
    """What came of a task. update: float32 arrays by parameter name, absent where a transport has already summed it."""

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


def down(arrays: Arrays, task: Task) -> tuple[QuantisedModel, bytes]:
    """Quantise the global model for one client, without bias; deterministic in (seed, round, client, kind, bits)."""
    told = task.instructions
    generator = torch_stream(told.seed, f"down:{task.kind}", told.round, told.client)
    start = quantise_arrays(arrays, task.bits, told.grid, "stochastic", generator)
    return start, to_bytes(start, {"instructions": told.model_dump()})


def up(
    arrays: Arrays, start: QuantisedModel, task: Task, reply: bytes
) -> tuple[TrainReport | EvaluateReport, dict[str, np.ndarray] | None]:
    """Admit a reply and return its report and its update, dequantised end minus dequantised start.

    Raises DamagedData, saying what is wrong, for a reply that may not reach the aggregate.
    """
    try:
        if task.kind != TRAIN:
            return EvaluateReport.model_validate_json(reply), None
        end, header = from_bytes(reply)
        report = TrainReport.model_validate_json(json.dumps(header.get("report")))
    except ValidationError as error:
        first = error.errors()[0]
        raise DamagedData(f"the report is not valid: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if end.bits != start.bits or set(end.floats) != set(start.floats):
        raise DamagedData(f"sent {start.bits}, got back {end.bits}: layers and bits must stay as they were sent")
    before, after = start.dequantised(), end.dequantised()
    for name, values in after.items():
        if values.shape != before[name].shape:
            raise DamagedData(f"{name}: expected shape {before[name].shape}, got {values.shape}")
    return report, {name: after[name] - before[name] for name in arrays}


def visit(arrays: Arrays, task: Task, app: App, total: ExactSum | None) -> Outcome:
    """Send a task to a client in this process. With `total`, the update is added to it and not returned.

    Whatever the client's code raises becomes a failed outcome with one sentence and the traceback: it is deterministic, so it
    is not retried.
    """
    start, message = down(arrays, task)
    sent = instruction(record(message), task.kind, task.client)
    try:
        reply = payload(app(sent, context_of(task.client)))
    except Exception as error:  # a client's code may raise anything, and the run goes on without it
        reason = str(error) if isinstance(error, FedaptError) else f"{type(error).__name__}: {error}"
        return Outcome(task.client, "failed", reason, traceback.format_exc(), downlink_bytes=len(message))
    return receive(arrays, start, task, message, reply, total)


def receive(arrays: Arrays, start: QuantisedModel, task: Task, message: bytes, reply: bytes, total: ExactSum | None) -> Outcome:
    """Turn a client's reply into an outcome, `rejected` if it is not admitted."""
    outcome = Outcome(task.client, "ok", downlink_bytes=len(message), uplink_bytes=len(reply))
    try:
        report, update = up(arrays, start, task, reply)
        if update is None:
            return replace(outcome, report=report)
        if total is not None and report.samples:
            total.add(update, report.samples)
    except DamagedData as error:
        return replace(outcome, status="rejected", reason=str(error))
    zero = not any(values.any() for values in update.values())
    return replace(outcome, report=report, zero_update=zero, update=update if total is None else None)
