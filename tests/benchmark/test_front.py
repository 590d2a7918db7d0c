"""Which arms no other beats, and which one to pick within a budget."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from fedapt.benchmark.comparison import Arm, Comparison, compare
from fedapt.benchmark.front import Choice, choices, front, round_budget, unbeaten, written_budget
from fedapt.benchmark.measures import measured
from fedapt.benchmark.output import show
from tests.report import arms

ARMS = {"fedavg": (0.0, 1.0), "cheap": (-0.1, 4.0), "good": (0.1, 2.0), "bad": (-0.2, 0.5)}


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return arms.example(tmp_path_factory.mktemp("runs"), ARMS)


def priced(made: Comparison, **joules: dict[str, float]) -> Comparison:
    """Return the comparison with the joules of each arm, by the name of the arm, under the tables of energy."""

    def arm(one: Arm) -> Arm:
        runs = []
        for run in one.runs:
            total = run.summary["total"]
            summed = {name: each * total["updates"] for name, each in joules[one.name].items()}
            total = {**total, "energy_j": summed["horowitz"], "energy_operands_j": summed.pop("operands")}
            summary = {**run.summary, "total": total, "energy_tables_j": summed}
            runs.append(replace(run, summary=summary, scenario=run.scenario + "energy_table: horowitz\n"))
        return replace(one, runs=tuple(runs))

    return compare(made.name, [arm(one) for one in made.arms], {})


def test_a_point_is_beaten_by_one_that_is_no_dearer_and_no_worse() -> None:
    assert unbeaten([3, 1, 2, 2, 4], [0.9, 0.5, 0.8, 0.7, 0.9]) == [1, 2, 0]
    assert unbeaten([1, 1], [0.5, 0.5]) == [0]


@pytest.mark.parametrize(
    ("cost", "binary", "budget"),
    [(3, False, 5), (5, False, 5), (5.1, False, 10), (0.013, False, 0.02), (1e6, False, 1e6), (0, False, 0),
     (2**18 - 1, True, 2**18), (2**18, True, 2**18), (2**18 + 1, True, 2**19)],
)  # fmt: skip
def test_a_round_budget_is_the_next_power_of_two_or_the_next_1_2_or_5(cost: float, binary: bool, budget: float) -> None:
    assert round_budget(cost, binary=binary) == budget


def test_budgets_are_written_without_digits_that_say_nothing() -> None:
    said = [written_budget("memory_bytes", 2**18), written_budget("update_energy_j", 0.02), written_budget("update_macs", 5e8)]
    assert said == ["256 KiB", "20 mJ", "500 M"]


def test_a_visit_costs_the_sum_over_the_updates(comparison: Comparison) -> None:
    run = comparison.arms[0].runs[0]
    total = run.summary["total"]
    assert measured(run, None)["update_macs"] * total["updates"] == pytest.approx(total["macs"])
    nothing = replace(run, summary={**run.summary, "total": {**total, "updates": 0}})
    assert "update_macs" not in measured(nothing, None)


def test_the_pick_is_the_best_arm_within_the_budget(comparison: Comparison) -> None:
    # cheap, good and fedavg take a quarter, a half and all of the first arm's memory; bad takes twice as much.
    assert front(comparison, "memory_bytes") == ["cheap", "good"]
    peak = comparison.table.set_index("arm")["memory_bytes"]
    found = next(choice for choice in choices(comparison) if choice.cost == "memory_bytes")
    assert [arm for _, arm in found.picks] == ["cheap", "good"]
    assert all(peak[arm] <= budget < 2 * peak[arm] for budget, arm in found.picks)


def test_a_cost_that_all_arms_share_is_no_choice(comparison: Comparison) -> None:
    # The example's arms differ in energy and memory alone.
    assert {choice.cost for choice in choices(comparison)} == {"memory_bytes", "update_energy_j"}


def test_another_price_of_a_mac_is_said_where_it_picks_another_arm(comparison: Comparison) -> None:
    same = {"fedavg": 4.0, "cheap": 1.0, "good": 2.0, "bad": 4.0}
    made = priced(
        comparison,
        **{name: {"horowitz": j, "linear": j, "bitops": j, "operands": 4.0} for name, j in same.items()},
    )
    by_energy = [choice for choice in choices(made) if choice.cost == "update_energy_j"]
    assert by_energy == [
        Choice("update_energy_j", ((1.0, "cheap"), (2.0, "good"))),
        Choice("update_energy_j", ((5.0, "good"),), "operands"),
    ]


def test_the_front_fits_eighty_columns_and_marks_who_is_on_it(comparison: Comparison) -> None:
    console = Console(file=io.StringIO(), width=80)
    show(comparison, console, None)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 80
    first = next(number for number, line in enumerate(lines) if line.startswith("front"))
    names = [line.split()[0] for line in lines[first + 1 : first + 3]]
    assert names == ["good", "cheap"] and all(line.count("*") == 2 for line in lines[first + 1 : first + 3])
    assert any(line.startswith("Memory    within ") for line in lines)


def test_arms_that_were_never_evaluated_have_no_front(comparison: Comparison, tmp_path: Path) -> None:
    lost = [replace(arm, runs=()) for arm in comparison.arms]
    assert list(choices(compare("nothing", lost, {}))) == []
