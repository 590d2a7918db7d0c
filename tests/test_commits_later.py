"""A round is committed while the clients of the next one are at work, as the `ray` engine does it: nothing of it is lost."""

import os
import signal
from contextlib import nullcontext

import numpy as np
import pandas
import pytest
from safetensors.numpy import load_file

from fedapt import run as story
from fedapt.engines import open_gateway
from fedapt.errors import DamagedData
from fedapt.grid.inline import Inline
from fedapt.record.commits import Commits
from fedapt.results import read_run
from fedapt.seat import Seat
from fedapt.stopping import Stopped
from tests.grid.conftest import scenario
from tests.test_run import go

WANTED = scenario(rounds=3, clients={"count": 12, "per_round": 5, "method": {"precision": "apt"}}, strategy="fedadam")


@pytest.fixture
def later(monkeypatch):
    """Make runs commit as with Ray, but in this process; the list gets what happens, in order."""
    happened = []

    def opened(wanted, enrolment, roster, transport, on_outcome, session, meanwhile):
        class AtWork(Inline):
            def exchange(self, arrays, tasks, total):
                happened.append(f"at work: {tasks[0].kind}")
                meanwhile()
                yield from super().exchange(arrays, tasks, total)

        return open_gateway(wanted, enrolment, roster, AtWork(enrolment.workshop.open()), on_outcome)

    write = Commits.write
    monkeypatch.setattr(story, "begin", lambda engine, transport: nullcontext(object()))
    monkeypatch.setattr(story, "open_gateway", opened)
    monkeypatch.setattr(
        Commits, "write", lambda self, number, files: (happened.append(f"round {number} written"), write(self, number, files))
    )
    return happened


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return go(WANTED, tmp_path_factory.mktemp("whole"))[0]


def committed(root):
    """Return the only run in a folder, and the model of its newest committed round."""
    (run,) = root.iterdir()
    state = load_file(max(run.glob("rounds/*/state.safetensors")))
    return run, {name.removeprefix("model."): values for name, values in state.items() if name.startswith("model.")}


def same_model(run, model):
    """Compare the model that a run has left with that of its newest commit."""
    found = load_file(run / "model.safetensors")
    assert found.keys() == model.keys() and all(np.array_equal(values, model[name]) for name, values in found.items())


def at_round(number, act, monkeypatch):
    """Let something happen when the strategy is asked for this round's messages."""
    train_messages = Seat.train_messages

    def asked(self, round, *rest):
        if round == number:
            act()
        return train_messages(self, round, *rest)

    monkeypatch.setattr(Seat, "train_messages", asked)


def same_rounds(run, whole, rounds):
    """Check that a run has the results of the first rounds of another one, and no others."""
    ledger, all_of_it = read_run(run).ledger, read_run(whole).ledger
    pandas.testing.assert_frame_equal(ledger, all_of_it[all_of_it["round"] < rounds], check_exact=True)
    assert read_run(run).summary["rounds"] == rounds and len(read_run(run).rounds) == rounds


def test_a_round_is_written_when_the_next_one_is_at_work_to_the_same_bits(later, whole, tmp_path):
    run, _ = go(WANTED, tmp_path)
    training, first, second, third = "at work: train", *(f"round {number} written" for number in range(3))
    assert later == [training, training, first, training, second, "at work: evaluate", third]
    same_rounds(run, whole, 3)
    assert (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_round_that_cannot_be_written_ends_the_run_with_the_rounds_before_it(later, whole, tmp_path, monkeypatch):
    write = Commits.write

    def full(self, number, files):
        if number == 1:
            raise DamagedData("rounds/00001 could not be written: the disk is full")
        write(self, number, files)

    monkeypatch.setattr(Commits, "write", full)
    with pytest.raises(DamagedData, match="rounds/00001 could not be written"):
        go(WANTED, tmp_path)
    run, model = committed(tmp_path)
    same_rounds(run, whole, 1)
    same_model(run, model)


def test_a_stop_before_a_round_is_written_writes_it_first(later, whole, tmp_path, monkeypatch):
    at_round(2, lambda: os.kill(os.getpid(), signal.SIGINT), monkeypatch)
    with pytest.raises(Stopped):
        go(WANTED, tmp_path)
    run, model = committed(tmp_path)
    same_rounds(run, whole, 2)
    assert (run / "report.html").exists()
    same_model(run, model)


def test_what_fails_in_preparing_a_round_does_not_cost_the_one_before(later, whole, tmp_path, monkeypatch):
    def fail():
        raise DamagedData("not this one")

    at_round(1, fail, monkeypatch)
    with pytest.raises(DamagedData, match="not this one"):
        go(WANTED, tmp_path)
    same_rounds(next(tmp_path.iterdir()), whole, 1)
