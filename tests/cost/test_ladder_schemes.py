"""What a client is lent when bits and batches alone do not fit: in which order, with which batches, and what is said of it."""

import functools

import pytest

from fedapt.cost.planner import Plan
from fedapt.grid.participant import Participant
from fedapt.grid.visit import Task
from fedapt.quant.treatment import WHOLE
from tests.grid.conftest import enrolled, scenario

PI = "raspberry-pi-4"


def tasks_of(budget, **changes) -> dict[int, tuple[Plan, Task, Participant]]:
    """Return what each client of a scenario on the digits is asked, with itself; budget: of all of them."""
    clients = {
        "count": 4,
        "per_round": 4,
        "local": {"batch": 16},
        "method": {"precision": "budget", **changes.pop("method", {})},
        "groups": [{"profile": PI, "budget": budget}],
    }
    enrolment = enrolled(scenario(clients=clients, data={"source": "digits", "partition": {"kind": "iid"}}, **changes))
    found = {}
    for client, participant in enrolment.participants.items():
        plan = participant.plan(enrolment.wishes.of(participant.policy, client))
        assert isinstance(plan, Plan)
        found[client] = plan, participant.task("train", plan, 0, 0, 0.0), participant
    return found


@functools.cache
def first_of(memory: str) -> tuple[Plan, Task, Participant]:
    """Return the same of the first client, if all of them have so much memory."""
    return next(iter(tasks_of({"memory": memory}).values()))


def plan_of(memory: str) -> Plan:
    return first_of(memory)[0]


def test_batches_shrink_before_a_scheme_is_lent_and_a_scheme_is_lent_before_layers_freeze():
    assert plan_of("1 GiB").batch == 16 and plan_of("1 GiB").scheme == WHOLE
    assert plan_of("150 KiB").batch < 16 and plan_of("150 KiB").scheme.backward is None
    assert plan_of("70 KiB").scheme.backward.kind == "sparse_update" and not plan_of("70 KiB").scheme.frozen


def test_less_memory_trains_less_and_never_more_than_there_is_room_for():
    trained = []
    for memory in (70, 40):
        plan, _, participant = first_of(f"{memory} KiB")
        peak = participant.cost.training_cost(plan.bits, [plan.batch], 0, 0, plan.scheme).memory.total_bytes
        assert peak <= memory * 2**10
        trained.append(sum(shape.backward.sent_weights for shape in participant.cost.workloads.at(plan.scheme).shapes))
    assert trained[0] > trained[1]


def test_the_largest_batch_that_a_lent_scheme_has_room_for_is_taken():
    plan, _, participant = first_of("70 KiB")
    peaks = {
        batch: participant.cost.training_cost(plan.bits, [batch], 0, 0, plan.scheme).memory.total_bytes for batch in (1, 2, 4, 8)
    }
    assert plan.batch == max(batch for batch, peak in peaks.items() if peak <= 70 * 2**10)


def test_the_reason_names_the_memory_and_what_trains():
    reason = plan_of("70 KiB").reason
    assert reason.startswith("batches of ") and ": 70 KiB of memory; only " in reason and reason.endswith(" trained")


@pytest.mark.parametrize("joules", [2e-3, 1.6e-3])
def test_a_client_without_the_joules_is_lent_a_cheaper_scheme_and_does_not_exceed_them(joules):
    for plan, task, participant in tasks_of({"energy": f"{joules} J"}).values():
        down, up = participant.message_lengths(task, corrected=False)
        batches = [size for size, count in task.asked.items() for _ in range(count)]
        spent = participant.cost.training_cost(plan.bits, batches, down, up, plan.scheme)
        assert plan.scheme.backward is not None and f"{1e3 * joules:.3g} mJ for the round" in plan.reason
        assert spent.energy.total_j <= joules


def test_a_filter_is_lent_only_after_a_pretraining():
    """From random weights filtered gradients of the last layers ruin what the first never learned."""
    enrolment = enrolled(scenario(clients={"count": 4, "per_round": 4, "method": {"precision": "budget"}}))
    (first, *_) = enrolment.participants.values()
    assert set(first.cost.workloads.lend) == {"sparse"}
    begun = scenario(clients={"count": 4, "per_round": 4, "method": {"precision": "budget"}}, pretrain={"epochs": 1})
    (first, *_) = enrolled(begun).participants.values()
    assert set(first.cost.workloads.lend) == {"filter", "sparse"}


def test_a_method_of_ones_own_is_never_replaced():
    ((plan, _, _), *_) = tasks_of({"memory": "50 KiB"}, method={"backward": "error_map_pruning"}).values()
    assert plan.scheme.backward is None and plan.scheme.frozen
