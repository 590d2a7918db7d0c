"""A strategy that misbehaves ends the run with one sentence and exit status 5, and loses nothing."""

import io
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedapt.errors import CannotResume, RunFailed
from fedapt.report.terminal import Display
from fedapt.results import read_run
from fedapt.resuming import resume
from fedapt.run import run
from fedapt.stopping import Stopper
from tests.grid.conftest import scenario

ZOO = Path(__file__).with_name("zoo.py")
ZOO_SAYS = {
    "NaN": "returned a .* with .* values that are not finite",
    "Huge": "returned a .* with .* values that are not finite",
    "Raises": r"KeyError: 'conv1\\x1b\[31m\\nred'",
    "Unspeakable": r"Mute: \(it cannot be shown\)",
    "Exits": "SystemExit: 0",
    "Interrupts": "KeyboardInterrupt",
    "Shapes": r"returned .* in the shape \(1,\), expected \(",
    "Missing": "returned a model with other names",
    "Extra": r"returned a model with other names \(more ",
    "Integers": "as int64, expected floats",
    "Objects": "allow_pickle=False",
    "Nothing": "aggregate_train returned nothing, expected a pair",
    "NoModel": "made no model of 4 replies",
    "NoPair": "aggregate_train returned a ArrayRecord, expected a pair",
    "PlainDict": "returned a dict, expected an ArrayRecord",
    "Constructor": "cannot be built: OSError: no licence found",
    "ConfiguresBadly": "AttributeError: no such thing",
    "AsksStrangers": "client 1000000, who is not in the round's cohort",
    "AsksTwice": "more than one message to client",
    "OtherModel": r"sends .* in the shape \(2, 2\)",
    "Doubles": "as float64, expected float32",
    "NoMessages": "configure_train returned nothing, expected messages",
    "NotMessages": "returned a int among its messages",
    "OtherType": "a message of type `evaluate`, expected `train`",
    "Empty": "a message without a model",
    "SendsItself": "it sends messages itself",
    "LateGenerator": "LookupError: out of clients",
    "EvaluatesBadly": "ZeroDivisionError: nobody",
    "SumsUpBadly": "IndexError: no metrics",
    "BadState": "cannot say what it remembers: RuntimeError: no state",
}


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    """Spare the page with its plots, which takes longer than a small run."""
    monkeypatch.setattr("fedapt.run.write_report", lambda path: path)


def small(kind, rounds=1, **options):
    clients = {"count": 6, "per_round": 4, "local": {"lr": 0.05, "batch": 16}, "method": {"precision": "fp32"}}
    data = {"source": "digits", "samples": 120}
    strategy = {"kind": kind, **options}
    return scenario(strategy=strategy, clients=clients, data=data, rounds=rounds, model={"kind": "mlp", "hidden": [8]})


def go(wanted, root):
    with Stopper() as stopper, Display(io.StringIO()) as display:
        return run(wanted, root, display, stopper)


def go_on(path):
    with Stopper() as stopper, Display(io.StringIO()) as display:
        return resume(path, display, stopper, allow_inexact=True)


@pytest.mark.parametrize(("name", "sentence"), ZOO_SAYS.items(), ids=list(ZOO_SAYS))
def test_what_it_did_is_said_in_one_sentence(name, sentence, tmp_path):
    with pytest.raises(RunFailed, match=rf"the strategy zoo:{name} .*{sentence}") as raised:
        go(small(f"zoo:{name}"), tmp_path)
    assert raised.value.exit_code == 5
    assert "\n" not in str(raised.value)
    (folder,) = tmp_path.iterdir()
    assert "Traceback" in (folder / "run.log").read_text()


def test_committed_rounds_are_kept_and_the_mended_strategy_goes_on_from_them(tmp_path):
    with pytest.raises(RunFailed, match=r"round 1: .*not finite"):
        go(small("zoo:NaN", rounds=2, since=2), tmp_path / "bad")
    (folder,) = (tmp_path / "bad").iterdir()
    assert len(read_run(folder).rounds) == 1
    text = (folder / "scenario.yaml").read_text()
    (folder / "scenario.yaml").write_text(text.replace("zoo:NaN", "zoo:Bad"))
    whole = go(small("zoo:Bad", rounds=2, since=2), tmp_path / "good")
    mended, expected = load_file(go_on(folder) / "model.safetensors"), load_file(whole / "model.safetensors")
    assert all(np.array_equal(mended[name], expected[name]) for name in expected)


def test_what_a_vandal_changes_is_its_own(tmp_path):
    spoilt, expected = go(small("zoo:Vandal", rounds=2), tmp_path / "a"), go(small("zoo:Bad", rounds=2), tmp_path / "b")
    assert (spoilt / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()


def test_a_state_that_a_strategy_does_not_take_cannot_be_resumed(tmp_path, monkeypatch):
    with pytest.raises(RunFailed):
        go(small("zoo:NaN", rounds=2, since=2), tmp_path)
    (folder,) = tmp_path.iterdir()
    monkeypatch.setattr("fedapt.seat.restore", lambda strategy, state: state["momentum"])
    with pytest.raises(CannotResume, match="zoo:NaN does not take what it remembered: KeyError: 'momentum'"):
        go_on(folder)
