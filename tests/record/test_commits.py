import os
from pathlib import Path

import pytest

from fedapt.errors import DamagedData
from fedapt.record.commits import Commits

FILES = {"ledger.parquet": b"PAR1", "record.json": b"{}", "state.json": b"{}", "state.safetensors": bytes(100)}


@pytest.fixture
def commits(tmp_path: Path) -> Commits:
    """Four rounds, with states."""
    made = Commits(tmp_path / "rounds")
    made.path.mkdir()
    for number in range(4):
        made.write(number, FILES)
    return made


def test_a_round_is_its_files_and_a_manifest(commits: Commits) -> None:
    assert sorted(os.listdir(commits.folder(2))) == sorted([*FILES, "manifest.json"])
    assert commits.read(2, ["state.safetensors"]) == {"state.safetensors": bytes(100)}
    assert commits.numbers() == [0, 1, 2, 3] and commits.newest() == (3, "")


def test_no_rounds_are_no_damage(tmp_path: Path) -> None:
    assert Commits(tmp_path / "rounds").newest() == (-1, "")


@pytest.mark.parametrize(("damaged", "newest"), [(3, 2), (2, 1), (1, 0)])
def test_the_newest_round_has_a_state_and_all_ledgers_up_to_it(commits: Commits, damaged: int, newest: int) -> None:
    (commits.folder(damaged) / "ledger.parquet").write_bytes(b"PAR2")
    number, problem = commits.newest()
    assert number == newest and f"0000{damaged}/ledger.parquet is not as it was written" in problem


def test_a_missing_round_is_damage_to_those_after_it(commits: Commits) -> None:
    os.rename(commits.folder(1), commits.path / "elsewhere")
    assert commits.newest()[0] == 0


def test_rounds_without_a_state_to_go_on_from_are_refused(commits: Commits) -> None:
    commits.prune(3, 1)
    (commits.folder(3) / "state.json").write_bytes(b"[]")
    with pytest.raises(DamagedData, match="no committed round is whole"):
        commits.newest()


def test_pruning_takes_up_what_was_removed_by_half(commits: Commits) -> None:
    (commits.folder(0) / "state.json").unlink()
    (commits.folder(1) / "state.json").unlink()
    commits.prune(3, 2)
    assert [len(os.listdir(commits.folder(number))) for number in range(4)] == [3, 3, 5, 5]


def test_what_comes_after_a_round_is_dropped_with_leftovers(commits: Commits) -> None:
    (commits.path / ".00004.tmp").mkdir()
    commits.drop_after(1)
    assert sorted(os.listdir(commits.path)) == ["00000", "00001"]


def test_a_commit_that_cannot_be_written_leaves_nothing(commits: Commits) -> None:
    with pytest.raises(DamagedData, match=r"rounds/00003 could not be written"):
        commits.write(3, FILES)
    assert sorted(os.listdir(commits.path)) == ["00000", "00001", "00002", "00003"]
    assert commits.newest() == (3, "")


def test_a_manifest_cannot_name_files_elsewhere(commits: Commits) -> None:
    path = commits.folder(3) / "manifest.json"
    path.write_text(path.read_text().replace("record.json", "../../etc/passwd"))
    assert commits.newest()[0] == 2
