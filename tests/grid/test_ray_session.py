"""Ray beside other Rays, and a run that does not wait for it."""

import subprocess
import sys
from pathlib import Path

import pytest

from fedapt.errors import SetupError
from fedapt.grid.ray_pool import RayPool
from tests.grid.conftest import enrolled, same_bits, scenario
from tests.grid.play import play

ANOTHER = """
import os
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
from fedapt.grid.ray_session import RaySession
import ray
if __name__ == "__main__":
    with RaySession(1) as session:
        assert session.wait() == 1
        print(ray.cluster_resources()["CPU"])
    print(ray.is_initialized())
"""


@pytest.mark.usefixtures("ray_session")
def test_a_ray_is_started_beside_one_that_another_process_has():
    done = subprocess.run(
        [sys.executable, "-c", ANOTHER], capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2]
    )
    assert done.stdout == "1.0\nFalse\n", done.stderr


class Late:
    """A session whose Ray is never there."""

    spread = False

    def __init__(self, failure=None):
        import threading

        self.failure, self.ended = failure, threading.Event()

    def wait(self):
        if self.failure:
            raise SetupError(self.failure)
        self.ended.wait(30)
        raise SetupError("ended")

    def end(self, dismiss):
        self.ended.set()
        dismiss()


def test_until_there_is_a_worker_the_driver_plays_to_the_same_bits():
    model, rows, _ = play(scenario(), lambda e: RayPool(e.workshop, 2, session=Late(), player=e.workshop.open()))
    expected, plain, _ = play(scenario())
    assert same_bits(model, expected) and rows == plain


@pytest.mark.usefixtures("ray_session")
def test_workers_take_over_from_the_driver_to_the_same_bits():
    outcomes, pools = [], []

    def pool(enrolment):
        pools.append(RayPool(enrolment.workshop, 2, player=enrolment.workshop.open()))
        return pools[0]

    def hold_on(outcome):
        outcomes.append(outcome)
        while len(outcomes) > 8 and not pools[0]._staffed(0.5):
            pass

    model, rows, _ = play(scenario(), pool, on_outcome=hold_on)
    assert pools[0]._player is None
    expected, plain, _ = play(scenario())
    assert same_bits(model, expected) and rows == plain


def test_a_ray_that_cannot_be_started_ends_the_run_that_did_not_wait_for_it():
    enrolment = enrolled(scenario())
    pool = RayPool(enrolment.workshop, 2, session=Late("no Ray here"), player=enrolment.workshop.open())
    pool._opening.join()
    with pytest.raises(SetupError, match="no Ray here"):
        play(scenario(), lambda _: pool)
