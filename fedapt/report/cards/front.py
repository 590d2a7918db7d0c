"""Which arms no other arm beats: the Pareto front of accuracy against energy, time, bytes and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedapt.benchmark.comparison import Arm, Comparison
from fedapt.benchmark.measures import MEASURES, measured
from fedapt.report.cards.arms import Style, styled_arms
from fedapt.report.drawing import Plot, View, styled, texts, titled
from fedapt.report.elements import plot_card
from fedapt.report.figures import BYTES, ENERGY, MEMORY, TIME, Units, counted, fitting_unit, percent

# The measure, its view, its axis and its units.
COSTS: list[tuple[str, str, str, Units]] = [
    ("energy_j", "by energy", "energy of all clients", ENERGY),
    ("time_s", "by time", "simulated time", TIME),
    ("traffic_bytes", "by bytes", "bytes moved", BYTES),
]
PEAK: tuple[str, str, str, Units] = ("memory_bytes", "by memory", "peak memory of a client", MEMORY)
NOTE = (
    "Final accuracy, mean over seeds; the bars go from the lowest to the highest seed. The line is the front of all arms:"
    " no other arm is both cheaper and better. Hollow points are beaten."
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
    if not points(comparison, COSTS[0][0]):
        return []
    plots = [
        ("energy-front", "Accuracy against energy", [(cost, points(comparison, cost[0])) for cost in COSTS]),
        ("memory-front", "Accuracy against memory", [(PEAK, points(comparison, PEAK[0]))]),
    ]
    return [plot_card(name, title, NOTE, fronts(costs)) for name, title, costs in plots]


def points(comparison: Comparison, cost: str) -> list[Point]:
    """Return the arms that were evaluated and have this cost."""
    found = [_point(style, arm, cost) for style, arm in styled_arms(comparison)]
    return [point for point in found if point]


def _point(style: Style, arm: Arm, cost: str) -> Point | None:
    figures = [measured(run, None) for run in arm.runs]
    pairs = np.array([(of["accuracy"], of[cost]) for of in figures if "accuracy" in of and cost in of]).reshape(-1, 2)
    if not len(pairs):
        return None
    accuracy, spent = ((float(values.mean()), float(values.min()), float(values.max())) for values in pairs.T)
    return Point(style, arm.name, len(pairs), accuracy, spent)


def on_front(found: Sequence[Point]) -> list[Point]:
    """Return the points that none beats, the cheapest first: none that is as cheap is better, none that is as good is cheaper."""
    best, front = -np.inf, []
    for point in sorted(found, key=lambda point: (point.cost[0], -point.accuracy[0])):
        if point.accuracy[0] > best:
            best = point.accuracy[0]
            front.append(point)
    return front


def fronts(costs: Sequence[tuple[tuple[str, str, str, Units], list[Point]]]) -> Plot:
    """Return the points and their front, with a view for each cost."""
    import plotly.graph_objects as go

    drawn = [(label, *_traces(measure, units, found), title) for (measure, label, title, units), found in costs]
    _, traces, unit, title = drawn[0]
    figure = go.Figure([go.Scatter(**trace) for trace in traces])
    figure.update_xaxes(title=titled(title, unit), rangemode="tozero")
    figure.update_yaxes(tickformat=".0%", title="final accuracy")
    figure.update_layout(showlegend=False)
    views = [View(label, traces, {"xaxis": {"title": titled(title, unit)}}) for label, traces, unit, title in drawn]
    return Plot(styled(figure, 400), views if len(views) > 1 else ())


def _traces(measure: str, units: Units, found: list[Point]) -> tuple[list[dict[str, Any]], str]:
    """Return a trace for the front and one for each point, and the unit of the cost."""
    unit, size = fitting_unit(max(point.cost[2] for point in found), units)
    front = on_front(found)
    line = {
        "x": [point.cost[0] / size for point in front],
        "y": [point.accuracy[0] for point in front],
        "mode": "lines",
        "line": {"shape": "hv", "width": 1.5, "color": "#7d8594", "dash": "dot"},
        "hoverinfo": "skip",
    }
    return [line, *(_trace(point, point in front, measure, size) for point in found)], unit


def _trace(point: Point, unbeaten: bool, measure: str, size: float) -> dict[str, Any]:
    write = MEASURES[measure].write
    (accuracy, worst, best), (cost, least, most) = point.accuracy, point.cost
    bars = {"color": point.style.colour, "thickness": 1, "width": 4}
    hover = (
        f"{texts([point.name])[0]}, {counted(point.seeds, 'seed')}<br>{percent(accuracy)} ({percent(worst)} to {percent(best)})"
        f"<br>{write(cost)} ({write(least)} to {write(most)})<br>{'on the front' if unbeaten else 'beaten by another arm'}"
    )
    return {
        "x": [cost / size],
        "y": [accuracy],
        "error_x": {**bars, "array": [(most - cost) / size], "arrayminus": [(cost - least) / size]},
        "error_y": {**bars, "array": [best - accuracy], "arrayminus": [accuracy - worst]},
        "mode": "markers",
        "marker": {
            "color": point.style.colour,
            "size": 11 if unbeaten else 9,
            "symbol": point.style.shape + ("" if unbeaten else "-open"),
            "line": {"width": 2, "color": point.style.colour},
        },
        "opacity": 1 if unbeaten else 0.7,
        "customdata": [hover],
        "hovertemplate": "%{customdata}<extra></extra>",
        "meta": {"arm": point.style.number},
    }
