"""fedapt.pretraining: what a run begins with, that it is the same everywhere, and that it helps."""

import io
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file

from fedapt.data import DataSpec, load
from fedapt.errors import RunFailed, ScenarioError, SetupError
from fedapt.models import build
from fedapt.pretrained import FILE, kept
from fedapt.pretraining import On, Pretraining, Training
from fedapt.report.prediction import check_scenario
from fedapt.report.terminal import Display
from fedapt.results import read_run
from fedapt.resuming import resume
from fedapt.run import run
from fedapt.scenario import dump_scenario, load_scenario
from fedapt.stopping import Stopper
from tests.grid.conftest import same_bits, scenario
from tests.test_run import go

LOW, HIGH = [0, 1, 2, 3, 4], [5, 6, 7, 8, 9]
FP32 = {"count": 8, "per_round": 4, "method": {"precision": "fp32"}}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def transfer(**changes):
    """Return a scenario that is pretrained on five of the digits and goes on with the other five."""
    base = {
        "data": {"source": "digits", "classes": HIGH},
        "pretrain": {"on": {"classes": LOW}, "epochs": 2},
        "clients": FP32,
        "rounds": 1,
    }
    return scenario(**base | changes)


def training(wanted):
    return Training(wanted, load(wanted.data, wanted.clients.count, wanted.seed))


def silent(done, epochs, loss):
    """Progress that nobody looks at."""


def test_the_samples_are_those_of_the_data_but_for_what_is_given():
    data = DataSpec(source="a.parquet", test="b.parquet", samples=9, classes=[1], shape=[1, 2, 2], partition="dirichlet")
    same = On(classes=[2]).over(data)
    assert (same.source, same.test, same.samples, same.classes, same.shape) == ("a.parquet", "b.parquet", 9, [2], [1, 2, 2])
    other = On(source="c.parquet").over(data)
    assert (other.source, other.test, other.samples, other.classes, other.shape) == ("c.parquet", None, None, None, None)
    assert same.partition.kind == other.partition.kind == "iid"


def test_a_file_and_a_training_exclude_each_other():
    with pytest.raises(ValidationError, match="`lr` is for a training, but the weights are read from `file`"):
        Pretraining(file="a", lr=0.1)
    wanted = transfer(pretrain={"file": "/a.safetensors"})
    assert wanted.pretrain.epochs == 5


def test_what_is_written_reads_back_and_paths_start_at_the_scenarios_folder(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(dump_scenario(transfer(pretrain={"on": {"source": "x/a.parquet", "test": "x/b.parquet"}})))
    wanted = load_scenario(str(path)).pretrain
    assert (wanted.on.source, wanted.on.test) == (f"{tmp_path}/x/a.parquet", f"{tmp_path}/x/b.parquet")
    path.write_text(dump_scenario(transfer(pretrain={"file": "weights"})))
    wanted = load_scenario(str(path))
    assert wanted.pretrain.file == f"{tmp_path}/weights"
    path.write_text(dump_scenario(wanted))
    assert load_scenario(str(path)) == wanted


def test_options_that_contradict_the_data_are_refused_where_they_stand():
    with pytest.raises(ValidationError, match=r"`test` describes a file .*, but the source `digits` is built in"):
        transfer(pretrain={"on": {"test": "b.parquet"}})


def test_the_training_is_that_of_a_plain_loop():
    wanted = transfer(pretrain={"on": {"classes": LOW, "samples": 100}, "epochs": 1, "batch": 100, "lr": 0.1, "momentum": 0.0})
    federation = load(wanted.data, 8, 0)
    weights = Training(wanted, federation).result(silent).arrays
    # One step on all samples: their order is no matter but for rounding.
    data = load(DataSpec(source="digits", classes=LOW, samples=100), 1, 0).train
    mean, std = (each[:, None, None] for each in (federation.train.mean, federation.train.std))
    inputs = torch.from_numpy((data.inputs / np.float32(255) - mean) / std)
    model = build(wanted.model, federation.data_shape, 0)
    before = {name: values.detach().clone() for name, values in model.named_parameters()}
    chosen = torch.log_softmax(model(inputs)[:, :5], 1)
    (-chosen[torch.arange(100), torch.from_numpy(data.labels.copy())].mean()).backward()
    for name, values in model.named_parameters():
        expected = before[name] - 0.1 * values.grad
        assert np.allclose(weights[name], expected, atol=1e-6), name


def test_the_rows_of_the_head_for_other_classes_stay_as_they_are():
    wanted = transfer()
    model = build(wanted.model, load(wanted.data, 8, 0).data_shape, 0).state_dict()
    weights = training(wanted).result(silent).arrays
    head = list(model)[-2]
    assert weights[head].shape[0] == 10 and np.array_equal(weights[head][5:], model[head][5:])
    assert not np.isclose(weights[head][:5], model[head][:5]).all(axis=1).any()


def test_a_run_begins_with_it_keeps_it_and_says_so(tmp_path):
    path, printed = go(transfer(), tmp_path / "runs")
    begun = kept(path)
    assert (begun.origin.classes, begun.origin.epochs, begun.origin.own) == (5, 2, ()) and begun.origin.accuracy > 0.3
    assert same_bits(begun.arrays, training(transfer()).result(silent).arrays)
    assert printed.count("pretraining [") == 2 and "Start     pretrained on 720 samples of 5 classes of digits" in printed
    page = (path / "report.html").read_text()
    assert "pretrained on 720 samples of 5 classes of digits: 2 epochs" in page and "no client is charged" in page
    (path / FILE).write_bytes(b"")
    with pytest.raises(Exception, match=r"pretrained\.safetensors is not as it was written"):
        read_run(path)


def test_clients_pay_for_the_rounds_alone_and_get_the_same_bytes(tmp_path):
    rows = [read_run(go(transfer(**more), tmp_path)[0]).ledger for more in ({}, {"pretrain": None})]
    for column in ("energy_j", "macs", "downlink_bytes", "uplink_bytes", "time_s", "samples"):
        assert rows[0][column].tolist() == rows[1][column].tolist(), column


def test_a_round_after_it_is_better_than_a_round_from_scratch(tmp_path):
    accuracy = [
        read_run(go(transfer(pretrain=pretrain, data={"source": "digits"}), tmp_path)[0]).summary["accuracy"]
        for pretrain in ({"epochs": 6}, None)
    ]
    assert accuracy[0] > accuracy[1] + 0.3


def test_other_classes_are_learned_sooner_after_it(tmp_path):
    clients = FP32 | {"local": {"lr": 0.05, "batch": 16, "epochs": 4}}
    after, scratch = (
        read_run(go(transfer(pretrain=pretrain, clients=clients, rounds=2), tmp_path)[0]).rounds["accuracy"]
        for pretrain in ({"on": {"classes": LOW}, "epochs": 8}, None)
    )
    assert after[0] > scratch[0] and after[1] > scratch[1] + 0.3


def test_the_next_run_finds_it_in_the_cache_and_another_pretraining_does_not(monkeypatch):
    first = training(transfer())
    assert not first.done
    first.result(silent)
    monkeypatch.setattr(Training, "_train", None)
    assert training(transfer(rounds=3, clients=FP32 | {"local": {"lr": 0.2}})).done
    changed = [
        transfer(seed=1),
        transfer(model="mlp"),
        transfer(engine={"kind": "inline", "threads": 2}),
        transfer(data={"source": "digits", "classes": LOW}),  # other statistics
        *(transfer(pretrain={"on": {"classes": LOW}, "epochs": 2} | more) for more in ({"lr": 0.1}, {"epochs": 1})),
        transfer(pretrain={"on": {"classes": [0, 1]}, "epochs": 2}),
    ]
    assert not any(training(wanted).done for wanted in changed)


def test_a_source_of_other_classes_trains_all_but_the_head(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = transfer()
    images = load(DataSpec(source="digits", samples=60), 1, 0).train
    table = {"image": [image.tobytes() for image in images.inputs], "label": images.labels % 3, "split": ["train", "test"] * 30}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    wanted = transfer(pretrain={"on": {"source": str(tmp_path / "a.parquet")}, "epochs": 1})
    path, printed = go(wanted, tmp_path / "runs")
    own = build(wanted.model, load(wanted.data, 8, 0).data_shape, 0).state_dict()
    head = tuple(list(own)[-2:])
    assert kept(path).origin.own == head and f"not taken over, because they do not fit: {', '.join(head)}" in " ".join(
        printed.split()
    )
    assert all(np.array_equal(kept(path).arrays[name], own[name]) == (name in head) for name in own if "norm" not in name)


def test_a_run_can_begin_with_the_model_of_another(tmp_path):
    first, _ = go(transfer(), tmp_path / "runs")
    wanted = transfer(pretrain={"file": str(first / "model.safetensors")})
    second, printed = go(wanted, tmp_path / "runs")
    assert same_bits(kept(second).arrays, load_file(first / "model.safetensors")) and "no client is charged for them" in printed
    with pytest.raises(SetupError, match=r"no weight has the name and the shape"):
        save_file({"x": np.ones((2, 2))}, tmp_path / "x")
        go(transfer(pretrain={"file": str(tmp_path / "x")}), tmp_path / "runs")


def test_a_learning_rate_that_diverges_is_named(tmp_path):
    with pytest.raises(RunFailed, match=r"pretrain: after epoch 1 the loss is .*; lower pretrain\.lr"):
        go(transfer(pretrain={"lr": 1e12}), tmp_path)


def test_what_is_wrong_with_the_samples_is_said_of_the_pretraining(tmp_path):
    with pytest.raises(SetupError, match=r"pretrain\.on: data\.source: its inputs are \[1, 28, 28\]"):
        go(transfer(pretrain={"on": {"source": "strokes", "samples": 50}}), tmp_path)
    with pytest.raises(ScenarioError, match=r"pretrain\.on: data\.classes: there is no class 11"):
        go(transfer(pretrain={"on": {"classes": [11]}}), tmp_path)


def test_check_counts_it_until_it_is_done(tmp_path):
    wanted, said = transfer(), io.StringIO()
    prediction = check_scenario(wanted, tmp_path, None, said)
    assert 0 < prediction.pretraining_s < prediction.simulation_s and "to pretrain on the server" in said.getvalue()
    training(wanted).result(silent)
    again = check_scenario(wanted, tmp_path, None, said)
    assert again.pretraining_s == 0 and "the pretrained weights are there" in said.getvalue()
    assert check_scenario(transfer(pretrain=None), tmp_path, None, said).pretraining_s is None
    with pytest.raises(SetupError, match="absent cannot be read"):
        check_scenario(transfer(pretrain={"file": str(tmp_path / "absent")}), tmp_path, None, said)


def test_a_run_that_goes_on_does_not_train_again(tmp_path, monkeypatch):
    whole, _ = go(transfer(rounds=2), tmp_path / "whole")

    class OneRound(Display):
        def round_done(self, record):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(BaseException, match="SIGTERM"), Stopper() as stopper, OneRound(io.StringIO()) as display:
        run(transfer(rounds=2), tmp_path / "cut", display, stopper)
    (cut,) = (tmp_path / "cut").iterdir()
    monkeypatch.setattr(Training, "result", None)
    with Stopper() as stopper, Display(io.StringIO()) as display:
        resume(cut, display, stopper)
    assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert (cut / FILE).read_bytes() == (whole / FILE).read_bytes()


def test_ctrl_c_while_it_trains_ends_without_a_traceback_and_the_run_can_go_on(tmp_path):
    wanted = tmp_path / "wanted.yaml"
    wanted.write_text(dump_scenario(transfer(pretrain={"on": {"classes": LOW}, "epochs": 10000})))
    command = [sys.executable, "-m", "fedapt", "run", str(wanted), "-o", str(tmp_path / "runs")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("pretraining ["):
            process.send_signal(signal.SIGINT)
            break
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "Traceback" not in said and "stopped by SIGINT" in said
    (folder,) = (tmp_path / "runs").iterdir()
    assert kept(folder) is None and (folder / "scenario.yaml").exists()
