"""What all plots of the reports share: their look, bars, and text of others escaped, for plotly draws a part of HTML."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape, unescape
from typing import TYPE_CHECKING, Any

import numpy as np

from fedapt.report.figures import Units, distinct, fitting_unit, harmless, written

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Hues that colour-blind readers can tell apart, legible on white and on black; text and grid likewise.
BLUE, AMBER, RED, GREEN, VIOLET, GREY = "#4a7fe0", "#e0a020", "#e0604c", "#2fa37c", "#8f6fd8", "#9aa1ac"
PALETTE = [BLUE, AMBER, RED, GREEN, VIOLET, "#c95fa6", "#8a8f3c", "#5aa9c8"]
PARTS = {"compute": BLUE, "movement": AMBER, "radio": RED}
TEXT, GRID = "#7d8594", "rgba(128, 136, 150, 0.22)"
LONGEST_LABEL = 26


@dataclass(frozen=True)
class View:
    """Another way to see a plot, at a button: what changes in each trace (top-level keys) and in the layout (one level deep)."""

    label: str
    traces: Sequence[Mapping[str, Any]] = ()
    layout: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plot:
    """A figure and its views; the first view is shown at first."""

    figure: go.Figure
    views: Sequence[View] = ()

    def as_json(self) -> str:
        """Return the plot as JSON that may stand inside of a script element."""
        views = [{"traces": list(view.traces), "layout": dict(view.layout)} for view in self.views]
        plain = _plain({"figure": self.figure.to_plotly_json(), "views": views})
        return json.dumps(plain, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _plain(value: Any) -> Any:
    """Return what JSON has: six digits are more than a screen has pixels; a NaN, which it lacks, becomes a gap."""
    if isinstance(value, Mapping) and "bdata" in value:
        array = np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"])
        return _plain(array.reshape([int(size) for size in str(value["shape"]).split(",")] if "shape" in value else -1))
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def bars(
    names: Sequence[str],
    columns: Mapping[str, Sequence[float]],
    colours: Sequence[str],
    units: Units,
    *,
    stacked: bool,
    metas: Sequence[Any] = (),
) -> go.Figure:
    """Return horizontal bars, one line a name and one colour a column, in the unit that fits the longest."""
    import plotly.graph_objects as go

    figure = go.Figure()
    labels = texts(names)
    table = np.array(list(columns.values()), dtype=float)
    unit, size = fitting_unit(table.sum(0).max() if stacked else table.max(), units)
    for (part, values), colour in zip(columns.items(), colours, strict=True):
        if any(values):
            figure.add_bar(
                y=labels,
                x=np.array(values, dtype=float) / size,
                name=part,
                orientation="h",
                marker={"color": colour, "line_width": 0},
                customdata=[f"{name}<br>{part} {written(value, units)}" for name, value in zip(labels, values, strict=True)],
                hovertemplate="%{customdata}<extra></extra>",
            )
    figure.update_layout(barmode="stack" if stacked else "group", bargap=0.35)
    figure.update_xaxes(title=unit)
    name_axis(figure, labels)
    return styled(figure, 100 + 42 * min(len(names), 8) + 24 * max(len(names) - 8, 0))


def round_step(rounds: int) -> int | None:
    """Return the distance of ticks: there is no half round."""
    return 1 if rounds < 10 else None


def name_axis(figure: go.Figure, names: Sequence[str]) -> None:
    """Set escaped names along the vertical axis, from the top, with labels that leave room for the plot."""
    figure.update_yaxes(
        type="category",
        categoryorder="array",
        categoryarray=list(names),
        # From the top, without the room that plotly leaves for points at the ends.
        range=[len(names) - 0.5, -0.5],
        showgrid=False,
        tickvals=list(names),
        ticktext=texts(distinct([unescape(name) for name in names], LONGEST_LABEL)),
    )


def texts(lines: Sequence[object]) -> list[str]:
    """Return texts escaped for plotly."""
    return [escape(harmless(str(line)), quote=False) for line in lines]


def titled(name: str, unit: str = "") -> dict[str, Any]:
    """Return the title of an axis, as a view may change it."""
    return {"text": f"{name}, {unit}" if unit else name, "font": {"size": 12}, "standoff": 8}


def axis_view(label: str, values: Sequence[Any], name: str, units: Units | None, rounds: int) -> View:
    """Return a view of curves against other values, an array or series for each trace; without units, counts of rounds."""
    longest = max((float(of.max()) for of in values if len(of)), default=0.0)
    unit, size = fitting_unit(longest, units) if units else ("", 1.0)
    axis = {"title": titled(name, unit), "dtick": None if units else round_step(rounds)}
    return View(label, [{"x": (of / size).tolist()} for of in values], {"xaxis": axis})


def styled(figure: go.Figure, height: int) -> go.Figure:
    """Give a finished figure the look of the page, and a height in pixels."""
    named = figure.layout.showlegend or (figure.layout.showlegend is None and len(figure.data) > 1)
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 8, "r": 12, "t": 34 if named else 14, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": TEXT, "activecolor": BLUE},
        font={"family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", "size": 13, "color": TEXT},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
        hoverlabel={"align": "left", "namelength": -1},
    )
    figure.update_xaxes(automargin=True, gridcolor=GRID, zeroline=False, title_standoff=8, title_font_size=12)
    figure.update_yaxes(automargin=True, gridcolor=GRID, zeroline=False, title_standoff=8, title_font_size=12)
    figure.update_yaxes(ticks="outside", ticklen=6, tickcolor="rgba(0,0,0,0)")
    return figure
