"""What `make` does about Python and the set-up, tried with a Python that only pretends."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Answers like a Python with venv, writes down what it was asked, and fails where a pattern in the file `refuses` matches.
PRETENDER = """\
#!/bin/sh
echo "$*" >> log
echo "$*" | grep -qE -f refuses && exit 1
case "$*" in
  --version) echo "Python 3.9.2";;
  "-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python && cp "$0" .venv/bin/fedapt;;
esac
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "refuses").touch()
    (tmp_path / "python").write_text(PRETENDER)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def make(folder: Path, target: str = "run") -> subprocess.CompletedProcess[str]:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(["make", target, "PYTHON=./python"], cwd=folder, env=outside, capture_output=True, text=True)


def calls(folder: Path) -> list[str]:
    return (folder / "log").read_text().splitlines()


@pytest.mark.parametrize(
    ("refuses", "sentence"),
    [
        ("version_info", "fedapt needs Python 3.11 to 3.14; ./python is Python 3.9.2."),
        ("version", "fedapt needs Python 3.11 to 3.14; ./python does not run."),
        ("ensurepip", "./python cannot make virtual environments: its modules venv and ensurepip are missing."),
        ("install .*torch==", "PyTorch was not installed: pip says why above."),
        ("install .*--editable", "fedapt was not installed: pip says why above."),
    ],
)
def test_a_failed_set_up_says_why_and_is_not_taken_for_done(refuses: str, sentence: str, folder: Path) -> None:
    (folder / "refuses").write_text(refuses + "\n")
    done = make(folder)
    assert done.returncode != 0 and sentence in done.stderr and "make run" in done.stderr
    assert not (folder / ".venv/.installed").exists()


def test_a_failed_update_is_taken_up_again(folder: Path) -> None:
    assert make(folder).returncode == 0
    os.utime(folder / "constraints.txt", (4e9, 4e9))
    (folder / "refuses").write_text("install\n")
    assert make(folder).returncode != 0 and make(folder).returncode != 0
    (folder / "refuses").write_text("")
    assert make(folder).returncode == 0


def test_a_second_run_installs_nothing_and_runs_the_scenario(folder: Path) -> None:
    assert make(folder).returncode == 0
    before = calls(folder)
    assert make(folder).returncode == 0
    assert calls(folder)[len(before) :] == ["run scenarios/noniid.yaml"]


def test_torch_is_asked_for_by_its_exact_version_before_anything_else(folder: Path) -> None:
    make(folder)
    installs = [call.partition("--disable-pip-version-check ")[2] for call in calls(folder) if " install " in call]
    assert installs == ["--no-deps torch==2.13.0", "--constraint constraints.txt --editable .[dev]"]


def test_help_names_every_target(folder: Path) -> None:
    lines = make(folder, "help").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["run", "test", "test-all", "lint", "clean", "help"]
