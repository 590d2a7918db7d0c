from pathlib import Path

import pandas
import pytest

from fedapt.report import plots
from fedapt.results import read_run
from tests.report.example import LAYERS, Example

GROUPS = [
    {"group": "<b>pi</b>", "energy_compute_j": 1500.0, "energy_movement_j": 500.0, "energy_radio_j": 0.0},
    {
        "group": "a-group-whose-name-is-longer-than-the-plot",
        "energy_compute_j": 250.0,
        "energy_movement_j": 0.0,
        "energy_radio_j": 0.0,
    },
]
ROUNDS = pandas.DataFrame(
    {
        "round": [0, 1, 2],
        "accuracy": [0.25, None, 0.75],
        "energy_j": [500.0, 500.0, 1000.0],
        "downlink_bytes": [10, 10, 20],
        "uplink_bytes": [5, 5, 10],
    }
)


def test_bars_are_in_the_unit_that_fits_the_largest_group() -> None:
    figure = plots.energy(GROUPS)
    assert figure.layout.xaxis.title.text == "kJ"
    assert {bar.name: list(bar.x) for bar in figure.data} == {"compute": [1.5, 0.25], "movement": [0.5, 0.0]}
    assert figure.data[0].customdata[1].endswith("compute 250 J")


def test_names_are_escaped_and_long_labels_cut() -> None:
    figure = plots.energy(GROUPS)
    assert figure.data[0].y[0] == "&lt;b&gt;pi&lt;/b&gt;"
    assert list(figure.layout.yaxis.ticktext) == ["&lt;b&gt;pi&lt;/b&gt;", "a-group-whose-name-is-l..."]


def test_accuracy_is_drawn_where_it_was_evaluated_against_what_was_spent_by_then() -> None:
    figure = plots.accuracy(ROUNDS)
    by_rounds, by_energy, by_bytes = (button.args[0]["x"][0] for button in figure.layout.updatemenus[0].buttons)
    assert list(figure.data[0].y) == [0.25, 0.75]
    assert (list(by_rounds), list(by_energy), list(by_bytes)) == ([1, 3], [0.5, 2.0], [15.0, 60.0])
    assert figure.layout.updatemenus[0].buttons[1].args[1]["xaxis.title.text"] == "energy of all clients, kJ"


def test_a_short_run_has_no_half_rounds_and_energy_keeps_its_own_ticks() -> None:
    figure = plots.accuracy(ROUNDS)
    assert figure.layout.xaxis.dtick == 1
    assert figure.layout.updatemenus[0].buttons[1].args[1]["xaxis.dtick"] is None


def test_the_map_of_bits_has_a_line_a_layer_and_a_column_a_round(tmp_path: Path) -> None:
    figure = plots.layer_bits(read_run(Example(rounds=3).write(tmp_path)))
    heat = figure.data[0]
    assert (list(heat.y), list(heat.x), heat.z.shape) == (LAYERS, [1, 2, 3], (4, 3))


def test_a_long_run_shows_every_nth_round_of_the_map(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(plots, "MOST_CELLS", 5)
    figure = plots.layer_bits(read_run(Example(rounds=4).write(tmp_path)))
    assert list(figure.data[0].x) == [1]


def test_each_client_with_held_out_samples_is_a_point_that_says_which(tmp_path: Path) -> None:
    clients = read_run(Example(rounds=1).write(tmp_path)).clients
    figure = plots.client_accuracy(clients)
    assert sum(len(box.x) for box in figure.data) == 199
    assert figure.data[0].customdata[0].startswith("client 1: 89.4 %")


@pytest.mark.parametrize("count", [1, 9])
def test_any_number_of_groups_can_be_drawn(count: int) -> None:
    groups = [{"group": f"g{n}", "downlink_bytes": 0, "uplink_bytes": n} for n in range(count)]
    assert plots.traffic(groups).layout.height > 100
