"""What each arm reached by when: accuracy against rounds, time, energy and bytes, as the mean over seeds with a band."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedapt.benchmark.comparison import Arm, Comparison, is_whole
from fedapt.report.cards.arms import Style, styled_arms
from fedapt.report.cards.progress import AXES, spent
from fedapt.report.drawing import Plot, axis_view, round_step, styled, texts
from fedapt.report.elements import plot_card
from fedapt.report.figures import byte_count, counted, joules, percent, seconds

if TYPE_CHECKING:
    import plotly.graph_objects as go

MOST_POINTS = 200
NOTE = (
    "Of the global model on the test set. A point is a round: the mean over seeds of its accuracy and of what had been spent by"
    " then. The band goes from the lowest to the highest seed; bands are drawn while at most 8 arms are shown."
)


@dataclass(frozen=True)
class Curve:
    """The mean over seeds, round by round. spent: (points,) for each of AXES; low, mean, high: (points,), accuracy."""

    seeds: int
    spent: dict[str, np.ndarray]
    low: np.ndarray
    mean: np.ndarray
    high: np.ndarray


def curve_cards(comparison: Comparison) -> list[str]:
    """Return the card of the curves; none if no arm has any."""
    curves = [(style, arm.name, curve) for style, arm in styled_arms(comparison) if (curve := curve_of(arm))]
    if not curves:
        return []
    return [plot_card("accuracy", "Accuracy", NOTE, accuracy(curves, comparison.target_accuracy), wide=True)]


def curve_of(arm: Arm) -> Curve | None:
    """Return the mean curve of an arm, over the rounds that all of its whole runs evaluated; None if there are none."""
    import pandas

    runs = [run for run in arm.runs if is_whole(run)] or arm.runs
    parts = [spent(run.rounds).assign(accuracy=run.rounds["accuracy"])[run.rounds["accuracy"].notna()] for run in runs]
    if not parts:
        return None
    counts = pandas.concat(parts)["rounds"].value_counts()
    common = np.sort(counts.index[counts == len(parts)].to_numpy())
    if not len(common):
        return None
    chosen = common[np.unique(np.linspace(0, len(common) - 1, MOST_POINTS).round().astype(int))]
    tables = np.stack([part.set_index("rounds", drop=False).loc[chosen].to_numpy(float) for part in parts])
    mean = tables.mean(0)
    scores = tables[..., -1]
    axes = {name: mean[:, column] for column, name in enumerate(AXES)}
    return Curve(len(parts), axes, scores.min(0), mean[:, -1], scores.max(0))


def accuracy(curves: list[tuple[Style, str, Curve]], target: float | None) -> Plot:
    """Return the curves with their bands, and views against all that was spent."""
    import plotly.graph_objects as go

    figure = go.Figure()
    longest = max(int(curve.spent["rounds"].max()) for _, _, curve in curves)
    for style, name, curve in curves:
        _add(figure, style, texts([name])[0], curve)
    if target is not None:
        figure.add_hline(
            y=target,
            line={"color": "#7d8594", "width": 1, "dash": "dot"},
            annotation={
                "text": f"target {percent(target)}",
                "font": {"size": 11},
                "xanchor": "left",
                "yanchor": "bottom",
                "x": 0,
            },
        )
    views = []
    for axis, (title, units) in AXES.items():
        values = [_band(curve.spent[axis], curve.spent[axis]) for _, _, curve in curves]
        each = [array for band, (_, _, curve) in zip(values, curves, strict=True) for array in (band, curve.spent[axis])]
        views.append(axis_view(f"by {axis}", each, title, units, longest))
    figure.update_xaxes(title=AXES["rounds"][0], dtick=round_step(longest))
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    figure.update_layout(showlegend=False)
    return Plot(styled(figure, 440), views)


def _add(figure: go.Figure, style: Style, name: str, curve: Curve) -> None:
    points = zip(curve.mean, curve.low, curve.high, *(curve.spent[axis] for axis in AXES), strict=True)
    hover = [
        f"{name}, {counted(curve.seeds, 'seed')}<br>after round {number:.0f}: {percent(mean)} ({percent(low)} to {percent(high)})"
        f"<br>{seconds(time)}, {joules(energy)}, {byte_count(count)}"
        for mean, low, high, number, time, energy, count in points
    ]
    rounds = curve.spent["rounds"]
    figure.add_scatter(
        x=_band(rounds, rounds),
        y=_band(curve.high, curve.low),
        fill="toself",
        fillcolor=style.colour,
        opacity=0.16,
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        meta={"arm": style.number, "band": True},
    )
    figure.add_scatter(
        x=rounds,
        y=curve.mean,
        name=name,
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
        mode="lines" if len(rounds) > 1 else "markers",
        line={"color": style.colour, "width": 2.5, "dash": style.dash},
        meta={"arm": style.number},
    )


def _band(forth: np.ndarray, back: np.ndarray) -> np.ndarray:
    return np.concatenate([forth, back[::-1]])
