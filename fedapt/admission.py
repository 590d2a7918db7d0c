"""Admission: what must hold of a reply before its update may reach an aggregate.

Each rule is a function that raises DamagedData with one sentence. A reply that breaks one is rejected as a whole; what the
client spent is charged all the same.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch
from pydantic import Field, ValidationError

from fedapt.clients.instructions import EvaluateReport, ReplyTo, Segment, TrainReport
from fedapt.clients.rooms import report_room
from fedapt.clients.samples.filter import Filter, Filtered
from fedapt.errors import DamagedData
from fedapt.options import Options
from fedapt.quant import FLOAT_BITS, LOWEST_BITS, CodedWeight
from fedapt.quant.packing import packed_size
from fedapt.quant.wire import QuantisedModel, digest_of, from_bytes

if TYPE_CHECKING:
    from fedapt.grid.visit import Task

LONGEST_REASON = 500
REPORT_BYTES = 4096
REPORT_BYTES_A_LAYER = 256
# A scale and a zero, float32.
SCALE_BYTES = 8
# The largest float32: what a client computes cannot be larger, and sums over any number of clients stay finite.
LARGEST_LOSS = float(np.finfo(np.float32).max)
# Far above any gradient that training survives, and low enough for a running mean to recover from.
LARGEST_GAVG = 1e12
# The square of a larger one is no float32 number, and strategies compute distances.
LARGEST_NORM = 2.0**63

Update = Mapping[str, np.ndarray]
Model = TypeVar("Model", bound=Options)
Report = TypeVar("Report", TrainReport, EvaluateReport)


class Admission(Options):
    """Which updates may reach the aggregate, beyond those that are not valid, which never do."""

    max_norm: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="largest L2 norm of an update over all weights; null: any"
    )
    beyond: Literal["reject", "flag"] = Field(
        default="reject", description="what happens to a larger one; flag: it counts, and the ledger says so"
    )


def admit_size(task: Task, message: bytes, reply: bytes, start: QuantisedModel) -> None:
    """A reply is at most the message, as wide as it may become, with a report instead of the instructions.

    Checked before anything is read.
    """
    most = len(message) + REPORT_BYTES + sum(REPORT_BYTES_A_LAYER + 2 * len(layer.encode()) for layer in start.weights)
    if adaptation := task.instructions.adaptation:
        for layer, bits in adaptation.highest.items():
            count = start.weights[layer].shape.numel()
            most += packed_size(count, bits) - packed_size(count, start.weights[layer].bits)
        most += report_room(start.weights, task.instructions.most_segments(task.samples))
    if (longest := task.instructions.longest_report(task.samples, task.filter)) is not None:
        most += report_room(start.weights, task.instructions.most_segments(task.samples), longest)
    if (width := task.instructions.link.bits) is not None:
        shapes = [weight.shape for weight in start.weights.values()]
        most += sum(packed_size(shape.numel(), width) + SCALE_BYTES * shape[0] + REPORT_BYTES_A_LAYER for shape in shapes)
    if len(reply) > most:
        raise DamagedData(f"the reply has {len(reply)} bytes, at most {most} can answer a message of {len(message)}")


def admit_origin(task: Task, message: bytes, reply_to: ReplyTo) -> None:
    """A reply answers the message that was sent to this client in this round of this run."""
    told = task.instructions
    if reply_to.client != told.client:
        raise DamagedData(f"sent by client {reply_to.client} under the name of client {told.client}")
    if reply_to.round < told.round:
        raise DamagedData(f"round {reply_to.round} is closed: the reply is late, this is round {told.round}")
    if reply_to.round > told.round:
        raise DamagedData(f"the reply is to round {reply_to.round}, and this is round {told.round}")
    if reply_to.digest != digest_of(message):
        raise DamagedData(f"the reply is not to the message of this run: it names digest {reply_to.digest[:12]!r}")


def admit_samples(task: Task, report: TrainReport) -> None:
    """A client may have lost samples, not won some: they are its weight in the mean."""
    if report.samples > task.samples:
        raise DamagedData(f"reports {report.samples} samples, and {task.samples} are registered")
    if report.samples > (seen := task.instructions.seen(task.samples)):
        raise DamagedData(f"reports {report.samples} samples, and in the steps it was asked for it could see {seen}")


def admit_batches(task: Task, report: TrainReport) -> None:
    """A client trains at most on what it was told to."""
    told = task.instructions
    planned, most_samples = task.planned, task.filter.forwarded(told.batch)
    for size, count in report.batches.items():
        if not 1 <= size <= most_samples or count < 1:
            raise DamagedData(f"reports {count} batches of {size} samples, asked for were batches of up to {most_samples}")
    steps, most_steps = sum(report.batches.values()), sum(planned.values())
    if steps > most_steps:
        raise DamagedData(f"reports {steps} steps, at most {most_steps} were asked for")
    seen, most_seen = (sum(size * count for size, count in batches.items()) for batches in (report.batches, planned))
    if seen > most_seen:
        raise DamagedData(f"reports training on {seen} samples, at most {most_seen} were asked for")


def admit_segments(task: Task, report: TrainReport) -> None:
    """A client that adapts its bits says what it trained at which, within what it was allowed; no other does."""
    told = task.instructions
    if told.adaptation is None:
        if report.segments:
            raise DamagedData("reports training at other bits, and was not asked to adapt any")
        return
    most = told.most_segments(task.samples)
    if len(report.segments) > most:
        raise DamagedData(f"reports {len(report.segments)} sets of widths, at most {most} were possible")
    highest = [bits for _, bits in sorted(told.adaptation.highest.items())]
    for segment in report.segments:
        if len(segment.bits) != len(highest) or any(np.greater(segment.bits, highest)):
            raise DamagedData(f"reports training at {segment.bits} bits, at most {highest} were allowed")
        # A filter may take nothing between two adaptations.
        if min(segment.batches.values(), default=int(not task.filter.exact)) < 1:
            raise DamagedData(f"reports no step at {segment.bits} bits")
    if sum((Counter(segment.batches) for segment in report.segments), Counter[int]()) != report.batches:
        raise DamagedData("reports other batches than those at all its widths together")


def admit_filtered(task: Task, report: TrainReport) -> None:
    """A client with a sample filter says what became of its batches, within what the filter can have done; no other does."""
    parts: tuple[TrainReport | Segment, ...] = (report, *report.segments)
    for part in parts:
        if task.filter.takes_all and part.filtered is not None:
            raise DamagedData("reports what a sample filter took, and was not asked to filter")
        if not task.filter.takes_all and part.filtered is None:
            raise DamagedData("reports nothing of its sample filter")
        if part.filtered is not None:
            _admit_filtered(task.filter, part.batches, part.filtered)
    if report.filtered is None:
        return
    if report.filtered.seen > (most_seen := sum(size * count for size, count in task.asked.items())):
        raise DamagedData(f"reports a filter that saw {report.filtered.seen} samples, at most {most_seen} were asked for")
    for name in Filtered.model_fields if report.segments else ():
        if getattr(report.filtered, name) != sum(getattr(segment.filtered, name) for segment in report.segments):
            raise DamagedData(f"reports another number of {name} than at all its widths together")


def _admit_filtered(chooses: Filter, batches: Mapping[int, int], filtered: Filtered) -> None:
    forward, most = sum(size * count for size, count in batches.items()), chooses.most(batches)
    if filtered.seen < forward:
        raise DamagedData(f"reports {forward} samples that went forward of {filtered.seen} that its filter saw")
    if chooses.exact and (filtered.trained, filtered.steps) != (most.trained, most.steps):
        raise DamagedData(
            f"reports that {filtered.trained} samples went backward in {filtered.steps} steps, its filter takes {most.trained} in"
            f" {most.steps}"
        )
    if not filtered.steps <= min(most.steps, filtered.trained) or filtered.trained > most.trained * bool(filtered.steps):
        raise DamagedData(
            f"reports that {filtered.trained} samples went backward in {filtered.steps} steps, at most {most.trained} in"
            f" {most.steps} were possible"
        )


def admit_loss(task: Task, report: TrainReport) -> None:
    """A loss is a number that float32 can hold, and there is one if there was a step."""
    if report.train_loss is None:
        if report.batches:
            raise DamagedData(f"reports {sum(report.batches.values())} steps and no train_loss")
    elif abs(report.train_loss) > LARGEST_LOSS:
        raise DamagedData(f"reports a train_loss of {report.train_loss:g}, at most {LARGEST_LOSS:.3g} is possible")


def admit_statistics(task: Task, report: TrainReport) -> None:
    """Statistics are of the coded layers that were sent, and small enough not to spoil the wish of all clients."""
    for name, layer in report.layers.items():
        if task.bits.get(name, FLOAT_BITS) == FLOAT_BITS:
            raise DamagedData(f"reports on a coded layer {name}, of which the model has none")
        if task.part and name not in task.part.weights:
            raise DamagedData(f"reports how layer {name} learned, and it was not asked to train it")
        if layer.gavg > LARGEST_GAVG:
            raise DamagedData(f"reports a gavg of {layer.gavg:g} in {name}, at most {LARGEST_GAVG:g} is plausible: lower lr")


def admit_relative_error(task: Task, report: TrainReport) -> None:
    """A client that compresses its upload says how much of it is lost; no other does."""
    asked = task.instructions.link.bits is not None
    if asked and report.relative_error is None:
        raise DamagedData("reports no relative_error of its upload, which it was asked to compress")
    if not asked and report.relative_error is not None:
        raise DamagedData("reports a relative_error of its upload, which it was not asked to compress")


def admit_names(task: Task, start: QuantisedModel, end: QuantisedModel) -> None:
    """The tensors that train come back, and no others."""
    why = "the client was not asked to train it" if task.part else "the model has none of that name"
    for sent, back in ((set(start.weights), set(end.weights)), (set(start.floats), set(end.floats))):
        if missing := sorted(sent - back):
            raise DamagedData(f"{missing[0]} is missing from the reply")
        if extra := sorted(back - sent):
            raise DamagedData(f"{extra[0]} came back, and {why}")


def admit_bits(task: Task, start: QuantisedModel, end: QuantisedModel) -> None:
    """The codes are as wide as they were, or as the client was allowed to make them, or as its upload is compressed."""
    adaptation, compressed = task.instructions.adaptation, task.instructions.link.bits
    for name, weight in start.weights.items():
        back = end.weights[name].bits
        if compressed is not None:
            if back != compressed:
                raise DamagedData(f"{name}: was to be compressed to {compressed} bits, came back at {back}")
            continue
        if back == weight.bits:
            continue
        if adaptation is None:
            raise DamagedData(f"{name}: sent at {weight.bits} bits, came back at {back}")
        if not LOWEST_BITS <= back <= adaptation.highest[name]:
            raise DamagedData(f"{name}: came back at {back} bits, allowed were {LOWEST_BITS} to {adaptation.highest[name]}")


def admit_shapes(task: Task, start: QuantisedModel, end: QuantisedModel) -> None:
    """Nothing is left to broadcasting."""
    pairs = {f"{name}.weight": (weight.shape, end.weights[name].shape) for name, weight in start.weights.items()}
    pairs |= {name: (values.shape, end.floats[name].shape) for name, values in start.floats.items()}
    for name, weight in start.weights.items():
        back = end.weights[name]
        if task.instructions.link.bits is not None and isinstance(back, CodedWeight):
            pairs[f"{name}.scale"] = torch.Size([weight.shape[0]]), back.grid.scale.shape
        elif isinstance(weight, CodedWeight) and isinstance(back, CodedWeight):
            pairs[f"{name}.scale"] = weight.grid.scale.shape, back.grid.scale.shape
    for name, (sent, came) in pairs.items():
        if sent != came:
            raise DamagedData(f"{name}: expected shape {tuple(sent)}, got {tuple(came)}")


def admit_norm(task: Task, norm: float) -> None:
    """An update is of a size that can be computed with, and that the scenario allows."""
    if not norm <= LARGEST_NORM:
        raise DamagedData(f"the update's norm is {norm:.3g}, beyond {LARGEST_NORM:.3g}: training diverged; lower lr")
    if task.admission.beyond == "reject" and (reason := _too_large(task.admission, norm)):
        raise DamagedData(reason)


TRAIN_RULES = (admit_samples, admit_batches, admit_segments, admit_filtered, admit_loss, admit_statistics, admit_relative_error)
MODEL_RULES = (admit_names, admit_bits, admit_shapes)


def admit_evaluation(task: Task, report: EvaluateReport) -> None:
    """An evaluation is of the samples that the client holds back."""
    if report.samples > task.held_out:
        raise DamagedData(f"reports {report.samples} evaluated samples, and {task.held_out} are registered")
    if report.correct > report.samples:
        raise DamagedData(f"reports {report.correct} correct answers of {report.samples}")
    if abs(report.loss) > LARGEST_LOSS:
        raise DamagedData(f"reports a loss of {report.loss:g}, at most {LARGEST_LOSS:.3g} is possible")


def open_reply(task: Task, start: QuantisedModel, message: bytes, reply: bytes) -> tuple[QuantisedModel, Any]:
    """Decode a reply of a possible size that answers the message; return its model and its report, which is not checked yet."""
    admit_size(task, message, reply, start)
    end, header = from_bytes(reply)
    admit_origin(task, message, read(ReplyTo, "reply_to", header.get("reply_to")))
    return end, header.get("report")


def admit_report(task: Task, data: Any) -> TrainReport | EvaluateReport:
    """Read a report and return it, if it is possible for what the client was told."""
    if task.kind == "evaluate":
        return check_report(task, read(EvaluateReport, "report", data))
    return check_report(task, read(TrainReport, "report", data))


def check_report(task: Task, report: Report) -> Report:
    """Return a report, if it is possible for what the client was told."""
    if isinstance(report, EvaluateReport):
        admit_evaluation(task, report)
    else:
        for rule in TRAIN_RULES:
            rule(task, report)
    return report


def admit_model(task: Task, start: QuantisedModel, end: QuantisedModel) -> None:
    """Raise DamagedData unless what came back is what was sent of the part that trains, `start`, with other numbers."""
    for rule in MODEL_RULES:
        rule(task, start, end)


def admit_update(
    task: Task, arrays: Update, start: Mapping[str, CodedWeight], end: QuantisedModel
) -> tuple[dict[str, np.ndarray], str]:
    """Return the update by parameter name, float32, and what is remarkable about it, or "".

    It is what came back, dequantised, minus what its link counts from: the start as the client got it, the global model `arrays`,
    or nothing where a compressed change came back. start: the layers that were sent as codes; floats are sent as they are. Of
    arrays and start what trains is given, and no more.
    """
    link, before = task.instructions.link, dict(arrays)
    if link.sends_compressed_delta:
        before |= {f"{layer}.weight": np.zeros((), np.float32) for layer in end.weights}
    elif link.send == "delta":
        before |= {f"{layer}.weight": weight.dequantise().numpy() for layer, weight in start.items()}
    with np.errstate(over="ignore", invalid="ignore"):
        after = end.dequantised()
        update = {name: after[name] - before[name] for name in arrays}
        # Of a square below the bound the norm is far below it, and need not be known.
        if task.admission.max_norm is None and _squares(update) < LARGEST_NORM:
            return update, ""
    norm = norm_of(update)
    admit_norm(task, norm)
    return update, _too_large(task.admission, norm)


def norm_of(update: Update) -> float:
    """Return the L2 norm over all arrays."""
    wide = (values.ravel().astype(np.float64) for values in update.values())
    return math.sqrt(math.fsum(float(values @ values) for values in wide))


def _squares(update: Update) -> float:
    """Return the square of the L2 norm in float32, which is fast, and infinite or NaN where that is not enough."""
    flat = (values.ravel() for values in update.values())
    return sum(float(values @ values) for values in flat)


def _too_large(admission: Admission, norm: float) -> str:
    if admission.max_norm is None or norm <= admission.max_norm:
        return ""
    return f"the update's norm is {norm:.4g}, beyond admission.max_norm {admission.max_norm:g}"


def one_line(text: str) -> str:
    """Return what came from a client as one line that is safe in terminals, logs and ledgers."""
    line = "".join(letter if letter.isprintable() else " " for letter in text[:LONGEST_REASON])
    return line if len(text) <= LONGEST_REASON else f"{line[:-3]}..."


def read(model: type[Model], name: str, data: Any) -> Model:
    """Read a block of a header; raises DamagedData with the place of the first thing that is wrong."""
    try:
        return model.model_validate_json(json.dumps(data))
    except RecursionError:
        raise DamagedData(f"{name} is nested too deeply") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, (name, *first["loc"])))
        raise DamagedData(_FAULTS.get(first["type"], "{place}: {msg}").format(place=place, msg=first["msg"])) from None


_FAULTS = {
    "finite_number": "non-finite in {place}",
    "missing": "{place} is missing",
    "extra_forbidden": "{place} is no part of a report",
}
