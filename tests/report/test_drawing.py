import json

import numpy as np
import plotly.graph_objects as go

from fedapt.report.drawing import Plot, View, axis_view, bars
from fedapt.report.figures import ENERGY, MEMORY

LONG = "a-group-whose-name-is-longer-than-the-plot"


def test_bars_are_in_the_unit_that_fits_the_longest_line() -> None:
    figure = bars(["a", "b"], {"compute": [1500.0, 250.0], "movement": [500.0, 0.0]}, ["red", "blue"], ENERGY, stacked=True)
    assert figure.layout.xaxis.title.text == "kJ"
    assert {bar.name: list(bar.x) for bar in figure.data} == {"compute": [1.5, 0.25], "movement": [0.5, 0.0]}
    assert figure.data[0].customdata[1] == "b<br>compute 250 J"


def test_names_are_escaped_and_long_labels_cut() -> None:
    figure = bars(["<b>pi</b>", LONG], {"up": [1.0, 2.0]}, ["red"], MEMORY, stacked=False)
    assert figure.data[0].y[0] == "&lt;b&gt;pi&lt;/b&gt;"
    assert list(figure.layout.yaxis.ticktext) == ["&lt;b&gt;pi&lt;/b&gt;", "a-group-whose-name-is-l..."]


def test_forty_lines_of_bars_have_room() -> None:
    names = [f"arm {number}" for number in range(40)]
    assert bars(names, {"up": [1.0] * 40}, ["red"], MEMORY, stacked=False).layout.height > 40 * 20


def test_a_plot_is_json_that_cannot_end_its_script_element() -> None:
    text = Plot(go.Figure(go.Scatter(y=[1], name="</script>")), [View("<b>")]).as_json()
    assert "<" not in text
    assert json.loads(text)["figure"]["data"][0]["name"] == "</script>"


def test_numbers_keep_six_digits_and_what_is_no_number_is_a_gap() -> None:
    figure = go.Figure(go.Scatter(x=np.array([1 / 3, 20_000_000.4]), y=np.array([np.nan, np.int64(7)])))
    drawn = json.loads(Plot(figure).as_json())["figure"]["data"][0]
    assert (drawn["x"], drawn["y"]) == ([0.333333, 2e7], [None, 7])


def test_a_view_against_energy_has_its_unit_and_its_own_ticks() -> None:
    view = axis_view("by energy", [np.array([500.0, 2000.0]), np.array([])], "energy", ENERGY, 3)
    assert view.traces == [{"x": [0.5, 2.0]}, {"x": []}]
    assert view.layout["xaxis"]["title"]["text"] == "energy, kJ"
    assert view.layout["xaxis"]["dtick"] is None
