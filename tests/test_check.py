"""`fedapt check`: what it predicts is what the run's ledger then says, and what it warns of is so."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file
from torch import nn

from fedapt.check import machine, trial
from fedapt.check.prediction import gather, predict
from fedapt.check.rules import cautions
from fedapt.data import load
from fedapt.errors import RunFailed, ScenarioError, SetupError
from fedapt.models import MODELS, build
from fedapt.models.model import named
from fedapt.quant.skeleton import float_arrays
from fedapt.report.prediction import check_scenario, show
from fedapt.report.terminal import Display
from fedapt.results import read_run
from fedapt.run import run
from fedapt.stopping import Stopper
from tests.grid.conftest import scenario
from tests.test_cli import fedapt, small

EXACT = (
    "status",
    "samples",
    "steps",
    "batch",
    "frozen_layers",
    "trained_weights",
    "macs",
    "memory_bytes",
    "memory_container_bytes",
)
EXACT += ("downlink_bytes", "uplink_bytes", "mean_bits", "choice", "battery_j", "memory_budget_bytes")
PI = "raspberry-pi-4"


def clients(precision, *groups, local=None, **method):
    """Return a `clients:` block in which all 12 take part in each round."""
    return {
        "count": 12,
        "per_round": 12,
        "local": {"batch": 16, **(local or {})},
        "method": {"precision": precision, **method},
        "groups": list(groups) or [{"profile": PI}],
    }


def budget(memory, **more):
    return {"profile": PI, "name": memory, "budget": {"memory": memory, **more}}


def told(wanted, tmp_path, rule):
    """Return the sentences of one rule."""
    return [caution.sentence for caution in cautions(gather(wanted, tmp_path)) if caution.rule == rule]


def texts(tmp_path):
    """Write a small table of texts; return its path."""
    import pandas

    words = ["cold snow ice", "warm sun heat", "wet rain cloud"]
    table = pandas.DataFrame(
        {"text": [f"{words[row % 3]} {row % 7}" for row in range(240)], "label": [row % 3 for row in range(240)]}
    )
    table.to_parquet(tmp_path / "texts.parquet")
    return {"source": str(tmp_path / "texts.parquet"), "partition": {"kind": "iid"}}


SCENARIOS = {
    "fp32": {"clients": clients("fp32")},
    "qat": {"clients": clients("qat")},
    "fixed": {"clients": clients({"kind": "fixed", "bits": 5, "layers": {"conv1": 9}}, local={"epochs": 2})},
    "per-tensor grid": {"clients": clients({"kind": "fixed", "grid": {"granularity": "tensor"}})},
    "apt": {"clients": clients("apt")},
    "apt at the client, to the bits that it has": {"clients": clients({"kind": "apt", "every_batches": 2, "t_min": 0.0})},
    "budget": {
        "clients": clients("budget", budget("1 GiB"), budget("95 KiB"), budget("70 KiB"), budget("41 KiB"), budget("20 KiB"))
    },
    "an energy budget": {"clients": clients({"kind": "fixed", "bits": 16}, {"profile": PI, "budget": {"energy": "3 mJ"}})},
    "activations": {"clients": clients("budget", activations=8, errors=8)},
    "fedprox": {"clients": clients("budget"), "strategy": {"kind": "fedprox", "proximal_mu": 0.1}},
    "a deadline": {"clients": clients("budget"), "clock": {"kind": "synchronous", "deadline_s": 0.008}},
    "scaffold": {"clients": clients("budget", budget("1 GiB"), budget("200 KiB"), budget("140 KiB")), "strategy": "scaffold"},
    "a compressed upload": {"clients": clients("budget", budget("140 KiB"), budget("1 GiB", energy="3 mJ"), link={"bits": 3})},
    "error feedback": {"clients": clients("qat", link={"bits": 2, "rounding": "nearest", "error_feedback": True})},
    "a model upload": {"clients": clients("fp32", link={"send": "model", "bits": 16})},
    "partial work": {
        "clients": clients("budget"),
        "clock": {"kind": "synchronous", "deadline_s": 0.045, "stragglers": "partial"},
    },
    "batteries": {
        "clients": clients("budget", {"profile": PI, "budget": {"battery": "4 mJ"}}) | {"batteries": {"start": [0.0, 1.0]}}
    },
    "text": {"clients": clients("budget", activations=8), "model": "text"},
    "resnet": {"clients": clients("qat", local={"batch": 2}), "model": "resnet20", "data": {"source": "digits", "samples": 48}},
}


# What must occur among the clients for a scenario to try what it is called.
TRIED = {
    "budget": lambda rows: (
        len({(row.batch, row.trained_weights) for row in rows}) == 5 and "refused" in {row.status for row in rows}
    ),
    "a deadline": lambda rows: {row.status for row in rows} == {"ok", "late"},
    "batteries": lambda rows: {row.status for row in rows} == {"ok", "refused"},
    "an energy budget": lambda rows: len({row.mean_bits for row in rows}) > 3,
    "scaffold": lambda rows: len({row.batch for row in rows}) > 1,
    "a compressed upload": lambda rows: len({row.mean_bits for row in rows}) > 1,
    "partial work": lambda rows: (
        any(row.steps * row.batch == row.samples for row in rows) and len({row.time_s for row in rows}) > 3
    ),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_first_round_of_the_run_is_as_predicted(name, tmp_path):
    changes = {"rounds": 1} | SCENARIOS[name]
    if changes.get("model") == "text":
        changes["data"] = texts(tmp_path)
    wanted = scenario(**changes)
    facts = gather(wanted, tmp_path)
    with Stopper() as stopper, Display(io.StringIO()) as display:
        ledger = read_run(run(wanted, tmp_path, display, stopper)).ledger
    assert len(ledger) == 12 and set(facts.first.rows) == set(ledger["client"])
    assert name not in TRIED or TRIED[name](facts.first.rows.values())
    for row in ledger.to_dict("records"):
        expected = facts.first.rows[row["client"]]
        for column in EXACT:
            assert row[column] == getattr(expected, column) or (row[column] != row[column]), column
        assert list(row["layer_bits"]) == expected.layer_bits
        for column in ("energy_j", "energy_operands_j", "time_s"):
            assert row[column] == pytest.approx(getattr(expected, column), rel=1e-12), column


@pytest.mark.parametrize(("battery", "strategy"), [(None, "fedavg"), ("100 mJ", "fedavg"), (None, "scaffold"), (None, "feddyn")])
def test_where_bits_do_not_adapt_the_whole_run_is_as_predicted(battery, strategy, tmp_path):
    groups = [{"profile": PI, "budget": {"battery": battery}}]
    takes_part = clients("fp32", *groups) | {"per_round": 5, "batteries": {"start": [0.0, 1.0]}}
    wanted = scenario(rounds=6, clients=takes_part, strategy=strategy)
    facts = gather(wanted, tmp_path)
    with Stopper() as stopper, Display(io.StringIO()) as display:
        found = read_run(run(wanted, tmp_path, display, stopper))
    trained = found.ledger[found.ledger["status"] == "ok"]
    assert facts.course.visits == trained.groupby("client").size().to_dict()
    refused = found.ledger[found.ledger["status"] == "refused"].groupby("client")["round"].min()
    assert facts.course.flat == refused.to_dict() and bool(facts.course.flat) == bool(battery)
    totals = predict(facts, ()).all_rounds
    assert (totals.downlink_bytes, totals.uplink_bytes) == (trained["downlink_bytes"].sum(), trained["uplink_bytes"].sum())
    assert totals.energy_j == pytest.approx(trained["energy_j"].sum(), rel=1e-12)
    assert totals.time_s == pytest.approx(found.rounds["time_s"].sum(), rel=1e-12)


CLOCKS = {
    "over-selection": {"kind": "synchronous", "over_select": 0.5},
    "partial work": {"kind": "synchronous", "deadline_s": 0.045, "stragglers": "partial"},
    "no rounds": {"kind": "asynchronous", "concurrency": 6},
}


@pytest.mark.parametrize("name", CLOCKS)
def test_the_clock_of_the_run_is_as_predicted(name, tmp_path):
    groups = [{"profile": PI, "share": 0.5}, {"profile": "raspberry-pi-zero-2", "share": 0.5}]
    wanted = scenario(rounds=5, clients=clients("fp32", *groups) | {"per_round": 3}, clock=CLOCKS[name])
    course = gather(wanted, tmp_path).course
    with Stopper() as stopper, Display(io.StringIO()) as display:
        found = read_run(run(wanted, tmp_path, display, stopper))
    asked = found.ledger[found.ledger["status"] != "refused"]
    assert course.visits == asked.groupby("client").size().to_dict()
    for figure in ("clock_s", "time_s", "energy_j", "ok", "late"):
        assert [getattr(record, figure) for record in course.records] == pytest.approx(found.rounds[figure].tolist(), rel=1e-12)


def test_a_prediction_changes_nothing_that_the_run_starts_from(tmp_path):
    facts = gather(scenario(clients=clients("apt", budget("1 GiB", battery="1 J"))), tmp_path)
    assert set(facts.enrolment.batteries.level_j.values()) == {1.0}
    before = {name: learned.wish for name, learned in facts.enrolment.wishes.learned.items()}
    arrays = {f"{layer}.weight": np.ones((2, 2), np.float32) for layer in ("conv1", "conv2", "dense1", "dense2")}
    facts.enrolment.wishes.adapt(arrays, arrays)
    assert {name: learned.wish for name, learned in facts.enrolment.wishes.learned.items()} == before


FAILING = {
    "a robust rule": {
        "clients": clients("budget", budget("1 GiB"), budget("20 KiB")),
        "strategy": {"kind": "krum", "num_malicious_nodes": 2},
    },
    "everybody is late": {"clients": clients("fp32"), "clock": {"kind": "synchronous", "deadline_s": 0.001}},
    "late for two rounds": {
        "clients": clients("fp32"),
        "rounds": 3,
        "clock": {"kind": "synchronous", "deadline_s": 0.001},
        "failures": {"max_empty_rounds": 1},
    },
}


@pytest.mark.parametrize("name", FAILING)
def test_a_run_that_would_end_in_its_first_rounds_fails_as_the_run_does(name, tmp_path):
    wanted = scenario(**FAILING[name])
    shown = io.StringIO()
    with pytest.raises(RunFailed) as predicted:
        check_scenario(wanted, tmp_path, None, shown)
    assert shown.getvalue().splitlines()[-1] == "Verdict    small cannot run: its first rounds would be empty"
    with pytest.raises(RunFailed) as failed, Stopper() as stopper, Display(io.StringIO()) as display:
        run(wanted, tmp_path, display, stopper)
    assert str(predicted.value) == str(failed.value)


def test_if_nobody_can_take_part_it_says_so_as_the_run_does(tmp_path):
    with pytest.raises(ScenarioError, match=r"none of the 12 clients can take part: .*: needs"):
        gather(scenario(clients=clients("budget", budget("10 KiB"))), tmp_path)


def test_a_plain_scenario_has_no_warnings(tmp_path):
    assert cautions(gather(scenario(clients=clients("budget")), tmp_path)) == []


UNEVEN = {"source": "digits", "samples": 40, "partition": {"kind": "dirichlet", "alpha": 0.05}}
WARNINGS = [
    ("no_samples", {"data": UNEVEN}, r"leaves \d+ of 12 clients without samples: raise data\.samples"),
    ("refused", {"clients": clients("budget", budget("1 GiB"), budget("20 KiB"))}, r"all 6 .* of 20 KiB cannot take part: needs"),
    ("small_cohort", {"clients": clients("budget", budget("1 GiB"), budget("20 KiB"))}, r"12 .* from the 6 .*: a round has 6"),
    (
        "too_few_updates",
        {"clients": clients("fp32"), "clock": {"kind": "synchronous", "deadline_s": 1e-3}, "failures": {"max_empty_rounds": 9}},
        r"2 of the first 2",
    ),
    ("nothing_to_train", {"clients": clients("budget", local={"epochs": 0})}, r"trains nothing"),
    (
        "nobody_there",
        {"clients": clients("budget") | {"availability": {"kind": "daily", "hours": [0, 1e-3], "spread_h": 24}}},
        r"would end early: round 0 needs 6 of 12 clients at once, .* never there any more",
    ),
    (
        "no_batteries",
        {"clients": clients("budget") | {"select": "energy_aware"}},
        r"chooses as `uniform` does: set budget\.battery",
    ),
    ("trial_failed", {"clients": clients("fp32", local={"lr": 1e30})}, r"lower clients\.local\.lr"),
    (
        "late",
        {"clients": clients("budget"), "clock": {"kind": "synchronous", "deadline_s": 0.008}},
        r"of 12 clients .* miss .* 0\.008 s .* let all in",
    ),
    (
        "flat_batteries",
        {"clients": clients("fp32", budget("1 GiB", battery="20 mJ")), "rounds": 9},
        r"run empty, the first before",
    ),
    ("updates_underflow", {"clients": clients("apt")}, r"`rounding: truncate` at 6 bits loses small updates: .* let apt raise"),
    (
        "updates_underflow",
        {"clients": clients({"kind": "fixed", "bits": 7, "rounding": "nearest"})},
        r"at 7 bits .* or 8 bits lose",
    ),
    (
        "medians_of_few_bits",
        {"clients": clients({"kind": "fixed", "bits": 4}), "strategy": "median"},
        r"median takes the middle of each weight's updates, and at 4 bits most of those are 0: give clients 8 bits",
    ),
    ("two_bits_wished", {"clients": clients({"kind": "fixed", "bits": 2})}, r"fixed asks for 2 bits, .*: ask for 3 or 4"),
    (
        "pushed_below_three_bits",
        {"clients": clients("fixed", budget("264 KiB"))},
        r"all 12 .* at 2 bits: 26\d KiB of memory, where",
    ),
    ("single_samples", {"clients": clients("budget", budget("95 KiB"))}, r"all 12 .* batches of 1: 105 KiB .* it has 95 KiB"),
    (
        "frozen_layers",
        {"clients": clients("budget", budget("39.42 KiB"))},
        r"all 12 .* not train conv1, conv2, dense1: 9\d\.\d KiB of memory, where",
    ),
    (
        "frozen_layers",
        {"clients": clients("budget", budget("1 GiB"), budget("39.42 KiB"))},
        r"clients of 39.42 KiB would not train conv1, conv2, dense1, which others train: ",
    ),
    (
        "trained_by_nobody",
        {"clients": clients("budget", budget("39.42 KiB"))},
        r"^no client trains conv1, .* random weights: .*`pretrain`",
    ),
    (
        "trained_by_nobody",
        {"clients": clients("fp32", backward={"kind": "gradient_filter", "layers": 1})},
        "^no client trains conv1",
    ),
    (
        "filtered_from_nothing",
        {"clients": clients("fp32", backward={"kind": "gradient_filter", "layers": 2})},
        r"from random weights it fails: add `pretrain`",
    ),
    ("scope_without_adaptation", {"clients": clients({"kind": "qat", "scope": "client"})}, r"does nothing with qat"),
    ("options_of_codes", {"clients": clients({"kind": "fp32", "rounding": "nearest"})}, r"`rounding` does nothing with fp32"),
    ("bits_within_a_round", {"clients": clients({"kind": "apt", "every_batches": 2})}, r"apt moves bits within a round"),
    ("faults", {"clients": clients("budget"), "faults": {"drop": 0.1}}, r"clients that all answer well"),
]


@pytest.mark.parametrize(("rule", "changes", "sentence"), WARNINGS)
def test_a_warning_says_what_will_not_work_and_what_would(rule, changes, sentence, tmp_path):
    (said,) = told(scenario(**changes), tmp_path, rule)
    assert re.search(sentence, said) and said.isprintable()


@pytest.mark.parametrize(("rule", "memory"), [("frozen_layers", "39.42 KiB"), ("single_samples", "95 KiB")])
def test_the_way_out_of_a_warning_is_one(rule, memory, tmp_path):
    (said,) = told(scenario(clients=clients("budget", budget(memory))), tmp_path, rule)
    enough = f"{float(re.search(r'([0-9.]+) KiB of memory, where', said)[1]) + 1} KiB"
    assert told(scenario(clients=clients("budget", budget(enough))), tmp_path, rule) == []


def test_a_method_that_trains_half_a_layer_is_not_warned_of(tmp_path):
    method = {"kind": "sparse_update", "weights": {"conv1": 1.0, "conv2": 0.5, "dense1": 0.25}}
    warned = [caution.rule for caution in cautions(gather(scenario(clients=clients("fp32", backward=method)), tmp_path))]
    assert not {"frozen_layers", "trained_by_nobody"} & set(warned)


def test_nothing_stays_random_after_a_pretraining(tmp_path):
    weights = tmp_path / "weights.safetensors"
    wanted = scenario(clients=clients("fp32", backward={"kind": "gradient_filter", "layers": 1}))
    model = build(wanted.model, load(wanted.data, 12, 0).data_shape, 0)
    save_file({name: values.numpy() for name, values in float_arrays(model).items()}, weights)
    begun = scenario(clients=clients("fp32", backward={"kind": "gradient_filter", "layers": 1}), pretrain={"file": str(weights)})
    assert told(wanted, tmp_path, "trained_by_nobody") and not told(begun, tmp_path, "trained_by_nobody")


def test_the_share_of_the_weights_that_train_is_shown(tmp_path):
    shown = io.StringIO()
    check_scenario(scenario(clients=clients("budget", budget("1 GiB"), budget("39.42 KiB"))), tmp_path, None, shown)
    table = shown.getvalue().split("one round")[0]
    assert re.search(r" batch +trains ", table) and re.search(r"^1 GiB .* 100\.0 % ", table, re.MULTILINE)
    assert re.search(r"^39\.42 KiB .* 4\.7 % ", table, re.MULTILINE)  # the head's 640 of 13,584 weights


def test_activations_do_nothing_where_no_layer_multiplies(tmp_path, monkeypatch):
    class Bag(nn.Module):
        def __init__(self, vocabulary, classes):
            super().__init__()
            self.embedding = nn.Embedding(vocabulary, classes)

        def forward(self, tokens):
            return self.embedding(tokens).mean(1)

    monkeypatch.setattr(MODELS["text"], "build", lambda self, data: named(bag=Bag(data.vocabulary, data.classes)))
    wanted = scenario(data=texts(tmp_path), model="text", clients=clients("budget", activations=8))
    (said,) = told(wanted, tmp_path, "operands_without_layers")
    assert said.startswith("`activations` does nothing")


def test_a_disk_or_a_memory_that_is_too_small_is_warned_of(tmp_path, monkeypatch):
    wanted = scenario(clients=clients("budget"), rounds=1000)
    assert not told(wanted, tmp_path, "disk") and not told(wanted, tmp_path, "memory")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10 * 2**20})())
    monkeypatch.setattr(machine, "available_bytes", lambda: (2**19, "a test"))
    (disk,), (memory,) = told(wanted, tmp_path, "disk"), told(wanted, tmp_path, "memory")
    assert re.search(r"may take [\d.]+ MiB, and 10 MiB are free: .* lower rounds or keep\.models", disk)
    assert re.search(r"may take [\d.]+ \wiB of .* and 512 KiB are free: lower engine\.workers", memory)


@pytest.mark.parametrize("strategy", ["fedadam", "scaffold"])
def test_a_run_takes_no_more_of_the_disk_than_predicted(strategy, tmp_path):
    wanted = scenario(rounds=6, clients=clients("fixed"), strategy={"kind": strategy})
    predicted = gather(wanted, tmp_path).room.disk_bytes
    highest = 0
    with Stopper() as stopper, Display(io.StringIO()) as display:
        done = display.round_done

        def measured(record):
            nonlocal highest
            highest = max(highest, size(tmp_path))
            done(record)

        display.round_done = measured
        run(wanted, tmp_path, display, stopper)
    assert predicted / 4 < max(highest, size(tmp_path)) < predicted


def size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_time_of_the_simulation_adds_up_visits_training_and_evaluations(tmp_path):
    wanted = scenario(rounds=5, evaluate={"every": 2, "clients_every": 4}, clients=clients("budget", local={"epochs": 3}))
    facts = gather(wanted, tmp_path)
    paces = dict.fromkeys(facts.first.tasks, trial.Pace(visit_s=1.0, sample_s=0.5, evaluation_s=0.25))
    samples = sum(len(rows) for rows in facts.federation.rows)
    expected = (5 * 12 * 1.0 + 5 * 3 * samples * 0.5 + 2 * 12 * 0.25) / 4 + 3 * 7.0
    guess = trial.Trial(paces, test_s=7.0, workers=4).simulation_s(wanted, facts.enrolment, facts.course.visits)
    assert guess == pytest.approx(expected)


def test_the_trial_finds_what_a_visit_costs(tmp_path):
    facts = gather(scenario(clients=clients("budget")), tmp_path)
    assert set(facts.trial.paces) == set(facts.first.tasks)
    assert all(
        0 <= pace.sample_s < 1 and 0 < pace.visit_s + pace.sample_s < 2 and pace.evaluation_s > 0
        for pace in facts.trial.paces.values()
    )


def test_what_the_run_would_lack_is_an_error_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"engine\.kind ray needs Ray"):
        gather(scenario(engine={"kind": "ray"}), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="no run folder can be made there"):
        gather(scenario(), tmp_path / "file" / "runs")


def shown(wanted, tmp_path, width):
    printed = io.StringIO()
    facts = gather(wanted, tmp_path)
    prediction = predict(facts, cautions(facts))
    show(prediction, Console(file=printed, width=width))
    return prediction, printed.getvalue()


def test_the_page_fits_eighty_columns_and_ends_with_the_verdict(tmp_path):
    wanted = scenario(clients=SCENARIOS["budget"]["clients"])
    prediction, page = shown(wanted, tmp_path, 80)
    lines = page.splitlines()
    assert max(map(len, lines)) <= 80 and "\x1b" not in page
    assert lines[-1] == f"Verdict    small can run, {len(prediction.warnings)} warnings"
    assert any(re.match(r"41 KiB\s+2/2\s+\d+\s+[34]\.\d\s+1\s+\d\d\.\d %\s+4\d\.\d KiB\s+41\.0 KiB$", line) for line in lines)
    assert any(line.startswith("20 KiB ") and line.endswith("- 20.0 KiB") for line in lines)


def test_the_json_has_all_that_is_shown(tmp_path):
    path = tmp_path / "prediction.json"
    prediction = check_scenario(scenario(clients=clients("fixed")), tmp_path, path, io.StringIO())
    told, alone = json.loads(path.read_text()), io.StringIO()
    check_scenario(scenario(clients=clients("fixed")), tmp_path, Path("-"), alone)
    assert json.loads(alone.getvalue())["groups"] == told["groups"]
    assert told["groups"][0]["figures"]["memory_bytes"]["max"] == prediction.groups[0].figures["memory_bytes"].max
    assert told["groups"][0]["layer_bits"] == {layer: [4, 4] for layer in ("conv1", "conv2", "dense1", "dense2")}
    assert told["model"]["layers"]["conv1"] == 16 * 3 * 3 and told["model"]["float_layers"] == []


@pytest.mark.parametrize(
    ("settings", "status", "sentence"),
    [
        ([], 0, "can run"),
        (["clients.count=abc"], 3, "expected a whole number"),
        (["data.source=/nowhere/x.parquet"], 4, "does not exist"),
        (["clock.deadline_s=1e-9"], 5, "round 0: none of 4 clients returned an update"),
    ],
)
def test_the_exit_status_is_that_of_the_run(settings, status, sentence, tmp_path):
    finished = fedapt("check", "noniid", *small(), *(part for setting in settings for part in ("--set", setting)), cwd=tmp_path)
    assert finished.returncode == status, finished.stderr
    assert sentence in finished.stdout + finished.stderr and "Traceback" not in finished.stderr and "\x1b" not in finished.stdout
    assert list(tmp_path.iterdir()) == []
