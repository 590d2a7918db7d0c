"""Clients that adapt their own bits within a round: what they are allowed, what they are charged, and what the wish learns."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedapt.clients.instructions import Segment, TrainReport
from fedapt.clients.precision.apt import Apt
from fedapt.clients.precision.policy import Wish
from fedapt.cost.planner import Refusal
from fedapt.grid.visit import Outcome
from tests.grid.conftest import enrolled, same_bits, scenario
from tests.grid.play import play
from tests.grid.test_gateway import clients

EAGER = {"kind": "apt", "t_min": 1e9, "every_batches": 4}


@pytest.fixture(scope="module")
def participant():
    """Return a client with 130 samples in batches of 16, nine steps an epoch."""
    found = enrolled(scenario(clients=clients("apt"))).participants[0]
    return replace(found, samples=130, epochs=2, policy=Apt(**EAGER))


def planned(participant, wish=6, **budgets):
    layers = [shape.name for shape in participant.cost.shapes]
    return replace(participant, **budgets).plan(Wish(dict.fromkeys(layers, wish)))


def at(participant, bits):
    """Return the memory of a round at these widths, and its joules with messages of the codes alone, both ways."""
    payload = participant.cost.payload_bytes(bits)
    cost = participant.cost.training_cost(bits, ([16] * 8 + [2]) * 2, payload, payload)
    return cost.memory.total_bytes, cost.energy.total_j


def test_with_room_enough_every_layer_may_rise_to_sixteen_bits(participant):
    plan = planned(participant)
    assert set(plan.bits.values()) == {6} and set(plan.highest.values()) == {16}
    assert participant.task("train", plan, 0, 0, 0.0).instructions.adaptation.highest == plan.highest


def test_who_does_not_adapt_within_a_round_is_told_nothing_of_it(participant):
    for policy, epochs in ((Apt(), 2), (Apt(every_epochs=2), 2), (Apt(every_batches=18), 2), (Apt(every_epochs=1), 1)):
        one = replace(participant, policy=policy, epochs=epochs)
        plan = planned(one)
        assert plan.highest == {} and one.task("train", plan, 0, 0, 0.0).instructions.adaptation is None
    assert participant.task("evaluate", planned(participant), 0, 0, 0.0).instructions.adaptation is None


@settings(deadline=None)
@given(st.integers(2, 16), st.floats(0.2, 2.0), st.floats(0.2, 2.0))
def test_all_layers_at_their_highest_fit_both_budgets_and_one_more_bit_does_not(participant, wish, memory, energy):
    layers = [shape.name for shape in participant.cost.shapes]
    bytes_, joules = at(participant, dict.fromkeys(layers, 8))
    plan = planned(participant, wish, memory_budget_bytes=int(bytes_ * memory), energy_budget_j=joules * energy)
    if isinstance(plan, Refusal):
        return
    needed = at(participant, plan.highest)
    assert needed[0] <= int(bytes_ * memory) and needed[1] <= joules * energy * (1 + 1e-9)
    assert all(plan.bits[layer] <= plan.highest[layer] <= 16 for layer in layers)
    for layer in (name for name in layers if plan.highest[name] < 16 and all(plan.highest[n] == 16 for n in layers if n != name)):
        more = at(participant, plan.highest | {layer: plan.highest[layer] + 1})
        assert more[0] > int(bytes_ * memory) or more[1] > joules * energy


def test_each_step_is_charged_at_the_widths_that_it_had_and_the_messages_once(participant):
    plan = planned(participant)
    task, layers = participant.task("train", plan, 0, 0, 0.0), sorted(plan.bits)
    segments = [Segment(bits=[bits] * len(layers), batches=batches) for bits, batches in ((6, {16: 3}), (9, {16: 1, 2: 1}))]
    report = TrainReport(samples=130, batches={16: 4, 2: 1}, train_loss=1.0, layers={}, segments=segments)
    outcome = Outcome(
        0, "ok", report=report, downlink_bytes=700, uplink_bytes=900, bits=dict.fromkeys(layers, 9), segments=segments
    )
    row = participant.row(0, outcome, task, Wish(plan.bits))
    six = participant.cost.training_cost(plan.bits, [16, 16, 16], 0, 0)
    nine = participant.cost.training_cost(dict.fromkeys(plan.bits, 9), [16, 2], 0, 0)
    radio = participant.cost.training_cost(plan.bits, [], 700, 900)
    assert row.macs == six.macs + nine.macs and row.steps == 5
    assert row.energy_j == pytest.approx(six.energy.total_j + nine.energy.total_j + radio.energy.radio_j, rel=1e-12)
    assert row.energy_bitops_j == pytest.approx(
        six.energies["bitops"].total_j + nine.energies["bitops"].total_j + radio.energy.radio_j, rel=1e-12
    )
    assert row.time_s == pytest.approx(six.time.total_s + nine.time.total_s + radio.time.radio_s, rel=1e-12)
    assert row.memory_bytes == nine.memory.total_bytes > six.memory.total_bytes
    assert set(row.layer_bits) == {9} and row.mean_bits == 9.0 and row.choice == "apt asks for 6 bits; 9 at the end of the round"


def test_a_client_that_adapts_within_a_round_ends_it_at_more_bits_than_one_that_waits_for_the_server():
    waiting = play(scenario(clients=clients({"kind": "apt", "t_min": 1e9})), rounds=1)
    adapting = play(scenario(clients=clients(EAGER)), rounds=1)
    assert {row.mean_bits for row in waiting[1]} == {6.0}
    for row in adapting[1]:
        # A bit after each four batches but not after the last.
        assert set(row.layer_bits) == {6 + (row.steps - 1) // 4} and row.status == "ok"
    assert max(row.mean_bits for row in adapting[1]) > 7
    policy, again = adapting[2].participants[0].policy, play(scenario(clients=clients(EAGER)), rounds=1)
    assert set(adapting[2].wishes.of(policy, 0).bits.values()) == {max(row.mean_bits for row in adapting[1])}
    assert same_bits(adapting[0], again[0]) and adapting[1] == again[1]


def test_a_lonely_device_goes_on_where_it_was():
    own = scenario(clients=clients(EAGER | {"scope": "client"}, epochs=2))
    _, rows, _ = play(own, rounds=2, cohort=[3])
    first, second = rows
    rises = (first.steps - 1) // 4
    assert first.layer_bits == [6 + rises] * 4 and second.layer_bits == [min(6 + 2 * rises, 16)] * 4


@pytest.mark.parametrize("strategy", ["fedavg", "median"])
def test_within_a_tight_budget_no_client_exceeds_its_memory_by_one_byte(strategy):
    roomy = play(scenario(clients=clients("apt")), rounds=1)[1]
    budget = {"memory": max(row.memory_bytes for row in roomy) + 3000}
    groups = [{"profile": "raspberry-pi-4", "budget": budget}]
    tight = scenario(strategy=strategy, clients=clients(EAGER) | {"groups": groups})
    _, rows, _ = play(tight, rounds=2, cohort=range(12))
    assert {row.status for row in rows} == {"ok"} and all(row.memory_bytes <= budget["memory"] for row in rows)
    ended = {row.mean_bits for row in rows if row.round == 0}
    assert max(ended) > 6.0 and max(ended) < 6 + max(row.steps - 1 for row in rows) // 4


def test_liars_blown_up_by_a_fault_are_admitted_at_the_bits_that_they_ended_with():
    wanted = scenario(clients=clients(EAGER), faults={"sign_flip": 1.0})
    assert {row.status for row in play(wanted, rounds=1)[1]} == {"ok"}
