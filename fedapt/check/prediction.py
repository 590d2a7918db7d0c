"""The prediction of a run: for each group of clients, for the whole run, and for the machine that it is simulated on."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedapt.check.course import Course, course
from fedapt.check.dry_run import FirstRound, first_round
from fedapt.check.machine import Room, require_engine, room
from fedapt.check.trial import Trial, trial
from fedapt.cost.ledger import LedgerRow, RoundRecord
from fedapt.data import Federation, load
from fedapt.enrolment import Enrolment, enrol
from fedapt.fleet import Group
from fedapt.grid.participant import Participant
from fedapt.grid.visit import Arrays, Task
from fedapt.models import build
from fedapt.pretraining import seconds_left
from fedapt.quant.skeleton import float_arrays
from fedapt.scenario import Scenario

COLUMNS = (
    "samples",
    "steps",
    "mean_bits",
    "batch",
    "frozen_layers",
    "trained_weights",
    "macs",
    "memory_bytes",
    "energy_j",
    "energy_operands_j",
    "downlink_bytes",
    "uplink_bytes",
    "time_s",
)


@dataclass(frozen=True)
class Extent:
    """How a figure is spread over the clients of a group."""

    min: float
    median: float
    max: float


@dataclass(frozen=True)
class GroupForecast:
    """One round of the clients of a group.

    refused, choices: how many clients by the reason, and by what became of the wish, in words.
    layer_bits: fewest and most of each layer. figures: by the ledger's columns, over the clients that take part; empty if none
    does. battery_rounds: how often the battery pays for a round, if it is never recharged.
    """

    group: str
    profile: str
    policy: str
    clients: int
    fit: int
    refused: dict[str, int]
    choices: dict[str, int]
    memory_budget_bytes: int | None
    energy_budget_j: float | None
    layer_bits: dict[str, tuple[int, int]]
    figures: dict[str, Extent]
    battery_rounds: Extent | None


@dataclass(frozen=True)
class ModelSummary:
    """layers: quantised ones with their number of weights; float_layers: those that no policy quantises."""

    kind: str
    layers: dict[str, int]
    float_layers: tuple[str, ...]
    weights: int
    float_parameters: int


@dataclass(frozen=True)
class Totals:
    """Sums over clients; time_s: how long the server waits, in the devices' time."""

    rounds: int
    clients: float
    energy_j: float
    downlink_bytes: int
    uplink_bytes: int
    time_s: float


@dataclass(frozen=True)
class Caution:
    """rule: the name of one in `RULES`; sentence: what will not work, and what would."""

    rule: str
    sentence: str


@dataclass(frozen=True)
class Prediction:
    """What a run would do.

    simulation_s: wall time here, with the pretraining_s before it, which are 0 if it is done and None if there is none.
    failure: why the run would end early from the start, or "".
    """

    name: str
    clients: int
    enrolled: int
    model: ModelSummary
    groups: tuple[GroupForecast, ...]
    first_round: Totals
    all_rounds: Totals
    simulation_s: float
    pretraining_s: float | None
    workers: int
    room: Room
    warnings: tuple[Caution, ...]
    failure: str


@dataclass(frozen=True)
class Members:
    """One group: all of its clients, those of them that are enrolled, and what round 0 would be for each."""

    group: Group
    clients: tuple[int, ...]
    enrolled: dict[int, Participant]
    rows: dict[int, LedgerRow]
    tasks: dict[int, Task]

    @property
    def name(self) -> str:
        """What reports call the group."""
        return self.group.name or self.group.profile


@dataclass(frozen=True)
class Facts:
    """All that is known before the run, for the rules to look at."""

    scenario: Scenario
    federation: Federation
    enrolment: Enrolment
    members: tuple[Members, ...]
    first: FirstRound
    course: Course
    trial: Trial
    room: Room
    pretraining_s: float | None


def gather(scenario: Scenario, output: Path) -> Facts:
    """Enrol the clients as the run would, and play it without training; raises what the run would before its first round."""
    require_engine(scenario, output)
    federation = load(scenario.data, scenario.clients.count, scenario.seed)
    enrolment = enrol(scenario, federation)
    model = build(scenario.model, federation.data_shape, scenario.seed)
    arrays: Arrays = {name: values.numpy() for name, values in float_arrays(model).items()}
    first = first_round(scenario, enrolment, dict(arrays))
    tried = trial(scenario, federation, enrolment, arrays, first.tasks)
    return Facts(
        scenario,
        federation,
        enrolment,
        tuple(_members(enrolment, first, number) for number in range(len(enrolment.groups))),
        first,
        course(scenario, enrolment, first.rows),
        tried,
        room(scenario, federation, arrays, list(first.rows.values()), tried.workers, output),
        seconds_left(scenario, federation) if scenario.pretrain else None,
    )


def predict(facts: Facts, warnings: Iterable[Caution]) -> Prediction:
    """Put together what the facts say."""
    scenario, enrolment, records = facts.scenario, facts.enrolment, facts.course.records
    return Prediction(
        name=scenario.name,
        clients=len(enrolment.group_of),
        enrolled=len(enrolment.participants),
        model=_model(scenario, enrolment),
        groups=tuple(_forecast(members, facts) for members in facts.members),
        first_round=_totals(records[:1]),
        all_rounds=_totals(records),
        simulation_s=facts.trial.simulation_s(scenario, enrolment, facts.course.visits) + (facts.pretraining_s or 0.0),
        pretraining_s=facts.pretraining_s,
        workers=facts.trial.workers,
        room=facts.room,
        warnings=tuple(warnings),
        # A round that is empty later may be so only because bits are taken not to adapt.
        failure=facts.course.failure if facts.course.empty == list(range(len(records))) else "",
    )


def extent(values: Sequence[float]) -> Extent:
    """Return the spread of at least one value."""
    return Extent(min(values), statistics.median(values), max(values))


def _members(enrolment: Enrolment, first: FirstRound, number: int) -> Members:
    clients = tuple(client for client, group in enumerate(enrolment.group_of) if group == number)
    return Members(
        enrolment.groups[number],
        clients,
        {client: enrolment.participants[client] for client in clients if client in enrolment.participants},
        {client: first.rows[client] for client in clients if client in first.rows},
        {client: first.tasks[client] for client in clients if client in first.tasks},
    )


def _forecast(members: Members, facts: Facts) -> GroupForecast:
    rows = [members.rows[client] for client in members.tasks]
    bits = [task.plan.bits for task in members.tasks.values()]
    some = next(iter(members.rows.values()), None)
    batteries = facts.enrolment.batteries
    lasting = [
        (batteries.usable_j(row.client) or 0.0) / row.energy_j for row in rows if row.client in batteries.of and row.energy_j > 0
    ]
    return GroupForecast(
        group=members.name,
        profile=some.profile if some else members.group.profile,
        policy=members.group.method.precision.kind,
        clients=len(members.clients),
        fit=len(rows),
        refused=dict(Counter(row.reason for row in members.rows.values() if row.status == "refused").most_common()),
        choices=dict(Counter(row.choice for row in rows).most_common()),
        memory_budget_bytes=some.memory_budget_bytes if some else None,
        energy_budget_j=some.energy_budget_j if some else None,
        layer_bits={
            layer: (min(widths[layer] for widths in bits), max(widths[layer] for widths in bits)) for layer in (bits or [{}])[0]
        },
        figures={column: extent([getattr(row, column) for row in rows]) for column in COLUMNS} if rows else {},
        battery_rounds=extent(lasting) if lasting else None,
    )


def _model(scenario: Scenario, enrolment: Enrolment) -> ModelSummary:
    shapes = next(iter(enrolment.participants.values())).cost.shapes
    return ModelSummary(
        kind=scenario.model.kind,
        layers={shape.name: shape.weights for shape in shapes if shape.kind != "float"},
        float_layers=tuple(shape.name for shape in shapes if shape.kind == "float"),
        weights=sum(shape.weights for shape in shapes),
        float_parameters=sum(shape.float_parameters for shape in shapes),
    )


def _totals(records: Sequence[RoundRecord]) -> Totals:
    return Totals(
        rounds=len(records),
        clients=statistics.fmean(record.cohort for record in records) if records else 0.0,
        energy_j=sum(record.energy_j for record in records),
        downlink_bytes=sum(record.downlink_bytes for record in records),
        uplink_bytes=sum(record.uplink_bytes for record in records),
        time_s=sum(record.time_s for record in records),
    )
