"""Fuzz the Gateway's door, `fedapt.grid.visit.receive`, with a client's reply to a real start: `python -m fuzz.reply`.

A reply is rejected in one line, or it gives a report and an update of finite numbers in the shapes of the model; nothing is
raised, since that would end the run.
"""

from __future__ import annotations

from functools import cache

from fuzz.harness import check_text, fuzz, instrumented

with instrumented("fedapt.quant.wire", "fedapt.quant.packing", "fedapt.grid.visit", "fedapt.admission"):
    from fedapt.grid.visit import Task, down, receive

import numpy as np

from fedapt.admission import Admission
from fedapt.clients.instructions import EvaluateReport, Instructions, TrainReport
from fedapt.cost.planner import Plan
from fedapt.grid.exact_sum import ExactSum
from fedapt.quant import GridOptions
from fedapt.quant.wire import QuantisedModel, digest_of, to_bytes
from fuzz.messages import mutate

SHAPES = {"conv.weight": (2, 1, 3), "conv.bias": (2,), "out.weight": (3, 4), "out.bias": (3,)}
TOLD = Instructions(seed=0, round=3, client=5, epochs=1, batch=4, lr=0.1, rounding="stochastic", grid=GridOptions())
EVALUATED = rb"\"evaluated\""


@cache
def sent(evaluate: bool) -> tuple[dict[str, np.ndarray], Task, QuantisedModel, bytes]:
    """Return a small global model, a client's task, and what the client was sent, as a model and as bytes."""
    stream = np.random.default_rng(0)
    arrays = {name: stream.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    task = Task("evaluate" if evaluate else "train", Plan({"conv": 4, "out": 11}, 4), TOLD, 8, 3, Admission(max_norm=1e6))
    return arrays, task, *down(arrays, task)


def honest(evaluate: bool) -> bytes:
    """Return the reply of a client whose training changed nothing, or of one that evaluated."""
    _, _, start, message = sent(evaluate)
    layer = {"gavg": 0.5, "underflow_share": 0.25, "clip_share": 0.0}
    trained = {"kind": "trained", "samples": 8, "batches": {"4": 2}, "train_loss": 0.5, "layers": {"conv": layer, "out": layer}}
    report = {"kind": "evaluated", "samples": 3, "correct": 2, "loss": 0.5} if evaluate else trained
    answers = {"round": 3, "client": 5, "digest": digest_of(message)}
    return to_bytes(QuantisedModel({}, {}) if evaluate else start, {"report": report, "reply_to": answers})


def accepts(reply: bytes) -> bool:
    """Return whether the reply was admitted: to training, or to an evaluation if it says so."""
    evaluate = EVALUATED in reply
    arrays, task, start, message = sent(evaluate)
    total = ExactSum()
    outcome = receive(arrays, start, task, message, reply, total)
    summed = receive(arrays, start, task, message, reply, None)
    if outcome.status != "ok":
        assert outcome.status == "rejected" and outcome.report is None and not total.terms
        check_text(outcome.reason)
        return False
    assert summed.status == "ok"
    if evaluate:
        assert isinstance(outcome.report, EvaluateReport) and 0 <= outcome.report.correct <= outcome.report.samples <= 3
        return True
    assert isinstance(outcome.report, TrainReport) and 0 <= outcome.report.samples <= 8
    assert summed.update is not None
    assert {name: values.shape for name, values in summed.update.items()} == SHAPES
    assert all(np.isfinite(values).all() for values in summed.update.values())
    assert total.weight == outcome.report.samples
    return True


if __name__ == "__main__":
    fuzz("reply", accepts, mutate)
