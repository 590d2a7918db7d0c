"""The clients: each by its cost and accuracy, and how evenly accuracy is spread over them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fedapt.report.drawing import GREY, GRID, PALETTE, Plot, View, name_axis, styled, texts, titled
from fedapt.report.elements import Row, card, plot_card, table
from fedapt.report.figures import ENERGY, decimal, fitting_unit, joules, percent

if TYPE_CHECKING:
    import pandas

    from fedapt.results import Run

MOST_POINTS = 4000
FAIRNESS = ["clients", "mean", "worst tenth", "p10", "median", "p90", "gap", "spread", "Jain's index"]
DEFINITIONS = (
    "Over the clients with held-out samples, each at its own bits. Worst tenth: mean of the tenth that the model serves worst."
    " p10: one client in ten is at or below. Gap: p90 less p10. Spread: standard deviation."
    " Jain's index: (sum a)² / (n · sum a²), 1 if all are served alike, 1/n if one alone is."
)


def client_cards(run: Run) -> list[str]:
    """Return the cards of the clients; none if their accuracy was not measured."""
    measured = run.clients[run.clients["accuracy"].notna()]
    if measured.empty:
        return []
    order = [str(group["group"]) for group in run.summary["groups"]]
    note = "Each point is a client: the final model at its own bits, on its held-out samples. Hover or tap to see which."
    few = _few(measured)
    if len(few) < len(measured):
        note += f" {len(few):,} of {len(measured):,} are drawn; all are in clients.csv."
    lines = [[group, *fairness(_of(measured, group))] for group in order if len(_of(measured, group))]
    lines.append(Row(["all", *fairness(measured["accuracy"].to_numpy(float))], "total"))  # type: ignore[arg-type]
    return [
        plot_card("cost", "Clients by cost and accuracy", note, cost_and_accuracy(few, order), wide=True),
        card("Fairness", DEFINITIONS, table(["group", *FAIRNESS], lines, numbers_from=1), wide=True),
        plot_card("share", "Clients at or below an accuracy", "The further right, the better.", distribution(measured, order)),
        plot_card("spread", "Accuracy by group", "A point is a client; the box holds the middle half.", by_group(few, order)),
    ]


def fairness(accuracy: np.ndarray) -> list[str]:
    """Return the figures of FAIRNESS for the accuracies of some clients."""
    tenth = max(1, -(-len(accuracy) // 10))
    low, median, high = np.quantile(accuracy, (0.1, 0.5, 0.9))
    figures = [np.mean(accuracy), np.sort(accuracy)[:tenth].mean(), low, median, high, high - low, np.std(accuracy)]
    return [f"{len(accuracy):,}", *(percent(float(figure)) for figure in figures), decimal(jain(accuracy), 3)]


def jain(values: np.ndarray) -> float:
    """Return Jain's fairness index (Jain, Chiu and Hawe, DEC-TR-301, 1984): 1 for equal values, 1/n if all but one are zero.

    All zero are equal, and so 1.
    """
    square = float(np.sum(values**2))
    return float(np.sum(values)) ** 2 / (len(values) * square) if square else 1.0


def cost_and_accuracy(clients: pandas.DataFrame, order: list[str]) -> Plot:
    """Return each client's accuracy against the energy it spent, or its samples, bits or rounds."""
    import plotly.graph_objects as go

    figure = go.Figure()
    unit, size = fitting_unit(float(clients["energy_j"].max()), ENERGY)
    columns = {
        "energy": (clients["energy_j"] / size, f"energy spent in the run, {unit}"),
        "samples": (clients["samples"], "samples to train on"),
        "bits": (clients["mean_bits"], "mean bits of its updates"),
        "rounds": (clients["rounds"], "updates that became part of the model"),
    }
    groups = [clients["group"] == group for group in order if (clients["group"] == group).any()]
    for members in groups:
        group = str(clients["group"][members].iloc[0])
        figure.add_scatter(
            x=columns["energy"][0][members],
            y=clients["accuracy"][members],
            name=texts([group])[0],
            mode="markers",
            marker={"color": _colour(group, order), "size": 8, "opacity": 0.75},
            customdata=_hover(clients[members]),
            hovertemplate="%{customdata}<extra></extra>",
        )
    views = [
        View(f"by {name}", [{"x": values[members].tolist()} for members in groups], {"xaxis": {"title": titled(title)}})
        for name, (values, title) in columns.items()
    ]
    figure.update_xaxes(title=columns["energy"][1], rangemode="tozero")
    figure.update_yaxes(tickformat=".0%", title="accuracy on its own samples")
    figure.update_layout(showlegend=True)
    return Plot(styled(figure, 400), views)


def distribution(clients: pandas.DataFrame, order: list[str]) -> Plot:
    """Return the share of clients at or below each accuracy: of all, and of each group."""
    import plotly.graph_objects as go

    figure = go.Figure()
    parts = {"all clients": clients["accuracy"].to_numpy(float)}
    if clients["group"].nunique() > 1:
        parts |= {group: _of(clients, group) for group in order if len(_of(clients, group))}
    for index, (name, accuracy) in enumerate(parts.items()):
        figure.add_scatter(
            x=np.sort(accuracy),
            y=np.arange(1, len(accuracy) + 1) / len(accuracy),
            name=texts([name])[0],
            mode="lines",
            line={"color": _colour(name, order) if index else GREY, "width": 1.5 if index else 4, "shape": "hv"},
            hovertemplate=f"{texts([name])[0]}: %{{y:.0%}} are at %{{x:.1%}} or below<extra></extra>",
        )
    figure.update_xaxes(tickformat=".0%", title="accuracy on its own samples")
    figure.update_yaxes(tickformat=".0%", rangemode="tozero", title="share of clients")
    return Plot(styled(figure, 360))


def by_group(clients: pandas.DataFrame, order: list[str]) -> Plot:
    """Return every client's accuracy as a point, in a strip for its group, with the quartiles behind."""
    import plotly.graph_objects as go

    figure = go.Figure()
    groups = [group for group in order if (clients["group"] == group).any()]
    for group in groups:
        members = clients[clients["group"] == group]
        figure.add_box(
            x=members["accuracy"],
            y=texts([group]) * len(members),
            customdata=_hover(members),
            hovertemplate="%{customdata}<extra></extra>",
            hoveron="points",
            boxpoints="all",
            jitter=0.7,
            pointpos=0,
            orientation="h",
            marker={"color": _colour(group, order), "size": 5, "opacity": 0.75},
            line={"width": 1},
            fillcolor=GRID,
        )
    figure.update_layout(showlegend=False, boxgap=0.35)
    figure.update_xaxes(tickformat=".0%", title="accuracy on its own samples")
    name_axis(figure, texts(groups))
    return Plot(styled(figure, max(360, 90 + 46 * len(groups))))


def _few(clients: pandas.DataFrame) -> pandas.DataFrame:
    """Return every n-th client, so that a browser can draw them."""
    return clients.iloc[:: max(1, -(-len(clients) // MOST_POINTS))]


def _of(clients: pandas.DataFrame, group: str) -> np.ndarray:
    accuracy: np.ndarray = clients["accuracy"][clients["group"] == group].to_numpy(float)
    return accuracy


def _colour(group: str, order: list[str]) -> str:
    return PALETTE[order.index(group) % len(PALETTE)]


def _hover(clients: pandas.DataFrame) -> list[str]:
    """Say which client a point is."""
    lines: list[str] = []
    row: Any
    for row in clients.itertuples():
        trained = f"{row.rounds:,} updates at {decimal(row.mean_bits, 1)} bits" if row.rounds else f"no update ({row.status})"
        lines.append(
            f"client {row.client} of {texts([row.group])[0]}: {percent(row.accuracy)}<br>"
            f"{row.samples:,} samples, {row.held_out:,} held out<br>{joules(row.energy_j)}, {texts([trained])[0]}"
        )
    return lines
