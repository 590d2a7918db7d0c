"""Clients with sample filters in a federation: the same bits by every way, and a ledger that a hand count agrees with."""

import pytest

from fedapt.grid.inline import Inline
from fedapt.grid.participant import Participant
from fedapt.grid.ray_pool import RayPool
from fedapt.grid.visit import ByMessage
from tests.grid.conftest import enrolled, same_bits, scenario
from tests.grid.play import play

FILTERS = [
    {"kind": "loss_topk", "keep": 0.3},
    {"kind": "random", "keep": 0.3},
    {"kind": "instance_filter", "keep": 0.3, "threshold": 2.2},
]


def clients(samples, precision="fp32", **local):
    method = {"precision": precision, "samples": samples}
    return {"count": 12, "per_round": 6, "local": {"lr": 0.05, "batch": 16, "epochs": 2, **local}, "method": method}


def by_message(enrolment):
    return Inline(ByMessage(enrolment.workshop.open().app))


@pytest.mark.parametrize("precision", ["fp32", {"kind": "apt", "every_batches": 2}])
@pytest.mark.parametrize("samples", FILTERS)
def test_with_and_without_messages_outcomes_are_the_same(samples, precision):
    wanted = scenario(clients=clients(samples, precision))
    direct, rows, gateway = play(wanted, cohort=range(3))
    sent, sent_rows, sent_gateway = play(wanted, by_message, cohort=range(3))
    assert {row.status for row in rows} == {"ok"} and rows == sent_rows and same_bits(direct, sent)
    for client, kept in sent_gateway.client_states.items():
        assert same_bits(gateway.client_states[client], kept)
    assert bool(gateway.client_states) == (samples["kind"] == "instance_filter")


@pytest.mark.parametrize("samples", FILTERS[:2])
def test_rows_are_what_is_predicted_and_a_hand_count(samples):
    """In 3 of 10, rounded up: 5 of 16 and a share of the rest, in each of two epochs."""
    _, rows, gateway = play(scenario(clients=clients(samples)), rounds=1)
    for row in rows:
        participant: Participant = gateway.participants[row.client]
        whole, rest = divmod(participant.samples, 16)
        taken = 2 * (5 * whole + -(-3 * rest // 10))
        came = 2 * participant.samples
        assert (row.samples, row.backward_samples, row.spared_samples) == (participant.samples, taken, came - taken)
        assert row.steps == 2 * (whole + (rest > 0))
        forward = came if samples["kind"] == "loss_topk" else taken
        once = participant.cost.trace({}).macs(1, 0)
        first = participant.cost.shapes[0].macs
        ahead = sum(shape.macs for shape in participant.cost.shapes)
        assert once == 3 * ahead - first
        update = sum(shape.weights + shape.float_parameters for shape in participant.cost.shapes)
        assert row.macs == forward * ahead + taken * (2 * ahead - first) + row.steps * update
        plan = participant.plan(gateway.wishes.of(participant.policy, row.client))
        assert participant.predicted_time_s(plan) == row.time_s


@pytest.mark.parametrize("samples", FILTERS)
def test_planned_joules_are_never_less_than_spent_and_exactly_so_for_a_filter_of_known_size(samples):
    _, rows, gateway = play(scenario(clients=clients(samples)), rounds=1)
    for row in rows:
        participant = gateway.participants[row.client]
        wish = gateway.wishes.of(participant.policy, row.client)
        planned_j = participant.cost.wished_j(participant._demand(wish, 0.0, False, None, False))
        if samples["kind"] == "instance_filter":
            assert row.energy_j < planned_j
        else:
            assert row.energy_j <= planned_j * (1 + 1e-12) and row.energy_j > 0.99 * planned_j


def test_the_instance_filter_is_charged_for_what_it_keeps():
    plain, kept = (enrolled(scenario(clients=clients(samples))).participants[0] for samples in ("all", FILTERS[2]))
    assert kept._kept_bytes(0.0, False) - plain._kept_bytes(0.0, False) == 4 * (49 * 16 + 16 + 16 + 1 + 1)


@pytest.mark.parametrize("samples", FILTERS[::2])
def test_ray_gives_the_bits_of_inline(samples, ray_session):
    wanted = scenario(clients=clients(samples, epochs=1))
    (model, rows, gateway), (other, theirs, their_gateway) = (
        play(wanted, transport_of, cohort=range(3)) for transport_of in (None, lambda enrolment: RayPool(enrolment.workshop, 2))
    )
    assert same_bits(model, other) and rows == theirs
    assert gateway.client_states.keys() == their_gateway.client_states.keys()
    assert all(same_bits(kept, their_gateway.client_states[client]) for client, kept in gateway.client_states.items())
