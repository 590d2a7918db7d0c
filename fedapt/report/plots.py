"""The report's plots. Text that came from a scenario or a client is escaped: plotly draws a part of HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedapt.report.figures import BYTES, ENERGY, TIME, Units, byte_count, fitting_unit, harmless, joules, percent, written

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go

    from fedapt.results import Run

Groups = Sequence[dict[str, Any]]

# Hues that colour-blind readers can tell apart, legible on white and on black; text and grid likewise.
BLUE, AMBER, RED, GREEN = "#4a7fe0", "#e0a020", "#e0604c", "#2fa37c"
PALETTE = [BLUE, AMBER, RED, GREEN, "#8f6fd8", "#c95fa6", "#8a8f3c", "#5aa9c8"]
TEXT, GRID = "#7d8594", "rgba(128, 136, 150, 0.22)"
MOST_CELLS = 60_000
LONGEST_LABEL = 26


def accuracy(rounds: pandas.DataFrame) -> go.Figure:
    """Return the global accuracy, against rounds or, at a button, against what had been spent by then."""
    import plotly.graph_objects as go

    done, spent = rounds["round"] + 1, rounds["energy_j"].cumsum()
    moved = (rounds["downlink_bytes"] + rounds["uplink_bytes"]).cumsum()
    scored = rounds["accuracy"].notna()
    axes = {"rounds": (done[scored], "rounds completed")}
    for name, values, units in (("energy", spent, ENERGY), ("bytes", moved, BYTES)):
        unit, size = fitting_unit(values.max(), units)
        axes[name] = ((values / size)[scored], f"{name} of all clients, {unit}")
    figure = go.Figure(
        go.Scatter(
            x=done[scored],
            y=rounds["accuracy"][scored],
            customdata=[
                f"after round {number}: {percent(reached)}<br>{joules(energy)}, {byte_count(count)}"
                for number, reached, energy, count in zip(
                    *(column[scored] for column in (done, rounds["accuracy"], spent, moved)), strict=True
                )
            ],
            hovertemplate="%{customdata}<extra></extra>",
            mode="lines+markers" if len(rounds) <= 60 else "lines",
            line={"color": BLUE, "width": 2.5},
        )
    )
    buttons = [
        {
            "label": f"by {name}",
            "method": "update",
            "args": [
                {"x": [values.tolist()]},
                {
                    "xaxis.title.text": title,
                    "xaxis.autorange": True,
                    "xaxis.dtick": _round_step(rounds) if name == "rounds" else None,
                },
            ],
        }
        for name, (values, title) in axes.items()
    ]
    place = {
        "type": "buttons",
        "direction": "right",
        "x": 0,
        "xanchor": "left",
        "y": 1.02,
        "yanchor": "bottom",
        "showactive": False,
    }
    look = {"bgcolor": "rgba(128, 136, 150, 0.12)", "bordercolor": GRID, "font": {"size": 12}, "pad": {"b": 4, "l": 0}}
    figure.update_layout(updatemenus=[{**place, **look, "buttons": buttons}])
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    figure.update_xaxes(title=axes["rounds"][1], dtick=_round_step(rounds))
    return _styled(figure, 330)


def loss(rounds: pandas.DataFrame) -> go.Figure:
    """Return the global model's test loss and the clients' training loss over rounds."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for column, name, colour in (("loss", "test, global model", BLUE), ("train_loss", "training, mean of clients", AMBER)):
        line = {"color": colour, "width": 2.5}
        figure.add_scatter(x=rounds["round"] + 1, y=rounds[column], name=name, line=line, connectgaps=True)
    figure.update_layout(hovermode="x unified")
    figure.update_xaxes(title="rounds completed", dtick=_round_step(rounds))
    figure.update_yaxes(rangemode="tozero", hoverformat=".3f")
    return _styled(figure, 330)


def mean_bits(rounds: pandas.DataFrame) -> go.Figure:
    """Return the mean bits of the updates over rounds."""
    import plotly.graph_objects as go

    line = go.Scatter(x=rounds["round"] + 1, y=rounds["mean_bits"], line={"color": BLUE, "width": 2.5})
    line.hovertemplate = "after round %{x}: %{y:.2f} bits<extra></extra>"
    figure = go.Figure(line)
    figure.update_xaxes(title="rounds completed", dtick=_round_step(rounds))
    figure.update_yaxes(rangemode="tozero", title="bits")
    return _styled(figure, 300)


def layer_bits(run: Run) -> go.Figure:
    """Return a map of the mean bits by layer and round; long runs show every n-th round."""
    import plotly.graph_objects as go

    bits = run.layer_bits
    bits = bits.iloc[:: max(1, -(-bits.size // MOST_CELLS))]
    wishes = run.rounds.set_index("round").reindex(index=bits.index, columns=[f"bits.{layer}" for layer in run.layers])
    figure = go.Figure(
        go.Heatmap(
            x=bits.index + 1,
            y=_texts(run.layers),
            z=bits.to_numpy(float).T,
            customdata=wishes.to_numpy(float).T,
            hovertemplate="%{y}, round %{x}<br>%{z:.1f} bits on average<br>%{customdata:.0f} wished for next<extra></extra>",
            colorscale="Viridis",
            colorbar={"thickness": 10, "outlinewidth": 0, "title": {"text": "bits", "side": "top"}},
        )
    )
    figure.update_xaxes(title="rounds completed", showgrid=False, dtick=_round_step(run.rounds))
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return _styled(figure, 130 + min(22 * len(run.layers), 700) + 60)


def energy(groups: Groups) -> go.Figure:
    """Return the energy of each group, split by what it was spent on."""
    parts = {"compute": BLUE, "movement": AMBER, "radio": RED}
    columns = {name: [group[f"energy_{name}_j"] for group in groups] for name in parts}
    return _bars(groups, columns, list(parts.values()), ENERGY, stacked=True)


def energy_tables(tables: dict[str, float]) -> go.Figure:
    """Return the energy of the whole run under each energy table."""
    figure = _bars([{"group": name} for name in tables], {"energy": list(tables.values())}, [BLUE], ENERGY, stacked=True)
    figure.update_traces(text=[joules(value) for value in tables.values()], textposition="auto")
    return figure.update_layout(showlegend=False)


def time(groups: Groups) -> go.Figure:
    """Return the time that each group's devices worked, split likewise."""
    parts = {"compute": BLUE, "movement": AMBER, "radio": RED}
    columns = {name: [group[f"time_{name}_s"] for group in groups] for name in parts}
    return _bars(groups, columns, list(parts.values()), TIME, stacked=True)


def traffic(groups: Groups) -> go.Figure:
    """Return the bytes that each group received and sent."""
    columns = {"down": [group["downlink_bytes"] for group in groups], "up": [group["uplink_bytes"] for group in groups]}
    return _bars(groups, columns, [GREEN, "#8f6fd8"], BYTES, stacked=False)


def client_accuracy(clients: pandas.DataFrame) -> go.Figure:
    """Return every client's accuracy as a point, in a strip for its group, with the quartiles behind."""
    import plotly.graph_objects as go

    measured = clients[clients["accuracy"].notna()]
    figure = go.Figure()
    for index, (group, members) in enumerate(measured.groupby("group", sort=False)):
        hover = [
            f"client {client}: {percent(reached)}<br>{samples:,} samples, {joules(spent)}"
            for client, reached, samples, spent in zip(
                members["client"], members["accuracy"], members["samples"], members["energy_j"], strict=True
            )
        ]
        figure.add_box(
            x=members["accuracy"],
            y=_texts([str(group)]) * len(members),
            customdata=hover,
            hovertemplate="%{customdata}<extra></extra>",
            hoveron="points",
            boxpoints="all",
            jitter=0.7,
            pointpos=0,
            orientation="h",
            marker={"color": PALETTE[index % len(PALETTE)], "size": 5, "opacity": 0.75},
            line={"width": 1},
            fillcolor=GRID,
        )
    count = measured["group"].nunique()
    figure.update_layout(showlegend=False, boxgap=0.35)
    figure.update_xaxes(tickformat=".0%", title="accuracy")
    _group_axis(figure, _texts([str(group) for group in measured["group"].unique()]))
    return _styled(figure, 90 + 70 * max(count, 1))


def _bars(groups: Groups, columns: dict[str, list[float]], colours: list[str], units: Units, *, stacked: bool) -> go.Figure:
    import plotly.graph_objects as go

    figure = go.Figure()
    names = _texts([group["group"] for group in groups])
    table = np.array(list(columns.values()), dtype=float)
    unit, size = fitting_unit(table.sum(0).max() if stacked else table.max(), units)
    for (part, values), colour in zip(columns.items(), colours, strict=True):
        if any(values):
            figure.add_bar(
                y=names,
                x=np.array(values) / size,
                name=part,
                orientation="h",
                marker={"color": colour, "line_width": 0},
                customdata=[f"{name}<br>{part} {written(value, units)}" for name, value in zip(names, values, strict=True)],
                hovertemplate="%{customdata}<extra></extra>",
            )
    figure.update_layout(barmode="stack" if stacked else "group", bargap=0.35)
    figure.update_xaxes(title=unit)
    _group_axis(figure, names)
    return _styled(figure, 120 + 42 * len(groups))


def _round_step(rounds: pandas.DataFrame) -> int | None:
    """Return the distance of ticks: there is no half round."""
    return 1 if len(rounds) < 10 else None


def _group_axis(figure: go.Figure, names: Sequence[str]) -> None:
    """Set groups along the vertical axis, from the top, with labels that leave room for the plot."""
    short = [
        name if len(name) <= LONGEST_LABEL else f"{html.escape(html.unescape(name)[: LONGEST_LABEL - 3], quote=False)}..."
        for name in names
    ]
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False, tickvals=list(names), ticktext=short)


def _texts(texts: Sequence[str]) -> list[str]:
    return [html.escape(harmless(text), quote=False) for text in texts]


def _styled(figure: go.Figure, height: int) -> go.Figure:
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 8, "r": 12, "t": 38, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": TEXT, "activecolor": BLUE},
        font={"family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", "size": 13, "color": TEXT},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
    )
    figure.update_xaxes(automargin=True, gridcolor=GRID, zeroline=False, title_standoff=8, title_font_size=12)
    figure.update_yaxes(automargin=True, gridcolor=GRID, zeroline=False, title_standoff=8, title_font_size=12)
    figure.update_yaxes(ticks="outside", ticklen=6, tickcolor="rgba(0,0,0,0)")
    return figure
