"""What can go wrong before and around a SuperLink on this machine is a sentence."""

import os
import sys
import tomllib
from pathlib import Path

import pytest

from fedapt.deploy.local_superlink import COMMANDS, _Report, _write_app, run_on_superlink
from fedapt.errors import RunFailed, ScenarioError, SetupError
from fedapt.report.relay import Calls, Relay
from fedapt.report.terminal import Display
from fedapt.scenario import load_scenario

SETTINGS = ["clients.count=3", "clients.per_round=2", "engine.kind=superlink"]


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that puts commands of our own in the place of Flower's: a shell script for each name."""

    def place(scripts: dict[str, str]) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        for name, script in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(folder / "python"))
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")

    return place


def test_more_clients_than_processes_are_refused_with_their_place() -> None:
    with pytest.raises(ScenarioError, match=r"at most 16, and there are 200; lower clients.count, or set engine.kind to ray"):
        load_scenario("noniid", ["engine.kind=superlink"])


def test_sixteen_clients_are_not_refused() -> None:
    settings = ["engine.kind=superlink", "clients.count=16", "clients.per_round=16"]
    assert load_scenario("noniid", settings).engine.kind == "superlink"


def test_a_missing_command_of_flower_is_a_sentence(commands, tmp_path: Path) -> None:
    commands(dict.fromkeys(set(COMMANDS) - {"flwr-clientapp"}, "true"))
    with pytest.raises(SetupError, match="there is no flwr-clientapp on PATH: pip install"):
        run_on_superlink(load_scenario("noniid", SETTINGS), tmp_path, Display())


def test_a_superlink_that_does_not_start_is_a_sentence_with_its_last_words(commands, tmp_path: Path) -> None:
    commands(dict.fromkeys(COMMANDS, "echo 'OSError: address in use'; exit 7"))
    with pytest.raises(SetupError, match="SuperLink did not start: exit status 7, OSError: address in use"):
        run_on_superlink(load_scenario("noniid", SETTINGS), tmp_path, Display())


def test_a_server_app_that_ends_without_a_word_ends_the_run_with_what_flower_says(commands, tmp_path: Path) -> None:
    listen = f'exec {sys.executable} -c "import socket, time, sys; s = socket.create_server((sys.argv[1], int(sys.argv[2])));'
    listen += ' time.sleep(60)" "$3" "$5"'
    scripts = dict.fromkeys(COMMANDS, "exec sleep 60")
    commands(scripts | {"flower-superlink": listen, "flwr": "echo 'ImportError: no torch'"})
    with pytest.raises(RunFailed, match="ServerApp has ended before the run: exit status 0, ImportError: no torch"):
        run_on_superlink(load_scenario("noniid", SETTINGS), tmp_path, Display())


@pytest.mark.parametrize("name", ["plain", 'it\'s "quoted" \\ back', "grüße 🎉"])
def test_any_folder_for_results_reaches_the_app_unchanged(name: str, tmp_path: Path) -> None:
    _write_app(tmp_path, load_scenario("noniid", SETTINGS), Path("/results") / name)
    project = tomllib.loads((tmp_path / "app/pyproject.toml").read_text())
    assert project["tool"]["flwr"]["app"]["config"]["results"] == f"/results/{name}"


@pytest.mark.parametrize(
    ("kind", "raised", "sentence"),
    [
        ("ScenarioError", ScenarioError, "nobody can take part"),
        ("ZeroDivisionError", RunFailed, "the run ended with ZeroDivisionError: nobody can take part; more is in its run.log"),
    ],
)
def test_what_ended_the_run_over_there_is_raised_here(kind, raised, sentence, tmp_path: Path) -> None:
    report = _Report(Calls(tmp_path / "calls"), Display())
    Relay(tmp_path / "calls").failed(kind, "nobody can take part")
    assert report.show()
    with pytest.raises(raised) as error:
        report.result()
    assert str(error.value) == sentence
