import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from fedapt.benchmark.comparison import Comparison
from fedapt.benchmark.measures import MEASURES
from fedapt.report.cards import curves, front, verdict
from fedapt.report.comparison import write_comparison
from tests.report import arms

ARMS = {"fedavg": (0.0, 1.0), "cheap": (-0.1, 4.0), "good": (0.1, 2.0), "bad": (-0.2, 0.5)}
HOSTILE = "<img src=x onerror='alert(1)'>"


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return arms.example(tmp_path_factory.mktemp("runs"), ARMS, missing={"bad": ("seed 3: it ran out of memory",)})


@pytest.fixture(scope="module")
def text(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("bench") / "report.html"
    return re.sub(r"<script.*?</script>", "", write_comparison(comparison, path, "fedapt bench b.yaml").read_text(), flags=re.S)


def test_a_curve_is_the_mean_over_seeds_with_the_lowest_and_highest(comparison: Comparison) -> None:
    arm = comparison.arms[0]
    curve = curves.curve_of(arm)
    assert curve is not None
    last = [float(run.rounds["accuracy"].iloc[-1]) for run in arm.runs]
    assert (curve.low[-1], curve.high[-1]) == (min(last), max(last))
    assert curve.mean[-1] == pytest.approx(sum(last) / 3)
    assert curve.spent["energy"][-1] == pytest.approx(arm.runs[0].rounds["energy_j"].sum())
    assert curve.spent["rounds"].tolist() == [1, 2, 3, 4, 5, 6]


def test_the_front_has_the_arms_that_none_beats(comparison: Comparison) -> None:
    # bad is dearer and worse than all; fedavg is dearer and worse than good.
    assert [point.name for point in front.on_front(front.points(comparison, "energy_j"))] == ["cheap", "good"]


def test_equal_arms_are_not_both_on_the_front(comparison: Comparison) -> None:
    point = front.points(comparison, "energy_j")[0]
    assert front.on_front([point, point]) == [point]


def test_an_arm_is_better_or_worse_where_its_interval_leaves_out_zero() -> None:
    row = {
        "accuracy_low": 0.01,
        "accuracy_high": 0.02,
        "energy_j_low": 1.0,
        "energy_j_high": 2.0,
        "time_s_low": -1,
        "time_s_high": 1,
    }
    said = {name: verdict.verdict(row, MEASURES[name]) for name in ("accuracy", "energy_j", "time_s")}
    assert said == {"accuracy": "better", "energy_j": "worse", "time_s": "unclear"}


def test_differences_are_signed_and_of_accuracies_in_points() -> None:
    assert verdict.difference(-0.0123, MEASURES["accuracy"]) == "-1.2 points"
    assert verdict.difference(1500.0, MEASURES["energy_j"]) == "+1.50 kJ"


def test_the_best_is_bold_and_losers_stand_beside_it(text: str, comparison: Comparison) -> None:
    best = comparison.table.set_index("arm").loc["good", "accuracy"]
    assert f"<td class='number best'>{100 * best:.1f} %" in text
    assert "<small class='better'>+1" in text and "<small class='worse'>-2" in text
    assert "not reached" in text
    assert "fedavg<small class=''>baseline</small>" in text


def test_the_page_says_which_arm_to_pick_within_a_budget(text: str) -> None:
    section = text.partition("Which one to pick")[2].partition("</section>")[0]
    assert re.search(r"<td class='name'>memory</td><td class='name'>cheap<small class=''>within [0-9.]+ [KM]iB: ", section)


def test_an_arm_of_which_no_client_took_part_is_not_drawn(comparison: Comparison) -> None:
    of = comparison.arms[0].runs[0]
    idle = replace(of, summary={**of.summary, "total": {**of.summary["total"], "updates": 0}})
    lost = replace(comparison.arms[3], runs=(idle,))
    cards = front.front_cards(arms.compare("one idle", [*comparison.arms[:3], lost], {}))
    traces = json.loads(cards[0].partition("application/json'>")[2].partition("</script>")[0])["figure"]["data"]
    assert [trace["text"][0] for trace in traces[1:]] == ["fedavg", "cheap", "good"]


def test_what_failed_what_differs_and_the_command_are_on_the_page(text: str) -> None:
    assert "seed 3: it ran out of memory" in text
    assert "<pre>fedapt bench b.yaml</pre>" in text
    assert re.search(r"<th class='name'>arm</th><th class='name'>strategy</th>", text)
    assert len(re.findall(r"<a href='[^']+/report.html'>", text)) == 12


def test_text_of_arms_is_never_markup(tmp_path: Path) -> None:
    made = arms.example(tmp_path, {HOSTILE: (0, 1), "other": (0.1, 2)}, seeds=2, missing={HOSTILE: (HOSTILE,)})
    page = write_comparison(made, tmp_path / "report.html", HOSTILE).read_text()
    assert "onerror=" in page and "<img" not in page.partition("<body>")[2]


def test_one_seed_and_an_arm_without_runs_still_make_a_page(tmp_path: Path) -> None:
    made = arms.example(tmp_path, {"a": (0, 1), "b": (0.1, 2)}, seeds=1)
    lost = type(made.arms[0])("lost", {"strategy": "lost"}, (), ("seed 0: killed",))
    again = arms.compare("with a gap", [*made.arms, lost], {"strategy": "a"})
    page = write_comparison(again, tmp_path / "report.html", "c").read_text()
    assert "seed 0: killed" in page and "id='plot-accuracy'" in page
