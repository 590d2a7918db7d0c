"""How evenly each arm serves its clients, and where its joules went."""

from __future__ import annotations

import numpy as np

from fedapt.benchmark.comparison import Arm, Comparison
from fedapt.report.drawing import AMBER, BLUE, GREEN, PARTS, Plot, bars, name_axis, styled, texts
from fedapt.report.elements import plot_card
from fedapt.report.figures import ENERGY, percent

FAIRNESS = {"p10": (AMBER, "triangle-up"), "median": (BLUE, "circle"), "p90": (GREEN, "triangle-down")}


def arm_cost_cards(comparison: Comparison) -> list[str]:
    """Return the cards of fairness and of energy; each is left out where no arm has the figures."""
    fair = [arm for arm in comparison.arms if any(run.summary["client_accuracy"] for run in arm.runs)]
    spent = [arm for arm in comparison.arms if any(run.summary["total"]["energy_j"] for run in arm.runs)]
    cards = []
    if fair:
        note = "Of the final model at each client's own bits, on its held-out samples; mean over seeds."
        cards.append(plot_card("fairness", "Accuracy over clients", note, fairness(fair)))
    if spent:
        cards.append(plot_card("parts", "Where the joules went", "All clients of a run; mean over seeds.", parts(spent)))
    return cards


def fairness(arms: list[Arm]) -> Plot:
    """Return the tenth percentile, the median and the ninetieth percentile of the clients, an arm a line."""
    import plotly.graph_objects as go

    figure = go.Figure()
    names = texts([arm.name for arm in arms])
    spreads = [[run.summary["client_accuracy"] for run in arm.runs if run.summary["client_accuracy"]] for arm in arms]
    means = {key: np.array([np.mean([spread[key] for spread in of]) for of in spreads]) for key in FAIRNESS}
    for name, low, high in zip(names, means["p10"], means["p90"], strict=True):
        line = {"color": "rgba(128, 136, 150, 0.45)", "width": 3}
        figure.add_scatter(x=[low, high], y=[name, name], mode="lines", line=line, hoverinfo="skip", showlegend=False)
    for key, (colour, symbol) in FAIRNESS.items():
        ranges = [[float(pick([spread[key] for spread in of])) for pick in (min, max)] for of in spreads]
        figure.add_scatter(
            x=means[key],
            y=names,
            mode="markers",
            name=key,
            marker={"color": colour, "size": 10, "symbol": symbol},
            customdata=[
                f"{name}<br>{key} {percent(mean)} ({percent(low)} to {percent(high)} over seeds)"
                for name, mean, (low, high) in zip(names, means[key].tolist(), ranges, strict=True)
            ],
            hovertemplate="%{customdata}<extra></extra>",
        )
    name_axis(figure, names)
    figure.update_xaxes(tickformat=".0%", title="accuracy on its own samples")
    return Plot(styled(figure, 130 + 30 * len(arms)))


def parts(arms: list[Arm]) -> Plot:
    """Return the energy of each arm, split by what it was spent on."""
    totals = [[run.summary["total"] for run in arm.runs] for arm in arms]
    columns = {name: [float(np.mean([total[f"energy_{name}_j"] for total in of])) for of in totals] for name in PARTS}
    figure = bars([arm.name for arm in arms], columns, list(PARTS.values()), ENERGY, stacked=True)
    return Plot(figure.update_layout(height=130 + 30 * len(arms)))
