"""Ray gives the bits of inline, whatever the workers, the chunks and the accidents."""

from collections import Counter
from dataclasses import dataclass, replace

import pytest
import ray
from ray.exceptions import RayActorError

from fedapt.clients.faulty import drawn
from fedapt.errors import RunFailed, SetupError
from fedapt.grid.ray_pool import RayPool
from fedapt.grid.ray_session import cause
from fedapt.quant.treatment import WHOLE, Scheme
from tests.grid.accident import Accident, OpensOnce
from tests.grid.conftest import enrolled, same_bits, scenario
from tests.grid.partial import lent
from tests.grid.play import play

pytestmark = pytest.mark.usefixtures("ray_session")


def pool(workers=2, **options):
    return lambda enrolment: RayPool(enrolment.workshop, workers, **options)


def with_accident(what, folder, client=2, times=1, **options):
    return lambda enrolment: RayPool(Accident(enrolment.workshop, what, client, times, folder), 2, **options)


@pytest.fixture(scope="module")
def inline():
    model, rows, _ = play(scenario())
    return model, rows


@pytest.mark.parametrize(("workers", "chunk"), [(1, None), (2, 1), (2, 2), (2, 5), (1, 100)])
def test_any_workers_and_chunks_end_with_the_bits_of_inline(inline, workers, chunk):
    model, rows, _ = play(scenario(), pool(workers, chunk=chunk))
    assert same_bits(model, inline[0])
    assert rows == inline[1]


@pytest.mark.parametrize("strategy", ["median", {"kind": "krum", "num_malicious_nodes": 1}])
def test_strategies_that_see_every_update_get_the_same_bits_from_ray(strategy):
    wanted = scenario(strategy=strategy)
    model, _, _ = play(wanted, pool(2, chunk=2))
    assert same_bits(model, play(wanted)[0])


@pytest.mark.parametrize("strategy", ["fedavg", "median"])
def test_what_clients_train_of_the_model_comes_back_from_ray_with_the_same_bits(strategy):
    wanted = scenario(strategy=strategy)
    with lent([Scheme(("conv1", "conv2")), Scheme(("conv1",)), WHOLE]):
        model, rows, _ = play(wanted)
        again, other, _ = play(wanted, pool(2, chunk=2))
    assert same_bits(model, again) and rows == other and len({row.uplink_bytes for row in rows}) == 3


@pytest.mark.parametrize("accident", [None, "kill"])
def test_what_clients_keep_and_how_they_are_corrected_survives_any_worker(accident, tmp_path):
    """Client 2 has trained once when its worker dies, and a third time: what it keeps is that of the rounds that counted."""
    link = {"bits": 2, "rounding": "nearest", "error_feedback": True}
    precision = {"kind": "fixed", "bits": 4}
    clients = {"count": 12, "per_round": 6, "local": {"batch": 16}, "method": {"precision": precision, "link": link}}
    wanted = scenario(clients=clients, strategy="scaffold")
    model, rows, gateway = play(wanted, rounds=3)
    transport = pool(2, chunk=2) if accident is None else with_accident(accident, tmp_path, chunk=2)
    again, other, pooled = play(wanted, transport, rounds=3)
    assert same_bits(again, model)
    assert [replace(row, attempt=1) for row in other if row.status == "ok"] == rows
    assert all(same_bits(pooled.client_states[client], gateway.client_states[client]) for client in range(6))


def test_a_killed_worker_costs_one_failed_attempt_and_no_bit(inline, tmp_path, capfd):
    model, rows, _ = play(scenario(), with_accident("kill", tmp_path, chunk=3))
    assert same_bits(model, inline[0])
    assert capfd.readouterr() == ("", "")
    failed = [row for row in rows if row.status != "ok"]
    assert [(row.round, row.client, row.attempt, row.status) for row in failed] == [(0, 2, 1, "failed")]
    assert failed[0].reason.startswith("its worker died: ") and failed[0].energy_j == 0
    assert [row.attempt for row in rows if row.client == 2 and row.round == 0] == [1, 2]


@pytest.mark.slow
def test_a_client_that_always_kills_its_worker_fails_alone(tmp_path):
    model, rows, _ = play(scenario(), with_accident("kill", tmp_path, times=99, chunk=3, max_attempts=2))
    expected, _, _ = play(scenario(), cohort=[0, 1, 3, 4, 5])
    assert same_bits(model, expected)
    assert Counter((row.client, row.status) for row in rows if row.client == 2) == {(2, "failed"): 4}


@pytest.mark.slow
def test_a_worker_that_hangs_is_replaced(inline, tmp_path):
    model, rows, _ = play(scenario(), with_accident("hang", tmp_path, chunk=3, task_timeout_s=8.0))
    assert same_bits(model, inline[0])
    assert [row.reason for row in rows if row.status != "ok"] == ["no progress for 8 s, worker killed"]


def test_an_exception_is_not_retried_and_named_with_its_type(tmp_path):
    seen = []
    model, rows, _ = play(scenario(), with_accident("raise", tmp_path, times=99), rounds=1, on_outcome=seen.append)
    expected, _, _ = play(scenario(), cohort=[0, 1, 3, 4, 5], rounds=1)
    assert same_bits(model, expected)
    failed = [(row.client, row.attempt, row.reason) for row in rows if row.status != "ok"]
    assert failed == [(2, 1, "TwoArguments: battery empty")]
    assert "Traceback" in next(outcome.log for outcome in seen if outcome.status != "ok")


@pytest.mark.slow
def test_a_worker_that_dies_after_the_work_is_done_changes_nothing(inline, tmp_path):
    model, rows, _ = play(scenario(), with_accident("kill after", tmp_path, chunk=3))
    assert same_bits(model, inline[0])
    assert [(row.client, row.attempt, row.status) for row in rows if row.client == 2 and row.round == 0] == [
        (2, 1, "failed"),
        (2, 2, "ok"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "reason"), [("raise without words", "NotShown: (it cannot be shown)"), ("exit", "SystemExit: enough")]
)
def test_whatever_a_client_raises_is_a_failure_of_that_client(what, reason, tmp_path):
    _, rows, _ = play(scenario(), with_accident(what, tmp_path, times=99), rounds=1)
    assert [(row.client, row.attempt, row.reason) for row in rows if row.status != "ok"] == [(2, 1, reason)]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["allocate bytes", "allocate tensors"])
def test_a_client_out_of_memory_fails_alone_and_says_how_much_there_was(what, tmp_path):
    model, rows, _ = play(scenario(), with_accident(what, tmp_path, times=99, chunk=3), rounds=1)
    expected, _, _ = play(scenario(), cohort=[0, 1, 3, 4, 5], rounds=1)
    assert same_bits(model, expected)
    (failed,) = [row for row in rows if row.status != "ok"]
    assert failed.client == 2 and failed.attempt == 1
    assert failed.reason.startswith("out of memory: peak ") and "MiB of address space" in failed.reason


@pytest.mark.slow
def test_injected_crashes_kill_workers_and_change_no_bit(inline):
    hit = [(number, client, 1) for number in range(2) for client in range(6) if drawn(0.25, 0, "crash", number, client)]
    assert 1 <= len(hit) <= 6
    model, rows, _ = play(scenario(faults={"crash": 0.25}), pool(2, chunk=2))
    assert same_bits(model, inline[0])
    assert [(row.round, row.client, row.attempt) for row in rows if row.status != "ok"] == hit


@pytest.mark.slow
def test_injected_faults_give_the_bits_and_the_statuses_of_inline():
    wanted = scenario(faults={"drop": 0.2, "raise": 0.2, "nan": 0.5, "sign_flip": 0.3, "crash": 0.1})
    model, rows, _ = play(wanted, pool(2, chunk=2))
    expected, plain, _ = play(wanted)
    assert same_bits(model, expected)
    assert len({row.status for row in plain}) == 4
    told = [[(row.round, row.client, row.attempt, row.status, row.energy_j) for row in each] for each in (rows, plain)]
    assert told[0] == told[1]


@pytest.mark.slow
def test_when_no_worker_can_be_replaced_the_run_fails_and_says_why(tmp_path):
    broken = lambda enrolment: RayPool(  # noqa: E731
        OpensOnce(Accident(enrolment.workshop, "kill", 2, 99, tmp_path), 1, tmp_path), 1, grace_s=20
    )
    with pytest.raises(RunFailed, match=r"no worker is left, and none came in 20 s: .*no tools left"):
        play(scenario(), broken)


@pytest.mark.slow
def test_the_rest_of_the_workers_do_the_work_of_one_that_cannot_be_replaced(inline, tmp_path):
    broken = lambda enrolment: RayPool(  # noqa: E731
        OpensOnce(Accident(enrolment.workshop, "kill", 2, 1, tmp_path), 2, tmp_path), 2, chunk=1
    )
    model, rows, _ = play(scenario(), broken)
    assert same_bits(model, inline[0])
    assert [(row.client, row.attempt) for row in rows if row.status != "ok"] == [(2, 1)]


@ray.remote(num_cpus=0)
class Own:
    """An actor that is the user's."""

    def ask(self):
        return "here"


def test_a_ray_that_was_running_is_used_and_left_running_without_our_workers():
    own = Own.remote()
    enrolment = enrolled(scenario())
    transport = RayPool(enrolment.workshop, 1)
    (hand,) = transport._idle
    transport.close()
    assert ray.is_initialized() and ray.get(own.ask.remote()) == "here"
    with pytest.raises(RayActorError):
        ray.get(hand.worker.ready.remote())
    ray.kill(own)


def test_equal_causes_are_equal_sentences():
    """What Ray 2.55 says of a killed worker, of a lost node and of one that its memory monitor killed, shortened."""
    killed = (
        "The actor died unexpectedly before finishing this task.\n\tclass_name: _Worker\n\tpid: 31165\nThe actor is dead because"
        " its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker unexpectedly exits with a"
        " connection error code 2. End of file. Some common causes include: (1) the process was killed by the OOM killer."
    )
    lost = "The actor df6941d8dd68ff71ebf61ab601000000 is unavailable: The actor is temporarily unavailable: RpcError: closed"
    memory = (
        "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, ID:"
        " 3388811e599f68ad26c28255d23e2a2fc28c5a2780ddcc11f542f2d9) was 4.95GB / 23.54GB (0.210084), which exceeds the memory"
        " usage threshold of 0.020000; Object store memory usage: [- objects spillable: 0;]; Set max_restarts"
    )
    assert cause(Exception(killed)) == "Worker unexpectedly exits with a connection error code 2. End of file."
    assert cause(Exception(lost)) == "The actor is unavailable: The actor is temporarily unavailable: RpcError: closed"
    assert cause(Exception(memory)) == (
        "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2) was"
        " 4.95GB / 23.54GB (0.210084), which exceeds the memory usage threshold of 0.020000"
    )


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fedavg", "median"])
def test_a_dying_client_is_lost_alone(strategy, tmp_path):
    """20 clients, 3 rounds, one client always kills its worker in round 1: 59 updates, and the bits of its mere absence."""
    clients = scenario().clients.model_dump() | {"count": 20, "per_round": 20, "groups": [{"profile": "raspberry-pi-4"}]}
    wanted = scenario(clients=clients, strategy=strategy, data={"source": "digits"})
    everyone = list(range(20))
    model, rows, _ = play(
        wanted, lambda e: RayPool(Accident(e.workshop, "kill", 7, 99, tmp_path, round=1), 2), rounds=3, cohort=everyone
    )
    assert sum(row.status == "ok" for row in rows) == 59
    assert {(row.round, row.client) for row in rows if row.status != "ok"} == {(1, 7)}
    assert [row.attempt for row in rows if row.status == "failed"] == [1, 2, 3]
    absent = [everyone, [client for client in everyone if client != 7], everyone]
    expected, _, _ = play(wanted, rounds=3, cohort=absent)
    assert same_bits(model, expected)


@dataclass
class Broken:
    """A workshop that cannot be opened."""

    def open(self):
        raise RuntimeError("no tools")


def test_workers_that_cannot_start_are_one_sentence():
    with pytest.raises(SetupError, match=r"the workers could not start: .*no tools"):
        RayPool(Broken(), 1)
