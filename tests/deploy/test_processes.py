"""No process of a group outlives its owner, whatever ends the owner."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedapt.deploy.processes import ProcessGroup

# A process that starts another one, says which, and then waits for longer than any test.
PARENT = ["/bin/sh", "-c", "sleep 60 & echo $!; wait"]
STUBBORN = ["/bin/sh", "-c", "trap '' TERM; (trap '' TERM; sleep 60) & echo $!; while :; do sleep 1; done"]


def child_of(log: Path) -> int:
    """Return the number of the process that a member has started, once its log says it."""
    return int(eventually(lambda: log.exists() and log.read_text().strip()))


def eventually(condition, patience_s=10.0):
    deadline = time.monotonic() + patience_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return value


def gone(pid: int) -> bool:
    """Return whether a process has ended; one that only waits for its parent to notice has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("command", [PARENT, STUBBORN], ids=["obedient", "ignores SIGTERM"])
def test_at_the_end_of_the_block_members_and_what_they_started_are_gone(command, tmp_path: Path) -> None:
    with ProcessGroup(tmp_path, os.environ) as group:
        group.start("parent", command)
        child = child_of(tmp_path / "parent.log")
        group.ask_to_end() if command is STUBBORN else None
        assert not gone(child)
    eventually(lambda: gone(child))


def test_an_exception_in_the_block_leaves_no_process(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), ProcessGroup(tmp_path, os.environ) as group:
        group.start("parent", PARENT)
        child = child_of(tmp_path / "parent.log")
        raise KeyboardInterrupt
    eventually(lambda: gone(child))


def test_a_killed_owner_takes_all_processes_with_it(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from fedapt.deploy.processes import ProcessGroup\n"
        f"group = ProcessGroup(Path({str(tmp_path)!r}), os.environ); group.start('parent', {STUBBORN!r}); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    try:
        child = child_of(tmp_path / "parent.log")
        assert not gone(child)
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    eventually(lambda: gone(child))


def test_members_are_asked_to_end_and_those_that_did_are_named(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path, os.environ) as group:
        group.start("obedient", ["sleep", "60"])
        group.start("stubborn", STUBBORN)
        child_of(tmp_path / "stubborn.log")
        assert group.ended() == []
        group.ask_to_end()
        eventually(lambda: group.ended() == ["obedient"])


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("starting\\n\\033[91mAddrError: port taken\\033[0m\\nbye\\n", "exit status 3, AddrError: port taken"),
        ("one\\ntwo\\n\\n", "exit status 3, two"),
        ("", "exit status 3, it printed nothing"),
    ],
)
def test_the_last_words_of_a_process_are_its_last_error_or_else_its_last_line(printed, expected, tmp_path: Path) -> None:
    with ProcessGroup(tmp_path, os.environ) as group:
        group.start("speaker", ["/bin/sh", "-c", f"printf '{printed}'; exit 3"])
        eventually(group.ended)
        assert group.last_words("speaker") == expected


def test_members_see_the_given_environment_and_no_input(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path, {"PATH": os.environ["PATH"], "WHO": "fedapt"}) as group:
        group.start("reader", ["/bin/sh", "-c", 'read line; echo "$WHO:$line"'])
        eventually(group.ended)
        assert (tmp_path / "reader.log").read_text() == "fedapt:\n"
