"""Strategies from outside the project: whose they may be, what their options are, and what is said when they cannot be used."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from safetensors.numpy import load_file

from fedapt.errors import ScenarioError, SetupError
from fedapt.plugins import load_plugins
from fedapt.plugins.loading import given_plugins
from fedapt.scenario import dump_scenario, load_scenario, scenario_schema
from tests.grid.conftest import same_bits

ROOT = Path(__file__).parents[2]
ZOO = Path(__file__).with_name("zoo.py")
SMALL = ["data.source=digits", "data.samples=120", "clients.count=6", "clients.per_round=4", "rounds=2", "engine.kind=inline"]


def strategy(text):
    return load_scenario("noniid", [f"strategy={text}"]).strategy


def test_options_are_the_arguments_of_the_constructor_and_those_that_it_passes_on():
    options = strategy('{kind: "zoo:Good", share: 0.5, layers: [conv1, fc]}')
    assert (options.share, options.layers, options.linear, options.least_updates) == (0.5, ("conv1", "fc"), False, 1)
    built = options.build()
    assert (built.share, built.layers, built.min_train_nodes, built.min_available_nodes) == (0.5, ("conv1", "fc"), 1, 1)


def test_a_class_without_arguments_for_the_cohort_does_not_wait_for_more_clients_than_there_are():
    assert strategy("zoo:Bad").build().min_available_nodes == 1


def test_flowers_own_classes_are_plugged_in_by_their_module():
    load_plugins(["flwr.serverapp.strategy"])
    options = strategy('{kind: "flwr.serverapp.strategy:FedTrimmedAvg", beta: 0.1}')
    assert options.build().beta == 0.1


def test_options_of_fedapts_kind_say_what_they_need():
    options = strategy('{kind: "zoo:GoodOptions", wanted: 2}')
    assert (options.least_updates, options.linear) == (2, True)
    with pytest.raises(ScenarioError, match="zoo:GoodOptions with these options needs 60 updates"):
        strategy('{kind: "zoo:GoodOptions", wanted: 60}')


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("other:X", r"`other:X` is code, which a scenario alone may not name; if you trust it, add `--plugin other`"),
        ("zo:Good", r"did you mean `zoo`\?"),
        ("os:system", r"add `--plugin os`"),
        ("zoo:Goood", r"the module zoo has no `Goood`; did you mean `Good`\?"),
        ("zoo:NOT_A_CLASS", "is no Flower strategy; expected a class"),
        ("zoo:sys", "is no Flower strategy; expected a class"),
        ("zoo:Abstract", "lacks aggregate_evaluate, aggregate_train, configure_evaluate, configure_train"),
        ("zoo:Needy", "its argument `model` is not plain data; give it a default"),
        ('{kind: "zoo:Good", shar: 1}', r"unknown key `shar`; did you mean `share`\?"),
        ('{kind: "zoo:Good", share: much}', "strategy.share: expected a number, found the text `much`"),
        ('{kind: "zoo:Good", fraction_train: 0.5}', "unknown key `fraction_train`"),
    ],
)
def test_what_cannot_be_used_is_said_with_what_to_do(text, sentence):
    with pytest.raises(ScenarioError, match=sentence):
        strategy(text)


def test_a_problem_has_its_place_in_the_file(tmp_path):
    text = dump_scenario(load_scenario("noniid")).replace("kind: fedavg", 'kind: "zoo:Goood"')
    (tmp_path / "a.yaml").write_text(text)
    line = text[: text.index("zoo:Goood")].count("\n") + 1
    with pytest.raises(ScenarioError, match=rf"a\.yaml:{line}:\d+: strategy\.kind: the module zoo has no"):
        load_scenario(str(tmp_path / "a.yaml"))


def test_a_scenario_alone_imports_nothing(tmp_path, monkeypatch):
    (tmp_path / "plugged_in_test_canary.py").write_text(f"open({str(tmp_path / 'sung')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ScenarioError, match="which a scenario alone may not name"):
        strategy("plugged_in_test_canary:X")
    assert not (tmp_path / "sung").exists()


def test_the_resolved_scenario_reads_back_and_the_schema_knows_the_kind(tmp_path):
    wanted = load_scenario("noniid", ['strategy={kind: "zoo:Good", layers: [fc]}'])
    (tmp_path / "a.yaml").write_text(dump_scenario(wanted))
    assert load_scenario(str(tmp_path / "a.yaml")) == wanted
    schema = scenario_schema()
    jsonschema.validate(json.loads(wanted.model_dump_json()), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads(wanted.model_dump_json().replace('"layers"', '"layrs"')), schema)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import not_there_at_all", r"it cannot be imported: ModuleNotFoundError: No module named 'not_there_at_all' \(.*:1\)"),
        ("x = (", "SyntaxError: '\\(' was never closed"),
        ("import sys\nsys.exit(3)", r"SystemExit: 3 \(.*plugged_in_test.py:2\)"),
    ],
)
def test_a_module_that_does_not_import_says_why(code, sentence, tmp_path):
    (tmp_path / "plugged_in_test.py").write_text(code + "\n")
    with pytest.raises(SetupError, match=sentence):
        load_plugins([str(tmp_path / "plugged_in_test.py")])


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("not_there_at_all", "there is no module not_there_at_all in the working directory"),
        ("json.not_there", "there is no module json.not_there"),
        ("nowhere/x.py", "there is no such file"),
        ("", "expected the name of a module"),
        (".x", "expected the name of a module"),
    ],
)
def test_a_module_that_is_not_there_is_named(name, sentence):
    with pytest.raises(SetupError, match=f"--plugin {name}: {sentence}"):
        load_plugins([name])


def test_a_file_with_the_name_of_another_module_is_refused(tmp_path):
    (tmp_path / "json.py").write_text("")
    with pytest.raises(SetupError, match=r"there is another module json .*; give the file another name"):
        load_plugins([str(tmp_path / "json.py")])


def test_other_processes_are_told_where_modules_are(tmp_path, monkeypatch):
    (tmp_path / "plugged_in_test_here.py").write_text("")
    monkeypatch.chdir(tmp_path)
    load_plugins(["plugged_in_test_here"])
    assert given_plugins() == ([str(ZOO), "plugged_in_test_here"], [str(ZOO.parent), str(tmp_path)])


def fedapt(*arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "fedapt", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, cwd=cwd)


def settings(*more):
    return [part for setting in (*SMALL, *more) for part in ("--set", setting)]


def test_on_the_command_line_a_strategy_fails_with_status_5_and_one_sentence(tmp_path):
    failed = fedapt("run", "noniid", *settings("strategy=zoo:NaN"), "--plugin", str(ZOO), cwd=tmp_path)
    assert failed.returncode == 5 and failed.stderr.startswith("fedapt: round 0: the strategy zoo:NaN failed: ")
    assert failed.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_mended_strategy_goes_on_when_its_module_is_named(tmp_path):
    (tmp_path / "mine.py").write_text(ZOO.read_text())
    spoilt = settings('strategy={kind: "mine:NaN", since: 2}')
    failed = fedapt("run", "noniid", *spoilt, "--plugin", "mine", "-o", "runs", cwd=tmp_path)
    assert failed.returncode == 5 and "round 1: the strategy mine:NaN failed: " in failed.stderr
    folder = failed.stdout.splitlines()[0]
    assert len((tmp_path / folder / "rounds.csv").read_text().splitlines()) == 2
    unnamed = fedapt("resume", folder, cwd=tmp_path)
    assert unnamed.returncode == 3 and "add `--plugin mine` to the command line" in unnamed.stderr
    (tmp_path / "mine.py").write_text(ZOO.read_text().replace("np.float32(np.nan)", "np.float32(1)"))
    mended = fedapt("resume", folder, "--plugin", "mine.py", cwd=tmp_path)
    assert mended.returncode == 0, mended.stderr
    assert load_file(tmp_path / folder / "model.safetensors")


@pytest.mark.slow
def test_check_names_a_strategy_that_cannot_be_built_and_a_kind_of_a_table_can_be_plugged_in(tmp_path):
    check = fedapt("check", "noniid", *settings("strategy=zoo:Constructor"), "--plugin", str(ZOO), cwd=tmp_path)
    assert check.returncode == 5 and "zoo:Constructor cannot be built: OSError: no licence found" in check.stderr
    policy = (
        "from typing import Literal\nfrom fedapt.clients.precision import POLICIES\n"
        "class Mine(POLICIES['fixed']):\n    kind: Literal['mine'] = 'mine'\nPOLICIES['mine'] = Mine\n"
    )
    (tmp_path / "policies.py").write_text(policy)
    plain = fedapt("check", "noniid", *settings("clients.method.precision=mine"), cwd=tmp_path)
    plugged = fedapt("check", "noniid", *settings("clients.method.precision=mine"), "--plugin", "policies", cwd=tmp_path)
    assert (plain.returncode, plugged.returncode) == (3, 0), plugged.stderr


@pytest.mark.slow
def test_over_a_superlink_a_plugged_strategy_gives_the_bits_of_inline(tmp_path):
    models = []
    for engine in ("inline", "superlink"):
        wanted = settings("strategy=mine:Good", "clients.count=2", "clients.per_round=2", f"engine.kind={engine}")
        (tmp_path / "mine.py").write_text(ZOO.read_text())
        done = fedapt("run", "noniid", *wanted, "--plugin", "mine", "-o", engine, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        models.append(load_file(tmp_path / done.stdout.splitlines()[0] / "model.safetensors"))
    assert same_bits(*models)
