"""What `fedapt plan` prints: for each kind of device, what its first round would be, layer by layer."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedapt.check.dry_run import first_round
from fedapt.cost.shapes import LayerShape
from fedapt.data import load
from fedapt.enrolment import Enrolment, enrol
from fedapt.grid.visit import Task
from fedapt.models import build
from fedapt.pretraining import pretrained
from fedapt.quant.skeleton import float_arrays
from fedapt.record.tables import as_json
from fedapt.report.figures import byte_count, counted, harmless, memory
from fedapt.report.terminal import wrapped
from fedapt.scenario import Scenario

STANDARD_OUTPUT = Path("-")


@dataclass(frozen=True)
class LayerPlan:
    """What of a layer trains. weights, trained_weights, biases: numbers of parameters; saved_bytes: of its input, for one sample."""

    name: str
    bits: int
    weights: int
    trained_weights: int
    trained_floats: int
    forward_macs: int
    error_macs: int
    weight_gradient_macs: int
    saved_numbers: int


@dataclass(frozen=True)
class DevicePlan:
    """The first round of the clients of a group that do the same. backward: the block that they are sent, as in a scenario."""

    group: str
    clients: int
    batch: int
    memory_bytes: int
    memory_budget_bytes: int
    downlink_bytes: int
    uplink_bytes: int
    choice: str
    frozen: list[str]
    backward: dict[str, Any] | None
    layers: list[LayerPlan]


def plans(scenario: Scenario) -> list[DevicePlan]:
    """Plan the first round of every client, those with the most peers first; raises what the run would before it."""
    federation = load(scenario.data, scenario.clients.count, scenario.seed)
    arrays = {name: values.numpy() for name, values in float_arrays(build(scenario.model, federation.data_shape, scenario.seed)).items()}
    if scenario.pretrain:
        with TemporaryDirectory() as folder:
            arrays = dict(pretrained(scenario, federation, arrays, Path(folder), lambda *_: None).arrays)
    enrolment = enrol(scenario, federation, arrays)
    first = first_round(scenario, enrolment, arrays)
    alike = Counter((enrolment.group_of[client], task.plan.key) for client, task in first.tasks.items())
    shown: dict[Any, DevicePlan] = {}
    for client, task in first.tasks.items():
        key = enrolment.group_of[client], task.plan.key
        if key not in shown:
            shown[key] = _plan(enrolment, client, task, first.rows[client], alike[key])
    return sorted(shown.values(), key=lambda plan: -plan.clients)


def _plan(enrolment: Enrolment, client: int, task: Task, row: Any, clients: int) -> DevicePlan:
    participant, plan = enrolment.participants[client], task.plan
    shapes = participant.cost_under(task.instructions.proximal_mu).workloads.at(plan.scheme).shapes
    backward = task.instructions.backward
    return DevicePlan(
        group=participant.group,
        clients=clients,
        batch=plan.batch,
        memory_bytes=row.memory_bytes,
        memory_budget_bytes=participant.memory_budget_bytes,
        downlink_bytes=row.downlink_bytes,
        uplink_bytes=row.uplink_bytes,
        choice=row.choice,
        frozen=list(plan.scheme.frozen),
        backward=backward.model_dump() if backward else None,
        layers=[_layer(shape, plan.bits) for shape in shapes],
    )


def _layer(shape: LayerShape, bits: Mapping[str, int]) -> LayerPlan:
    work = shape.backward
    counts = (work.weights, work.floats, shape.macs, work.error_macs, work.weight_gradient_macs, work.saved_numbers)
    return LayerPlan(shape.name, bits.get(shape.name, 32), shape.weights, *counts)


def show_plans(scenario: Scenario, json_file: Path | None, file: TextIO | None = None) -> None:
    """Print the plans, or write them as JSON; `-` is standard output, without the tables."""
    found = plans(scenario)
    console = Console(file=file or sys.stdout, highlight=False, markup=False, emoji=False)
    written = as_json([_plain(plan) for plan in found])
    if json_file == STANDARD_OUTPUT:
        console.file.write(written.decode())
        return
    for plan in found:
        _show(plan, console)
    if json_file is not None:
        json_file.write_bytes(written)


def _plain(plan: DevicePlan) -> dict[str, Any]:
    return {**vars(plan), "layers": [vars(layer) for layer in plan.layers]}


def _show(plan: DevicePlan, console: Console) -> None:
    title = f"{harmless(plan.group)}: {counted(plan.clients, 'client')}"
    console.print(Text(title, style="bold"))
    for text in _about(plan):
        console.print(Text("\n".join(wrapped(harmless(text), console.width))), soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, heading in enumerate(("layer", "bits", "weights", "train", "floats", "MACs back", "kept a sample")):
        table.add_column(heading, justify="right" if number else "left")
    for layer in plan.layers:
        share = layer.trained_weights / layer.weights if layer.weights else 0.0
        table.add_row(
            harmless(layer.name),
            str(layer.bits) if layer.weights else "-",
            f"{layer.weights:,}" if layer.weights else "-",
            f"{share:.3g}" if layer.weights else "-",
            f"{layer.trained_floats:,}",
            f"{layer.error_macs + layer.weight_gradient_macs:,}",
            f"{layer.saved_numbers:,}",
        )
    console.print(table)
    console.print()


def _about(plan: DevicePlan) -> Iterator[str]:
    yield plan.choice
    yield (
        f"batches of {plan.batch}, {memory(plan.memory_bytes)} of {memory(plan.memory_budget_bytes)},"
        f" {byte_count(plan.downlink_bytes)} down, {byte_count(plan.uplink_bytes)} up"
    )
    if plan.backward:
        given = {key: value for key, value in plan.backward.items() if value not in (None, {})}
        yield f"backward: {given}"
