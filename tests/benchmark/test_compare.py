"""Runs that exist are grouped by what differs between them besides the seed."""

import json
from pathlib import Path

import pytest

from fedapt.benchmark.existing import compare_runs
from fedapt.errors import SetupError
from fedapt.record.crash_points import CrashPoint
from tests.children import fedapt


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Path:
    """Two arms with two seeds."""
    from tests.benchmark.conftest import TINY

    folder = tmp_path_factory.mktemp("compare")
    (folder / "tiny.yaml").write_text(TINY)
    status, printed = fedapt(folder, "bench", folder / "tiny.yaml", "-o", folder)
    assert status == 0, printed
    return folder / "tiny"


def cells(bench: Path) -> list[Path]:
    return sorted((bench / "cells").iterdir())


def test_a_bench_compared_again_gives_the_same_table(bench):
    comparison = compare_runs([bench], None, None)
    assert comparison.baseline == "fedavg" and [arm.name for arm in comparison.arms] == ["fedavg", "fedadam"]
    assert comparison.table.to_csv(index=False) == (bench / "results.csv").read_text()


def test_arms_are_named_by_what_differs(bench, tmp_path):
    base = (bench / "cells" / "fedavg_seed-0" / "scenario.yaml").read_text()
    for number, (old, new) in enumerate([("lr: 0.05", "lr: 0.1"), ("rounds: 2", "rounds: 1")]):
        changed = tmp_path / f"{number}.yaml"
        changed.write_text(base.replace(old, new))
        assert fedapt(tmp_path, "run", changed, "-o", tmp_path / "runs")[0] == 0
    one, other = sorted((tmp_path / "runs").iterdir(), key=lambda path: "rounds: 1" in (path / "scenario.yaml").read_text())
    comparison = compare_runs([bench / "cells" / "fedavg_seed-0", one], str(one), 0.01)
    assert [arm.name for arm in comparison.arms] == ["lr 0.05", "lr 0.1"] and comparison.baseline == "lr 0.1"
    assert comparison.table["accuracy_p"].isna().all() and comparison.table["reached"].tolist() == [1, 1]
    assert "different numbers of rounds: 1, 2" in compare_runs([one, other], None, None).notes[0]


def test_an_unfinished_run_is_included_and_marked(bench, tmp_path):
    from tests.benchmark.conftest import TINY

    (tmp_path / "tiny.yaml").write_text(TINY)
    fedapt(tmp_path, "bench", tmp_path / "tiny.yaml", "-o", tmp_path, FEDAPT_CRASH_AT=f"{CrashPoint.TRAINED}#4")
    comparison = compare_runs([tmp_path / "tiny"], None, None)
    assert comparison.table["unfinished"].tolist() == [0, 1]
    assert any("has played 1 of 2 rounds" in note for note in comparison.notes)


def test_what_is_no_run_is_refused_in_one_sentence(bench, tmp_path):
    with pytest.raises(SetupError, match="is not a run folder"):
        compare_runs([tmp_path], None, None)
    with pytest.raises(SetupError, match="is none of the arms nor a run of them; did you mean `fedavg`"):
        compare_runs([bench], "fedavgg", None)


def test_a_run_that_is_given_twice_counts_once(bench):
    one = cells(bench)[0]
    assert len(compare_runs([one, one], None, None).arms[0].runs) == 1


def test_the_command_writes_its_tables_where_it_is_told(bench, tmp_path):
    status, printed = fedapt(tmp_path, "compare", *cells(bench), "-o", tmp_path / "out", "--json", "-")
    assert status == 0, printed
    assert [arm["arm"] for arm in json.loads(printed)["arms"]] == ["fedadam", "fedavg"]
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "results.csv",
        "results.parquet",
        "results.json",
        "report.html",
    }
