"""What `fedapt plan` prints: for each kind of device, what its first round would be, layer by layer."""

from __future__ import annotations

import io
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text
from ruamel.yaml import YAML

from fedapt.check.dry_run import FirstRound, first_round
from fedapt.clients.backward import RULES
from fedapt.cost.shapes import LayerShape
from fedapt.data import load
from fedapt.enrolment import Enrolment, enrol
from fedapt.models import build
from fedapt.pretraining import pretrained
from fedapt.quant import FLOAT_BITS
from fedapt.quant.skeleton import float_arrays
from fedapt.record.files import write_whole
from fedapt.record.tables import as_json
from fedapt.report.figures import MISSING, byte_count, counted, harmless, joules, macs, memory, percent, seconds
from fedapt.report.terminal import figure_table, wrapped
from fedapt.scenario import Scenario

STANDARD_OUTPUT = Path("-")
HEADINGS = ["layer", "bits", "weights", "trains", "others", "forward", "backward", "kept"]
LEGEND = "trains: of the weights; others: biases, norms; MACs forward and backward, and bytes kept, for one sample."
# Every client of a group may have bits of its own; a few tables show how they differ.
MOST_PLANS = 3
NUMBER_BYTES = 4

Say = Callable[[str], None]


@dataclass(frozen=True)
class LayerPlan:
    """What of a layer trains. floats: biases, norms and such; MACs and saved_bytes: of one sample."""

    name: str
    bits: int
    weights: int
    trained_weights: int
    floats: int
    trained_floats: int
    forward_macs: int
    error_macs: int
    weight_gradient_macs: int
    saved_bytes: int


@dataclass(frozen=True)
class DevicePlan:
    """The first round of those clients of a group that do the same.

    samples, energy_j, time_s, downlink_bytes, uplink_bytes: medians over them; memory_bytes: the highest.
    backward: the block that they are lent, as in a scenario, None if they train by their own; frozen: modules that do not train.
    """

    group: str
    profile: str
    clients: int
    samples: float
    batch: int
    memory_bytes: int
    memory_budget_bytes: int
    energy_j: float
    energy_budget_j: float | None
    time_s: float
    downlink_bytes: float
    uplink_bytes: float
    choice: str
    frozen: list[str]
    backward: dict[str, Any] | None
    layers: list[LayerPlan]


@dataclass(frozen=True)
class RefusedPlan:
    """Clients of a group that cannot take part, and why the first of them cannot: the others' numbers may differ."""

    group: str
    clients: int
    reason: str


@dataclass(frozen=True)
class Plans:
    """All groups of a scenario, those with the most clients first."""

    name: str
    plans: list[DevicePlan]
    refused: list[RefusedPlan]


def plans(scenario: Scenario, say: Say = lambda _: None) -> Plans:
    """Plan the first round of every client; raises what the run would before it. say: hears what takes long."""
    say("reading the data")
    federation = load(scenario.data, scenario.clients.count, scenario.seed)
    model = build(scenario.model, federation.data_shape, scenario.seed)
    arrays = {name: values.numpy() for name, values in float_arrays(model).items()}
    if scenario.pretrain:

        def epoch(done: float, epochs: int, loss: float | None) -> None:
            say(f"pretraining: {done:.1f} of {counted(epochs, 'epoch')}" + (f", loss {loss:.3f}" if loss is not None else ""))

        with TemporaryDirectory() as folder:
            arrays = dict(pretrained(scenario, federation, arrays, Path(folder), epoch).arrays)
    say(f"planning for {counted(scenario.clients.count, 'client')}, and searching schemes for those that need one")
    enrolment = enrol(scenario, federation, arrays)
    first = first_round(scenario, enrolment, arrays)
    alike: dict[Any, list[int]] = {}
    for client, task in first.tasks.items():
        key = enrolment.group_of[client], tuple(task.plan.bits.items()), task.plan.batch, task.plan.scheme
        alike.setdefault(key, []).append(client)
    found = [_plan(enrolment, first, clients) for clients in alike.values()]
    return Plans(scenario.name, sorted(found, key=lambda plan: -plan.clients), list(_refused(enrolment, first)))


def _plan(enrolment: Enrolment, first: FirstRound, clients: Sequence[int]) -> DevicePlan:
    participant, task = enrolment.participants[clients[0]], first.tasks[clients[0]]
    rows = [first.rows[client] for client in clients]
    shapes = participant.cost_under(task.instructions.proximal_mu).workloads.at(task.plan.scheme).shapes
    backward = task.instructions.backward
    return DevicePlan(
        group=participant.group,
        profile=rows[0].profile,
        clients=len(clients),
        samples=statistics.median(row.samples for row in rows),
        batch=task.plan.batch,
        memory_bytes=max(row.memory_bytes for row in rows),
        memory_budget_bytes=participant.memory_budget_bytes,
        energy_j=statistics.median(row.energy_j for row in rows),
        energy_budget_j=participant.energy_budget_j,
        time_s=statistics.median(row.time_s for row in rows),
        downlink_bytes=statistics.median(row.downlink_bytes for row in rows),
        uplink_bytes=statistics.median(row.uplink_bytes for row in rows),
        choice=rows[0].choice,
        frozen=list(task.plan.scheme.frozen),
        backward=backward.model_dump() if backward else None,
        layers=[_layer(shape, task.plan.bits.get(shape.name, FLOAT_BITS)) for shape in shapes],
    )


def _layer(shape: LayerShape, bits: int) -> LayerPlan:
    work = shape.backward
    return LayerPlan(
        name=shape.name,
        bits=bits,
        weights=shape.weights,
        trained_weights=work.weights,
        floats=shape.float_parameters,
        trained_floats=work.floats,
        forward_macs=shape.macs,
        error_macs=work.error_macs,
        weight_gradient_macs=work.weight_gradient_macs,
        saved_bytes=NUMBER_BYTES * work.saved_numbers,
    )


def _refused(enrolment: Enrolment, first: FirstRound) -> Iterator[RefusedPlan]:
    reasons: dict[tuple[str, bool], list[str]] = {}
    for row in first.rows.values():
        if row.status == "refused":
            empty = row.client not in enrolment.participants and row.reason.startswith("it has no samples")
            reasons.setdefault((row.group, empty), []).append(row.reason)
    for (group, _), said in reasons.items():
        yield RefusedPlan(group, len(said), said[0])


def show_plans(scenario: Scenario, json_file: Path | None, file: TextIO | None = None) -> None:
    """Print the plans, or write them as JSON; `-` is standard output, without the tables."""
    console = Console(file=file or sys.stdout, highlight=False, markup=False, emoji=False)
    waiting = Console(stderr=True, highlight=False, markup=False, emoji=False)
    with waiting.status("") as status:
        found = plans(scenario, lambda text: status.update(Text(text)))
    if json_file == STANDARD_OUTPUT:
        console.file.write(plans_json(found).decode())
        return
    show(found, console)
    if json_file is not None:
        write_whole(json_file, plans_json(found))


def plans_json(found: Plans) -> bytes:
    """Return the plans as JSON, their fields as they are called here."""
    return as_json(asdict(found))


def show(found: Plans, console: Console) -> None:
    """Print a table for each plan, of each group those of the most clients, and who is refused."""
    shown: dict[str, list[DevicePlan]] = {}
    for plan in found.plans:
        shown.setdefault(plan.group, []).append(plan)
    for group, of_group in shown.items():
        for plan in of_group[:MOST_PLANS]:
            _show(plan, console)
        if rest := of_group[MOST_PLANS:]:
            clients = counted(sum(plan.clients for plan in rest), "client")
            _say(f"{group}: {clients} more, with {counted(len(rest), 'other plan')}: --json has them", console)
            console.print()
    for refused in found.refused:
        clients = counted(refused.clients, "client")
        _say(f"{refused.group}: {clients} cannot take part: {refused.reason}", console, "bold red")
        console.print()
    console.print(Text("\n".join(wrapped(LEGEND, console.width)), style="dim"), soft_wrap=True)


def _say(text: str, console: Console, style: str = "") -> None:
    console.print(Text("\n".join(wrapped(harmless(text), console.width)), style=style), soft_wrap=True)


def _show(plan: DevicePlan, console: Console) -> None:
    _say(f"{plan.group}: {counted(plan.clients, 'client')}", console, "bold")
    _say(plan.choice, console)
    energy = f" of {joules(plan.energy_budget_j)}" if plan.energy_budget_j is not None else ""
    _say(
        f"{plan.samples:.0f} samples in batches of {plan.batch}: {memory(plan.memory_bytes)} of"
        f" {memory(plan.memory_budget_bytes)}, {joules(plan.energy_j)}{energy}, {seconds(plan.time_s)},"
        f" {byte_count(plan.downlink_bytes)} down, {byte_count(plan.uplink_bytes)} up",
        console,
    )
    console.print(figure_table(HEADINGS, list(map(_cells, plan.layers)), console.width, _total(plan)))
    if block := pasted(plan):
        _say("The same for a whole group, whatever its memory, under `method:` of a scenario:", console)
        console.print(Text(block.rstrip(), style="cyan"), soft_wrap=True)
    console.print()


def _cells(layer: LayerPlan) -> list[str]:
    return [
        harmless(layer.name),
        str(layer.bits) if layer.weights else MISSING,
        f"{layer.weights:,}" if layer.weights else MISSING,
        percent(layer.trained_weights / layer.weights) if layer.weights else MISSING,
        f"{layer.trained_floats:,}/{layer.floats:,}",
        macs(layer.forward_macs),
        macs(layer.error_macs + layer.weight_gradient_macs),
        memory(layer.saved_bytes),
    ]


def _total(plan: DevicePlan) -> list[str]:
    def total(name: str) -> int:
        return sum(getattr(layer, name) for layer in plan.layers)

    weights = total("weights")
    return [
        "all",
        f"{sum(layer.bits * layer.weights for layer in plan.layers) / weights:.3g}" if weights else MISSING,
        f"{weights:,}",
        percent(total("trained_weights") / weights) if weights else MISSING,
        f"{total('trained_floats'):,}/{total('floats'):,}",
        macs(total("forward_macs")),
        macs(total("error_macs") + total("weight_gradient_macs")),
        memory(total("saved_bytes")),
    ]


def pasted(plan: DevicePlan) -> str:
    """Return the lent block as YAML for a scenario, empty without one.

    Which channels train is left out: the server chooses them by the same weights again. `--json` has them.
    """
    if plan.backward is None:
        return ""
    usual = RULES[plan.backward["kind"]].model_fields
    told = {name: value for name, value in plan.backward.items() if name not in ("channels", "kind")}
    changed = {name: value for name, value in told.items() if value != usual[name].get_default(call_default_factory=True)}
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.sort_base_mapping_type_on_output, yaml.default_flow_style, yaml.width = False, None, 76
    text = io.StringIO()
    yaml.dump({"backward": {"kind": plan.backward["kind"], **changed}}, text)
    return text.getvalue()
