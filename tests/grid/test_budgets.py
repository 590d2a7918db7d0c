"""Whole rounds with budgets that nobody tuned: what a client may use bounds what its ledger rows say."""

from dataclasses import replace

import numpy as np
import pytest

from fedapt.cost.planner import Plan
from tests.grid.conftest import enrolled, scenario
from tests.grid.play import play

BUDGETS = [  # shares of what a round of the plain wish needs: memory, energy
    (0.97, 0.9), (0.9, 0.6), (0.8, 0.45), (0.6, 2.0), (0.45, 0.7),
]  # fmt: skip


def clients(precision):
    return {"count": 12, "per_round": 6, "local": {"lr": 0.05, "batch": 16}, "method": {"precision": precision}}


def rows_with(memory, energy, **options):
    groups = [{"profile": "raspberry-pi-4", "budget": {"memory": memory, "energy": energy}}]
    wanted = scenario(clients={**clients({"kind": "budget", **options}), "groups": groups})
    return play(wanted, rounds=3, cohort=range(6))[1]


@pytest.fixture(scope="module")
def plain():
    """Return what the rows of unlimited clients need at most: bytes, joules, and the joules of one step."""
    rows = play(scenario(clients=clients("budget")), rounds=1, cohort=range(6))[1]
    return max(row.memory_bytes for row in rows), max(row.energy_j for row in rows), max(row.energy_j / row.steps for row in rows)


@pytest.mark.parametrize(("memory", "energy"), BUDGETS)
def test_no_client_exceeds_its_memory_by_a_byte_or_its_energy_at_all(plain, memory, energy):
    limit_bytes, limit_j = int(memory * plain[0]), energy * plain[1]
    rows = rows_with(limit_bytes, limit_j)
    assert all(row.memory_bytes <= limit_bytes and row.energy_j <= limit_j for row in rows)
    assert all(row.status in {"ok", "refused"} for row in rows) and any(row.status == "ok" for row in rows)


def test_bits_follow_when_the_budget_is_halved(plain):
    bits = []
    for share in (1.0, 0.8, 0.6):
        rows = rows_with(None, share * plain[1], least_bits=8)
        bits.append(np.mean([row.mean_bits for row in rows if row.status == "ok"]))
    assert bits[0] > bits[1] > bits[2] >= 2


def test_the_ledger_says_in_words_what_was_chosen_and_why(plain):
    rows = rows_with(int(0.45 * plain[0]), None)
    assert all("budget asks for" in row.choice and "of memory" in row.choice for row in rows)
    assert any(f"batches of {row.batch} instead of" in row.choice for row in rows)


def test_batteries_drain_to_fewer_bits_and_then_to_sitting_out_and_never_below_zero(plain):
    groups = [{"profile": "raspberry-pi-4", "budget": {"battery": 2.6 * plain[1]}}]
    _, rows, gateway = play(scenario(clients={**clients("budget"), "groups": groups}), rounds=8, cohort=range(4))
    assert all(level >= 0 for level in gateway.batteries.level_j.values())
    for client in {row.client for row in rows}:
        own = [row for row in rows if row.client == client]
        levels = [row.battery_j for row in own]
        spent = np.cumsum([0.0, *(row.energy_j for row in own[:-1])])
        assert levels == pytest.approx(levels[0] - spent, abs=1e-12) and sorted(levels, reverse=True) == levels
        assert all(row.energy_j <= row.battery_j for row in own)
    last = rows[-1]
    assert last.status == "refused" and "J for a round, has" in last.reason and last.energy_j == 0


@pytest.mark.parametrize(("batch", "share"), [(16, 1.0), (8, 0.8), (1, 0.1)])
def test_micro_batches_take_their_share_of_a_step_also_where_the_samples_are_fewer_than_a_batch(batch, share):
    """Ten samples where batches of 16 were asked for: a whole step is on ten of them."""
    participant = replace(enrolled(scenario(clients=clients("budget"))).participants[0], samples=10)
    told = participant.task("train", Plan({}, batch), 0, 0, 0.0).instructions
    assert told.lr == pytest.approx(0.05 * share, rel=1e-15)


def test_a_round_under_fedprox_is_planned_and_charged_with_its_pull():
    participant = enrolled(scenario(clients=clients("budget"))).participants[0]
    assert participant.cost_under(0.0) is participant.cost
    assert participant.cost_under(0.1).workloads is participant.cost.workloads.pulled
    assert participant.cost.workloads.pulled.proximal


def test_batteries_start_between_the_shares_that_the_scenario_says_and_keep_their_reserve():
    groups = [{"profile": "phone", "budget": {"battery": 10.0}}]
    batteries = {"start": [0.25, 0.5], "reserve": 0.2}
    enrolment = enrolled(scenario(clients={**clients("budget"), "groups": groups, "batteries": batteries}))
    levels = enrolment.batteries.level_j.values()
    assert all(2.5 <= level <= 5.0 for level in levels) and len(set(levels)) == 12
    assert enrolment.batteries.usable_j(0) == pytest.approx(enrolment.batteries.level_j[0] - 2.0)
