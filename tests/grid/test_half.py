"""Runs that compute in bf16: the same bits from every transport, other numbers than in float32, and results that say so."""

import pytest

from fedapt.grid.ray_pool import RayPool
from fedapt.report.terminal import Display
from fedapt.results import read_run
from fedapt.run import run
from fedapt.scenario import Engine
from fedapt.stopping import Stopper
from tests.grid.conftest import same_bits, scenario
from tests.grid.play import play

COSTS = ("macs", "energy_j", "time_s", "memory_bytes", "downlink_bytes", "uplink_bytes")
HALF = {"kind": "inline", "compute": "bfloat16"}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(("workers", "chunk"), [(2, 1), (1, None)])
def test_ray_gives_the_bits_of_inline(workers, chunk):
    wanted = scenario(engine=HALF)
    model, rows, _ = play(wanted)
    other, pooled, _ = play(wanted, lambda enrolment: RayPool(enrolment.workshop, workers, chunk=chunk))
    assert same_bits(model, other) and rows == pooled


def test_only_what_is_learned_differs_from_float32():
    (plain, rows, _), (half, others, _) = play(scenario(), rounds=1), play(scenario(engine=HALF), rounds=1)
    assert not same_bits(plain, half)
    for row, other in zip(rows, others, strict=True):
        assert all(getattr(row, cost) == getattr(other, cost) for cost in COSTS)


def test_a_message_is_trained_to_the_bits_of_a_client_that_is_handed_the_model():
    direct, by_message = scenario(engine=HALF), scenario(engine=HALF, faults={"drop": 1e-12})
    assert same_bits(play(direct)[0], play(by_message)[0])


def test_a_run_learns_and_its_results_say_what_it_computed_in(tmp_path):
    clients = {"count": 4, "per_round": 4, "local": {"lr": 0.1, "batch": 16, "epochs": 2}}
    clients["method"] = {"precision": {"kind": "fixed", "bits": 8}}
    wanted = scenario(engine=HALF, rounds=3, clients=clients, evaluate={"every": 3})
    with Stopper() as stopper, Display() as display:
        played = read_run(run(wanted, tmp_path, display, stopper))
    assert played.summary["compute"] == "bfloat16" and played.summary["accuracy"] > 0.4
    assert "in bf16 where that pays" in (played.path / "report.html").read_text()
    assert "bf16" in played.environment


def test_a_superlink_refuses_to_compute_otherwise_than_boards():
    with pytest.raises(ValueError, match="superlink's clients compute as boards do; leave `compute` out, or use ray or inline"):
        Engine(kind="superlink", compute="bfloat16")
