"""Each tracker shows the figures of rounds.csv, once, however often and whenever a run is tracked."""

import shutil

import pandas
import pytest

from fedapt.errors import SetupError
from fedapt.results import read_run
from fedapt.tracking import TRACKERS
from fedapt.tracking.afterwards import track
from tests.tracking.conftest import tracked_run, wanted

COLUMNS = ["accuracy", "loss", "train_loss", "mean_bits", "energy_j", "downlink_bytes", "memory_bytes", "time_s", "clock_s"]


def tensorboard_points(path):
    """Read TensorBoard's event files with its own reader: by tag, a value for each step; every step is there once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(path / "tensorboard"))
    events.Reload()
    points = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert all(len(dict(of)) == len(of) for of in points.values())
    return {tag: dict(of) for tag, of in points.items()}


def mlflow_points(fake):
    (run,) = fake.runs.values()
    points = {}
    for metric in run.metrics:
        assert metric.step not in points.setdefault(metric.key, {})
        points[metric.key][metric.step] = metric.value
    return points


def wandb_points(fake):
    (run,) = fake.runs.values()
    points = {name: {} for figures in run.history.values() for name in figures}
    for step, figures in run.history.items():
        for name, value in figures.items():
            points[name][step] = value
    return points


def same_as_csv(points, path):
    rounds = pandas.read_csv(path / "rounds.csv")
    for name in COLUMNS:
        assert points[name] == pytest.approx(dict(enumerate(rounds[name])), rel=1e-6), name
    layers = [name for name in rounds if name.startswith("bits.")]
    assert layers and all(points[name.replace("bits.", "bits/")] == dict(enumerate(rounds[name])) for name in layers)
    statuses = read_run(path).ledger.groupby("round")["status"].value_counts()
    for status in ("ok", "refused", "dropped", "rejected", "failed", "late"):
        assert points[f"clients/{status}"] == {number: statuses.get((number, status), 0) for number in rounds["round"]}
    assert points["total/energy_j"] == pytest.approx(dict(enumerate(rounds["energy_j"].cumsum())), rel=1e-6)
    sent = (rounds["downlink_bytes"] + rounds["uplink_bytes"]).cumsum()
    assert points["total/bytes"] == pytest.approx(dict(enumerate(sent)))


@pytest.fixture
def copy(plain_run, tmp_path):
    return shutil.copytree(plain_run, tmp_path / plain_run.name, copy_function=shutil.copy2)


def test_tensorboard_shows_a_run_that_was_tracked_twice_once(copy):
    assert track(copy, "tensorboard") == track(copy, "tensorboard") == f"tensorboard --logdir {copy.parent}"
    same_as_csv(tensorboard_points(copy), copy)


def test_mlflow_completes_the_run_that_it_has(copy, mlflow):
    track(copy, "mlflow")
    track(copy, "mlflow")
    same_as_csv(mlflow_points(mlflow), copy)
    (run,) = mlflow.runs.values()
    assert run.status == "FINISHED" and run.name == copy.name and run.params["clients.local.lr"] == "0.05"
    assert run.tags["fedapt.strategy"] == "fedavg" and list(mlflow.experiments) == ["fedapt"]


def test_wandb_has_one_id_for_a_run(copy, wandb):
    track(copy, "wandb")
    track(copy, "wandb")
    same_as_csv(wandb_points(wandb), copy)
    (run,) = wandb.runs.values()
    assert run.ended == 0 and run.summary["ending"] == "finished" and run.config["model.kind"] == "mlp"
    assert run.options["dir"] == str(copy)


def test_the_final_figures_are_those_of_the_summary_with_groups_by_name(copy, wandb):
    track(copy, "wandb")
    (run,), summary = wandb.runs.values(), read_run(copy).summary
    assert run.summary["final/accuracy"] == summary["accuracy"]
    assert run.summary["final/client_accuracy/p10"] == summary["client_accuracy"]["p10"]
    (group,) = summary["groups"]
    assert run.summary["final/group/raspberry-pi-4/energy_j"] == group["energy_j"]
    assert run.summary["final/clients/ok"] == summary["statuses"]["ok"] == 8


def test_live_is_the_same_as_afterwards(tmp_path, mlflow, wandb):
    path, printed = tracked_run(wanted(), tmp_path, ["tensorboard", "mlflow", "wandb"])
    for points in (tensorboard_points(path), mlflow_points(mlflow), wandb_points(wandb)):
        same_as_csv(points, path)
    live = tensorboard_points(path)
    track(path, "tensorboard")
    assert tensorboard_points(path) == live
    assert f"Tracked by tensorboard: tensorboard --logdir {tmp_path}" in " ".join(printed.split())


def test_the_relative_time_of_tensorboard_is_simulated_time(copy):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    track(copy, "tensorboard")
    events = EventAccumulator(str(copy / "tensorboard"))
    events.Reload()
    first, second = (event.wall_time for event in events.Scalars("loss"))
    clock = read_run(copy).rounds["clock_s"]
    assert second - first == pytest.approx(clock[1] - clock[0], abs=1e-5)


def test_names_that_mlflow_refuses_are_written_in_its_letters(tmp_path, mlflow):
    clients = wanted().clients.model_dump() | {"groups": [{"profile": "raspberry-pi-4", "name": "rot & blau"}]}
    path, _ = tracked_run(wanted(1, clients=clients), tmp_path, [])
    track(path, "mlflow")
    assert "final/group/rot _ blau/energy_j" in mlflow_points(mlflow)


def test_wandb_asks_nobody_for_a_login(copy, wandb):
    wandb.mode = "online"
    with pytest.raises(SetupError, match=r"wandb could not track .*: nobody is logged in to W&B: run `wandb login`"):
        track(copy, "wandb")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # theirs, of each other's versions
@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_the_real_one_takes_a_run_without_a_network(name, copy, monkeypatch, tmp_path):
    pytest.importorskip(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert name in TRACKERS and track(copy, name)
    if name == "mlflow":
        import mlflow

        client = mlflow.MlflowClient()
        (run,) = client.search_runs([client.get_experiment_by_name("fedapt").experiment_id])
        points = {key: {at.step: at.value for at in client.get_metric_history(run.info.run_id, key)} for key in run.data.metrics}
        same_as_csv(points, copy)
    else:
        assert list((copy / "wandb").glob("offline-run-*/*.wandb"))
