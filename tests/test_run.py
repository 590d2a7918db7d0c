"""A whole run: what it writes, that it repeats itself, and how it ends when something goes wrong."""

import io
import json

import numpy as np
import pandas
import pytest
from safetensors.numpy import load_file

from fedapt.errors import RunFailed, ScenarioError
from fedapt.report.terminal import Display
from fedapt.results import read_run
from fedapt.run import run
from fedapt.scenario import load_scenario
from fedapt.stopping import Stopper
from tests.grid.conftest import scenario


def go(wanted, root):
    """Run a scenario quietly; return the run folder and what was printed."""
    printed = io.StringIO()
    with Stopper() as stopper, Display(printed) as display:
        return run(wanted, root, display, stopper), printed.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return go(scenario(clients={"count": 12, "per_round": 5, "method": {"precision": "apt"}}), tmp_path_factory.mktemp("runs"))


def test_the_run_folder_is_printed_first_and_a_line_follows_for_each_round(finished):
    path, printed = finished
    assert printed.splitlines()[0] == str(path)
    assert sum(line.startswith("[") for line in printed.splitlines()) == 2


def test_the_resolved_scenario_runs_again_to_the_same_bits(finished, tmp_path):
    path, _ = finished
    again, _ = go(load_scenario(str(path / "scenario.yaml")), tmp_path)
    assert (again / "model.safetensors").read_bytes() == (path / "model.safetensors").read_bytes()
    pandas.testing.assert_frame_equal(read_run(again).ledger, read_run(path).ledger)


def test_another_seed_gives_another_model(finished, tmp_path):
    path, _ = finished
    other, _ = go(load_scenario(str(path / "scenario.yaml"), ["seed=1"]), tmp_path)
    one, two = load_file(path / "model.safetensors"), load_file(other / "model.safetensors")
    assert not np.array_equal(one["conv2.weight"], two["conv2.weight"])


def test_the_totals_are_the_sums_of_the_ledger_and_the_ledger_opens_in_pandas(finished):
    path, _ = finished
    ledger = pandas.read_parquet(path / "ledger.parquet")
    total = json.loads((path / "summary.json").read_text())["total"]
    for column in ("energy_j", "time_s", "downlink_bytes", "uplink_bytes", "macs", "samples", "steps"):
        assert total[column] == pytest.approx(ledger[column].sum(), rel=1e-12), column
    assert total["memory_bytes"] == ledger["memory_bytes"].max()
    parts = ledger[["energy_compute_j", "energy_movement_j", "energy_radio_j"]].sum(axis=1)
    assert np.allclose(parts, ledger["energy_j"])


def test_rounds_hold_the_sums_of_their_rows_and_the_wish_they_began_with(finished):
    run_folder = read_run(finished[0])
    by_round = run_folder.ledger.groupby("round")
    assert np.allclose(run_folder.rounds["energy_j"], by_round["energy_j"].sum())
    assert (run_folder.rounds["uplink_bytes"].to_numpy() == by_round["uplink_bytes"].sum().to_numpy()).all()
    assert run_folder.rounds["bits.conv2"].iloc[0] == 6


def test_a_device_that_cannot_hold_the_model_is_refused_before_training_with_the_numbers(tmp_path):
    groups = [{"profile": "raspberry-pi-4", "share": 0.5}, {"profile": "stm32h7", "share": 0.5, "budget": {"memory": "20 KiB"}}]
    path, printed = go(scenario(clients={"count": 12, "per_round": 4, "groups": groups}), tmp_path)
    ledger = read_run(path).ledger
    refused = ledger[ledger["status"] == "refused"]
    assert len(refused) == 6 and set(refused["group"]) == {"stm32h7"} and refused["energy_j"].sum() == 0
    assert (
        refused["reason"].str.match(r"needs [\d.]+ KiB of memory, has 20 KiB \(at 3 bits on average, in batches of 1, with").all()
    )
    assert printed.index("cannot take part") < printed.index("[1/2]")


def test_if_nobody_can_take_part_the_run_does_not_start(tmp_path):
    groups = [{"profile": "stm32h7", "budget": {"memory": "20 KiB"}}]
    with pytest.raises(ScenarioError, match=r"none of the 12 clients can take part: .*: needs .* has 20 KiB"):
        go(scenario(clients={"count": 12, "per_round": 4, "groups": groups}), tmp_path)


def test_a_model_that_the_machine_cannot_hold_is_refused_before_it_is_made(tmp_path):
    with pytest.raises(ScenarioError, match=r"model: `mlp` of these sizes takes [\d.e+]+ GiB, and this machine has .* free"):
        go(scenario(model={"kind": "mlp", "hidden": [10**6, 10**6]}), tmp_path)


def test_clients_without_data_are_reported_and_the_others_go_on(tmp_path):
    data = {"source": "digits", "samples": 40, "partition": {"kind": "dirichlet", "alpha": 0.05}}
    path, printed = go(scenario(data=data), tmp_path)
    clients = read_run(path).clients
    empty = clients[clients["samples"] == 0]
    assert len(empty) and set(empty["status"]) == {"refused"} and "no samples to train on" in printed


def test_a_learning_rate_that_diverges_ends_with_the_cause_and_keeps_the_log(tmp_path):
    clients = {"count": 12, "per_round": 4, "local": {"lr": 1e30}, "method": {"precision": "fp32"}}
    with pytest.raises(RunFailed, match=r"round 0: none of 4 clients returned an update: .*lower clients\.local\.lr"):
        go(scenario(clients=clients), tmp_path)
    (folder,) = tmp_path.iterdir()
    assert "Traceback" in (folder / "run.log").read_text()


def test_an_energy_budget_takes_bits_until_the_round_fits(tmp_path):
    groups = [{"profile": "raspberry-pi-4", "budget": {"energy": "3 mJ"}}]
    clients = {"count": 12, "per_round": 4, "groups": groups, "method": {"precision": {"kind": "fixed", "bits": 16}}}
    ledger = read_run(go(scenario(clients=clients), tmp_path)[0]).ledger
    assert (ledger[ledger["status"] == "ok"]["mean_bits"] < 16).any()
    training = ledger["energy_j"] - ledger["energy_radio_j"]
    assert (training <= 0.003).all()


def test_without_held_out_samples_there_is_no_spread_and_no_waiting(tmp_path):
    path, _ = go(scenario(data={"source": "digits", "held_out": 0.0}, rounds=1), tmp_path)
    assert read_run(path).clients["accuracy"].isna().all()


@pytest.mark.parametrize("kind", ["multi_krum", "krum"])
def test_a_strategy_that_fails_is_named_and_the_committed_rounds_stay(kind, tmp_path, monkeypatch):
    wanted = scenario(strategy={"kind": kind, "num_malicious_nodes": 0})
    strategy = type(wanted.strategy.build())
    original = strategy.aggregate_train

    def second_time_bad(self, server_round, replies):
        if server_round == 2:
            raise KeyError("conv1")
        return original(self, server_round, replies)

    monkeypatch.setattr(strategy, "aggregate_train", second_time_bad)
    with pytest.raises(RunFailed, match=rf"round 1: the strategy {kind} failed: KeyError: 'conv1'"):
        go(wanted, tmp_path)
    (folder,) = tmp_path.iterdir()
    assert len(read_run(folder).rounds) == 1 and (folder / "report.html").exists()


def test_a_clock_that_jumps_changes_no_duration_and_no_result(finished, tmp_path, monkeypatch):
    import time

    path, _ = finished
    hours = iter(range(0, -10_000_000, -3600))
    monkeypatch.setattr(time, "time", lambda: 1.8e9 + next(hours))
    again, _ = go(load_scenario(str(path / "scenario.yaml")), tmp_path)
    rounds = read_run(again).rounds
    assert (rounds["wall_s"] > 0).all() and (rounds["wall_s"] < 60).all()
    assert (again / "model.safetensors").read_bytes() == (path / "model.safetensors").read_bytes()
