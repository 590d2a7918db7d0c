"""Ray gives the bits of inline, whatever the workers, the chunks and the accidents."""

import os
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fedapt.errors import SetupError
from fedapt.grid.ray_pool import RayPool
from tests.grid.conftest import same_bits, scenario
from tests.grid.play import play

pytestmark = pytest.mark.usefixtures("ray_session")


@dataclass
class Accident:
    """A workshop whose `client` does something in its first `times` visits; visits are counted in files."""

    workshop: Any
    what: str
    client: int
    times: int
    folder: Path

    def open(self):
        inner = self.workshop.open()

        def app(message, context):
            visits = self.folder / f"{context.node_id}"
            with visits.open("a") as file:
                file.write("x")
            if context.node_id == self.client and visits.stat().st_size <= self.times:
                if self.what == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                if self.what == "hang":
                    time.sleep(60)
                if self.what == "raise":
                    raise TwoArguments("battery", "empty")
            return inner(message, context)

        return app


class TwoArguments(Exception):
    """An exception that does not survive pickling."""

    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


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


@pytest.mark.parametrize("strategy", ["fedmedian", {"kind": "krum", "num_malicious_nodes": 1}])
def test_strategies_that_see_every_update_get_the_same_bits_from_ray(strategy):
    wanted = scenario(strategy=strategy)
    model, _, _ = play(wanted, pool(2, chunk=2))
    assert same_bits(model, play(wanted)[0])


def test_a_killed_worker_costs_one_failed_attempt_and_no_bit(inline, tmp_path, capfd):
    model, rows, _ = play(scenario(), with_accident("kill", tmp_path, chunk=3))
    assert same_bits(model, inline[0])
    assert capfd.readouterr() == ("", "")
    failed = [row for row in rows if row.status != "ok"]
    assert [(row.round, row.client, row.attempt, row.status) for row in failed] == [(0, 2, 1, "failed")]
    assert failed[0].reason.startswith("its worker died: ") and failed[0].energy_j == 0
    assert [row.attempt for row in rows if row.client == 2 and row.round == 0] == [1, 2]


def test_a_client_that_always_kills_its_worker_fails_alone(tmp_path):
    model, rows, _ = play(scenario(), with_accident("kill", tmp_path, times=99, chunk=3, max_attempts=2))
    expected, _, _ = play(scenario(), cohort=[0, 1, 3, 4, 5])
    assert same_bits(model, expected)
    assert Counter((row.client, row.status) for row in rows if row.client == 2) == {(2, "failed"): 4}


def test_a_worker_that_hangs_is_replaced(inline, tmp_path):
    model, rows, _ = play(scenario(), with_accident("hang", tmp_path, chunk=3, task_timeout_s=3.0))
    assert same_bits(model, inline[0])
    assert [row.reason for row in rows if row.status != "ok"] == ["no progress for 3 s, worker killed"]


def test_an_exception_is_not_retried_and_named_with_its_type(tmp_path):
    model, rows, gateway = play(scenario(), with_accident("raise", tmp_path, times=99), rounds=1)
    expected, _, _ = play(scenario(), cohort=[0, 1, 3, 4, 5], rounds=1)
    assert same_bits(model, expected)
    failed = [(row.client, row.attempt, row.reason) for row in rows if row.status != "ok"]
    assert failed == [(2, 1, "TwoArguments: battery empty")]
    assert "Traceback" in next(outcome.log for outcome in gateway.outcomes if outcome.status != "ok")


@dataclass
class Broken:
    """A workshop that cannot be opened."""

    def open(self):
        raise RuntimeError("no tools")


def test_workers_that_cannot_start_are_one_sentence():
    with pytest.raises(SetupError, match=r"the workers could not start: .*no tools"):
        RayPool(Broken(), 1)
