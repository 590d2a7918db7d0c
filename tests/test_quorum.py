"""A round with too few updates is empty: recorded, charged, and without a trace in the model; too many of them end the run."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedapt.cost.ledger import LedgerRow
from fedapt.errors import RunFailed, ScenarioError
from fedapt.quorum import Quorum
from fedapt.report.terminal import Display
from fedapt.results import read_run
from fedapt.run import run
from fedapt.scenario import Failures, load_scenario
from fedapt.stopping import Stopper
from fedapt.strategies import STRATEGIES
from tests.grid.conftest import scenario


def rows(ok, failed=0, refused=0):
    made = [LedgerRow(0, n, 1, "g", "p", "ok", samples=10) for n in range(ok)]
    made += [LedgerRow(0, ok + n, 1, "g", "p", "failed", "battery empty") for n in range(failed)]
    return made + [LedgerRow(0, 100 + n, 0, "g", "p", "refused", "too small") for n in range(refused)]


def quorum(strategy="fedavg", options=None, **failures):
    return Quorum(Failures(**failures), STRATEGIES[strategy](**(options or {})))


def go(wanted, root):
    with Stopper() as stopper, Display() as display:
        return run(wanted, root, display, stopper)


def test_one_update_is_enough_unless_the_scenario_says_otherwise():
    assert quorum().shortage(rows(ok=1, failed=5)) == ""
    assert quorum().shortage(rows(ok=0, failed=6, refused=2)) == "none of 6 clients returned an update: 6 x battery empty"
    wanted = "2 of 6 clients returned an update, failures.min_updates is 3: 4 x battery empty"
    assert quorum(min_updates=3).shortage(rows(ok=2, failed=4)) == wanted


def test_an_update_without_samples_does_not_count():
    assert quorum().shortage([LedgerRow(0, 3, 1, "g", "p", "ok", samples=0)]) == "none of 1 clients returned an update"


@pytest.mark.parametrize(
    ("strategy", "options", "least"),
    [
        ("krum", {"num_malicious_nodes": 2}, 7),
        ("multi_krum", {"num_malicious_nodes": 1, "num_nodes_to_select": 3}, 5),
        ("bulyan", {"num_malicious_nodes": 1}, 7),
        ("trimmed_mean", {"beta": 0.2}, 5),
        ("trimmed_mean", {"beta": 0.3}, 4),
        ("trimmed_mean", {"beta": 0.0}, 1),
        ("median", {}, 1),
    ],
)
def test_a_robust_rule_is_not_applied_to_fewer_updates_than_it_needs(strategy, options, least):
    assert quorum(strategy, options).shortage(rows(ok=least)) == ""
    short = quorum(strategy, options).shortage(rows(ok=least - 1, failed=1))
    assert short.startswith("none of" if least == 1 else f"{least - 1} of {least} clients returned an update, {strategy} with")


def test_only_empty_rounds_in_a_row_end_a_run():
    rule = quorum(max_empty_rounds=1)
    for number, ok in enumerate([0, 1, 0]):
        rule.count(rows(ok=ok, failed=2))
        rule.check(number, rows(ok=ok, failed=2))
    rule.count(rows(ok=0, failed=2))
    with pytest.raises(RunFailed, match=r"^round 3: 2 empty rounds in a row, failures\.max_empty_rounds is 1; none of 2 clients"):
        rule.check(3, rows(ok=0, failed=2))


def test_an_empty_round_leaves_the_model_to_the_last_bit_and_is_charged(tmp_path):
    wanted = scenario(rounds=2, faults={"drop": 1.0}, failures={"max_empty_rounds": 5}, strategy="fedadam")
    path = go(wanted, tmp_path)
    untouched = go(scenario(rounds=2, faults={"raise": 1.0}, failures={"max_empty_rounds": 5}), tmp_path)
    one, other = (load_file(folder / "model.safetensors") for folder in (path, untouched))
    assert all(np.array_equal(one[name], other[name]) for name in one)
    result = read_run(path)
    assert result.rounds["ok"].tolist() == [0, 0]
    assert set(result.ledger["status"]) == {"dropped"} and (result.ledger["downlink_bytes"] > 0).all()


def test_too_many_empty_rounds_end_the_run_with_the_causes_and_keep_the_ledger(tmp_path, capsys):
    wanted = scenario(rounds=5, faults={"drop": 1.0}, failures={"max_empty_rounds": 1})
    with pytest.raises(RunFailed, match=r"round 1: 2 empty rounds in a row, .* 6 x it dropped out \(faults\.drop\)$") as failed:
        go(wanted, tmp_path)
    assert failed.value.exit_code == 5
    (folder,) = tmp_path.iterdir()
    assert len(read_run(folder).ledger) == 12
    printed = capsys.readouterr().out
    assert "Dropped" in printed and "12 attempts" in printed


def test_a_round_does_not_last_longer_than_its_deadline(tmp_path):
    path = go(scenario(rounds=1, clock={"kind": "synchronous", "deadline_s": 1e-3}, failures={"max_empty_rounds": 1}), tmp_path)
    result = read_run(path)
    assert set(result.ledger["status"]) == {"late"} and (result.ledger["time_s"] > 1e-3).all()
    assert result.rounds["time_s"].tolist() == [1e-3]


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("strategy={kind: krum, num_malicious_nodes: 5}", "krum with these options needs 13 updates, and a round has 6 clients"),
        ("failures={min_updates: 7}", "min_updates 7 is more than the 6 clients of a round"),
    ],
)
def test_a_quorum_that_can_never_be_met_is_refused_at_once(setting, sentence, tmp_path):
    text = "version: 1\nname: a\nrounds: 1\nmodel: cnn\ndata: {source: digits}\nclients: {count: 6, per_round: 6}\n"
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ScenarioError, match=sentence):
        load_scenario(str(tmp_path / "a.yaml"), [setting])
