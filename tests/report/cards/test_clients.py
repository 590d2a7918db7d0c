from pathlib import Path

import numpy as np
import pandas
import pytest

from fedapt.report.cards import clients
from fedapt.results import read_run
from tests.report.example import Example

ORDER = ["raspberry-pi-4", "jetson-nano", "raspberry-pi-zero-2", "stm32h7"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pandas.DataFrame:
    found = read_run(Example(rounds=1).write(tmp_path_factory.mktemp("runs"))).clients
    return found[found["accuracy"].notna()]


def test_jains_index_is_one_for_equals_and_one_nth_for_a_single_winner() -> None:
    assert clients.jain(np.array([0.3, 0.3, 0.3])) == pytest.approx(1)
    assert clients.jain(np.array([0.0, 0.0, 0.8, 0.0])) == pytest.approx(0.25)
    # (1 + 2 + 3)^2 / (3 * (1 + 4 + 9)) = 36 / 42
    assert clients.jain(np.array([1.0, 2.0, 3.0])) == pytest.approx(36 / 42)
    assert clients.jain(np.zeros(3)) == 1


def test_fairness_of_twenty_clients_by_hand() -> None:
    figures = dict(zip(clients.FAIRNESS, clients.fairness(np.arange(20) / 20), strict=True))
    assert figures["clients"] == "20"
    assert figures["worst tenth"] == "2.5 %"  # the mean of 0 and 0.05
    assert (figures["p10"], figures["median"], figures["p90"]) == ("9.5 %", "47.5 %", "85.5 %")
    assert figures["gap"] == "76.0 %"


def test_each_client_with_held_out_samples_is_a_point_that_says_which(table: pandas.DataFrame) -> None:
    for plot in (clients.cost_and_accuracy(table, ORDER), clients.by_group(table, ORDER)):
        assert sum(len(trace.x) for trace in plot.figure.data) == 199
        assert plot.figure.data[0].customdata[0].startswith("client 1 of raspberry-pi-4: 89.4 %<br>300 samples, 30 held out")


def test_a_client_without_an_update_says_why(table: pandas.DataFrame) -> None:
    idle = table.head(1).assign(rounds=0, status="refused", mean_bits=None)
    assert clients.cost_and_accuracy(idle, ORDER).figure.data[0].customdata[0].endswith("no update (refused)")


def test_a_group_has_the_same_colour_in_every_plot(table: pandas.DataFrame) -> None:
    points, strips = clients.cost_and_accuracy(table, ORDER), clients.by_group(table, ORDER)
    assert [trace.marker.color for trace in points.figure.data] == [box.marker.color for box in strips.figure.data]


def test_the_distribution_ends_at_all_clients(table: pandas.DataFrame) -> None:
    everyone = clients.distribution(table, ORDER).figure.data[0]
    assert everyone.y[-1] == 1 and len(everyone.x) == 199
    assert list(everyone.x) == sorted(everyone.x)


def test_a_browser_is_given_no_more_points_than_it_can_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "MOST_POINTS", 50)
    cards = clients.client_cards(read_run(Example(rounds=1).write(tmp_path)))
    assert "50 of 199 are drawn; all are in clients.csv." in cards[0]
