"""The `superlink` transport: what it makes of answers, silence and errors, and the same bits as `inline` on the real thing."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from flwr.app import Context, Error, Message, RecordDict
from pandas.testing import assert_frame_equal

from fedapt.errors import RunFailed
from fedapt.grid import superlink
from fedapt.grid.flower import instruction, why_failed
from fedapt.grid.superlink import SuperLink
from fedapt.results import read_run
from tests.grid.conftest import same_bits, scenario
from tests.grid.play import play

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(superlink, "POLL_S", 0.001)


class FakeGrid:
    """A SuperLink with a node for each client, numbered as Flower does: without any order. The last answer comes first.

    behave: what the nodes of some clients do instead of working; it is given the message and returns the reply, None for none.
    """

    def __init__(self, enrolment, behave=None, absent=()) -> None:
        self._app = enrolment.workshop.open()
        present = [client for client in enrolment.participants if client not in absent]
        self.partition_of = {7919 * (client + 3) % 1009: client for client in present}
        self._behave = behave or {}
        self._replies: dict[str, Message] = {}
        self._sent = 0

    def get_node_ids(self):
        return list(self.partition_of)

    def push_messages(self, messages):
        return [self._push(message) for message in messages]

    def _push(self, message):
        self._sent += 1
        name = f"message {self._sent}"
        node = message.metadata.dst_node_id
        message.metadata.__dict__["_message_id"] = name
        client = self.partition_of[node]
        context = Context(0, node, {"partition-id": client}, RecordDict(), {})
        queried = message.metadata.message_type == "query"
        work = self._app if queried else self._behave.get(client, self._app)
        reply = work(message, context)
        if reply is not None:
            self._replies[name] = reply
        return name

    def pull_messages(self, names):
        arrived = [name for name in names if name in self._replies]
        return [self._replies.pop(name) for name in arrived[-1:]]


def rows_of(grid, wanted, **patience):
    """Play one round over a fake SuperLink and return its ledger rows by client."""
    _, rows, _ = play(wanted, lambda enrolment: SuperLink(grid(enrolment), **patience), rounds=1)
    return {row.client: row for row in rows}


def test_nodes_without_order_and_answers_out_of_order_give_the_same_bits_as_inline() -> None:
    wanted = scenario()
    reference, rows, _ = play(wanted)
    model, others, _ = play(wanted, lambda enrolment: SuperLink(FakeGrid(enrolment)))
    assert same_bits(model, reference)
    assert others == rows


@pytest.mark.parametrize(
    ("flowers_reason", "reason"),
    [
        ("<class 'fedapt.errors.RunFailed'>:<'the loss became nan'>", "the loss became nan"),
        ("<class 'ZeroDivisionError'>:<'division by zero'>", "ZeroDivisionError: division by zero"),
        ("Node Unavailable", "Node Unavailable"),
        (None, "Flower's error 5"),
    ],
)
def test_flowers_wrapping_is_taken_off_a_reason(flowers_reason, reason) -> None:
    assert why_failed(Message(Error(5, flowers_reason), reply_to=instruction(RecordDict(), "train", 1))) == reason


def test_an_error_reply_is_a_failed_attempt_with_its_sentence() -> None:
    behave = {2: lambda message, context: Message(Error(2, "<class 'OSError'>:<'disk full'>"), reply_to=message)}
    rows = rows_of(lambda enrolment: FakeGrid(enrolment, behave), scenario())
    assert (rows[2].status, rows[2].reason) == ("failed", "OSError: disk full")
    assert rows[2].downlink_bytes > 0 and rows[2].uplink_bytes == 0
    assert [rows[client].status for client in (0, 1, 3, 4, 5)] == ["ok"] * 5


def test_a_client_that_does_not_answer_is_a_failed_attempt_and_the_others_count() -> None:
    rows = rows_of(lambda enrolment: FakeGrid(enrolment, {4: lambda message, context: None}), scenario(), answer_s=0.5)
    assert (rows[4].status, rows[4].reason) == ("failed", "it did not answer within 0.5 s")
    assert [rows[client].status for client in (0, 1, 2, 3, 5)] == ["ok"] * 5


def test_a_client_of_which_there_is_no_node_is_named_with_what_it_needs() -> None:
    rows = rows_of(lambda enrolment: FakeGrid(enrolment, absent=[3]), scenario(), join_s=0.3)
    assert rows[3].status == "failed"
    assert rows[3].reason == "no SuperNode has partition-id=3 in its --node-config"
    assert rows[3].downlink_bytes == 0


def test_a_message_that_the_superlink_does_not_accept_is_a_failed_attempt() -> None:
    class Full(FakeGrid):
        def _push(self, message):
            name = super()._push(message)
            train = message.metadata.message_type == "train"
            return None if train and self.partition_of[message.metadata.dst_node_id] == 1 else name

    rows = rows_of(Full, scenario())
    assert (rows[1].status, rows[1].reason) == ("failed", "the SuperLink did not accept the message to it")


def test_a_reply_that_is_none_of_fedapts_is_rejected() -> None:
    behave = {0: lambda message, context: Message(RecordDict(), reply_to=message)}
    rows = rows_of(lambda enrolment: FakeGrid(enrolment, behave), scenario())
    assert rows[0].status == "rejected"
    assert "the other side is not fedapt's" in rows[0].reason


def test_two_nodes_that_are_the_same_client_end_the_run() -> None:
    def twins(enrolment):
        grid = FakeGrid(enrolment)
        grid.partition_of[5000] = 2
        return grid

    with pytest.raises(RunFailed, match="two SuperNodes have partition-id=2"):
        rows_of(twins, scenario())


SCENARIO = """\
version: 1
name: three
rounds: {rounds}
data: {{source: strokes, samples: 300, test_samples: 100, partition: {{kind: dirichlet, alpha: 0.5}}}}
model: mlp
clients:
  count: 3
  per_round: 3
  local: {{batch: 16}}
  method: {{precision: {{kind: fixed, bits: 4}}}}
engine: {{kind: superlink}}
"""


@contextmanager
def started(folder: Path, rounds: int, *settings: str):
    """Start `fedapt run` in a folder that also holds whatever is temporary; at the latest at the end it is killed."""
    (folder / "three.yaml").write_text(SCENARIO.format(rounds=rounds))
    command = [sys.executable, "-m", "fedapt", "run", str(folder / "three.yaml"), "--output", str(folder / "runs"), *settings]
    environment = os.environ | {"TMPDIR": str(folder)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def run(folder: Path, *settings: str):
    folder.mkdir()
    with started(folder, 2, *settings) as process:
        printed, complaints = process.communicate(timeout=280)
        assert process.returncode == 0, printed + complaints
        return read_run(Path(printed.splitlines()[0]))


def processes_of(folder: Path) -> list[str]:
    """Return the living processes that name a folder in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.fsencode(folder) in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_two_rounds_over_flowers_superlink_and_three_supernodes_end_with_the_same_bits_as_inline(tmp_path: Path) -> None:
    inline = run(tmp_path / "inline", "--set", "engine.kind=inline")
    flower = run(tmp_path / "flower")
    assert (flower.path / "model.safetensors").read_bytes() == (inline.path / "model.safetensors").read_bytes()
    assert_frame_equal(flower.ledger, inline.ledger)
    assert_frame_equal(flower.clients, inline.clients)
    assert_frame_equal(flower.rounds.drop(columns="wall_s"), inline.rounds.drop(columns="wall_s"))


@pytest.mark.slow
def test_a_stop_leaves_the_committed_rounds_and_no_process_and_no_file(tmp_path: Path) -> None:
    with started(tmp_path, 50) as process:
        path = Path(process.stdout.readline().strip())
        while not process.stdout.readline().startswith("[ 1/50]"):
            assert process.poll() is None, process.stderr.read()
        assert len(processes_of(tmp_path)) > 8
        process.send_signal(signal.SIGINT)
        printed, complaints = process.communicate(timeout=60)
    assert process.returncode == 130, complaints
    assert "stopped by SIGINT" in complaints
    assert "Stopped" in printed and read_run(path).finished
    time.sleep(0.5)
    assert processes_of(tmp_path) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs", "three.yaml"]
