"""Whole runs under a clock: who counts, who is late, what it costs, and the same bits after a kill and from every transport."""

import signal

import numpy as np
import pandas
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord
from flwr.serverapp.strategy import FedAvg

from fedapt.engines import open_gateway
from fedapt.errors import RunFailed, ScenarioError
from fedapt.record.crash_points import CrashPoint
from fedapt.report.terminal import Display
from fedapt.results import read_run
from fedapt.run import run
from fedapt.scenario import Scenario
from fedapt.selection.cohorts import Cohorts
from fedapt.stopping import Stopper
from fedapt.strategies.strategy import WHOLE_COHORT
from tests.children import fedapt
from tests.grid.conftest import enrolled, scenario
from tests.grid.play import initial, play
from tests.test_resume import assert_same, begin, written

UNEQUAL = [{"profile": "raspberry-pi-4", "share": 0.5}, {"profile": "raspberry-pi-zero-2", "share": 0.5}]
FIXED = {"precision": {"kind": "fixed", "bits": 6}}
CLIENTS = {"count": 12, "per_round": 3, "groups": UNEQUAL, "method": FIXED, "local": {"batch": 16}}
ASYNCHRONOUS = {"kind": "asynchronous", "concurrency": 6}


def go(tmp_path, **changes):
    wanted = scenario(**({"rounds": 6, "clients": CLIENTS, "failures": {"max_empty_rounds": 9}} | changes))
    with Stopper() as stopper, Display() as display:
        return read_run(run(wanted, tmp_path, display, stopper))


def test_the_server_steps_at_every_so_many_updates_while_the_others_go_on(tmp_path):
    played = go(tmp_path, strategy="fedbuff", clock=ASYNCHRONOUS)
    rounds, ledger = played.rounds, played.ledger
    assert (rounds["ok"] == 3).all() and rounds["clock_s"].is_monotonic_increasing
    assert np.allclose(rounds["clock_s"], rounds["time_s"].cumsum())
    ok, late = ledger[ledger["status"] == "ok"], ledger[ledger["status"] == "late"]
    assert ok["staleness"].max() > 0, "slow clients come back to a newer model"
    # Everybody who was asked is charged: 6 at first, one for each that came back, and those in the air at the end.
    assert len(late) == 6 - 1 and set(late["reason"]) == {"the run ended before it came back"} and (late["energy_j"] > 0).all()
    assert not ok.assign(asked=ok["round"] - ok["staleness"]).duplicated(["client", "asked"]).any()


def test_nobody_waits_for_the_slowest(tmp_path):
    rounds = go(tmp_path / "rounds", strategy="fedavg").rounds
    steps = go(tmp_path / "steps", strategy="fedavg", clock=ASYNCHRONOUS).rounds
    assert steps["clock_s"].iloc[-1] < 0.7 * rounds["clock_s"].iloc[-1]
    assert (rounds["ok"].sum(), steps["ok"].sum()) == (18, 18)


def test_an_update_that_is_too_old_does_not_count(tmp_path):
    ledger = go(tmp_path, strategy="fedbuff", clock={**ASYNCHRONOUS, "max_staleness": 0}).ledger
    assert ledger[ledger["status"] == "ok"]["staleness"].max() == 0
    assert ledger["reason"].str.contains("server steps old, clock.max_staleness is 0").any()


def test_clients_that_fail_are_replaced_and_the_step_still_has_its_updates(tmp_path):
    played = go(tmp_path, strategy="fedbuff", clock=ASYNCHRONOUS, faults={"drop": 0.2, "raise": 0.2, "nan": 0.1})
    assert (played.rounds["ok"] == 3).all()
    assert {"ok", "dropped", "failed", "rejected", "late"} <= set(played.ledger["status"])


def test_asynchronous_transports_end_with_the_same_bits(tmp_path, ray_session):
    changes = {"strategy": "fedbuff", "clock": ASYNCHRONOUS, "faults": {"drop": 0.1, "raise": 0.1}, "rounds": 4}
    inline = go(tmp_path / "inline", **changes)
    ray = go(tmp_path / "ray", **changes, engine={"kind": "ray", "workers": 2, "chunk": 1})
    assert (inline.path / "model.safetensors").read_bytes() == (ray.path / "model.safetensors").read_bytes()
    pandas.testing.assert_frame_equal(inline.ledger, ray.ledger, check_exact=True)


def test_only_clients_that_the_strategy_addresses_are_asked(tmp_path):
    class Half(FedAvg):
        def configure_train(self, server_round, arrays, config, grid):
            messages = super().configure_train(server_round, arrays, config, grid)
            return [message for message in messages if message.metadata.dst_node_id < 6]

    _, rows, _ = steps(Half(**WHOLE_COHORT))
    assert {row.client for row in rows} <= set(range(6)) and sum(row.status == "ok" for row in rows) == 6


def test_a_strategy_with_two_models_needs_rounds():
    class Two(FedAvg):
        def configure_train(self, server_round, arrays, config, grid):
            more = ArrayRecord({name: Array(array.numpy() + 1) for name, array in arrays.items()})
            both = [super(Two, self).configure_train(server_round, model, config, grid) for model in (arrays, more)]
            return [*list(both[0])[:6], *list(both[1])[6:]]

    with pytest.raises(RunFailed, match="round 0: the strategy sends clients different models"):
        steps(Two(**WHOLE_COHORT))


def test_a_step_for_which_nobody_is_asked_takes_no_time():
    class Silent(FedAvg):
        def configure_train(self, server_round, arrays, config, grid):
            return super().configure_train(server_round, arrays, config, grid) if server_round == 1 else []

    _, _, gateway = steps(Silent(**WHOLE_COHORT), pause_s=1.0)
    assert gateway.lasted_s == 0


def steps(strategy, rounds=2, pause_s=0.0):
    """Play an asynchronous gateway without a run folder; return the model, all rows and the gateway."""
    wanted = scenario(clients=CLIENTS, clock=ASYNCHRONOUS)
    enrolment = enrolled(wanted)
    gateway = open_gateway(wanted, enrolment, Cohorts(wanted, enrolment), None, lambda outcome: None)
    arrays, rows, now_s = initial(wanted, enrolment), [], 0.0
    for number in range(rounds):
        gateway.open_round(number, list(enrolment.participants), now_s)
        record = ArrayRecord({name: Array(values) for name, values in arrays.items()})
        replies = gateway.send_and_receive(strategy.configure_train(number + 1, record, ConfigRecord(), gateway))
        rows += gateway.rows
        now_s += gateway.lasted_s + pause_s
        if replies:
            aggregated, _ = strategy.aggregate_train(number + 1, replies)
            arrays = {name: np.asarray(array.numpy(), np.float32) for name, array in aggregated.items()}
    return arrays, rows, gateway


def test_a_run_ends_when_nobody_will_ever_be_there(tmp_path):
    (tmp_path / "trace.csv").write_text("client,start_s,end_s\n" + "".join(f"{client},0,8\n" for client in range(12)))
    # Nobody can be asked from round 2 on, at 10 s; those at work by then come back in rounds 2 and 3.
    away = {"availability": {"kind": "trace", "file": str(tmp_path / "trace.csv")}, "batteries": {"between_rounds_s": 5}}
    with pytest.raises(RunFailed, match="round 4 needs 1 of 12 clients at once"):
        go(tmp_path, strategy="fedbuff", clock=ASYNCHRONOUS, clients=CLIENTS | away)


@pytest.mark.parametrize("crash", [f"{CrashPoint.TRAINED}#3", f"{CrashPoint.COMMITTED}#2"])
def test_updates_in_the_air_survive_a_kill(tmp_path, crash):
    changes = {"strategy": {"kind": "fedbuff"}, "clock": ASYNCHRONOUS, "clients": CLIENTS, "rounds": 5}
    whole, status, printed = begin(tmp_path / "whole", written(_made(tmp_path / "whole"), **changes))
    assert status == 0, printed
    killed, status, printed = begin(tmp_path / "killed", written(_made(tmp_path / "killed"), **changes), FEDAPT_CRASH_AT=crash)
    assert status == -signal.SIGKILL, printed
    status, printed = fedapt(tmp_path, "resume", killed)
    assert status == 0, printed
    assert_same(killed, whole)


def _made(folder):
    folder.mkdir()
    return folder


def test_an_over_selected_round_takes_the_first_and_charges_all(tmp_path):
    played = go(tmp_path, clock={"kind": "synchronous", "over_select": 0.5})
    ledger = played.ledger
    for number, rows in ledger.groupby("round"):
        ok, late = rows[rows["status"] == "ok"], rows[rows["status"] == "late"]
        assert (len(ok), len(late)) == (3, 2) and ok["time_s"].max() <= late["time_s"].min()
        assert played.rounds["time_s"][number] == ok["time_s"].max() and (late["energy_j"] > 0).all()


def test_partial_work_lets_stragglers_in(tmp_path):
    usual = go(tmp_path / "usual", rounds=2).ledger
    deadline_s = float(usual["time_s"].median())
    dropped = go(tmp_path / "drop", rounds=2, clock={"kind": "synchronous", "deadline_s": deadline_s})
    partial = go(tmp_path / "partial", rounds=2, clock={"kind": "synchronous", "deadline_s": deadline_s, "stragglers": "partial"})
    assert dropped.rounds["late"].sum() > 0 and partial.rounds["late"].sum() == 0
    assert partial.rounds["ok"].sum() > dropped.rounds["ok"].sum()
    ok = partial.ledger[partial.ledger["status"] == "ok"]
    assert (ok["time_s"] <= deadline_s).all() and ok["steps"].sum() < usual["steps"].sum()


def test_a_client_that_is_told_to_do_no_step_meets_a_deadline(tmp_path):
    idle = scenario(
        clients=CLIENTS | {"local": {"batch": 16, "epochs": 0}},
        clock={"kind": "synchronous", "deadline_s": 1.0, "stragglers": "partial"},
    )
    _, rows, _ = play(idle, rounds=1, cohort=[0, 1, 2])
    assert [(row.status, row.steps) for row in rows] == [("ok", 0)] * 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"clock": {"kind": "asynchronous", "concurrency": 2}}, "needs at least as many clients at work at once"),
        ({"clock": {"kind": "asynchronous", "concurrency": 13}}, "13 clients at work at once cannot be chosen from 12"),
        ({"clock": {"kind": "synchronous", "over_select": 4}}, "15 clients at work at once cannot be chosen from 12"),
        ({"clock": ASYNCHRONOUS, "strategy": "scaffold"}, "scaffold corrects its clients' steps round by round"),
    ],
)
def test_what_cannot_be_is_refused_before_the_run(changes, sentence):
    with pytest.raises((ScenarioError, ValueError), match=sentence):
        Scenario.model_validate(scenario(clients=CLIENTS).model_dump() | changes)
