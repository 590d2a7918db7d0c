"""The commands as a user meets them: real processes, exit statuses, no traceback for a mistake."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = ["data.source=digits", "clients.count=12", "clients.per_round=4", "rounds=2", "engine.kind=inline"]


def fedapt(*arguments, **options):
    """Run the command and return the finished process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "fedapt", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, **options)


def small():
    return [part for setting in SMALL for part in ("--set", setting)]


def test_the_packaged_scenario_runs_from_any_folder(tmp_path):
    finished = fedapt("run", "noniid", *small(), cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    folder = Path(finished.stdout.splitlines()[0])
    assert folder.parent == Path("runs") and (tmp_path / folder / "report.html").stat().st_size > 1_000_000
    assert "\x1b" not in finished.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["run", "nonid"], 3, "did you mean `noniid`?"),
        (["run", "nowhere.yaml"], 3, "nowhere.yaml"),
        (["run", "noniid", "--set", "clients.count=abc"], 3, "--set clients.count=abc: clients.count: expected a whole number"),
        (["run", "noniid", "--set", "data.source=/nowhere/x.parquet"], 4, "/nowhere/x.parquet does not exist"),
        (["run", "noniid", *small(), "-o", "/proc/nowhere"], 4, "no run folder can be made there"),
        (["run", "noniid", *small(), "--set", "clients.method.precision={kind: fixed, layers: {conv9: 4}}"], 3, "no layer conv9"),
        (["run", "noniid", "--bogus"], 2, "No such option"),
        (["walk"], 2, "No such command"),
        (["profile", "-o", "/nowhere/mine.yaml"], 4, "there is no folder /nowhere"),
        (["profile", "--threads", "0"], 2, "not in the range"),
        (["report", "/nowhere"], 4, "/nowhere is not a run folder"),
    ],
)
def test_a_mistake_is_one_sentence_with_its_exit_status(arguments, status, sentence, tmp_path):
    finished = fedapt(*arguments, cwd=tmp_path)
    assert finished.returncode == status, finished.stderr
    assert sentence in finished.stderr and "Traceback" not in finished.stderr + finished.stdout


def test_all_that_is_wrong_with_a_file_is_said_at_once(tmp_path):
    text = "version: 1\nname: x\nrounds: 0\nmodel: cnnn\ndata: {source: strokes}\nclients: {count: 3}\n"
    (tmp_path / "bad.yaml").write_text(text)
    finished = fedapt("run", "bad.yaml", cwd=tmp_path)
    assert finished.returncode == 3
    assert [line.split(": ")[0] for line in finished.stderr.splitlines()] == ["bad.yaml:3:9", "bad.yaml:4:8", "bad.yaml:6:1"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_the_committed_rounds(number, status, tmp_path):
    arguments = ["run", "noniid", *small(), "--set", "rounds=1000"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "fedapt", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, cwd=tmp_path, **pipes) as process:
        lines = []
        while sum(line.startswith("[") for line in lines) < 3:
            lines.append(process.stdout.readline())
        process.send_signal(number)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    assert "committed rounds are kept" in errors and "Traceback" not in errors
    rounds = (tmp_path / lines[0].strip() / "rounds.csv").read_text().splitlines()
    assert len(rounds) - 1 >= 3 and "Stopped" in rest


def test_a_profile_of_this_machine_serves_a_scenario(tmp_path):
    made = fedapt("profile", "-o", "desk.yaml", "--quick", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "profile: ./desk.yaml" in made.stdout and "\x1b" not in made.stdout
    groups = "clients.groups=[{profile: ./desk.yaml, share: 1.0}]"
    finished = fedapt("run", "noniid", *small(), "--set", "rounds=1", "--set", groups, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr


def test_help_is_quick_and_loads_nothing_heavy():
    began = time.monotonic()
    finished = fedapt("--help")
    assert "run" in finished.stdout and time.monotonic() - began < 5
    code = "import sys, fedapt.cli; print({'torch', 'ray', 'pyarrow', 'flwr', 'pydantic'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert printed.strip() == "set()"


def test_a_pipe_that_closes_early_is_no_error(tmp_path):
    code = f"{sys.executable} -m fedapt schema | head -n 1"
    finished = subprocess.run(["bash", "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert finished.stdout == "{\n" and "Traceback" not in finished.stderr and "BrokenPipe" not in finished.stderr
