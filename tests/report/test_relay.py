"""What is called on a Relay in one process arrives on the Display of another, argument by argument."""

import math
from pathlib import Path

import pytest

from fedapt.cost.ledger import RoundRecord
from fedapt.record.totals import Cause, GroupTotals, Spread, Summary
from fedapt.report.relay import Calls, Relay, replay
from fedapt.report.terminal import Display

RECORD = RoundRecord(
    round=1,
    accuracy=0.5,
    loss=math.inf,
    train_loss=None,
    mean_bits=4.0,
    wish_bits={"0": 4, "fc.2": 6},
    cohort=3,
    ok=2,
    failed=1,
    late=0,
    energy_j=1.5,
    time_s=2.0,
    clock_s=4.0,
    downlink_bytes=10,
    uplink_bytes=20,
    memory_bytes=30,
    wall_s=0.25,
)
SUMMARY = Summary(
    rounds=2,
    accuracy=0.5,
    loss=1.0,
    best_accuracy=0.5,
    best_round=1,
    client_accuracy=Spread(2, 0.5, 0.4, 0.41, 0.5, 0.59, 0.6),
    total=GroupTotals("all", clients=3),
    groups=(GroupTotals("boards", "raspberry-pi-4", clients=3),),
    statuses={"ok": 4, "failed": 2},
    causes=(Cause("failed", "it raised: “no”", 2, (1,)),),
    energy_tables_j={"linear": 1.0},
    sources={"energy": {"modelled": 6}},
    simulated_time_s=4.0,
    wall_s=0.5,
)


class Recorder(Display):
    """A Display that keeps what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def start(self, run_path: Path, rounds: int, about: list[str]) -> None:
        self.calls.append((run_path, rounds, about))

    def client_done(self, count: int = 1) -> None:
        self.calls.append((count,))

    def round_done(self, record: RoundRecord) -> None:
        self.calls.append((record,))

    def finish(self, summary: Summary, run_path: Path) -> None:
        self.calls.append((summary, run_path))


def test_arguments_arrive_with_their_types_and_values(tmp_path: Path) -> None:
    calls, relay, display = Calls(tmp_path / "calls"), Relay(tmp_path / "calls"), Recorder()
    relay.start(Path("/runs/a b"), 2, ["3 clients", "seed 0"])
    relay.client_done()
    relay.round_done(RECORD)
    relay.finish(SUMMARY, Path("/runs/a b"))
    for call in calls.new():
        replay(call, display)
    assert display.calls == [(Path("/runs/a b"), 2, ["3 clients", "seed 0"]), (1,), (RECORD,), (SUMMARY, Path("/runs/a b"))]


def test_each_call_is_read_once_and_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "calls"
    calls, relay = Calls(path), Relay(path)
    assert not calls.begun
    relay.message("first")
    assert list(calls.new()) == [("message", ["first"])]
    assert calls.begun
    with path.open("a") as file:
        file.write('["message", ["sec')
    assert list(calls.new()) == []
    with path.open("a") as file:
        file.write('ond"]]\n')
    assert list(calls.new()) == [("message", ["second"])]
    assert list(calls.new()) == []


def test_a_real_display_shows_what_was_relayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls, relay, display = Calls(tmp_path / "calls"), Relay(tmp_path / "calls"), Display()
    relay.start(Path("/runs/far"), 2, ["3 clients"])
    relay.round_started(1, 3)
    relay.round_done(RECORD)
    for call in calls.new():
        replay(call, display)
    shown = capsys.readouterr().out
    assert shown.splitlines()[0] == "/runs/far"
    assert "[2/2]" in shown and "clients 2/3" in shown
