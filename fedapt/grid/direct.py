"""A visit without messages: in a simulation in which nothing goes wrong on the way, a client is handed what it would decode.

Its outcome is the same, bit by bit: bytes are the lengths that the messages would have, which are known without them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from fedapt.admission import check_report
from fedapt.clients.client import Client
from fedapt.errors import DamagedData
from fedapt.grid.exact_sum import ExactSum
from fedapt.grid.messages import Messages
from fedapt.grid.visit import Arrays, Outcome, Task, failed, quantised, rejected, settle, trained_part
from fedapt.quant import CodedWeight
from fedapt.quant.wire import QuantisedModel


def visit_directly(arrays: Arrays, task: Task, client: Client, messages: Messages, total: ExactSum | None) -> Outcome:
    """Give a task to a client in this process; as `Player.visit`."""
    told = task.instructions
    corrected = task.correction is not None
    down, up = messages.of_task(task, corrected=corrected)
    outcome = Outcome(task.client, "ok", downlink_bytes=down)
    try:
        start = quantised(arrays, task)
        if task.kind == "evaluate":
            report = client.examine(start, told)
            return replace(outcome, report=report, uplink_bytes=messages.evaluation_up())
        client.keeps.update({name: torch.from_numpy(values.copy()) for name, values in task.kept.items()})
        end, trained = client.learn(_lent(start), told)
    except (Exception, SystemExit) as error:  # a client's code may raise anything, and the run goes on without it
        return failed(task, error, down)
    if told.adaptation:
        up = messages.of_task(task, corrected=corrected, ended=end.bits)[1]
    outcome = replace(outcome, uplink_bytes=up, segments=trained.segments, filtered=trained.filtered, kept=_kept(client))
    arrays, start = trained_part(arrays, start, task)
    try:
        return settle(outcome, arrays, start.coded, task, end, check_report(task, trained), total)
    except DamagedData as error:
        return rejected(outcome, error, trained.batches)


def _lent(start: QuantisedModel) -> QuantisedModel:
    """Return the model for a client to train in place, which leaves the codes of `start` as they are."""
    copies = {layer: CodedWeight(weight.codes.clone(), weight.grid) for layer, weight in start.coded.items()}
    return replace(start, weights={**start.weights, **copies})


def _kept(client: Client) -> dict[str, np.ndarray]:
    return {name: values.numpy() for name, values in client.keeps.items()}
