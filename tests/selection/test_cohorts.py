"""fedapt.selection.cohorts: who is asked in a run, and how long it waits for them."""

import math
from dataclasses import replace

import pytest

from fedapt.cost.ledger import LedgerRow
from fedapt.errors import RunFailed, ScenarioError
from fedapt.grid.batteries import Batteries, Battery
from fedapt.scenario import dump_scenario, load_scenario
from fedapt.seeding import numpy_stream
from fedapt.selection import SELECTORS
from fedapt.selection.cohorts import Cohorts
from tests.grid.conftest import enrolled, scenario

HOUR = 3600
PLAIN = scenario()


@pytest.fixture(scope="module")
def enrolment():
    return enrolled(PLAIN)


def wanted(select="uniform", availability="always", **changes):
    clients = PLAIN.clients.model_dump() | {"select": select, "availability": availability}
    return scenario(**({"clients": clients} | changes))


def rows_of(number, clients):
    """Return rows in which clients of high numbers have high losses and take long."""
    return [
        LedgerRow(number, client, 0, "pis", "raspberry-pi-4", "ok", train_loss=client / (number + 1), time_s=1.0 + client)
        for client in clients
    ]


def trace(path, *lines, **options):
    path.write_text("client,start_s,end_s\n" + "".join(f"{line}\n" for line in lines))
    return {"kind": "trace", "file": str(path), **options}


def test_by_default_the_cohorts_are_drawn_from_the_seed_alone_as_ever(enrolment):
    for number in range(5):
        expected = numpy_stream(0, "cohort", number).choice(sorted(enrolment.participants), 6, replace=False)
        assert Cohorts(PLAIN, enrolment).draw(number, 1e6, 6) == (sorted(expected.tolist()), 0.0)


@pytest.mark.parametrize("kind", SELECTORS)
@pytest.mark.parametrize("availability", ["always", {"kind": "daily", "outside": 0.3, "spread_h": 24.0}])
def test_rebuilt_from_the_ledger_it_goes_on_as_if_it_had_never_stopped(kind, availability, enrolment):
    start, clock_s, ledger, drawn = wanted(kind, availability), 0.0, [], []
    going = Cohorts(start, enrolment)
    for number in range(12):
        rebuilt = Cohorts(start, enrolment)
        rebuilt.add(ledger)
        chosen, waited_s = going.draw(number, clock_s, 4)
        assert rebuilt.draw(number, clock_s, 4) == (chosen, waited_s)
        rows = rows_of(number, chosen)
        going.add(rows)
        ledger, drawn, clock_s = ledger + rows, [*drawn, tuple(chosen)], clock_s + waited_s + 1000.0
    assert len(set(drawn)) > 6


def test_clients_that_cannot_take_part_or_are_busy_are_never_asked(enrolment):
    fewer = replace(enrolment, participants={c: p for c, p in enrolment.participants.items() if c not in (2, 7)})
    left = [client for client in fewer.participants if client != 4]
    assert Cohorts(PLAIN, fewer).draw(0, 0.0, 12, busy={4}) == (left, 0.0)
    one_by_one = {Cohorts(PLAIN, fewer).draw(0, 0.0, 1, {4}, turn)[0][0] for turn in range(200)}
    assert one_by_one == set(left)


def test_a_round_takes_all_that_are_there_if_they_are_enough_and_else_waits_for_half(tmp_path, enrolment):
    some = trace(tmp_path / "a.csv", "0,0,100", "1,0,100", "2,50,100", "3,100,300", "4,100,300", "5,200,300", "6,250,300")
    cohorts = Cohorts(wanted(availability=some), enrolment)
    assert cohorts.draw(0, 60.0, 6) == ([0, 1, 2], 0.0)
    assert cohorts.draw(0, 10.5, 6) == ([0, 1, 2], 39.5)
    assert cohorts.draw(0, 90.0, 8) == ([3, 4, 5, 6], 160.0)
    assert cohorts.draw(0, 100.0, 6, busy=[5]) == ([3, 4, 6], 150.0)


def test_a_round_waits_for_as_many_as_can_be_aggregated(tmp_path, enrolment):
    some = trace(tmp_path / "a.csv", "0,0,100", "1,10,100", "2,20,100", "3,30,100", wait_for=0.0)
    assert Cohorts(wanted(availability=some), enrolment).draw(0, 0.0, 6)[1] == 0.0
    least = wanted(availability=some, failures={"min_updates": 3})
    assert Cohorts(least, enrolment).draw(0, 0.0, 6) == ([0, 1, 2], 20.0)


def test_if_too_few_are_ever_there_the_run_fails_with_one_sentence(tmp_path, enrolment):
    some = trace(tmp_path / "a.csv", "0,0,100", "1,100,200")
    cohorts = Cohorts(wanted(availability=some), enrolment)
    assert cohorts.wait_s(0.0, 2) == 0.0 and cohorts.wait_s(0.0, 6) == math.inf
    with pytest.raises(
        RunFailed,
        match=r"^round 3 needs 3 of 12 clients at once, .* \(trace\) so many are never .* its wait_for",
    ):
        cohorts.draw(3, 0.0, 6)
    assert cohorts.wait_s(250.0, 1) == math.inf and cohorts.draw(0, 0.0, 1, busy=range(12)) == ([], 0.0)


def test_at_the_end_of_a_wait_somebody_is_there_whatever_the_clock(tmp_path, enrolment):
    night = {"kind": "daily", "hours": [22.0, 6.0], "wait_for": 1.0}
    cohorts = Cohorts(wanted(availability=night), enrolment)
    for step in range(500):
        clock_s = step * 1234.5678901 + 0.1
        chosen, waited_s = cohorts.draw(step, clock_s, 6)
        assert len(chosen) == 6 and 0 <= waited_s < 24 * HOUR


def test_batteries_recharge_while_the_server_waits_and_are_left_as_they_are(tmp_path, enrolment):
    """Full in 100 s against empty for ever: after the wait the first has all the weight."""
    some = trace(tmp_path / "a.csv", "0,100,200", "1,100,200")
    batteries = Batteries({0: Battery(10.0, recharge_w=0.1), 1: Battery(10.0)}, {0: 0.0, 1: 0.0})
    cohorts = Cohorts(wanted("energy_aware", some), enrolment, batteries)
    assert {tuple(cohorts.draw(number, 0.0, 1)[0]) for number in range(50)} == {(0,)}
    assert batteries.level_j == {0: 0.0, 1: 0.0} and batteries.charge(0, 50.0) == 0.5


def test_the_file_of_a_trace_is_looked_for_beside_the_scenario_and_is_there_when_it_is_read_again(
    tmp_path, monkeypatch, enrolment
):
    folder = tmp_path / "own"
    folder.mkdir()
    trace(folder / "a.csv", "0,0,100")
    (folder / "mine.yaml").write_text(
        dump_scenario(wanted(availability={"kind": "trace", "file": "here"})).replace("file: here", "file: a.csv")
    )
    read = load_scenario(str(folder / "mine.yaml"))
    assert read.clients.availability.file == str(folder / "a.csv")
    monkeypatch.chdir(tmp_path)
    typed = load_scenario(str(folder / "mine.yaml"), ["clients.availability.file=other.csv"])
    assert typed.clients.availability.file == str(tmp_path / "other.csv")
    with pytest.raises(ScenarioError, match="there is no such file"):
        Cohorts(typed, enrolment)
    (tmp_path / "again.yaml").write_text(dump_scenario(read))
    assert load_scenario(str(tmp_path / "again.yaml")) == read


def test_rules_and_availabilities_survive_a_scenario_file(tmp_path):
    for kind in SELECTORS:
        daily = {"kind": "daily", "groups": {"raspberry-pi-4": [1.5, 2.0]}, "hours": [3, 4]}
        (tmp_path / "a.yaml").write_text(dump_scenario(wanted(kind, daily)))
        assert load_scenario(str(tmp_path / "a.yaml")) == wanted(kind, daily)
