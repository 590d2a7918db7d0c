"""fedapt.grid.participant: how long a round takes is known before it, and so is how much of it fits into less time."""

import pytest

from fedapt.clients.precision.policy import Wish
from fedapt.cost.planner import Plan
from tests.grid.conftest import enrolled, scenario
from tests.grid.play import play


def linked(precision, **link):
    method = {"precision": precision, "link": link}
    return {"count": 12, "per_round": 6, "local": {"lr": 0.05, "batch": 16, "epochs": 3}, "method": method}


KINDS = {
    "fp32": linked("fp32"),
    "4 bits": linked({"kind": "fixed", "bits": 4}),
    "qat": linked("qat"),
    "a compressed upload": linked("fp32", bits=3),
    "a model upload": linked({"kind": "fixed", "bits": 6}, send="model", down="nearest"),
    "error feedback": linked({"kind": "fixed", "bits": 6}, bits=2, rounding="nearest", error_feedback=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_predicted_time_is_that_of_the_ledger_to_the_last_bit(kind):
    wanted = scenario(clients=KINDS[kind])
    _, rows, gateway = play(wanted, rounds=1)
    for row in rows:
        participant = gateway.participants[row.client]
        plan = participant.plan(gateway.wishes.of(participant.policy, row.client))
        assert participant.predicted_time_s(plan) == row.time_s


@pytest.fixture(scope="module")
def participant():
    return enrolled(scenario(clients=KINDS["4 bits"])).participants[0]


@pytest.fixture
def plan(participant):
    return Plan(dict.fromkeys(participant.messages.weights, 4), 16)


def test_the_steps_that_fit_are_the_most_that_do(participant, plan):
    steps = 3 * -(-participant.samples // 16)
    assert steps > 10
    for most in range(1, steps + 1):
        needed_s = participant.predicted_time_s(plan, most_steps=most)
        assert participant.steps_within(plan, needed_s) == most
        assert participant.steps_within(plan, needed_s * (1 - 1e-12)) == most - 1
    assert participant.steps_within(plan, 1e9) == steps
    assert participant.steps_within(plan, 0.0) == 0


def test_a_correction_costs_time_to_receive(participant, plan):
    floats = sum(shape.weights + shape.float_parameters for shape in participant.cost.shapes)
    longer_s = participant.predicted_time_s(plan, corrected=True) - participant.predicted_time_s(plan)
    rate = participant.cost.profile.downlink_bytes_per_s.value
    assert 4 * floats < longer_s * rate < 4 * floats + 1200
    assert participant.steps_within(plan, participant.predicted_time_s(plan), corrected=True) < 3 * -(-participant.samples // 16)


def test_a_task_of_fewer_steps_is_charged_for_those_alone(participant, plan):
    task = participant.task("train", plan, 0, 0, 0.0, most_steps=2)
    assert task.planned == {16: 2} and task.instructions.seen(task.samples) == 32


def test_a_client_that_stops_before_it_would_adapt_is_not_asked_to():
    eager = enrolled(scenario(clients=linked({"kind": "apt", "every_batches": 2}))).participants[0]
    found = eager.plan(wish_of(eager))
    assert eager.task("train", found, 0, 0, 0.0, most_steps=2).instructions.adaptation is None
    assert eager.task("train", found, 0, 0, 0.0, most_steps=3).instructions.adaptation is not None


def wish_of(participant):

    return Wish(dict.fromkeys(participant.messages.weights, 6))
