"""A bench is played, killed, started again, and compared."""

import json
import signal
from pathlib import Path

import pandas
import pytest

from fedapt.record.crash_points import CrashPoint
from tests.children import fedapt
from tests.test_resume import assert_same

RESULTS = {
    "README.txt",
    "bench.json",
    "cells",
    "cells.csv",
    "plotly.min.js",
    "report.html",
    "results.csv",
    "results.json",
    "results.parquet",
}


def play(folder: Path, path: Path, *more: object, **options: object) -> tuple[int, str]:
    return fedapt(folder, "bench", path, "-o", folder / "runs", *more, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A bench that was played at one go."""
    from tests.benchmark.conftest import TINY

    folder = tmp_path_factory.mktemp("whole")
    (folder / "tiny.yaml").write_text(TINY)
    status, printed = play(folder, folder / "tiny.yaml")
    assert status == 0, printed
    assert "4 cells (2 arms, 2 a piece): 4 to play" in printed and all(len(line) <= 80 for line in printed.splitlines()[1:20])
    return folder / "runs" / "tiny"


def test_a_bench_leaves_a_run_for_each_cell_and_one_row_for_each_arm(whole):
    assert {path.name for path in whole.iterdir()} == RESULTS
    table = pandas.read_parquet(whole / "results.parquet")
    cells = pandas.read_csv(whole / "cells.csv")
    assert table["arm"].tolist() == ["fedavg", "fedadam"] and table["against"].tolist() == ["fedavg", "fedavg"]
    own = cells.set_index(["arm", "seed"])["accuracy"]
    assert table["accuracy"].tolist() == pytest.approx([own["fedavg"].mean(), own["fedadam"].mean()])
    differences = own["fedadam"] - own["fedavg"]
    assert table["accuracy_diff"][1] == pytest.approx(differences.mean())
    told = json.loads((whole / "results.json").read_text())
    assert told["arms"][1]["measures"]["accuracy"]["diff"] == pytest.approx(differences.mean())
    assert told["target_accuracy"] == pytest.approx(0.95 * own["fedavg"].mean())


def test_a_bench_that_was_killed_goes_on_to_the_same_bits_and_skips_what_is_finished(whole, write, tmp_path):
    # The second cell, in its second round.
    status, _ = play(tmp_path, write(), FEDAPT_CRASH_AT=f"{CrashPoint.TRAINED}#4")
    assert status == -signal.SIGKILL
    first = tmp_path / "runs" / "tiny" / "cells" / "fedavg_seed-0"
    before = (first / "manifest.json").stat().st_mtime_ns
    status, printed = play(tmp_path, tmp_path / "tiny.yaml")
    assert status == 0 and "1 finished before, 1 to go on with, 2 to play" in printed, printed
    assert (first / "manifest.json").stat().st_mtime_ns == before
    for path in (whole / "cells").iterdir():
        assert_same(first.parent / path.name, path)
    assert (first.parents[1] / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()


def test_a_bench_that_has_changed_is_not_mixed_with_the_one_before(write, tmp_path):
    path = write()
    small = ["--set", "axes.strategy=[fedavg]"]
    assert play(tmp_path, path, *small)[0] == 0
    status, printed = play(tmp_path, path, *small, "--set", "rounds=3")
    assert status == 7 and "rounds was 2, is 3 (in 2 cells, the first is fedavg, seed 0)" in printed
    status, printed = play(tmp_path, path, *small, "--set", "axes.seed=[0, 2]", "--set", "at_once=1")
    assert status == 0 and "1 finished before, 1 to play" in printed and "no longer a part of this bench: 1 cell" in printed


def test_a_cell_that_fails_is_recorded_and_the_others_are_played(write, tmp_path):
    value = "{label: nobody, set: {faults.drop: 1.0}}"
    path = write(("{kind: fedadam, eta: 0.01}", value), ("  seed: [0, 1]\n", ""))
    status, printed = play(tmp_path, path)
    assert status == 5 and "1 of 2 cells failed, the first is nobody: round 0: none of 3 clients" in " ".join(printed.split())
    table = pandas.read_csv(tmp_path / "runs" / "tiny" / "results.csv").set_index("arm")
    assert table["runs"].to_dict() == {"fedavg": 1, "nobody": 0} and table["missing"].to_dict() == {"fedavg": 0, "nobody": 1}
    status, printed = play(tmp_path, path)
    assert status == 5 and "nobody failed before" in printed and "1 finished before, 1 failed before" in printed
    status, printed = play(tmp_path, path, "--list")
    assert status == 0 and "none of 3 clients" in " ".join(printed.split())


def test_a_damaged_cell_is_named(whole, write, tmp_path):
    path = write(("[fedavg, {kind: fedadam, eta: 0.01}]", "[fedavg]"))
    assert play(tmp_path, path)[0] == 0
    model = tmp_path / "runs" / "tiny" / "cells" / "fedavg_seed-1" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    status, printed = play(tmp_path, path)
    assert status == 6 and str(model) in printed


def test_a_missing_data_file_is_said_before_anything_runs(write, tmp_path):
    status, printed = play(tmp_path, write(), "--set", "data={source: /nowhere/x.parquet}")
    assert status == 4 and "data.source: /nowhere/x.parquet does not exist" in printed and not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_made_is_said(write, tmp_path):
    (tmp_path / "runs").write_text("a file")
    status, printed = play(tmp_path, write())
    assert status == 4 and "the bench's folder cannot be made there (Not a directory)" in printed


def test_the_folder_explains_every_column(whole):
    told = (whole / "README.txt").read_text()
    table = pandas.read_csv(whole / "results.csv")
    ends = ("_sd", "_n", "_diff", "_low", "_high", "_p", "_p_holm")
    measures = {name for name in table if f"{name}_p_holm" in table}
    plain = [name for name in table if not any(name == f"{measure}{end}" for measure in measures for end in ends)]
    assert [name for name in plain if name not in told] == ["strategy"]  # the axis of this bench


def test_arms_with_the_same_results_are_not_said_to_lack_a_seed(write, tmp_path):
    path = write(("{kind: fedadam, eta: 0.01}", "{kind: fedprox, proximal_mu: 0.0}"))
    status, printed = play(tmp_path, path)
    assert status == 0 and "the differences are the same for every seed" in " ".join(printed.split())


def test_a_dry_run_and_a_list_leave_nothing_behind(write, tmp_path):
    for option, sentence in (("--dry-run", "4 cells of 2 arms"), ("--list", "fedadam_seed-1")):
        status, printed = play(tmp_path, write(), option)
        assert status == 0 and sentence in printed
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_cells_played_at_once_are_the_same_bits_though_their_processes_die(whole, write, tmp_path):
    path = write(("at_once: 1", "at_once: 2"))
    # Each process dies in the last round of its second cell, and another one goes on with that.
    status, printed = play(tmp_path, path, FEDAPT_CRASH_AT=f"{CrashPoint.TRAINED}#4")
    assert status == 0, printed
    for cell in (whole / "cells").iterdir():
        mine = tmp_path / "runs" / "tiny" / "cells" / cell.name
        assert (mine / "model.safetensors").read_bytes() == (cell / "model.safetensors").read_bytes()
