"""Which arm to pick: the Pareto fronts of accuracy against MACs, energy, memory, bytes and time, and the best within a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedapt.benchmark.comparison import Arm, Comparison
from fedapt.benchmark.front import SCORE, Choice, choices, unbeaten, written_budget
from fedapt.benchmark.measures import MEASURES, measured
from fedapt.report.cards.arms import Style, styled_arms
from fedapt.report.drawing import Plot, View, styled, texts, titled
from fedapt.report.elements import Cell, card, plot_card, table
from fedapt.report.figures import BYTES, COUNT, ENERGY, MEMORY, TIME, Units, counted, fitting_unit, percent

# The measure, its view, its axis and its units.
COSTS: list[tuple[str, str, str, Units]] = [
    ("update_energy_j", "by energy", "energy of a client in a round", ENERGY),
    ("memory_bytes", "by memory", "peak memory of a client", MEMORY),
    ("update_macs", "by MACs", "MACs of a client in a round", COUNT),
    ("update_bytes", "by bytes", "bytes of a client in a round, down and up", BYTES),
    ("time_s", "by time", "simulated time of all rounds", TIME),
]
NOTE = (
    "Mean of the last five scores, and over seeds; the bars go from the lowest to the highest seed. The line is the front of all"
    " arms: no other arm is both cheaper and better. Hollow points are beaten; those to pick below have names. MACs, energy and"
    " bytes are of one client in one round, the mean over the updates that were aggregated."
)
MOST_LINEAR = 10
MOST_BARS = 12
PICKS = (
    "The most accurate arm within a budget: of peak memory, and of energy, MACs and bytes of one client in one round on average."
    " With more than the last budget of its kind there is nothing better. Accuracies are means of the last five scores, and over"
    " seeds ± standard deviation: arms that are closer than that are as good as each other."
)
FLIPS = (
    " How a MAC is priced changes the choice: energy stands there again under other tables, and by both operands, where a float"
    " activation makes a float MAC."
)


@dataclass(frozen=True)
class Point:
    """An arm's mean, lowest and highest seed, in accuracy and in one cost."""

    style: Style
    name: str
    seeds: int
    accuracy: tuple[float, float, float]
    cost: tuple[float, float, float]


def front_cards(comparison: Comparison) -> list[str]:
    """Return the cards of the fronts; none if no arm was evaluated."""
    drawn = [points(comparison, measure) for measure, *_ in COSTS]
    # Of an arm that lacks a cost, since no client took part, there is nothing to choose.
    whole = set.intersection(*({point.name for point in found} for found in drawn))
    if not whole:
        return []
    found = list(choices(comparison))
    kept = [(cost, [point for point in of if point.name in whole]) for cost, of in zip(COSTS, drawn, strict=True)]
    plot = fronts(kept, {choice.cost: choice.arms for choice in found if not choice.table})
    note = PICKS + FLIPS * any(choice.table for choice in found)
    return [
        plot_card("front", "Accuracy against cost", NOTE, plot, wide=True),
        *([card("Which one to pick", note, picked(comparison, found), wide=True)] if found else []),
    ]


def picked(comparison: Comparison, found: Sequence[Choice]) -> str:
    """Return the table of the best arm within each budget, a line a cost."""
    rows = comparison.table.set_index("arm")
    longest = max(len(choice.picks) for choice in found)
    lines = []
    for choice in found:
        name = f"energy ({choice.name})" if choice.table else choice.name
        cells = [_pick(choice.cost, budget, rows.loc[arm]) for budget, arm in choice.picks]
        lines.append([name, *cells, *[""] * (longest - len(cells))])
    return table(["budget of", *["with little", "with more", *[""] * longest][:longest]], lines)


def _pick(cost: str, budget: float, row: Any) -> Cell:
    spread = f" ± {100 * row[f'{SCORE}_sd']:.1f}" if row[f"{SCORE}_sd"] == row[f"{SCORE}_sd"] else ""
    return Cell(row.name, "", [f"within {written_budget(cost, budget)}: {percent(row[SCORE])}{spread}"])


def points(comparison: Comparison, cost: str) -> list[Point]:
    """Return the arms that were evaluated and have this cost."""
    found = [_point(style, arm, cost) for style, arm in styled_arms(comparison)]
    return [point for point in found if point]


def _point(style: Style, arm: Arm, cost: str) -> Point | None:
    figures = [measured(run, None) for run in arm.runs]
    pairs = np.array([(of[SCORE], of[cost]) for of in figures if SCORE in of and cost in of]).reshape(-1, 2)
    if not len(pairs):
        return None
    accuracy, spent = ((float(values.mean()), float(values.min()), float(values.max())) for values in pairs.T)
    return Point(style, arm.name, len(pairs), accuracy, spent)


def on_front(found: Sequence[Point]) -> list[Point]:
    """Return the points that none beats, the cheapest first: none that is as cheap is better, none that is as good is cheaper."""
    return [found[place] for place in unbeaten([point.cost[0] for point in found], [point.accuracy[0] for point in found])]


def fronts(costs: Sequence[tuple[tuple[str, str, str, Units], list[Point]]], named: Mapping[str, Sequence[str]]) -> Plot:
    """Return the points and their front, with a view for each cost. named: by measure, the arms that have names."""
    import plotly.graph_objects as go

    views = []
    for (measure, label, title, units), found in costs:
        unit, size = fitting_unit(max(point.cost[2] for point in found), units)
        traces = _traces(measure, size, found, named.get(measure, ()))
        views.append(View(label, traces, {"xaxis": {"title": titled(title, unit), "type": _scale(found)}}))
    figure = go.Figure([go.Scatter(**trace) for trace in views[0].traces])
    figure.update_xaxes(**views[0].layout["xaxis"], rangemode="tozero")
    figure.update_yaxes(tickformat=".0%", title="accuracy, last five scores")
    figure.update_layout(showlegend=False)
    return Plot(styled(figure, 480), views)


def _scale(found: list[Point]) -> str:
    """Return the kind of axis on which cheap arms are not all one point."""
    costs = [point.cost[0] for point in found]
    return "log" if 0 < MOST_LINEAR * min(costs) < max(costs) else "linear"


def _traces(measure: str, size: float, found: list[Point], named: Sequence[str]) -> list[dict[str, Any]]:
    """Return a trace for the front and one for each point."""
    front = on_front(found)
    line = {
        "x": [point.cost[0] / size for point in front],
        "y": [point.accuracy[0] for point in front],
        "mode": "lines",
        "line": {"shape": "hv", "width": 1.5, "color": "#7d8594", "dash": "dot"},
        "hoverinfo": "skip",
    }
    few = len(found) <= MOST_BARS
    traces = [_trace(point, point in front, measure, size, few) for point in found]
    for point, trace in zip(found, traces, strict=True):
        # Above and left of the front there are no points; left of its first one there is no room.
        place = "bottom right" if point is front[0] else "top left"
        trace |= {"text": texts([point.name]), "textposition": place, "mode": "markers" + "+text" * (point.name in named)}
    return [line, *traces]


def _trace(point: Point, best: bool, measure: str, size: float, few: bool) -> dict[str, Any]:
    """Return the trace of a point. best: whether it is on the front; few: whether beaten points too have bars."""
    write = MEASURES[measure].write
    (accuracy, low, high), (cost, least, most) = point.accuracy, point.cost
    bars = {"color": point.style.colour, "thickness": 1, "width": 4, "visible": few or best}
    hover = (
        f"{texts([point.name])[0]}, {counted(point.seeds, 'seed')}<br>{percent(accuracy)} ({percent(low)} to {percent(high)})"
        f"<br>{write(cost)} ({write(least)} to {write(most)})<br>{'on the front' if best else 'beaten by another arm'}"
    )
    return {
        "x": [cost / size],
        "y": [accuracy],
        "error_x": {**bars, "array": [(most - cost) / size], "arrayminus": [(cost - least) / size]},
        "error_y": {**bars, "array": [high - accuracy], "arrayminus": [accuracy - low]},
        "textfont": {"size": 11, "color": point.style.colour},
        "cliponaxis": False,
        "marker": {
            "color": point.style.colour,
            "size": 11 if best else 9,
            "symbol": point.style.shape + ("" if best else "-open"),
            "line": {"width": 2, "color": point.style.colour},
        },
        "opacity": 1 if best else 0.7,
        "customdata": [hover],
        "hovertemplate": "%{customdata}<extra></extra>",
        "meta": {"arm": point.style.number},
    }
