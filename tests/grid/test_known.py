"""fedapt.grid.known: what is worked out once for clients that are alike is what each of them would get alone."""

from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedapt.clients.instructions import LayerReport, TrainReport
from fedapt.clients.precision.policy import Wish
from fedapt.cost.ledger import LedgerRow
from fedapt.cost.planner import Plan, Refusal
from fedapt.grid.known import MOST, Memory
from fedapt.grid.participant import Participant
from fedapt.grid.visit import Outcome
from tests.grid.conftest import enrolled, scenario


def terms(precision):
    """Return clients of one method with ample memory, with little of it, and with little energy."""
    method = {"precision": precision}
    local = {"lr": 0.05, "batch": 16, "epochs": 2}
    ample = enrolled(scenario(clients={"count": 12, "per_round": 6, "local": local, "method": method})).participants[0]
    return [ample, replace(ample, memory_budget_bytes=60_000), replace(ample, energy_budget_j=5e-3)]


@pytest.fixture(scope="module")
def budgeted():
    return terms("budget")


@pytest.fixture(scope="module")
def adapting():
    return terms({"kind": "apt", "every_batches": 2})


def alone(participant: Participant) -> Participant:
    """Return the same client, of whom and of whose peers nothing is known."""
    return replace(participant)


ASKED = st.tuples(
    st.integers(0, 2),
    st.integers(1, 60),
    st.sampled_from([2, 5, 8, 16, 32]),
    st.sampled_from([0.0, 0.1]),
    st.booleans(),
    st.none() | st.floats(0, 1e-2) | st.floats(0, 10),
    st.sampled_from([None, 3.0]),
)


def wish_of(participant, bits, first_minds=None):
    layers = list(participant.messages.weights)
    return Wish(dict.fromkeys(layers, bits), "", {} if first_minds is None else {layers[0]: first_minds})


@pytest.mark.parametrize("kind", ["budgeted", "adapting"])
@settings(max_examples=60, deadline=None)
@given(asked=st.lists(ASKED, min_size=2, max_size=6))
def test_peers_get_the_plans_the_tasks_and_the_rows_that_each_would_get_alone(kind, asked, request):
    groups = request.getfixturevalue(kind)
    for number, (group, samples, bits, mu, corrected, battery_j, minds) in enumerate(asked):
        client = groups[group].peer(number, samples, 0)
        wish = wish_of(client, bits if kind == "budgeted" else min(bits, 16), minds)
        plan = client.plan(wish, mu, battery_j, corrected=corrected)
        assert plan == alone(client).plan(wish, mu, battery_j, corrected=corrected)
        if isinstance(plan, Refusal):
            continue
        given = ("train", plan, 3, number, mu)
        task = client.task(*given, correction={} if corrected else None)
        assert task == alone(client).task(*given, correction={} if corrected else None)
        outcome = came_of(task, number)
        row = client.row(number, outcome, task, wish, battery_j)
        assert row == alone(client).row(number, outcome, task, wish, battery_j)
        assert list(vars(row)) == [column.name for column in fields(LedgerRow)]


def came_of(task, number):
    batches = task.instructions.batches(task.samples)
    seen = LayerReport(gavg=float(number), underflow_share=0.5, clip_share=0.0)
    report = TrainReport(samples=task.samples, batches=batches, train_loss=0.1, layers=dict.fromkeys(task.plan.bits, seen))
    return Outcome(task.client, "ok", report=report, downlink_bytes=1000, uplink_bytes=900 + number % 2)


def test_what_peers_may_spend_is_not_mixed_up(budgeted):
    ample, small, poor = (one.peer(1, 40, 0) for one in budgeted)
    wish = wish_of(ample, 32)
    plans = [one.plan(wish) for one in (ample, small, poor, ample.peer(2, 40, 0))]
    assert plans[0].bits == wish.bits and plans[0] is plans[3]
    assert "58.6 KiB of memory" in plans[1].reason and "mJ for the round" in plans[2].reason
    assert isinstance(ample.plan(wish, battery_j=1e-9), Refusal) and ample.plan(wish, battery_j=1e3) is plans[0]


def test_a_client_with_other_terms_knows_nothing_of_its_former_peers(budgeted):
    ample = budgeted[0].peer(1, 40, 0)
    before = ample.task("train", ample.plan(wish_of(ample, 8)), 0, 0, 0.0).instructions
    slower = replace(ample, lr=0.01)
    assert slower.task("train", slower.plan(wish_of(ample, 8)), 0, 0, 0.0).instructions.lr == 0.01 != before.lr


def test_tasks_of_equal_clients_differ_in_seed_round_and_client_alone(budgeted):
    one, other = (budgeted[0].peer(client, 40, 0) for client in (1, 2))
    plan = one.plan(wish_of(one, 8))
    first, second = one.task("train", plan, 5, 6, 0.0).instructions, other.task("train", plan, 7, 8, 0.0).instructions
    assert (first.seed, first.round, first.client, second.seed, second.round, second.client) == (5, 6, 1, 7, 8, 2)
    assert first.model_dump() | {"seed": 7, "round": 8, "client": 2} == second.model_dump()


def test_plans_have_one_key_if_and_only_if_they_are_equal():
    plans = [Plan({"a": 8}, 4), Plan({"a": 9}, 4), Plan({"a": 8}, 2), Plan({"a": 8}, 4, ("a",)), Plan({"a": 8}, 4, (), "why")]
    plans.append(Plan({"a": 8}, 4, (), "", {"a": 9}))
    assert len({plan.key for plan in plans}) == len(plans)
    assert Plan({"a": 8}, 4).key == plans[0].key


def test_a_full_memory_forgets():
    memory = Memory[int]()
    for number in range(2 * MOST + 1):
        assert memory.keep(number, -number) == -number == memory[number]
        assert len(memory) <= MOST


def test_a_row_with_other_values_is_the_row_that_dataclasses_would_make():
    row = LedgerRow(0, 1, 2, "g", "p", "ok", samples=3, gavg=[0.5])
    assert row.but(client=7, status="late") == replace(row, client=7, status="late")
    assert row == LedgerRow(0, 1, 2, "g", "p", "ok", samples=3, gavg=[0.5])
