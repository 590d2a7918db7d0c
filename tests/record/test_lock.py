import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedapt.errors import DamagedData, SetupError
from fedapt.record.lock import in_use

HOLD = """
import sys, pathlib
from fedapt.record.lock import in_use
with in_use(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that has the folder."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_process_that_has_the_folder_is_named(holder: subprocess.Popen, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=rf"run is in use by pid {holder.pid}\. Wait for it"), in_use(tmp_path):
        pass


def test_a_holder_from_before_a_restart_or_elsewhere_is_not_taken_for_one_here(holder: subprocess.Popen, tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text(json.dumps({"pid": 12, "boot_id": "another"}))
    with pytest.raises(SetupError, match="in use by pid 12 of another machine"), in_use(tmp_path):
        pass


@pytest.mark.parametrize("content", ["", "[]", "{}", "\x00"])
def test_a_lock_that_cannot_be_read_still_locks(holder: subprocess.Popen, content: str, tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text(content)
    with pytest.raises(SetupError, match="in use by another process"), in_use(tmp_path):
        pass


def test_a_lock_ends_with_its_process_even_if_its_number_lives_on(holder: subprocess.Popen, tmp_path: Path) -> None:
    holder.kill()
    holder.wait()
    (tmp_path / ".lock").write_text(json.dumps({"pid": os.getppid(), "boot_id": "x"}))
    with in_use(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_gone_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DamagedData, match="has vanished"), in_use(tmp_path / "gone"):
        pass
