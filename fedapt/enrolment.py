"""Who takes part: every client of a scenario with its device, data and budget, and those that cannot, with the reason."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from fedapt.admission import Admission
from fedapt.clients.faulty import slowed
from fedapt.cost.ledger import LedgerRow
from fedapt.cost.model import CostModel
from fedapt.cost.profiles import load_profile
from fedapt.cost.projection import Refusal
from fedapt.cost.saved import saved_bytes
from fedapt.cost.shapes import layer_shapes
from fedapt.data import Federation
from fedapt.errors import ScenarioError
from fedapt.grid.participant import Participant
from fedapt.grid.wishes import Wishes
from fedapt.grid.workshop import ClientMethod, Workshop
from fedapt.models import build
from fedapt.quant import quantisable
from fedapt.scenario import Group, Scenario


@dataclass(frozen=True)
class Enrolment:
    """participants: by client number; refused: one ledger row for each client that cannot take part."""

    participants: dict[int, Participant]
    refused: tuple[LedgerRow, ...]
    wishes: Wishes
    workshop: Workshop
    groups: Sequence[Group]
    group_of: Sequence[int]


def enrol(scenario: Scenario, federation: Federation) -> Enrolment:
    """Enrol the clients that have samples and whose device can hold the model; raises ScenarioError if there are none."""
    model = build(scenario.model, federation.shape, federation.classes, scenario.seed)
    wishes = Wishes(quantisable(model))
    groups, group_of, faults = scenario.clients.groups, scenario.group_of_clients(), scenario.faults
    shapes, saved = layer_shapes(model, federation.shape), saved_bytes(model, federation.shape)
    profiles = [load_profile(group.profile) for group in groups]

    @functools.cache
    def cost_of(number: int, slowdown: float) -> CostModel:
        ops = groups[number].method.backward.ops
        return CostModel(shapes, saved, slowed(profiles[number], slowdown), scenario.energy_table, ops)

    participants, refused = {}, []
    for client, number in enumerate(group_of):
        cost = cost_of(number, faults.slowdown(scenario.seed, client))
        participant = _participant(client, groups[number], cost, federation, scenario.admission)
        reason = _objection(participant, wishes)
        if reason is None:
            participants[client] = participant
        else:
            profile = profiles[number].name
            refused.append(LedgerRow(0, client, 0, participant.group, profile, "refused", reason, bytes_source="constant"))
    if not participants:
        reasons = "; ".join(dict.fromkeys(row.reason for row in refused))
        raise ScenarioError(f"none of the {len(group_of)} clients can take part: {reasons}")
    methods = [ClientMethod(group.method.backward, group.method.samples, group.method.continual) for group in groups]
    return Enrolment(
        participants, tuple(refused), wishes, Workshop(federation, scenario.model, methods, group_of, faults), groups, group_of
    )


def _participant(client: int, group: Group, cost: CostModel, federation: Federation, admission: Admission) -> Participant:
    device_bytes = cost.profile.memory.value
    return Participant(
        client=client,
        group=group.name or group.profile,
        cost=cost,
        policy=group.method.precision,
        epochs=group.local.epochs,
        batch=group.local.batch,
        lr=group.local.lr,
        samples=len(federation.rows[client]),
        held_out=len(federation.held_out[client]),
        memory_budget_bytes=min(device_bytes, group.budget.memory or device_bytes),
        energy_budget_j=group.budget.energy,
        admission=admission,
    )


def _objection(participant: Participant, wishes: Wishes) -> str | None:
    """Return why a client cannot take part, or None."""
    if not participant.samples:
        return "it has no samples to train on"
    bits = participant.bits(wishes.of(participant.policy, participant.client).bits)
    return bits.reason if isinstance(bits, Refusal) else None
