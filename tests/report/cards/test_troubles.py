from pathlib import Path

import pandas
import pytest

from fedapt.report.cards import troubles
from fedapt.results import read_run
from tests.report.example import Example

COUNTS = pandas.DataFrame({"ok": [8, 6, 7], "late": [0, 2, 1], "dropped": [2, 2, 2]}, index=[0, 1, 2])


def test_lost_attempts_are_stacked_by_status_and_all_at_a_button() -> None:
    plot = troubles.dropouts(COUNTS)
    bars = {bar.name: list(bar.y) for bar in plot.figure.data}
    assert bars == {"aggregated": [8, 6, 7], "dropped": [2, 2, 2], "late": [0, 2, 1]}
    assert [bar.visible for bar in plot.figure.data] == [False, True, True]
    assert [trace["visible"] for trace in plot.views[1].traces] == [True, True, True]


def test_a_long_run_is_drawn_in_steps_that_lose_no_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(troubles, "MOST_BARS", 2)
    bars = troubles.dropouts(COUNTS).figure.data
    assert [list(bar.y) for bar in bars] == [[14, 7], [4, 2], [2, 1]]
    assert list(bars[0].customdata) == ["1-2", "3-4"]


def test_a_run_that_lost_nothing_says_so(tmp_path: Path) -> None:
    run = read_run(Example(rounds=1, count=20, cohort=4).write(tmp_path))
    run.summary.update(causes=[], statuses={"ok": 4})
    assert "Each of 4 attempts became part of the model." in "".join(troubles.trouble_cards(run))
