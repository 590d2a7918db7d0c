"""bench.engine: its arithmetic by hand, its models beside fedapt's, and one small run for real."""

import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.engine.__main__ import turned
from bench.engine.contestants import CONTESTANTS, plays
from bench.engine.local import train
from bench.engine.machine import busy_cores, busy_ticks, held_mib, tree
from bench.engine.measure import parity, times
from bench.engine.nets import net
from bench.engine.prepare import cohort, model_options, prepare
from bench.engine.report import report
from bench.engine.statistics import GOALS, figures, of, off, ratio, spread, steady_s
from bench.engine.workloads import WORKLOADS, Workload
from fedapt.data import DataShape
from fedapt.models import MODELS, build
from fedapt.plugins import loading

ROOT = Path(__file__).parents[1]
SMALL = Workload("W2", "small", "fashion_mnist", "mlp", (8,), clients=6, cohort=4, samples=20, batch=8, rounds=3)
ABOUT = {"repeats": 5, "workers": 2, "cpu": "a CPU", "quick": False, "busy": False, "busy_cores": 0.02, "torch": "2.13"}


def row(contestant, client_ms, repeat=0, workload="W2", watched=False, **more):
    base = {"workload": workload, "contestant": contestant, "repeat": repeat, "watched": watched, "client_ms": client_ms}
    return base | {"first_s": 1.0, "whole_s": 2.0} | more


@pytest.fixture(scope="module", autouse=True)
def no_plugin_of_the_bench_stays():
    """Forget the model that the workloads bring along, which the schema of scenarios must not show."""
    before = dict(MODELS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "_modules", {})
        patch.setattr(loading, "_given", {})
        yield
    MODELS.clear()
    MODELS.update(before)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.engine.prepare.SHARED", Path("/nowhere"))
        return prepare(SMALL, tmp_path_factory.mktemp("engine") / "W2")


def test_the_steady_state_is_of_the_second_half_without_the_last_round():
    ends_s = [50.0, 58.0, 61.0, 62.0, 64.0, 99.0]
    assert steady_s(ends_s) == 1.5
    found = times(40.0, ends_s, 10)
    assert (found["first_s"], found["client_ms"]) == (10.0, 150.0)
    with pytest.raises(ValueError, match="three rounds"):
        steady_s([1.0, 2.0])


def test_a_ratio_is_of_the_same_repeat_and_its_median_is_no_ratio_of_medians():
    slow = [row("flwr", ms, repeat) for repeat, ms in enumerate((30.0, 10.0, 80.0))]
    fast = [row("fedapt-ray", ms, repeat) for repeat, ms in enumerate((3.0, 5.0, 2.0))]
    found = ratio(of(slow, "W2", "flwr", "client_ms"), of(fast, "W2", "fedapt-ray", "client_ms"))
    assert found == (10.0, 2.0, 40.0, 3)
    assert ratio({0: 1.0}, {1: 1.0}) is None and spread([]) is None


def test_runs_whose_memory_was_watched_or_that_failed_are_not_timed():
    rows = [row("floor", 1.0), row("floor", 9.0, watched=True), {"failure": "no"} | row("floor", 0, 1)]
    del rows[2]["client_ms"]
    assert of(rows, "W2", "floor", "client_ms") == {0: 1.0}


def test_figures_are_three():
    assert [figures(value) for value in (0.012345, 1.5, 12.345, 1234.5)] == ["0.0123", "1.50", "12.3", "1234"]


def test_a_contestant_that_learned_something_else_is_reported():
    fine = row("pfl", 1.0, accuracy=0.695, reference_accuracy=0.700)
    wrong = row("flwr", 1.0, accuracy=0.64, reference_accuracy=0.70)
    assert off(fine) == "" and off(wrong) == "-6.0 points beside the floor"
    assert "-6.0 points beside the floor" in report([fine, wrong], ABOUT)


def test_goals_are_judged_by_their_bound_and_what_was_not_measured_says_so():
    rows = [row("floor", 2.0), row("fedapt-ray", 1.8), row("flwr", 20.0), row("fedapt-ray", 1.0, workload="W5")]
    said = {goal.text: goal.verdict(rows) for goal in GOALS}
    assert said["fedapt, all cores, to the floor, W2"] == ("0.900 x", "reached")
    assert said["flwr to fedapt, W2"] == ("11.1 x", "**not reached**")
    assert said["flwr to fedapt, W5"] == ("", "not measured")


def test_the_driver_memory_goal_compares_two_cohorts():
    rows = [row("fedapt-ray", 1.0, workload=name, driver_peak_mib=mib) for name, mib in (("S1000", 220.0), ("S10", 200.0))]
    said = {goal.text: goal.verdict(rows) for goal in GOALS}
    assert said["driver's peak memory, cohort 1,000 to 10"] == ("1.10 x", "reached")


def test_the_report_shows_losers_failures_and_a_busy_machine():
    rows = [row("floor", 1.0), row("fedapt-ray", 4.0), {**row("pfl", 2.0), "failure": "it ended with 1."}]
    text = report(rows, ABOUT | {"busy": True, "busy_cores": 1.5})
    assert "| fedapt-ray | 4.00 | 4.00 |" in text and "it ended with 1." in text
    assert "**The machine was busy" in text and "1.50 cores" in text


def test_repeats_have_different_orders_and_all_take_part():
    orders = [turned(["a", "b", "c", "d"], repeat) for repeat in range(5)]
    assert len(set(map(tuple, orders))) > 2 and all(sorted(order) == ["a", "b", "c", "d"] for order in orders)
    assert orders == [turned(["a", "b", "c", "d"], repeat) for repeat in range(5)]


def test_scale_is_for_fedapt_alone_and_eight_bits_for_two_workloads():
    assert [name for name in CONTESTANTS if plays(name, "S10", True)] == ["fedapt-ray"]
    assert plays("fedapt-inline-8", "W3", False) and not plays("fedapt-inline-8", "W1", False)


def test_idle_ticks_do_not_count_as_busy():
    assert busy_ticks("cpu  10 1 5 1000 50 2 3 4 7 0\ncpu0 1 1 1 1\n") == 25


def test_a_busy_core_is_seen():
    over = threading.Event()
    spinning = threading.Thread(target=lambda: any(iter(over.is_set, True)))
    spinning.start()
    found = busy_cores(0.3)
    over.set()
    spinning.join()
    assert found > 0.5


def test_the_memory_of_children_counts():
    code = "import sys; held = bytearray(64 << 20); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        mine = tree(child.pid)
        assert mine == [child.pid] and child.pid in tree(__import__("os").getpid())
        assert 64 < held_mib(child.pid) < 128
        child.communicate(b"")


@pytest.mark.parametrize("name", ["W1", "W2", "W3", "W4", "W5"])
def test_the_models_are_fedapt_s(name):
    workload = WORKLOADS[name]
    shape = (3, 32, 32) if workload.data == "cifar10" else (1, 28, 28)
    own = build(model_options(workload), DataShape(shape, 10), 0)
    plain = net(workload.model, workload.hidden, shape)
    assert [type(layer) for layer in own] == [type(layer) for layer in plain]
    plain.load_state_dict(own.state_dict())
    inputs = torch.ones(2, *shape)
    assert torch.equal(own(inputs), plain(inputs))


def test_the_bare_loop_is_plain_sgd():
    model = torch.nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.zero_()
    step = replace(SMALL, batch=1, lr=1.0)
    train(model, list(model.parameters()), step, torch.tensor([[1.0, 2.0]]), torch.tensor([1]))
    # Softmax of equal logits is one half: the gradient is (0.5, -0.5) times the input.
    assert model.weight.tolist() == [[-0.5, -1.0], [0.5, 1.0]]


def test_every_client_of_a_cohort_takes_its_own_samples_in_its_own_order(work):
    assert work.cohorts.shape == (3, 4) and [list(chosen) for chosen in work.cohorts] == [cohort(SMALL, n) for n in range(3)]
    rows = work.orders[0].numpy()
    assert rows.shape == (4, 20) and len(np.unique(rows)) == 80
    assert work.data(1, 2)[0].shape == (20, 1, 28, 28)


def test_parity_measures_the_distance_in_what_the_floor_has_learned(work):
    learned = {name: values + 1 for name, values in work.initial.items()}
    half = {name: values + np.float32(0.5) for name, values in work.initial.items()}
    assert parity(work, half, learned)["apart"] == pytest.approx(0.5)
    assert parity(work, learned, learned)["apart"] == 0.0


def test_too_few_repeats_are_refused(tmp_path):
    command = [sys.executable, "-m", "bench.engine", "--output", str(tmp_path), "--repeats", "4"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "say too little" in done.stderr


def test_a_peer_python_that_is_not_there_is_named(tmp_path):
    command = [
        sys.executable,
        "-m",
        "bench.engine",
        "--output",
        str(tmp_path),
        "--quick",
        "--busy",
        "--peer-python",
        "/no/python",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("--peer-python /no/python cannot be run (No such file")


@pytest.mark.slow
def test_contestants_end_with_the_floor_s_weights(tmp_path):
    command = [sys.executable, "-m", "bench.engine", "--output", str(tmp_path), "--quick", "--repeats", "1", "--busy"]
    names = ["floor", "fedapt-inline", "fedapt-ray", "fedapt-inline-8", "flwr"]
    subprocess.run([*command, "--workload", "W2", "--contestant", *names], cwd=ROOT, check=True, timeout=280)
    rows = {found["contestant"]: found for found in map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())}
    assert sorted(rows) == sorted(names) and not any("failure" in found for found in rows.values())
    assert max(rows[name]["apart"] for name in names if name != "fedapt-inline-8") < 0.01
    assert not any(map(off, rows.values()))
    assert "## Goals" in (tmp_path / "engine.md").read_text() and json.loads((tmp_path / "environment.json").read_text())["quick"]
