"""Who takes part: every client of a scenario with its device, data and budget, and those that cannot, with the reason."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from fedapt.admission import Admission
from fedapt.clients.backward.lending import lenders
from fedapt.clients.backward.rule import GlobalModel
from fedapt.clients.faulty import slowed
from fedapt.cost.host import available_bytes
from fedapt.cost.ledger import LedgerRow
from fedapt.cost.model import CostModel
from fedapt.cost.planner import Refusal
from fedapt.cost.profiles import load_profile
from fedapt.cost.projection import readable_bytes
from fedapt.cost.workload import Workloads
from fedapt.data import Federation
from fedapt.errors import ScenarioError
from fedapt.fleet import Group
from fedapt.grid.batteries import Batteries, Battery
from fedapt.grid.messages import Messages
from fedapt.grid.participant import Participant
from fedapt.grid.visit import Arrays
from fedapt.grid.wishes import Wishes
from fedapt.grid.workshop import ClientMethod, Workshop
from fedapt.models import build
from fedapt.quant import OperandWidths, quantisable
from fedapt.quant.skeleton import Skeleton, float_arrays
from fedapt.scenario import Scenario
from fedapt.seeding import numpy_stream

FLOAT_BYTES = 4


@dataclass(frozen=True)
class Enrolment:
    """participants: by client number; refused: one ledger row for each client that cannot take part."""

    participants: dict[int, Participant]
    refused: tuple[LedgerRow, ...]
    wishes: Wishes
    batteries: Batteries
    workshop: Workshop
    groups: Sequence[Group]
    group_of: Sequence[int]


def enrol(scenario: Scenario, federation: Federation, start: Arrays | None = None) -> Enrolment:
    """Enrol the clients that have samples and whose device can hold the model; raises ScenarioError if there are none.

    start: the global model before the first round, the model's own first weights unless given.
    """
    require_room(scenario, federation)
    model = build(scenario.model, federation.data_shape, scenario.seed)
    arrays = start or {name: values.numpy() for name, values in float_arrays(model).items()}
    wishes = Wishes(quantisable(model))
    messages = Messages.of({name: values.shape for name, values in arrays.items()}, quantisable(model))
    known = _global_model(scenario, federation, arrays)
    groups, group_of, faults = scenario.clients.groups, scenario.group_of_clients(), scenario.faults
    methods = [_method_of(group) for group in groups]
    costs = [_cost_model(scenario, federation, group, method, known) for group, method in zip(groups, methods, strict=True)]

    @functools.cache
    def example(number: int, slowdown: float) -> Participant:
        cost = replace(costs[number], profile=slowed(costs[number].profile, slowdown))
        return _participant(groups[number], cost, messages, scenario.admission)

    participants, refused = {}, []
    for client, number in enumerate(group_of):
        samples, held_out = len(federation.rows[client]), len(federation.held_out[client])
        participant = example(number, faults.slowdown(scenario.seed, client)).peer(client, samples, held_out)
        objection = _objection(participant, wishes, scenario.strategy.corrects)
        if objection is None:
            participants[client] = participant
        else:
            refused.append(participant.refused(0, objection))
    if not participants:
        # The numbers differ from client to client, what is missing hardly does: one sentence for each group.
        reasons = {row.group: row.reason for row in reversed(refused)}
        said = "; ".join(f"{group}: {reason}" for group, reason in reversed(reasons.items()))
        raise ScenarioError(f"none of the {len(group_of)} clients can take part: {said}")
    laid, compute = scenario.engine.channels_last, scenario.engine.compute
    workshop = Workshop(federation, scenario.model, methods, group_of, faults, channels_last=laid, compute=compute)
    batteries = _batteries(scenario, participants, group_of)
    return Enrolment(participants, tuple(refused), wishes, batteries, workshop, groups, group_of)


def require_room(scenario: Scenario, federation: Federation) -> None:
    """Raise ScenarioError for a model that this machine cannot hold: the system would kill the process without a word."""
    with torch.device("meta"):
        weights = sum(values.numel() for values in build(scenario.model, federation.data_shape, scenario.seed).parameters())
    found = available_bytes()
    if found and FLOAT_BYTES * weights > found[0]:
        needed, free = readable_bytes(FLOAT_BYTES * weights), readable_bytes(found[0])
        kind = scenario.model.kind
        raise ScenarioError(f"model: `{kind}` of these sizes takes {needed}, and this machine has {free} free; make it smaller")


def _method_of(group: Group) -> ClientMethod:
    method = group.method
    return ClientMethod(method.backward, method.samples, method.continual, OperandWidths(method.activations, method.errors))


def _global_model(scenario: Scenario, federation: Federation, arrays: Arrays) -> GlobalModel:
    def factory() -> nn.Module:
        return build(scenario.model, federation.data_shape, scenario.seed)

    modules = Skeleton(factory).modules
    return GlobalModel(factory, arrays, modules, federation.shape, federation.train.vocabulary, scenario.seed)


def _cost_model(scenario: Scenario, federation: Federation, group: Group, method: ClientMethod, model: GlobalModel) -> CostModel:
    method.samples.require(federation.shape, federation.train.dtype)
    workloads = Workloads(
        model.build,
        federation.shape,
        federation.train.dtype,
        method.backward,
        method.operands,
        group.method.precision.master,
        group.method.precision.grid,
        begin=method.backward.begin(model),
        lend=lenders(method.backward, model, pretrained=scenario.pretrain is not None),
    )
    return CostModel(workloads, load_profile(group.profile), scenario.energy_table)


def _participant(group: Group, cost: CostModel, messages: Messages, admission: Admission) -> Participant:
    """Return a client without samples, which any of its group on such a device is a peer of."""
    device_bytes = cost.profile.memory.value
    return Participant(
        client=0,
        group=group.name or group.profile,
        cost=cost,
        policy=group.method.precision,
        epochs=group.local.epochs,
        batch=group.local.batch,
        lr=group.local.lr,
        samples=0,
        held_out=0,
        memory_budget_bytes=min(device_bytes, group.budget.memory or device_bytes),
        energy_budget_j=group.budget.energy,
        messages=messages,
        admission=admission,
        link=group.method.link,
        filter=group.method.samples,
    )


def _objection(participant: Participant, wishes: Wishes, corrected: bool) -> Refusal | None:
    """Return why a client cannot take part, whatever its battery, or None."""
    if not participant.samples:
        return Refusal("it has no samples to train on", 0, participant.memory_budget_bytes, None, None)
    plan = participant.plan(wishes.of(participant.policy, participant.client), corrected=corrected)
    return plan if isinstance(plan, Refusal) else None


def _batteries(scenario: Scenario, participants: Mapping[int, Participant], group_of: Sequence[int]) -> Batteries:
    """Return the batteries, each charged to a share that is drawn from the scenario's seed."""
    options, batteries, levels = scenario.clients.batteries, {}, {}
    for client, participant in participants.items():
        profile = participant.cost.profile
        own = scenario.clients.groups[group_of[client]].budget.battery
        capacity = own or (profile.battery_j.value if profile.battery_j else None)
        if capacity is not None:
            recharge_w = profile.recharge_w.value if profile.recharge_w else 0.0
            batteries[client] = Battery(capacity, options.reserve * capacity, recharge_w)
            levels[client] = capacity * float(numpy_stream(scenario.seed, "battery", client).uniform(*options.start))
    return Batteries(batteries, levels)
