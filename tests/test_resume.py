"""Kill a run anywhere: `fedapt resume` ends with the same bits as the run that was never interrupted."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pytest

from fedapt.record.crash_points import CrashPoint
from fedapt.results import read_run
from fedapt.scenario import dump_scenario
from fedapt.strategies import STRATEGIES
from tests.children import fedapt, start
from tests.grid.conftest import scenario

CLIENTS = {"count": 12, "per_round": 5, "method": {"precision": "apt"}}
NEEDED = {
    "krum": {"num_malicious_nodes": 1},
    "multi_krum": {"num_malicious_nodes": 1},
    "bulyan": {"num_malicious_nodes": 0},
    "q_fedavg": {"client_learning_rate": 0.05},
}
EVERY_ROUND = {
    CrashPoint.TRAINED, CrashPoint.FOLDER_MADE, CrashPoint.FILE_WRITTEN, CrashPoint.FILES_WRITTEN, CrashPoint.MANIFEST_WRITTEN,
    CrashPoint.COMMITTED, CrashPoint.ROUNDS_CSV, CrashPoint.PRUNED,
}  # fmt: skip


def written(folder: Path, **changes: object) -> Path:
    """Write a scenario of three rounds, in which strategy, wishes and clients' scores all change."""
    evaluate = {"every": 1, "clients_every": 2}
    wanted = scenario(**{"rounds": 3, "strategy": {"kind": "fedadam"}, "clients": CLIENTS, "evaluate": evaluate} | changes)
    path = folder / "wanted.yaml"
    path.write_text(dump_scenario(wanted))
    return path


def begin(folder: Path, wanted: Path, **options: object) -> tuple[Path, int, str]:
    """Run a scenario until it ends or is killed; return the run folder, the exit status and what was printed."""
    status, printed = fedapt(folder, "run", wanted, "-o", folder / "runs", **options)
    (run,) = (folder / "runs").iterdir()
    return run, status, printed


def test_what_the_server_of_children_loads_can_be_loaded() -> None:
    # multiprocessing says nothing if not, and every child then takes seconds to start.
    done = subprocess.run(
        [sys.executable, "-c", "import tests.children_loaded"], cwd=Path(__file__).parents[1], capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run, status, printed = begin(folder, written(folder))
    assert status == 0, printed
    return run


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed just before its third round was committed; tests work on copies."""
    folder = tmp_path_factory.mktemp("stopped")
    run, status, printed = begin(folder, written(folder), FEDAPT_CRASH_AT=f"{CrashPoint.TRAINED}#3")
    assert status == -signal.SIGKILL, printed
    return run


@pytest.fixture
def killed(stopped: Path, tmp_path: Path) -> Path:
    return shutil.copytree(stopped, tmp_path / "killed")


def assert_same(run: Path, whole: Path) -> None:
    """Two runs ended with the same bits, and the run folder holds nothing but results."""
    assert (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    one, other = read_run(run), read_run(whole)
    pandas.testing.assert_frame_equal(one.ledger, other.ledger, check_exact=True)
    pandas.testing.assert_frame_equal(one.clients, other.clients, check_exact=True)
    pandas.testing.assert_frame_equal(one.rounds.drop(columns="wall_s"), other.rounds.drop(columns="wall_s"), check_exact=True)
    assert {**one.summary, "wall_s": 0} == {**other.summary, "wall_s": 0}
    assert {path.name for path in run.iterdir()} == {path.name for path in whole.iterdir()}


@pytest.mark.parametrize("point", CrashPoint)
def test_a_run_killed_at_any_crash_point_is_resumed_to_the_same_bits(point: CrashPoint, whole: Path, tmp_path: Path) -> None:
    # In the second round; a state is removed for the first time there.
    count = 2 if point in EVERY_ROUND else 1
    keep = {"models": 1 if point == CrashPoint.HALF_PRUNED else 2}
    run, status, printed = begin(tmp_path, written(tmp_path, keep=keep), FEDAPT_CRASH_AT=f"{point}#{count}")
    assert status == -signal.SIGKILL, printed
    read_run(run)
    status, printed = fedapt(tmp_path, "resume", run)
    assert status == 0, printed
    assert_same(run, whole)


@pytest.mark.slow
@pytest.mark.parametrize("point", [CrashPoint.TRAINED, CrashPoint.FILES_WRITTEN, CrashPoint.COMMITTED, CrashPoint.LEDGER])
def test_a_run_killed_while_workers_play_the_next_round_is_resumed_to_the_same_bits(point: CrashPoint, tmp_path: Path) -> None:
    # A client may crash, if only in theory: so the workers are waited for.
    wanted = {"faults": {"crash": 1e-12}, "engine": {"kind": "ray", "workers": 1}}
    run, status, printed = begin(
        tmp_path, written(tmp_path, **wanted), FEDAPT_CRASH_AT=f"{point}#{2 if point in EVERY_ROUND else 1}"
    )
    assert status == -signal.SIGKILL, printed
    # Of the second round nothing is written when it is trained, but when the third one is at work.
    written_rounds = {CrashPoint.TRAINED: 1, CrashPoint.FILES_WRITTEN: 1, CrashPoint.COMMITTED: 2, CrashPoint.LEDGER: 3}
    assert len(read_run(run).rounds) == written_rounds[point]
    status, printed = fedapt(tmp_path, "resume", run)
    assert status == 0, printed
    (tmp_path / "inline").mkdir()
    assert_same(run, begin(tmp_path / "inline", written(tmp_path, **wanted | {"engine": {"kind": "inline"}}))[0])


@pytest.mark.parametrize("point", [CrashPoint.MANIFEST_WRITTEN, CrashPoint.COMMITTED, CrashPoint.LEDGER])
def test_a_resumed_run_that_is_killed_as_well_is_resumed_to_the_same_bits(point: CrashPoint, killed: Path, whole: Path) -> None:
    status, printed = fedapt(killed.parent, "resume", killed, FEDAPT_CRASH_AT=point)
    assert status == -signal.SIGKILL, printed
    assert fedapt(killed.parent, "resume", killed)[0] == 0
    assert_same(killed, whole)


@pytest.mark.parametrize("kind", STRATEGIES)
def test_two_rounds_and_two_resumed_are_four_rounds_with_every_strategy(kind: str, tmp_path: Path) -> None:
    changes = {"rounds": 4, "strategy": {"kind": kind, **NEEDED.get(kind, {})}, "evaluate": {"every": 4}}
    for name, crash in (("straight", {}), ("broken", {"FEDAPT_CRASH_AT": f"{CrashPoint.ROUNDS_CSV}#2"})):
        (tmp_path / name).mkdir()
        run, status, printed = begin(tmp_path / name, written(tmp_path / name, **changes), **crash)
        assert status == (-signal.SIGKILL if crash else 0), printed
    assert fedapt(tmp_path, "resume", run)[0] == 0
    assert_same(run, next((tmp_path / "straight" / "runs").iterdir()))


def test_what_clients_keep_between_their_rounds_is_resumed_too(tmp_path: Path) -> None:
    link = {"bits": 2, "rounding": "nearest", "error_feedback": True}
    clients = CLIENTS | {"method": {"precision": {"kind": "fixed", "bits": 6}, "link": link}}
    for name, crash in (("straight", {}), ("broken", {"FEDAPT_CRASH_AT": f"{CrashPoint.ROUNDS_CSV}#2"})):
        (tmp_path / name).mkdir()
        run, status, printed = begin(tmp_path / name, written(tmp_path / name, clients=clients), **crash)
        assert status == (-signal.SIGKILL if crash else 0), printed
    assert fedapt(tmp_path, "resume", run)[0] == 0
    assert_same(run, next((tmp_path / "straight" / "runs").iterdir()))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_stopped_by_a_signal_can_be_read_and_resumed(number: int, status: int, tmp_path: Path) -> None:
    wanted = written(tmp_path, rounds=12)
    child = start(tmp_path, "run", wanted, "-o", tmp_path / "broken")
    child.until("[ 2/12]")
    assert child.kill(number)[0] == status
    (run,) = (tmp_path / "broken").iterdir()
    done = len(read_run(run).rounds)
    assert 2 <= done < 12 and read_run(run).summary["rounds"] == done and (run / "report.html").exists()
    assert fedapt(tmp_path, "resume", run)[0] == 0
    assert_same(run, begin(tmp_path, wanted)[0])


def test_a_resumed_run_says_where_it_goes_on_and_a_complete_one_that_there_is_nothing_to_do(killed: Path) -> None:
    status, printed = fedapt(killed.parent, "resume", killed)
    assert status == 0 and "Resuming after 2 of 3 rounds" in printed and "[1/3]" not in printed
    before = {path: path.stat().st_mtime_ns for path in killed.iterdir()}
    status, printed = fedapt(killed.parent, "resume", killed)
    assert status == 0 and "all rounds of this run are played" in " ".join(printed.split())
    assert {path: path.stat().st_mtime_ns for path in killed.iterdir()} == before


@pytest.mark.parametrize("name", ["manifest.json", "ledger.parquet", "record.json", "state.json", "state.safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "empty"])
def test_a_damaged_newest_commit_is_played_again(name: str, damage: str, killed: Path, whole: Path) -> None:
    path = killed / "rounds" / "00001" / name
    data = path.read_bytes()
    harm = {
        "truncated": lambda: path.write_bytes(data[:-1]),
        "flipped": lambda: path.write_bytes(
            data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
        ),
        "missing": path.unlink,
        "empty": lambda: path.write_bytes(b""),
    }
    harm[damage]()
    status, printed = fedapt(killed.parent, "resume", killed)
    assert status == 0, printed
    if (name, damage) != ("manifest.json", "truncated"):  # it lost only the end of its last line
        assert "going back to the newest whole round" in printed and "Resuming after 1 of 3" in printed
    assert_same(killed, whole)


def test_without_a_whole_round_resume_refuses_and_touches_nothing(killed: Path) -> None:
    (killed / ".lock").unlink()
    for number in range(2):
        (killed / "rounds" / f"{number:05}" / "state.safetensors").write_bytes(b"")
    before = sorted(killed.rglob("*"))
    status, printed = fedapt(killed.parent, "resume", killed)
    assert status == 6 and "no committed round is whole" in printed and "00001/state.safetensors" in printed
    assert sorted(killed.rglob("*")) == before


@pytest.mark.parametrize("name", ["rounds.csv", "run.log"])
def test_half_a_last_line_does_no_harm(name: str, killed: Path, whole: Path) -> None:
    with (killed / name).open("ab") as file:
        file.write(b"2,0.9")
    assert fedapt(killed.parent, "resume", killed)[0] == 0
    assert_same(killed, whole)


def test_each_difference_is_named_and_can_be_allowed(killed: Path) -> None:
    path = killed / "environment.json"
    changed = json.loads(path.read_text()) | {
        "torch": "1.0",
        "threads": 9,
        "cpu_capability": "VSX",
        "flwr": "1.0",
        "numpy": "1.0",
    }
    path.write_text(json.dumps(changed))
    (killed / "scenario.yaml").write_text((killed / "scenario.yaml").read_text() + "# edited\n")
    status, printed = fedapt(killed.parent, "resume", killed)
    assert status == 7
    for phrase in (
        "torch was 1.0, is ",
        "flwr was",
        "numpy was",
        "threads was 9, is 1",
        "cpu_capability was VSX",
        "scenario.yaml",
    ):
        assert phrase in printed
    status, printed = fedapt(killed.parent, "resume", killed, "--allow-inexact")
    assert status == 0, printed
    assert len(json.loads(path.read_text())["inexact"]) == 6 and "not to the same bits: torch was 1.0" in (
        killed / "report.html"
    ).read_text(encoding="utf-8")


def test_an_edited_scenario_with_another_model_cannot_go_on(killed: Path) -> None:
    text = (killed / "scenario.yaml").read_text()
    (killed / "scenario.yaml").write_text(text.replace("model: {kind: cnn}", "model: {kind: mlp}"))
    assert "model: {kind: mlp}" in (killed / "scenario.yaml").read_text()
    status, printed = fedapt(killed.parent, "resume", killed, "--allow-inexact")
    assert status == 7 and "holds another model than the mlp of its scenario" in printed


def test_a_run_in_use_is_refused_with_the_pid_and_goes_on(tmp_path: Path) -> None:
    child = start(tmp_path, "run", written(tmp_path, rounds=200), "-o", tmp_path / "runs")
    child.until("[  1/200]")
    (run,) = (tmp_path / "runs").iterdir()
    status, printed = fedapt(tmp_path, "resume", run)
    assert status == 4 and f"run is in use by pid {child.process.pid}." in printed
    assert child.process.is_alive()
    child.kill()


def test_a_lock_left_by_a_dead_process_is_taken_over(killed: Path, whole: Path) -> None:
    assert json.loads((killed / ".lock").read_text())["pid"] > 0
    assert fedapt(killed.parent, "resume", killed)[0] == 0
    assert_same(killed, whole)


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_when_there_is_room(whole: Path, tmp_path: Path) -> None:
    size = (whole / "model.safetensors").stat().st_size
    run, status, printed = begin(tmp_path, written(tmp_path), largest_file=2 * size)
    assert status == 6 and "rounds/00000 could not be written: the disk is full" in printed and "Traceback" not in printed
    assert list((run / "rounds").iterdir()) == []
    assert fedapt(tmp_path, "resume", run)[0] == 0
    assert_same(run, whole)


def test_a_folder_that_vanishes_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    child = start(tmp_path, "run", written(tmp_path, rounds=200), "-o", tmp_path / "runs")
    child.until("[  1/200]")
    (run,) = (tmp_path / "runs").iterdir()
    run.rename(tmp_path / "moved")
    status, printed = child.wait()
    assert status == 6 and "has vanished" in printed and "Traceback" not in printed
    assert list((tmp_path / "runs").iterdir()) == []
    assert fedapt(tmp_path, "report", tmp_path / "moved")[0] == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into read-only folders")
def test_a_read_only_folder_is_a_sentence(killed: Path) -> None:
    killed.chmod(0o555)
    status, printed = fedapt(killed.parent, "resume", killed)
    killed.chmod(0o755)
    assert status == 6 and "Make the folder writable" in printed


@pytest.mark.parametrize("name", ["model.safetensors", "ledger.parquet", "rounds.csv", "summary.json", "scenario.yaml"])
def test_a_flipped_bit_in_a_complete_run_is_noticed(name: str, whole: Path, tmp_path: Path) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    data = bytearray((run / name).read_bytes())
    data[len(data) // 2] ^= 1
    (run / name).write_bytes(data)
    for command in ("resume", "report"):
        status, printed = fedapt(tmp_path, command, run)
        assert status == 6 and f"{name} is not as it was written" in printed


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_rounds_keep_their_state_and_all_keep_their_ledger(keep: int, tmp_path: Path) -> None:
    wanted = written(tmp_path, rounds=5, keep={"models": keep})
    run, _, _ = begin(tmp_path, wanted, FEDAPT_CRASH_AT=f"{CrashPoint.TRAINED}#5")
    with_state = [path.parent.name for path in sorted(run.glob("rounds/*/state.safetensors"))]
    assert with_state == ["00000", "00001", "00002", "00003"][-keep:]
    assert len(list(run.glob("rounds/*/ledger.parquet"))) == 4


@pytest.mark.slow
def test_fifty_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    wanted = written(tmp_path, rounds=12)
    (tmp_path / "straight").mkdir()
    whole, status, _ = begin(tmp_path / "straight", wanted)
    assert status == 0
    draw, kills = random.Random(0), 0
    while kills < 50:
        root = tmp_path / f"broken-{kills}"
        child = start(tmp_path, "run", wanted, "-o", root)
        while True:
            time.sleep(draw.uniform(0.05, 2.5))
            if not child.process.is_alive():
                break
            kills += child.kill()[0] == -signal.SIGKILL
            run = next(root.iterdir(), None) if root.exists() else None
            if run is None or not (run / "scenario.yaml").exists():
                break
            child = start(tmp_path, "resume", run)
        if root.exists() and (run := next(root.iterdir())) and (run / "scenario.yaml").exists():
            assert child.wait()[0] == 0
            assert_same(run, whole)
