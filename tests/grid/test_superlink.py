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
from tests.invariants import Fault, Played, assert_contained

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(superlink, "POLL_S", 0.001)


class FakeGrid:
    """A SuperLink with a node for each client, numbered as Flower does: without any order. The last answer comes first.

    behave: what the nodes of some clients do instead of working; it is given the message and returns the reply, None for none.
    """

    def __init__(self, enrolment, behave=None, absent=()) -> None:
        self._app = enrolment.workshop.open().app
        present = [client for client in enrolment.participants if client not in absent]
        self.partition_of = {7919 * (client + 3) % 1009: client for client in present}
        self._behave = behave or {}
        self._replies: dict[str, Message] = {}
        self._states: dict[int, RecordDict] = {}
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
        context = Context(0, node, {"partition-id": client}, self._states.setdefault(node, RecordDict()), {})
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


def test_nodes_keep_themselves_what_the_gateway_keeps_for_simulated_clients() -> None:
    """Some updates are rejected; their clients keep what compression lost of them all the same."""
    link = {"bits": 2, "rounding": "nearest", "error_feedback": True}
    clients = {"count": 12, "per_round": 6, "method": {"precision": "fp32", "link": link}}
    wanted = scenario(clients=clients, strategy="scaffold", faults={"nan": 0.2})
    reference, rows, _ = play(wanted, rounds=3)
    model, others, gateway = play(wanted, lambda enrolment: SuperLink(FakeGrid(enrolment)), rounds=3)
    assert {row.status for row in rows} == {"ok", "rejected"} and gateway.client_states == {}
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


class Postman(FakeGrid):
    """Delivers answers again, or those of some messages only when `waits` later ones have been asked for."""

    def __init__(self, enrolment, repeats=0, waits=0, slow=()):
        super().__init__(enrolment)
        self._repeats, self._waits, self._slow = repeats, waits, slow
        self._delivered = []

    def pull_messages(self, names):
        self._replies, kept = {}, self._replies
        self._replies = {name: reply for name, reply in kept.items() if not self._held(name, reply)}
        held = {name: reply for name, reply in kept.items() if name not in self._replies}
        arrived = super().pull_messages(names)
        self._replies |= held
        again = self._delivered[-self._repeats :] if self._repeats else []
        self._delivered += arrived
        return again + arrived

    def _held(self, name, reply):
        train = reply.metadata.message_type == "train"
        return train and self.partition_of[reply.metadata.src_node_id] in self._slow and self._sent < self._waits


def played(grid_of, rounds, **patience):
    """Return the model, the rows and the transport after some rounds over a fake SuperLink."""
    transports = []

    def transport(enrolment):
        transports.append(SuperLink(grid_of(enrolment), **patience))
        return transports[0]

    model, rows, _ = play(scenario(), transport, rounds=rounds)
    return model, rows, transports[0]


def test_an_answer_that_comes_again_is_ignored_and_counted() -> None:
    reference, rows, _ = play(scenario())
    model, others, transport = played(lambda enrolment: Postman(enrolment, repeats=2), 2)
    assert same_bits(model, reference) and others == rows
    assert transport.ignored.keys() <= {"repeated", "unasked"} and transport.ignored["repeated"] > 0


def test_an_answer_after_its_round_is_ignored_and_counted_and_was_charged_when_it_was_missed() -> None:
    # 12 queries and 6 messages are the first round; the seventh message is of the second.
    model, rows, transport = played(lambda enrolment: Postman(enrolment, waits=19, slow=[4]), 2, answer_s=0.5)
    honest = {(row.round, row.client): row for row in play(scenario())[1]}
    row = next(row for row in rows if (row.round, row.client) == (0, 4))
    fault = Fault("failed", "^it did not answer within 0.5 s$")
    assert (row.macs, row.steps, row.uplink_bytes) == (honest[0, 4].macs, honest[0, 4].steps, 0)
    assert transport.ignored == {"late": 1}
    absent, others, _ = play(scenario(), cohort=[[0, 1, 2, 3, 5], list(range(6))])
    assert_contained(Played(model, rows), Played(absent, others), {(0, 4, 1): fault})


def test_an_expired_message_is_no_late_answer() -> None:
    class Expiring(Postman):
        def pull_messages(self, names):
            return [
                Message(Error(4, "expired"), reply_to=self.request) if self._slow_one(reply) else reply
                for reply in super().pull_messages(names)
            ]

        def _push(self, message):
            train = message.metadata.message_type == "train"
            if train and self.partition_of[message.metadata.dst_node_id] == 4 and not hasattr(self, "request"):
                self.request = message
            return super()._push(message)

        def _slow_one(self, reply):
            return hasattr(self, "request") and reply.metadata.reply_to_message_id == self.request.metadata.message_id

    _, _, transport = played(lambda enrolment: Expiring(enrolment, waits=19, slow=[4]), 2, answer_s=0.5)
    assert not transport.ignored


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
    assert (rows[1].downlink_bytes, rows[1].macs) == (0, 0)


def test_a_reply_that_is_none_of_fedapts_is_rejected() -> None:
    behave = {0: lambda message, context: Message(RecordDict(), reply_to=message)}
    rows = rows_of(lambda enrolment: FakeGrid(enrolment, behave), scenario())
    assert rows[0].status == "rejected"
    assert "the other side is not fedapt's" in rows[0].reason and rows[0].macs > 0


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


@pytest.mark.slow
def test_a_stopped_run_over_the_superlink_is_resumed_to_the_same_bits(tmp_path: Path) -> None:
    (tmp_path / "flower").mkdir()
    with started(tmp_path / "flower", 3, "--set", "keep.models=1") as process:
        path = Path(process.stdout.readline().strip())
        while not process.stdout.readline().startswith("[1/3]"):
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    command = [sys.executable, "-m", "fedapt", "resume", str(path)]
    resumed = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=200)
    assert resumed.returncode == 0 and "Resuming after" in resumed.stdout, resumed.stderr
    (tmp_path / "inline").mkdir()
    with started(tmp_path / "inline", 3, "--set", "engine.kind=inline") as process:
        whole = Path(process.communicate(timeout=200)[0].splitlines()[0])
    assert (path / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert_frame_equal(read_run(path).ledger, read_run(whole).ledger)
