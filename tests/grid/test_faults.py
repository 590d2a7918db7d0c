"""Faults from a scenario: each has its status and its cost, and an aggregate sees none of them."""

from collections import Counter

import numpy as np
import pytest

from fedapt.clients.faulty import Faults, drawn
from fedapt.evaluation import Evaluator
from fedapt.grid.inline import Inline
from fedapt.scenario import Scenario, dump_scenario, load_scenario
from tests.grid.conftest import enrolled, same_bits, scenario
from tests.grid.play import play

COHORT = range(6)


def hit(fault, chance, rounds=2, seed=0):
    return {(number, client) for number in range(rounds) for client in COHORT if drawn(chance, seed, fault, number, client)}


def chance_of_few(fault):
    """Return a chance at which the first round loses some of the cohort and keeps some."""
    return next(c for c in np.arange(0.1, 1, 0.05).tolist() if 1 <= len(hit(fault, c, rounds=1)) <= 3)


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        ("drop", "dropped", "it dropped out (faults.drop)"),
        ("raise", "failed", "InjectedError: the scenario asks for it (faults.raise)"),
        ("nan", "rejected", "non-finite in "),
    ],
)
def test_a_fault_takes_its_clients_out_of_the_round_and_no_others(fault, status, reason):
    chance = chance_of_few(fault)
    lost = hit(fault, chance, rounds=1)
    model, rows, _ = play(scenario(faults={fault: chance}), rounds=1)
    expected, kept, _ = play(scenario(), rounds=1, cohort=[client for client in COHORT if (0, client) not in lost])
    assert same_bits(model, expected)
    assert [row for row in rows if row.status == "ok"] == kept
    bad = [row for row in rows if row.status != "ok"]
    assert {(row.round, row.client) for row in bad} == lost
    assert all(row.status == status and row.reason.startswith(reason) and row.downlink_bytes > 0 for row in bad)
    assert all((row.uplink_bytes > 0) == (fault == "nan") for row in bad)


@pytest.mark.parametrize("fault", ["crash", "hang"])
def test_an_accident_costs_one_attempt_and_no_bit(fault):
    chance = chance_of_few(fault)
    model, rows, _ = play(scenario(faults={fault: chance}))
    expected, kept, _ = play(scenario())
    assert same_bits(model, expected)
    assert {(row.round, row.client, row.attempt) for row in rows if row.status == "failed"} == {
        (*place, 1) for place in hit(fault, chance)
    }
    assert Counter(row.attempt for row in rows if row.status == "ok")[2] == len(hit(fault, chance))
    assert sum(row.energy_j for row in rows) == pytest.approx(sum(row.energy_j for row in kept))


def test_with_one_attempt_an_accident_loses_the_client():
    chance = chance_of_few("crash")
    _, rows, _ = play(
        scenario(faults={"crash": chance}), lambda enrolment: Inline(enrolment.workshop.open(), max_attempts=1), rounds=1
    )
    assert {row.client for row in rows if row.status == "failed"} == {client for _, client in hit("crash", chance, 1)}
    assert len(rows) == len(COHORT)


def test_a_turned_update_is_admitted_and_moves_the_model_the_other_way():
    honest, _, _ = play(scenario(), rounds=1, cohort=[2])
    model, rows, _ = play(scenario(faults={"sign_flip": 1.0}), rounds=1, cohort=[2])
    start, _, _ = play(scenario(), rounds=0)
    assert [row.status for row in rows] == ["ok"]
    true, lie = ({name: arrays[name] - start[name] for name in start} for arrays in (honest, model))
    cosine = sum(float((true[n] * lie[n]).sum()) for n in true) / np.sqrt(
        sum(float((u[n] ** 2).sum()) for u in (true,) for n in u) * sum(float((u[n] ** 2).sum()) for u in (lie,) for n in u)
    )
    assert cosine < -0.8


def test_a_slow_client_takes_longer_in_the_ledger_and_nothing_else_changes():
    model, rows, _ = play(scenario(faults={"slow": {"share": 1.0, "factor": 20.0}}), rounds=1)
    expected, plain, _ = play(scenario(), rounds=1)
    assert same_bits(model, expected)
    for slow, usual in zip(rows, plain, strict=True):
        assert slow.time_s == pytest.approx(20 * usual.time_s) and slow.energy_j == usual.energy_j


@pytest.mark.parametrize("strategy", ["fedavg", "median"])
def test_who_is_beyond_the_deadline_is_late_and_charged_and_not_used(strategy):
    faults = {"slow": {"share": 0.3, "factor": 100.0}}
    slow = {client for client in COHORT if drawn(0.3, 0, "slow", client)}
    assert slow and slow != set(COHORT)
    _, usual, _ = play(scenario(), rounds=1)
    wanted = scenario(
        strategy=strategy, faults=faults, clock={"kind": "synchronous", "deadline_s": 2 * max(row.time_s for row in usual)}
    )
    model, rows, _ = play(wanted, rounds=1)
    expected, kept, _ = play(scenario(strategy=strategy), rounds=1, cohort=[c for c in COHORT if c not in slow])
    assert same_bits(model, expected)
    late = [row for row in rows if row.status == "late"]
    assert {row.client for row in late} == slow
    assert all(row.energy_j > 0 and row.steps and row.uplink_bytes and "deadline" in row.reason for row in late)
    assert [row for row in rows if row.status == "ok"] == kept


def test_a_deadline_that_all_meet_changes_no_bit():
    model, rows, _ = play(scenario(clock={"kind": "synchronous", "deadline_s": 1e6}))
    expected, plain, _ = play(scenario())
    assert same_bits(model, expected) and rows == plain


def test_the_key_raise_survives_writing_and_reading(tmp_path):
    wanted = scenario(faults={"raise": 0.25, "slow": {"share": 0.1, "factor": 2.0}})
    (tmp_path / "a.yaml").write_text(dump_scenario(wanted))
    read = load_scenario(str(tmp_path / "a.yaml"))
    assert read == wanted and read.faults.error == 0.25 and isinstance(read, Scenario)
    assert Faults.model_json_schema()["properties"]["raise"]


@pytest.mark.slow
def test_a_median_stands_sign_flippers_that_pull_the_mean_down():
    def accuracy(strategy, **faults):
        clients = {"count": 20, "per_round": 20, "local": {"lr": 0.1, "batch": 16, "epochs": 2}, "method": {"precision": "fp32"}}
        wanted = scenario(strategy=strategy, clients=clients, data={"source": "digits"}, faults=faults)
        model, _, _ = play(wanted, rounds=8, cohort=range(20))
        federation = enrolled(wanted).workshop.federation
        return Evaluator(wanted.model, federation.test, federation.classes, 1).score(model)[0]

    share = next(c for c in np.arange(0.1, 0.5, 0.02).tolist() if sum(drawn(c, 0, "sign_flip", n) for n in range(20)) == 4)
    honest, mean, median = accuracy("fedavg"), accuracy("fedavg", sign_flip=share), accuracy("median", sign_flip=share)
    assert honest > mean + 0.02
    assert median > mean + 0.02
