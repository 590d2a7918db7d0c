import pandas

from fedapt.report.cards import progress

ROUNDS = pandas.DataFrame(
    {
        "round": [0, 1, 2],
        "accuracy": [0.25, None, 0.75],
        "clock_s": [90.0, 180.0, 360.0],
        "energy_j": [500.0, 500.0, 1000.0],
        "downlink_bytes": [10, 10, 20],
        "uplink_bytes": [5, 5, 10],
    }
)


def test_accuracy_is_drawn_where_it_was_evaluated_against_what_was_spent_by_then() -> None:
    plot = progress.accuracy(ROUNDS)
    assert list(plot.figure.data[0].y) == [0.25, 0.75]
    assert {view.label: view.traces[0]["x"] for view in plot.views} == {
        "by rounds": [1, 3],
        "by time": [1.5, 6.0],
        "by energy": [0.5, 2.0],
        "by bytes": [15.0, 60.0],
    }
    assert [view.layout["xaxis"]["title"]["text"].split(", ")[-1] for view in plot.views[1:]] == ["min", "kJ", "B"]


def test_a_point_tells_all_that_was_spent_by_then() -> None:
    assert progress.accuracy(ROUNDS).figure.data[0].customdata[1] == "after round 3: 75.0 %<br>6.00 min, 2.00 kJ, 60 B"


def test_a_short_run_has_no_half_rounds_and_energy_keeps_its_own_ticks() -> None:
    plot = progress.accuracy(ROUNDS)
    assert plot.figure.layout.xaxis.dtick == 1
    assert [view.layout["xaxis"]["dtick"] for view in plot.views] == [1, None, None, None]
